"""N Habitat worlds behind the interface of `llarp.sim.world.BatchWorld`: one simulator process each.

A process that dies or hangs is replaced. The step it was lost in is reported as `dropped`; the same episode is begun
again only if it was lost while it began. Three losses in a row on one episode make it one to be set aside.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import resources
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llarp.envs.config import EnvConfig
from llarp.errors import UserError
from llarp.machine import cores, from_launcher
from llarp.sim.world import MIN_PIXELS
from llarp.tasks import semantics
from llarp.tasks.actions import NUM_ACTIONS
from llarp.tasks.state import WorldState
from llarp.tasks.task import StepResult, TaskConfig

from . import check_installed
from .assets import HabitatAssets, find_assets
from .episodes import Episodes
from .messages import Beginning, Told, WorkerSettings, unpack
from .pool import Pool, WorkerLost
from .worker import OUTSIDE_SIZE, RESULT

LOSSES = 3
"""Losses in a row after which an episode is set aside."""
BENCHMARK = "habitat_lab/language_rearrangement.yaml"


class HabitatWorlds:
    """N worlds. `state` is what the simulators had after the last command, on the CPU.

    Args:
        source: the episodes; `reset` names rows of them.
        dropped: which worlds lost their process in the last `apply`, bool (N,).
        set_aside: rows of episodes that were lost three times in a row since this was last emptied.
    """

    def __init__(
        self,
        source: Episodes,
        num_worlds: int,
        task: TaskConfig,
        config: EnvConfig,
        *,
        device: torch.device | str = "cpu",
        segmentation: bool = False,
    ):
        check_installed()
        self.num_worlds, self.device, self.rules = num_worlds, torch.device(device), config.rule_set
        self.catalog = source.catalog
        self.source, self.config, self.seed = source, config, 0
        assets = find_assets(config)
        overrides = lab_overrides(config, assets, segmentation)
        settings = WorkerSettings(
            lab_config(), tuple(overrides), assets.dataset, source.settings(task), config.image_size, segmentation,
            config.published and config.environment_light,
        )  # fmt: skip
        self._gpus = visible_gpus(self.device)
        at_once = num_worlds * (2 if config.double_buffer else 1) * from_launcher().local_world_size
        threads = config.render_threads or max(1, cores() // at_once)
        # Mesa's, beside the process's own: that one alone spares the processor the switches, where others are at work.
        self._mesa_threads = 0 if threads == 1 and at_once > 1 else threads
        self._pool = Pool(settings, num_worlds, self._environment, self._overrides, config.worker_timeout_s)
        self.episode = torch.zeros(num_worlds, dtype=torch.int64, device=self.device)
        self.occurrence = torch.zeros_like(self.episode)
        blank = source.episodes.start_state(
            torch.zeros(num_worlds, dtype=torch.int64), source.scenes, source.catalog, 0
        )
        self.state: WorldState = blank
        size = config.image_size
        self._rgb = np.zeros((num_worlds, size, size, 3), np.uint8)
        self._pixels = np.zeros((num_worlds, semantics.MAX_OBJECTS), np.int64)
        self._possible = np.zeros((num_worlds, NUM_ACTIONS), bool)
        self._end: np.ndarray | None = None  # pictures at the end of the last step, before any reset
        self._results = np.zeros((num_worlds, len(RESULT)))
        self._over = np.ones(num_worlds, bool)  # no episode is running
        self._asked: list[int] | None = None  # worlds that are at work on a step
        self._starting: dict[int, Beginning] = {}  # those at work on the beginning of an episode
        self._losses: dict[int, int] = {}  # by episode, in a row
        self.dropped = torch.zeros(num_worlds, dtype=torch.bool, device=self.device)
        self.set_aside: list[int] = []
        self.log: list[str] = []  # what was lost, for reports
        self._said = 0  # lines of it that have been printed
        self._ever_ran = False

    # -- playing ------------------------------------------------------------------------------------------------------

    def reset(self, mask: Tensor, episode: Tensor, occurrence: Tensor) -> Tensor:
        """Start episode `episode` (N,) for the `occurrence`-th time (N,) in the worlds of `mask` (N,).

        Returns the worlds, bool (N,), whose episode could not be begun: it is to be set aside, and another one given.
        """
        self.ask_reset(mask, episode, occurrence)
        return self.reset_wait()

    def ask_reset(self, mask: Tensor, episode: Tensor, occurrence: Tensor) -> None:
        """Let worlds begin on what `reset` says; `reset_wait` then returns what that would."""
        rows = mask.cpu().nonzero()[:, 0].tolist()
        given, times = episode.cpu(), occurrence.cpu()
        self._starting = {i: self._beginning(int(given[i]), int(times[i])) for i in rows}
        for i, begin in self._starting.items():
            self.episode[i], self.occurrence[i] = given[i], times[i]
            self._fill(i, begin.state)
            self._pool.workers[i].ask("start", begin)

    def reset_wait(self) -> Tensor:
        """Wait for what `ask_reset` has asked."""
        failed = torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device)
        for i, begin in self._starting.items():
            failed[i] = not self._begun(i, begin)
        self._starting = {}
        return failed

    def ask(self, action: Tensor) -> None:
        """Let every world begin on its skill; `apply` with the same ones then waits for what they give."""
        self._asked = np.flatnonzero(~self._over).tolist()
        chosen = action.cpu().tolist()
        for i in self._asked:
            self._pool.workers[i].ask("step", chosen[i])

    def unanswered(self) -> list[Connection]:
        """Pipes of the workers that have not answered what `ask` or `ask_reset` has asked."""
        asked = [self._pool.workers[i] for i in self._asked or self._starting]
        return [worker.pipe for worker in asked if not worker.answered()]

    def apply(self, action: Tensor) -> Tensor:
        """Skill `action` (N,) in every world; returns where its precondition failed and nothing changed, bool (N,)."""
        if self._asked is None:
            self.ask(action)
        playing, self._asked = self._asked or [], None
        self.dropped = torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device)
        for i in playing:
            try:
                self._pool.workers[i].answer()
                self._take(i)
            except WorkerLost as lost:
                self._lose(i, lost)
        self._end = self._rgb.copy()
        return self._column("invalid", torch.bool)

    def judge(self, invalid: Tensor) -> StepResult:
        """What the step gave, as the workers judged it; a dropped one is truncated."""
        return self._result()

    def standing(self) -> StepResult:
        """Progress as it stands, with no reward and no end: what a reset reports."""
        now = self._result()
        none = torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device)
        return replace(now, reward=torch.zeros_like(now.reward), terminated=none, truncated=none, success=none)

    def valid_actions(self) -> Tensor:
        """Skills whose precondition holds, bool (N, 70)."""
        return torch.from_numpy(self._possible.copy()).to(self.device)

    # -- looking ------------------------------------------------------------------------------------------------------

    def render(self) -> Tensor:
        """What the head cameras see, uint8 (N, H, W, 3), a new tensor."""
        return torch.from_numpy(self._rgb.copy()).to(self.device)

    def render_outside(self) -> Tensor:
        """The worlds from a camera that follows the robot, uint8 (N, 512, 512, 3)."""
        for i in range(self.num_worlds):
            self._call(i, "outside")
        seen = [torch.from_numpy(worker.memory.outside.copy()) for worker in self._pool.workers]
        return torch.stack(seen).to(self.device)

    def seen_slots(self) -> Tensor:
        """As `llarp.sim.renderer.BatchRenderer.seen_slots`: int64 (N, H, W); only with `segmentation`."""
        return torch.from_numpy(np.stack([worker.call("seen_slots") for worker in self._pool.workers]))

    def visible(self, min_pixels: int = MIN_PIXELS) -> Tensor:
        """Objects that cover at least `min_pixels`, scaled to its size, of the picture last drawn, bool (N, 56)."""
        least = min_pixels * (self.config.image_size / 128) ** 2
        return torch.from_numpy(self._pixels >= least).to(self.device)

    def snapshot(self) -> WorldState:
        """A copy of the state."""
        return WorldState(**{f.name: getattr(self.state, f.name).clone() for f in fields(WorldState)})

    def render_snapshot(self, state: WorldState) -> Tensor:
        """What the head cameras saw at the end of the last step, before any reset: the state `snapshot` gave then."""
        if self._end is None:
            raise RuntimeError("no step has been made yet")
        return torch.from_numpy(self._end.copy()).to(self.device)

    # -- continuing ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the worlds go on, as copies."""
        trackers = [{} if self._over[i] else self._call(i, "tracker") or {} for i in range(self.num_worlds)]
        return {
            "state": {f.name: getattr(self.state, f.name).clone() for f in fields(WorldState)},
            "trackers": trackers,
            "episode": self.episode.cpu().clone(),
            "occurrence": self.occurrence.cpu().clone(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from `state_dict()` of as many worlds over the same episodes."""
        states = WorldState(**saved["state"])
        self.episode, self.occurrence = (saved[k].to(self.device).clone() for k in ("episode", "occurrence"))
        self.state = states.rows(torch.arange(self.num_worlds))
        for i, worker in enumerate(self._pool.workers):
            begin = self._beginning(int(self.episode[i]), int(self.occurrence[i]))
            begin.state = states.rows(torch.tensor([i]))
            worker.ask("start", begin, saved["trackers"][i] or None)
        for i, worker in enumerate(self._pool.workers):
            try:
                worker.answer()
            except WorkerLost as lost:
                raise UserError(f"Habitat-Sim could not take up a saved world again: it {lost}") from None
            self._take(i)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    # -- replays and benchmarks ---------------------------------------------------------------------------------------

    def begin(self, beginnings: Sequence[Beginning]) -> None:
        """Start given episodes without looking at them, in the first worlds."""
        for worker, begin in zip(self._pool.workers, beginnings, strict=False):
            worker.ask("start", begin, None, False)
        for i, begin in enumerate(beginnings):
            self._fill(i, begin.state)
            self._only(i, "begin", begin.labels.episode_id)

    def take(self, steps: Sequence[tuple[int, Told | None] | None]) -> Tensor:
        """A skill in every world that is given one, without looking, with what of its outcome is told.

        Returns where the last skill's precondition failed, bool (N,)."""
        for worker, step in zip(self._pool.workers, steps, strict=False):
            if step is not None:
                worker.ask("take", *step)
        for i, step in enumerate(steps):
            if step is not None:
                self._only(i, "step", f"in world {i}")
        return self._column("invalid", torch.bool)

    def _only(self, i: int, what: str, which: str) -> None:
        try:
            self._pool.workers[i].answer()
        except WorkerLost as lost:
            raise UserError(f"Habitat-Sim could not {what} episode {which}: it {lost}") from None
        self._take(i)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _call(self, i: int, name: str) -> Any:
        """A command between two steps; None if the process is lost, which the next step will then report."""
        try:
            return self._pool.workers[i].call(name)
        except WorkerLost:
            return None

    def _beginning(self, row: int, occurrence: int) -> Beginning:
        return self.source.beginning(row, self.seed, occurrence)

    def _fill(self, i: int, state: WorldState) -> None:
        for f in fields(WorldState):
            getattr(self.state, f.name)[i] = getattr(state, f.name)[0]

    def _begun(self, i: int, begin: Beginning) -> bool:
        """Wait for an episode to begin, with a fresh process as often as it takes; False: not this one."""
        row = int(self.episode[i])
        while True:
            try:
                self._pool.workers[i].answer()
                self._take(i)
                self._say_what_is_new()
                return True
            except WorkerLost as lost:
                self._note(i, row, lost)
                worker = self._pool.replace(i)
                if self._losses[row] >= LOSSES:
                    self._losses.pop(row)
                    if not self._ever_ran:
                        what = f"episode {begin.labels.episode_id} in scene {begin.labels.scene}: the worker {lost}"
                        raise UserError(f"Habitat-Sim cannot begin {what}. `llarp assets check` looks for what is "
                                        "missing") from None  # fmt: skip
                    return False
                worker.ask("start", begin)

    def _lose(self, i: int, lost: WorkerLost) -> None:
        """A step that no answer came to: the episode is over, nothing is known of its end."""
        row = int(self.episode[i])
        self._note(i, row, lost)
        self._pool.replace(i)
        self.dropped[i] = True
        self._over[i] = True
        progress = self._results[i, RESULT.index("progress")]
        self._results[i] = 0
        self._results[i, RESULT.index("progress")] = progress
        self._results[i, RESULT.index("truncated")] = 1
        if self._losses[row] >= LOSSES:
            self._losses.pop(row)
            self.set_aside.append(row)

    def _note(self, i: int, row: int, lost: WorkerLost) -> None:
        self._losses[row] = self._losses.get(row, 0) + 1
        episode = int(self.source.episodes.episode_id[row])
        line = (f"Habitat worker {i} {lost}; episode {episode} (scene {self.source.scene(row)}), "
                f"loss {self._losses[row]} in a row")  # fmt: skip
        self.log.append(line)
        if self._ever_ran:
            self._say_what_is_new()

    def _say_what_is_new(self) -> None:
        """Print what was lost since the last time; where nothing has run yet it may all become one error message."""
        for line in self.log[self._said :]:
            print(f"llarp: {line}", file=sys.stderr, flush=True)
        self._said = len(self.log)

    def _take(self, i: int) -> None:
        """Read what a worker has put into its memory."""
        memory, self._ever_ran = self._pool.workers[i].memory, True
        unpack(memory.state, self.state, i)
        self._results[i] = memory.result[: len(RESULT)]
        self._rgb[i] = memory.rgb
        self._pixels[i], self._possible[i] = memory.pixels, memory.possible
        self._over[i] = bool(self._column_of(i, "terminated") or self._column_of(i, "truncated"))
        if self._over[i]:
            self._losses.pop(int(self.episode[i]), None)

    def _column_of(self, i: int, name: str) -> float:
        return float(self._results[i, RESULT.index(name)])

    def _column(self, name: str, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self._results[:, RESULT.index(name)]).to(self.device, dtype)

    def _result(self) -> StepResult:
        kinds = {"reward": torch.float32, "progress": torch.float32, "subgoal": torch.int64}
        return StepResult(**{name: self._column(name, kinds.get(name, torch.bool)) for name in RESULT[1:]})

    def _environment(self, index: int) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": str(self._mesa_threads), "MAGNUM_LOG": "quiet",
                "HABITAT_SIM_LOG": "quiet", "GLOG_minloglevel": "2"}  # fmt: skip

    def _overrides(self, index: int) -> list[str]:
        gpu = self._gpus[index % len(self._gpus)]
        return [f"habitat.simulator.habitat_sim_v0.gpu_device_id={gpu}"]


def lab_config() -> Path:
    """The Habitat-Lab YAML that worlds are composed from."""
    return Path(str(resources.files("llarp.habitat_configs") / BENCHMARK))


def lab_overrides(config: EnvConfig, assets: HabitatAssets, segmentation: bool = False) -> list[str]:
    """What of it is set otherwise for `config`."""
    sensors = "habitat.simulator.agents.main_agent.sim_sensors"
    found = [
        f"habitat.simulator.agents.main_agent.articulated_agent_urdf='{assets.robot}'",
        f"habitat.simulator.scene_dataset='{assets.dataset}'",
        f"habitat.simulator.additional_object_paths={[str(p) for p in assets.objects]}",
    ]
    for sensor, size in (("head_rgb_sensor", config.image_size), ("third_rgb_sensor", OUTSIDE_SIZE)):
        found += [f"{sensors}.{sensor}.{side}={size}" for side in ("width", "height")]
    if segmentation:
        side, kind = config.image_size, "type: HabitatSimSemanticSensor, uuid: head_semantic, hfov: 90"
        found.append(f"+{sensors}.head_semantic_sensor={{{kind}, width: {side}, height: {side}}}")
    return found


def visible_gpus(device: torch.device) -> list[int]:
    """The GPUs that workers draw on, in turn: that of `device`, or all where it is just "cuda"; -1: Mesa on the CPU."""
    if device.type != "cuda":
        return [-1]
    return [device.index] if device.index is not None else list(range(torch.cuda.device_count()))
