"""Does an environment keep the contract of docs/architecture.md? Every implementation must pass this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from llarp.tasks.actions import ACTION_NAMES, NUM_ACTIONS
from llarp.tasks.planners import Oracle

MakeEnv = Callable[..., Any]
"""Called as make(num_envs, autoreset_mode=AutoresetMode, seed=int); returns a vector environment with torch output."""


class ContractViolation(AssertionError):
    """An environment breaks the contract; the message names the rule."""


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ContractViolation(rule)


def check_env(make: MakeEnv, num_envs: int = 3, steps: int = 40, max_steps: int = 32) -> None:
    """Raise `ContractViolation` at the first broken rule. Plays about 5 x `steps` steps in `num_envs` worlds."""
    env = make(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, seed=0)
    _check_declarations(env, num_envs)
    observation, info = env.reset(seed=0)
    _check_observation(env, observation)
    _check_info(info, num_envs)
    _check_play(env, observation, info, steps, max_steps)
    env.close()
    _check_determinism(make, num_envs, steps)
    _check_world_count(make)
    _check_continuation(make, num_envs)
    _check_next_step(make, num_envs, max_steps)
    _check_disabled(make, num_envs)


def _check_declarations(env: Any, num_envs: int) -> None:
    _require(env.num_envs == num_envs, "num_envs is the number of worlds asked for")
    declared = env.metadata.get("autoreset_mode")
    _require(declared == AutoresetMode.SAME_STEP, "metadata declares the autoreset mode asked for")
    _require(int(env.single_action_space.n) == NUM_ACTIONS, "the action space is Discrete(70)")


def _check_observation(env: Any, observation: dict[str, Tensor]) -> None:
    shape = (env.num_envs, *env.single_observation_space["rgb"].shape)
    rgb, ids = observation["rgb"], observation["instruction_id"]
    _require(rgb.dtype == torch.uint8 and tuple(rgb.shape) == shape, f"rgb is uint8 {shape}")
    _require(ids.dtype == torch.int64 and tuple(ids.shape) == (env.num_envs,), "instruction_id is int64 (num_envs,)")
    for i in ids.tolist():
        text = env.instruction_text(i)
        _require(isinstance(text, str) and text != "" and text.isprintable(), "an instruction is a printable text")
    _require(bool((rgb.flatten(1).float().std(1) > 1).all()), "pictures show something")


def _check_info(info: Any, num_envs: int) -> None:
    for name, dtype in (
        ("success", torch.bool),
        ("progress", torch.float32),
        ("invalid_action", torch.bool),
        ("subgoal", torch.int64),
    ):
        _require(name in info, f"info has {name}")
        good = info[name].dtype == dtype and tuple(info[name].shape) == (num_envs,)
        _require(good, f"info[{name!r}] is {dtype} (num_envs,)")


def _choose(env: Any, generator: torch.Generator) -> Tensor:
    """Mostly valid actions, so that episodes get somewhere."""
    valid = env.valid_actions().cpu()
    weight = valid.float() + 0.05
    return torch.multinomial(weight, 1, generator=generator)[:, 0].to(env.valid_actions().device)


def _check_play(env: Any, observation: dict[str, Tensor], info: Any, steps: int, max_steps: int) -> None:
    n = env.num_envs
    generator, oracle = torch.Generator().manual_seed(0), Oracle()
    length = torch.zeros(n, dtype=torch.int64)
    progress = info["progress"].cpu()
    solved = ended = 0
    for _ in range(steps):
        valid = env.valid_actions()
        action = _choose(env, generator)
        view = env.planner_views()[0]  # the first world is played to success, the others by chance
        if length[0] == 0:
            oracle.reset(view)
        action[0] = oracle.act(view)
        allowed = valid[torch.arange(n, device=valid.device), action].cpu()
        before, kept = observation["rgb"], observation["rgb"].clone()
        observation, reward, terminated, truncated, info = env.step(action)
        _require(torch.equal(before, kept), "an observation is not overwritten by the next step")
        _check_observation(env, observation)
        _check_info(info, n)
        _require(reward.dtype == torch.float32 and tuple(reward.shape) == (n,), "reward is float32 (num_envs,)")
        _require(bool(torch.isfinite(reward).all()), "rewards are finite")
        for flag in (terminated, truncated):
            good = flag.dtype == torch.bool and tuple(flag.shape) == (n,)
            _require(good, "terminated and truncated are bool (num_envs,)")
        terminated, truncated = terminated.cpu(), truncated.cpu()
        length += 1
        done = terminated | truncated
        now = info["progress"].cpu()
        _require(not bool((terminated & truncated).any()), "terminated and truncated exclude each other")
        _require(torch.equal(terminated, info["success"].cpu()), "terminated says success")
        late = (length >= max_steps) & ~terminated
        _require(torch.equal(truncated, late), f"truncated at {max_steps} steps, not before")
        _require(bool(((now >= 0) & (now <= 1)).all()), "progress lies in [0, 1]")
        _require(bool((now >= progress - 1e-6).all()), "progress never falls within an episode")
        failed = info["invalid_action"].cpu()
        _require(torch.equal(failed, ~allowed), "invalid_action says that the precondition failed")
        names = [ACTION_NAMES[a] for a in action.tolist()]
        _require(list(info["action_name"]) == names, "info['action_name'] names the actions taken")
        same = (observation["rgb"] == before).flatten(1).all(1).cpu()
        _require(bool(same[failed & ~done].all()), "an invalid action changes nothing")
        if bool(done.any()):
            final = env.final_observation()["rgb"]
            _require(final.shape == observation["rgb"].shape, "final_observation() gives the pictures before the reset")
            going_on = ~done
            same = (final == observation["rgb"]).flatten(1).all(1).cpu()
            _require(bool(same[going_on].all()), "final_observation() equals the observation where no episode ended")
            _require(not bool(same[done].any()), "an ended episode is followed by another one's first picture")
        solved, ended = solved + int(terminated.sum()), ended + int(truncated.sum())
        length[done] = 0
        progress = torch.where(done, torch.zeros_like(now), now)
    _require(solved > 0, f"the oracle solves an episode within {steps} steps")
    _require(ended > 0, f"some episode is truncated within {steps} steps")


def _roll(env: Any, steps: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(_choose(env, generator))
        seen += [observation["rgb"].cpu(), observation["instruction_id"].cpu(), reward.cpu()]
        seen.append((terminated | truncated).cpu())
    return seen


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _check_determinism(make: MakeEnv, num_envs: int, steps: int) -> None:
    runs = []
    for _ in range(2):
        env = make(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, seed=3)
        first, _ = env.reset(seed=3)
        runs.append([first["rgb"].cpu(), *_roll(env, steps, 1)])
        env.close()
    _require(_same(*runs), "the same seed and actions give the same run")
    env = make(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, seed=4)
    first, _ = env.reset(seed=4)
    _require(not torch.equal(first["rgb"].cpu(), runs[0][0]), "another seed gives other worlds")
    env.close()


def _check_world_count(make: MakeEnv) -> None:
    small, large = (make(n, autoreset_mode=AutoresetMode.SAME_STEP, seed=5) for n in (1, 3))
    one, many = small.reset(seed=5)[0], large.reset(seed=5)[0]
    _require(torch.equal(one["rgb"][0], many["rgb"][0]), "an episode is the same world for every number of worlds")
    small.close(), large.close()


def _check_continuation(make: MakeEnv, num_envs: int) -> None:
    env = make(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, seed=6)
    env.reset(seed=6)
    _roll(env, 9, 2)
    saved = env.state_dict()
    expected = _roll(env, 34, 3)
    other = make(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, seed=6)  # the same episodes,
    other.reset(seed=7)  # in another order so far
    other.load_state_dict(saved)
    _require(_same(expected, _roll(other, 34, 3)), "load_state_dict continues bit for bit")
    env.close(), other.close()


def _check_next_step(make: MakeEnv, num_envs: int, max_steps: int) -> None:
    env = make(num_envs, autoreset_mode=AutoresetMode.NEXT_STEP, seed=8)
    _require(env.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP, "next-step autoreset is declared")
    env.reset(seed=8)
    generator = torch.Generator().manual_seed(4)
    ended = torch.zeros(num_envs, dtype=torch.bool)
    for _ in range(max_steps + 2):
        _, reward, terminated, truncated, _ = env.step(_choose(env, generator))
        done = (terminated | truncated).cpu()
        _require(bool((reward.cpu()[ended] == 0).all()), "the step that resets gives no reward")
        _require(not bool(done[ended].any()), "the step that resets ends no episode")
        ended = done
    env.close()


def _check_disabled(make: MakeEnv, num_envs: int) -> None:
    env = make(num_envs, autoreset_mode=AutoresetMode.DISABLED, seed=9)
    env.reset(seed=9)
    drives = [env.step(torch.full((num_envs,), action))[0]["rgb"] for action in (5, 12)]
    changed = (drives[0] != drives[1]).flatten(1).any(1)
    _require(bool(changed.all()), "without autoreset, too, pictures show the world after the step")
    mask = torch.arange(num_envs) == 0
    again, _ = env.reset(options={"reset_mask": mask})
    same = (again["rgb"] == drives[1]).flatten(1).all(1).cpu()
    _require(bool(same[~mask].all()), "a masked reset leaves the other worlds alone")
    _require(not bool(same[mask].any()), "a masked reset begins a new episode where the mask says")
    env.close()
