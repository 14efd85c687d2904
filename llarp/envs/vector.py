"""The embedded vector environment: N household worlds that step and are drawn together.

The contract (docs/architecture.md) holds for both outputs. `numpy` is what Gymnasium expects; `torch` keeps pictures,
rewards and flags on the device, names instructions by id, and makes texts and final pictures only when asked.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from llarp.errors import UserError
from llarp.sim.world import BatchWorld
from llarp.tasks.actions import ACTION_NAMES, NUM_ACTIONS
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.planners import PlannerView, views_of
from llarp.tasks.state import WorldState
from llarp.tasks.task import StepResult, TaskConfig

from .config import EnvConfig
from .episode_source import load_assets_for, load_episodes
from .sampler import QuotaSampler, SceneSampler, ShuffledSampler
from .spaces import action_space, observation_space


class StepInfo(dict):
    """What a step reports; `action_name` is put into words only when it is read."""

    def __init__(self, action: Tensor | None = None, **values: Any):
        super().__init__(values)
        self._action = action

    def __missing__(self, key: str) -> Any:
        if key == "action_name" and self._action is not None:
            return np.array([ACTION_NAMES[a] for a in self._action.tolist()], dtype=object)
        raise KeyError(key)


class LanguageRearrangementVectorEnv(VectorEnv):
    """N Language Rearrangement worlds.

    Args:
        num_envs: N.
        output: "numpy" or "torch".
        autoreset_mode: `AutoresetMode` or its name. Same step: the observation returned after an episode's end is the
            next episode's first, the last one is at `final_observation()` and, with numpy, `info["final_obs"]`.
        config, task: settings; further keyword arguments override single fields of `config` (`image_size=64`).
        episode_set: the episodes; default: those that `config` names.
        quota: play every episode exactly once (`active` says which worlds still do) instead of endless shuffled passes.
        visibility: also segment pictures, so that `planner_views` knows what the camera sees.
        rank, world_size: this process's share of the draws.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        output: str = "numpy",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        config: EnvConfig | None = None,
        task: TaskConfig | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        episode_set: EpisodeSet | None = None,
        quota: bool = False,
        visibility: bool = False,
        render_mode: str | None = "rgb_array",
        rank: int = 0,
        world_size: int = 1,
        **overrides: Any,
    ):
        if output not in ("numpy", "torch"):
            raise UserError(f"output={output!r} is unknown: choose numpy or torch")
        if num_envs < 1:
            raise UserError(f"num_envs={num_envs} must be at least 1")
        known = {f.name for f in dataclasses.fields(EnvConfig)}
        if unknown := set(overrides) - known:
            names = ", ".join(sorted(known))
            raise UserError(f"unknown environment setting {sorted(unknown)[0]!r}: the known ones are {names}")
        self.config = replace(config or EnvConfig(), num_envs=num_envs, **overrides)
        self.output, self.render_mode = output, render_mode
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = self.metadata | {"autoreset_mode": self.autoreset_mode}
        self.num_envs, self.device = num_envs, torch.device(device)
        self.single_observation_space = observation_space(self.config.image_size)
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.episodes = episode_set if episode_set is not None else load_episodes(self.config, seed)
        self._texts, instruction_id = np.unique(np.array(self.episodes.instruction, dtype=object), return_inverse=True)
        self._instruction_id = torch.from_numpy(instruction_id.astype(np.int64)).to(self.device)
        self._episode = functools.lru_cache(maxsize=4 * num_envs)(self.episodes.episode)
        self._quota, self._visibility, self._rank, self._world_size = quota, visibility, rank, world_size
        self.world: Any = self._open(task or TaskConfig())
        self._start(seed)

    def _open(self, task: TaskConfig) -> Any:
        """The worlds: a `BatchWorld`, or `HabitatWorlds`, which does the same."""
        assets = load_assets_for(self.config)
        if self.config.backend == "habitat":
            from llarp.habitat.episodes import Episodes
            from llarp.habitat.worlds import HabitatWorlds

            source = Episodes(self.config, self.episodes, assets.scenes, assets.catalog)
            return HabitatWorlds(
                source, self.num_envs, task, self.config, device=self.device, segmentation=self._visibility
            )
        return BatchWorld(
            assets,
            self.episodes,
            self.num_envs,
            task,
            image_size=self.config.image_size,
            rules=self.config.rule_set,
            device=self.device,
            render_threads=self.config.render_threads,
            segmentation=self._visibility,
        )

    def _start(self, seed: int) -> None:
        self.world.seed = self._seed = seed
        count = len(self.episodes)
        share = (self._rank, self._world_size)
        self.sampler: QuotaSampler | SceneSampler | ShuffledSampler
        if self.config.backend == "habitat":
            self.sampler = SceneSampler(self.episodes.scene, self.num_envs, seed, *share, quota=self._quota)
        elif self._quota:
            self.sampler = QuotaSampler(count, self.num_envs, self.device)
        else:
            self.sampler = ShuffledSampler(count, self.num_envs, seed, self.device, *share)
        self._done = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._final: Any = None
        self._rgb: Tensor | None = None
        self._asked: Tensor | None = None  # actions of a step that has begun
        self._judged: tuple[StepResult, StepInfo] | None = None  # its outcome, once that is known
        self._starting: Tensor | None = None  # worlds whose next episode is being begun

    # -- Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start new episodes: in all worlds, or with `options={"reset_mask": bool (N,)}` in some.

        A seed starts the sequence of episodes anew; without one, the worlds go on with the next episodes.
        """
        if self._asked is not None:
            raise RuntimeError("reset() while a step is under way: call step_wait() first")
        if seed is not None:
            if not isinstance(seed, (int, np.integer)):
                raise ValueError("seed must be one integer: worlds are keyed by (seed, episode), not by their index")
            self._start(int(seed))
        mask = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        if options and options.get("reset_mask") is not None:
            mask = torch.as_tensor(options["reset_mask"], dtype=torch.bool, device=self.device)
            if mask.shape != (self.num_envs,):
                raise ValueError(f"reset_mask has shape {tuple(mask.shape)}, expected ({self.num_envs},)")
        self._begin(mask)
        self._await_beginning()
        self._done = self._done & ~mask
        standing = self.world.standing()
        return self._observation(), self._info(standing, standing.terminated, None)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One skill in every world: observation, reward (N,), terminated (N,), truncated (N,), info."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin a step; `step_wait` returns what `step` would. Habitat's processes work meanwhile."""
        if self._rgb is None:
            raise RuntimeError("step() before reset(): call reset() first")
        if self._asked is not None:
            raise RuntimeError("step_async() twice: call step_wait() in between")
        action = torch.as_tensor(actions, device=self.device).to(torch.int64)
        if action.shape != (self.num_envs,):
            raise ValueError(f"actions have shape {tuple(action.shape)}, expected ({self.num_envs},)")
        if self.output == "numpy" and bool(((action < 0) | (action >= NUM_ACTIONS)).any()):
            raise ValueError(f"actions must lie in [0, {NUM_ACTIONS}): got {action.tolist()}")
        disabled = self.autoreset_mode == AutoresetMode.DISABLED
        if disabled and self.output == "numpy" and bool(self._done.any()):
            raise RuntimeError("an episode has ended: reset its world before the next step")
        self._asked = action
        if self.config.backend == "habitat":
            self.world.ask(action)

    def unanswered(self) -> list[Any]:
        """Connections to the processes that `step_wait` would have to wait for, at work on the step, or on the episodes
        that begin after it."""
        if self.config.backend != "habitat":
            return []
        pipes = self.world.unanswered()
        if not pipes and self._asked is not None and self._judged is None:
            self._judged = self._judge(self._asked)
            pipes = self.world.unanswered()
        return pipes

    def step_wait(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """The end of the step that `step_async` began."""
        if self._asked is None:
            raise RuntimeError("step_wait() without step_async()")
        result, info = self._judged or self._judge(self._asked)
        self._asked = self._judged = None
        self._await_beginning()
        return self._observation(), *self._out(result.reward, result.terminated, result.truncated), info

    def _judge(self, action: Tensor) -> tuple[StepResult, StepInfo]:
        """What a step gave; the episodes that follow it are asked for."""
        mode = self.autoreset_mode
        starting = self._done if mode == AutoresetMode.NEXT_STEP else torch.zeros_like(self._done)
        invalid = self.world.apply(action) & ~starting
        result = self.world.judge(invalid)
        if mode == AutoresetMode.NEXT_STEP:  # worlds about to be reset only wait: no reward, no end
            result = replace(
                result,
                reward=torch.where(starting, 0.0, result.reward),
                terminated=result.terminated & ~starting,
                truncated=result.truncated & ~starting,
            )
        done = result.terminated | result.truncated
        info = self._info(result, invalid, action)
        if self.config.backend == "habitat":
            info["dropped"] = self._out(self.world.dropped)[0]
            if self.world.set_aside:
                self._set_aside(self.world.set_aside)
                self.world.set_aside = []
        self._final = None
        if mode == AutoresetMode.NEXT_STEP:
            self._begin_any(starting)
            self._done = done
        elif mode == AutoresetMode.SAME_STEP:
            self._final = self.world.snapshot()
            if self.output == "numpy" and bool(done.any()):
                self._add_final(info, done)
            self._begin_any(done)
        else:
            self._done = done
        return result, info

    def close_extras(self, **kwargs: Any) -> None:
        """Ends Habitat's processes."""
        self.world.close()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The head camera's pictures, one uint8 (H, W, 3) array a world."""
        if self.render_mode is None or self._rgb is None:
            return None
        return tuple(self._rgb.cpu().numpy())

    # -- beyond Gymnasium -----------------------------------------------------------------------------------------

    @property
    def active(self) -> Tensor:
        """Which worlds play an episode that counts, bool (N,); always all without a quota."""
        return self.sampler.active

    def instruction_text(self, instruction_id: int) -> str:
        """The words behind an `instruction_id`."""
        return str(self._texts[instruction_id])

    def upcoming_instructions(self, count: int) -> list[str]:
        """The texts of about the next `count` episodes, so that a policy can work ahead."""
        ids = self._instruction_id[self.sampler.upcoming(count)]
        return [self.instruction_text(i) for i in dict.fromkeys(ids.tolist())]

    def upcoming_instruction_ids(self, count: int) -> list[int]:
        """Of exactly the next `count` episodes, in the order in which they will begin (where `episodes_begun` is)."""
        return self._instruction_id[self.sampler.upcoming(count)].tolist()

    @property
    def episodes_begun(self) -> Tensor | None:
        """How many episodes have begun, int64 () on the device; None where the next ones depend on which world ends."""
        return self.sampler.drawn if isinstance(self.sampler, ShuffledSampler) else None

    def current_observation(self) -> Any:
        """The observation of the worlds as they stand."""
        return self._observation()

    def final_observation(self) -> dict[str, Tensor]:
        """The observation at the end of the last step, before any reset: `rgb` uint8 (N, H, W, 3) on the device."""
        if self._final is None:
            raise RuntimeError("final_observation() is for the step just made in same-step autoreset mode")
        return {"rgb": self.world.render_snapshot(self._final)}

    def final_state(self) -> WorldState:
        """The worlds at the end of the last step, before any reset (in same-step autoreset mode)."""
        if self._final is None:
            raise RuntimeError("final_state() is for the step just made in same-step autoreset mode")
        return self._final

    def valid_actions(self) -> Tensor:
        """Which skills would take effect now, bool (N, 70). For planners and benchmarks; no policy sees it."""
        return self.world.valid_actions()

    def planner_views(self) -> list[PlannerView]:
        """What a planner may know of each world; with `visibility=True` also which objects the head camera sees."""
        state, valid = self.world.state.to("cpu"), self.world.valid_actions().cpu()
        unseen = torch.zeros_like(state.object_model, dtype=torch.bool)
        visible = self.world.visible().cpu() if self._visibility else unseen
        episodes = [self._episode(e) for e in self.world.episode.tolist()]
        return views_of(state, episodes, visible, valid, self.world.rules)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the worlds go on; tensors, numbers and names only."""
        return {
            "world": self.world.state_dict(),
            "sampler": self.sampler.state_dict(),
            "done": self._done.clone(),
            "seed": self._seed,
            "episodes": self._episodes_key(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit from `state_dict()` of as many worlds over the same episodes, else UserError."""
        if list(state["episodes"]) != self._episodes_key():
            raise UserError("the saved worlds play other episodes: keep the run's seed, dataset and env.episodes")
        if len(state["done"]) != self.num_envs:
            raise UserError(f"there are {len(state['done'])} saved worlds, not {self.num_envs}: keep env.num_envs")
        self._start(int(state["seed"]))
        self.sampler.load_state_dict(state["sampler"])
        self._done = state["done"].to(self.device).clone()
        self.world.load_state_dict(state["world"])
        self._rgb = self.world.render()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _episodes_key(self) -> list[Any]:
        """What tells one set of episodes from another, as plain values."""
        return [self.episodes.split, self.episodes.seed, len(self.episodes), int(self.episodes.episode_id.sum())]

    def _begin(self, mask: Tensor) -> None:
        """Start new episodes where `mask` says; Habitat's processes work on them until `_await_beginning`."""
        episode, occurrence = self.sampler.next(mask)
        if self.config.backend == "habitat":
            self.world.ask_reset(mask, episode, occurrence)
            self._starting = mask
        else:
            self.world.reset(mask, episode, occurrence)

    def _await_beginning(self) -> None:
        """The end of what `_begin` began, if anything, and what is then seen."""
        while self._starting is not None:
            failed, self._starting = self.world.reset_wait(), None
            if bool(failed.any()):  # Habitat could not begin these
                self._set_aside(self.world.episode[failed].tolist())
                self._begin(failed)
        self._rgb = self.world.render()

    def _set_aside(self, rows: list[int]) -> None:
        """Play these episodes no more: the simulator fails in them again and again."""
        assert isinstance(self.sampler, SceneSampler)
        for row in dict.fromkeys(rows):
            self.sampler.set_aside(row)
            name = f"episode {int(self.episodes.episode_id[row])} of {self.episodes.split or 'the dataset'}"
            print(f"llarp: set aside: {name}, in which Habitat-Sim failed three times in a row", file=sys.stderr)

    def _begin_any(self, mask: Tensor) -> None:
        """Start new episodes where `mask` says; a host that need not wait to know skips a step without any."""
        if getattr(self.world, "whole", False) or bool(mask.any()):
            self._begin(mask)

    def _observation(self) -> Any:
        if self._rgb is None:
            raise RuntimeError("no observation before reset()")
        ids = self._instruction_id[self.world.episode]
        if self.output == "torch":
            return {"rgb": self._rgb, "instruction_id": ids}
        texts = tuple(self.instruction_text(i) for i in ids.tolist())
        return {"rgb": self._rgb.cpu().numpy().copy(), "instruction": texts}

    def _out(self, *values: Tensor) -> tuple[Any, ...]:
        return values if self.output == "torch" else tuple(v.cpu().numpy() for v in values)

    def _info(self, result: StepResult, invalid: Tensor, action: Tensor | None) -> StepInfo:
        names = ("success", "progress", "invalid_action", "subgoal")
        values = dict(zip(names, self._out(result.success, result.progress, invalid, result.subgoal), strict=True))
        info = StepInfo(action, **values)
        if self.output == "numpy":
            everywhere = np.ones(self.num_envs, dtype=bool)
            for name in names:
                info[f"_{name}"] = everywhere
        return info

    def _add_final(self, info: StepInfo, done: Tensor) -> None:
        """Gymnasium's `final_obs` and `final_info` of the worlds whose episode has just ended."""
        ended = done.cpu().numpy()
        pictures = self.world.render().cpu().numpy()
        ids = self._instruction_id[self.world.episode].tolist()
        final = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final[i] = {"rgb": pictures[i].copy(), "instruction": self.instruction_text(ids[i])}
        final_info = {k: v.copy() for k, v in info.items() if not k.startswith("_")}
        final_info |= {f"_{k}": ended for k in final_info}
        info["final_obs"], info["_final_obs"] = final, ended
        info["final_info"], info["_final_info"] = final_info, ended


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    try:
        return AutoresetMode[mode.upper().replace("-", "_")]
    except KeyError:
        raise UserError(f"autoreset_mode={mode!r} is unknown: choose next_step, same_step or disabled") from None
