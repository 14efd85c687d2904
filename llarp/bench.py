"""`llarp bench`: how fast the parts are, each figure with the settings it was measured under."""

from __future__ import annotations

import dataclasses
import platform
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from llarp.tasks.actions import OPEN_FRIDGE, PICK_BASE

from . import machine
from .breakdown import Breakdown, head_operations, picture_operations, prefix_tokens
from .config import RunConfig
from .cost import LanguageModel, step_cost, visible_pairs
from .envs.episode_source import asset_notes
from .envs.vector import LanguageRearrangementVectorEnv
from .errors import UserError
from .habitat import check_installed
from .policy.policy import LLaRPPolicy
from .rates import finish
from .rl import trainer as trainer_module
from .rl import update as update_module
from .rl.config import TrainConfig
from .rl.trainer import Trainer
from .stopwatch import Stopwatch
from .train import build_env, build_policy, build_training_env

VECTOR_STEPS = 32
"""Steps of all worlds in one repeat of `sim` and `policy`."""
STEPS_TO_SUCCESS = 24
"""In `update` and `train` one step in so many ends its episode, about as often as a policy succeeds after cloning."""


def bench(what: str, config: RunConfig, repeats: int = 3) -> dict[str, Any]:
    """Time `what` ("sim", "policy", "update" or "train"): `what`, `settings`, `steps_per_s` and what explains them.

    A step is one skill in one world; `steps_per_s` is the median of the repeats. Where the time goes (`where`) and what
    each part achieves of what this machine can do (`achieved_over_possible`, `parts`) come from watched ones: as many
    more of an update or of training, one more of the others.
    """
    parts: dict[str, Callable[[RunConfig, int], dict[str, Any]]] = {
        "sim": bench_sim, "policy": bench_policy, "update": bench_update, "train": bench_train
    }  # fmt: skip
    if what != "sim" and config.policy.variant != "frozen":
        left_out = "policy.kind, policy.llm_weights and policy.lora_rank"
        raise UserError(f"bench {what} takes apart the policy with a frozen language model: leave out {left_out}")
    _refuse_what_is_left_out(what, config)
    torch.manual_seed(config.seed)
    return {"what": what, "settings": settings(config), **parts[what](config, repeats), **memory(config.device)}


def _refuse_what_is_left_out(what: str, config: RunConfig) -> None:
    """UserError for settings that a benchmark would name and not do, and for sizes that memory cannot hold."""
    if machine.from_launcher().world_size > 1:
        raise UserError("llarp bench times one process: start it without torchrun")
    double = config.env.double_buffer and config.env.backend != "habitat"
    for key, given in (
        ("policy.tensor_parallel", config.policy.tensor_parallel > 1),
        ("env.double_buffer", double),
        ("ppo.bc_coef", config.ppo.bc_coef > 0),
    ):
        if given and what != "sim":
            raise UserError(f"bench {what} does not time {key}: leave it out")
    if config.device == "cpu" and config.env.backend != "habitat":
        machine.check_room(config.env.num_envs, config.env.image_size, ".")


def memory(device: str) -> dict[str, float]:
    """The most memory this process has held so far, and on a GPU its tensors, MB."""
    held = {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # kB on Linux
    if device.startswith("cuda"):
        held["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return held


def settings(config: RunConfig) -> dict[str, Any]:
    """What a timing depends on: machine, versions, and the sizes of the run."""
    found = machine.inspect()
    return {
        "cores": found.cores,
        "torch_threads": torch.get_num_threads(),
        "gpu": found.gpu,
        "device": config.device,
        "num_envs": config.env.num_envs,
        "image_size": config.env.image_size,
        "env": dataclasses.asdict(config.env),
        "policy": dataclasses.asdict(config.policy),
        "ppo": dataclasses.asdict(config.ppo),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "mujoco-warp", "warp-lang", "transformers", "timm")}
        | (check_installed() if config.env.backend == "habitat" else {}),
        "notes": list(asset_notes(config.env)),
    }


def time_repeats(work: Callable[[], Any], repeats: int, warm_up: int = 1, device: str = "cpu") -> list[float]:
    """Seconds that each of `repeats` calls of `work` took, after `warm_up` calls that are not counted."""
    seconds = []
    for i in range(warm_up + repeats):
        finish(device)
        start = time.perf_counter()
        work()
        finish(device)
        if i >= warm_up:
            seconds.append(time.perf_counter() - start)
    return seconds


def _rate(steps: int, seconds: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {"steps_per_s": steps / median, "steps_a_repeat": steps, "repeat_s": seconds}


# -- parts ------------------------------------------------------------------------------------------------------------


class ChangingActions:
    """Valid actions, uniformly among nav, pick and place, without driving to where the robot has just driven."""

    def __init__(self, num_envs: int, device: str, seed: int):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.last_nav = torch.full((num_envs,), -1, device=device)

    def draw(self, valid: Tensor) -> Tensor:
        """One action a world, int64 (N,), of those valid, bool (N, 70)."""
        allowed = valid.float()
        allowed[:, OPEN_FRIDGE:] = 0
        nav = self.last_nav.clamp(min=0)[:, None]
        allowed.scatter_(1, nav, torch.where(self.last_nav[:, None] >= 0, 0.0, allowed.gather(1, nav)))
        race = torch.empty_like(allowed).exponential_(generator=self.generator)
        action = (allowed / race).argmax(1)  # torch.multinomial, without its wait for the device
        self.last_nav = torch.where(action < PICK_BASE, action, self.last_nav)
        return action


def bench_sim(config: RunConfig, repeats: int) -> dict[str, Any]:
    """Environment steps with pictures and resets; also the share of steps that changed the picture."""
    env = build_env(config)
    observation, _ = env.reset()
    actions = ChangingActions(env.num_envs, config.device, config.seed)
    pictures: list[Tensor] = [observation["rgb"].clone()]
    for _ in range(8):  # untimed: warms up, and looks at what the actions do
        pictures.append(env.step(actions.draw(env.valid_actions()))[0]["rgb"].clone())
    changed = [(a != b).flatten(1).any(1).float().mean().item() for a, b in zip(pictures, pictures[1:], strict=False)]
    ended = torch.zeros((), dtype=torch.int64, device=config.device)

    def work() -> None:
        for _ in range(VECTOR_STEPS):
            _, _, terminated, truncated, _ = env.step(actions.draw(env.valid_actions()))
            ended.add_((terminated | truncated).sum())

    seconds = time_repeats(work, repeats, device=config.device)
    resets = int(ended)
    watched = Breakdown(config.device, env) if config.env.backend != "habitat" else None
    if watched:
        watched.run(work)
    env.close()
    result = _rate(env.num_envs * VECTOR_STEPS, seconds) | (watched.result() if watched else {})
    return result | {"changed_share": statistics.mean(changed), "resets": resets}


def bench_policy(config: RunConfig, repeats: int) -> dict[str, Any]:
    """Acting on given pictures over episodes of 32 steps, or as long as they may be: vision, LLM step and heads; no
    environment."""
    policy, worlds, steps = build_policy(config), config.env.num_envs, min(VECTOR_STEPS, config.task.max_steps)
    size = config.env.image_size
    rgb = torch.randint(0, 256, (worlds, size, size, 3), dtype=torch.uint8, device=config.device)
    instruction = [f"bring the apple from the sofa to table number {i}" for i in range(worlds)]
    state = policy.initial_state(worlds)
    policy.calibrate(policy.encode(rgb))

    def work() -> None:
        nonlocal state
        for step in range(steps):
            start = torch.full((worlds,), step == 0, device=config.device)
            _, _, _, state = policy.act({"rgb": rgb, "instruction": instruction}, state, start)

    seconds = time_repeats(work, repeats, device=config.device)
    vision = time_repeats(lambda: policy.encode(rgb), repeats, device=config.device)
    watched = Breakdown(config.device, policy=policy)
    watched.run(work)
    prefix, each = prefix_tokens(policy, instruction), policy.config.num_visual_tokens
    watched.acted(worlds * steps, worlds * visible_pairs(prefix, 0, steps * each))
    result = _rate(worlds * steps, seconds) | {"vision_ms_a_step": 1000 * statistics.median(vision)}
    return result | watched.result() | {"cost_a_step": cost_a_step(config, policy, prefix, steps)}


def bench_update(config: RunConfig, repeats: int) -> dict[str, Any]:
    """One PPO update on a real rollout (the same one every time), the second: its episodes began in the first."""
    trainer = _trainer(config, config.ppo.num_steps * config.env.num_envs)
    for _ in range(2):
        for _ in range(config.ppo.num_steps):
            trainer.collector.step()
        rollout = trainer.collector.finish()
    before = trainer.policy.trainable_state_dict()

    def work() -> None:
        trainer.policy.load_trainable_state_dict(before)  # an update checks that the rollout is its policy's own
        update_module.ppo_update(trainer.policy, trainer.optimizer, rollout, config.ppo, trainer.generator)

    seconds = time_repeats(work, repeats, device=config.device)
    watched = _breakdown(trainer, config)

    def work_again() -> None:
        for _ in range(repeats):
            work()

    watched.run(work_again)
    result = _rate(rollout.num_steps * config.env.num_envs, seconds) | {"update_s": statistics.median(seconds)}
    return result | watched.result() | {"cost_a_step": _cost(trainer, config, rollout)}


def bench_train(config: RunConfig, repeats: int) -> dict[str, Any]:
    """What `time_training` says, and where the time of as many more updates goes."""
    result, trainer = time_training(config, repeats)
    steps = result["steps_a_repeat"] * (2 * repeats + 1)
    trainer.train = dataclasses.replace(trainer.train, total_steps=steps)
    watched = _breakdown(trainer, config)
    watched.run(trainer.run)
    return result | watched.result()


def time_training(config: RunConfig, repeats: int) -> tuple[dict[str, Any], Trainer]:
    """Real training (rollout and update), without warm start and evaluation; the first update warms up.

    `update_s` is the update, `rollout_s` all the rest of an iteration; `rollout_steps_per_s` follows from it. The
    trainer returned could go on.
    """
    steps = config.ppo.num_steps * config.env.num_envs
    clock: list[float] = []
    updates: list[float] = []
    rollouts: list[Any] = []
    trainer = _trainer(config, steps * (repeats + 1), lambda metrics: clock.append(time.perf_counter()))
    update = trainer_module.ppo_update

    def timed(policy: Any, optimizer: Any, rollout: Any, *rest: Any) -> dict[str, float]:
        finish(config.device)
        start = time.perf_counter()
        metrics = update(policy, optimizer, rollout, *rest)
        finish(config.device)
        updates.append(time.perf_counter() - start)
        rollouts[:] = [rollout]
        return metrics

    clocked = Stopwatch()
    clocked.replace(trainer_module, "ppo_update", timed)
    start = time.perf_counter()
    trainer.run()
    clocked.close()
    seconds = [b - a for a, b in zip(clock, clock[1:], strict=False)]
    rollout_s = [whole - part for whole, part in zip(seconds, updates[1:], strict=True)]
    result = _rate(steps, seconds) | {
        "rollout_s": statistics.median(rollout_s),
        "update_s": statistics.median(updates[1:]),
        "rollout_steps_per_s": steps / statistics.median(rollout_s),
        "update_steps_per_s": steps / statistics.median(updates[1:]),
        "first_update_s": clock[0] - start,
        "updates": len(clock),
        "cost_a_step": _cost(trainer, config, rollouts[0]),
    }
    return result, trainer


def _breakdown(trainer: Trainer, config: RunConfig) -> Breakdown:
    """What watches a trainer; Habitat's worlds draw in processes of their own, which it does not see into."""
    assert isinstance(trainer.policy, LLaRPPolicy)
    env = trainer.collector.env if config.env.backend != "habitat" else None
    return Breakdown(config.device, env, trainer.policy, trainer.optimizer)


def _cost(trainer: Trainer, config: RunConfig, rollout: Any) -> dict[str, float]:
    """`cost_a_step` at the instructions and the length of episodes that a rollout had."""
    policy = trainer.policy
    assert isinstance(policy, LLaRPPolicy)
    texts = [policy.instruction_text(i) for i in rollout.data["instruction_id"].flatten().tolist()]
    steps = float((rollout.end - rollout.begin).float().mean())
    return cost_a_step(config, policy, prefix_tokens(policy, texts), steps)


def cost_a_step(config: RunConfig, policy: LLaRPPolicy, prefix: float, episode_steps: float) -> dict[str, float]:
    """Operations and bytes of one step of one world by the cost model; empty for models it does not know."""
    try:
        model = LanguageModel.of(policy.llm.backbone.config, policy.llm.dtype.itemsize)
    except AttributeError:
        return {}
    cost = step_cost(
        model,
        image_size=config.env.image_size,
        vision=picture_operations(policy),
        heads=head_operations(policy),
        worlds=config.env.num_envs,
        prefix_tokens=prefix,
        episode_steps=episode_steps,
        visual_tokens=config.policy.num_visual_tokens,
        epochs=config.ppo.num_epochs,
    )
    return {"prefix_tokens": prefix, "episode_steps": episode_steps} | dataclasses.asdict(cost)


def _trainer(config: RunConfig, total_steps: int, log: Callable[[dict[str, float]], None] = lambda _: None) -> Trainer:
    train: TrainConfig = dataclasses.replace(config.train, total_steps=total_steps, max_minutes=0.0)
    env = build_training_env(config) if config.env.backend == "habitat" else build_env(config)
    trainer = Trainer(env, build_policy(config), config.ppo, train, seed=config.seed, log=log)
    machine.keep_memory()
    trainer.collector.start()
    if config.env.backend != "habitat":  # its processes judge their steps themselves: there, episodes end as they do
        _play_as_trained(env, config.seed)
    return trainer


def _play_as_trained(env: LanguageRearrangementVectorEnv, seed: int) -> None:
    """Let one step in `STEPS_TO_SUCCESS` end its episode, and every skill be a valid one.

    An untrained policy ends no episode: all would last as long as a rollout and begin with one. In a run, after the
    warm start, many end in success, and the others straddle rollout borders: an update then sees half as many steps
    again, as context, and more instructions are read. And two thirds of its actions are invalid: they leave the picture
    as it was, which is then not encoded again."""
    generator = torch.Generator(env.device).manual_seed(seed)
    step, tracker = env.step, env.world.tracker
    others = ChangingActions(env.num_envs, str(env.device), seed)

    def step_or_end(action: Tensor) -> Any:
        ends = torch.rand(env.num_envs, generator=generator, device=env.device) < 1 / STEPS_TO_SUCCESS
        tracker.steps.masked_fill_(ends, tracker.config.max_steps - 1)
        valid = env.valid_actions()
        return step(torch.where(valid.gather(1, action[:, None])[:, 0], action, others.draw(valid)))

    env.step = step_or_end  # type: ignore[method-assign, assignment]
