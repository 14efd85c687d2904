"""A whole training run: build, warm start, measure, PPO, measure again, film and report."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .config import RunConfig
from .envs.episode_source import load_episodes
from .envs.vector import LanguageRearrangementVectorEnv
from .evaluation.agents import PolicyAgent
from .evaluation.evaluate import evaluate_split
from .evaluation.report import write_report
from .evaluation.rollout_video import film
from .policy.policy import LLaRPPolicy
from .progress import Progress
from .rl import checkpoint
from .rl.bc import clone, collect_demonstrations
from .rl.critic import fit_critic
from .rl.trainer import Trainer
from .runfolder import RunFolder
from .tasks.planners import make_planner

EVAL_SEED = 20_000
"""Held-out episodes of a run's own evaluation: the same for every run."""


def build_policy(config: RunConfig) -> LLaRPPolicy:
    """The policy of a run, its trainable parts drawn from the run's seed."""
    torch.manual_seed(config.seed)
    settings = replace(config.policy, image_size=config.env.image_size, max_steps=config.task.max_steps)
    return LLaRPPolicy(settings, config.device)


def load_policy(config: RunConfig, path: Path) -> LLaRPPolicy:
    """The policy of a checkpoint file, or of the newest one of a run folder."""
    policy = build_policy(config)
    checkpoint.load(checkpoint.latest(path) if path.is_dir() else path, policy)
    return policy


def build_env(config: RunConfig, **settings: Any) -> LanguageRearrangementVectorEnv:
    """The training environment of a run; `settings` override."""
    given = {"output": "torch", "autoreset_mode": "same_step", "config": config.env, "task": config.task}
    return LanguageRearrangementVectorEnv(
        config.env.num_envs, **given, seed=config.seed, device=config.device, **settings
    )


def train(config: RunConfig, resume: Path | None = None) -> dict[str, Any]:
    """Train as `config` says, or continue the run in folder `resume`; what `llarp train` does and reports."""
    started = time.monotonic()
    folder = RunFolder.existing(resume) if resume else RunFolder.planned(config)
    say = _Narrator(started)
    policy = build_policy(config)
    say(policy.describe())
    env = build_env(config)
    say(f"{len(env.episodes):,} training episodes in {config.env.num_envs} worlds, {torch.get_num_threads()} threads")
    held_out = _HeldOut(config) if config.train.eval_episodes else None
    with Progress(config.train.total_steps, "PPO") as shown, stop_on_interrupt(say) as stop:
        say.show = shown.message

        def log(metrics: dict[str, float]) -> None:
            folder.log(metrics)
            shown.update(metrics)

        trainer = Trainer(
            env, policy, config.ppo, config.train, seed=config.seed, log=log, checkpoint_dir=folder.checkpoints
        )
        results: dict[str, Any] = {}
        evaluations: dict[str, dict[str, Any]] = {}
        if resume:
            newest = checkpoint.latest(folder.path)
            trainer.load(newest)
            folder.truncate_metrics(trainer.env_steps)
            say(f"continuing {folder.path} at {trainer.env_steps:,} environment steps")
        else:
            folder.create(config)
            say(f"writing to {folder.path}")
            torch.manual_seed(config.seed)
            if config.train.warm_start == "bc":
                results["warm_start"] = warm_start(config, policy, say, stop)
            if held_out and not stop():
                evaluations["before PPO"] = held_out.measure(policy, say, "before PPO")
            if config.train.warm_start == "bc" and config.train.critic_warmup_steps and not stop():
                fitted = fit_critic(env, policy, config.ppo, config.train.critic_warmup_steps, stop)
                results["warm_start"] |= fitted
                say(f"critic fitted: explains {fitted['critic_explained_variance']:.0%} of the returns' variance")
        trainer.run(stop)
        interrupted = stop()
        summary = trainer.summary()
        if held_out and not interrupted:
            evaluations["after PPO"] = held_out.measure(policy, say, "after PPO")
        if not interrupted:
            films = _film(config, policy, folder, say)
            results["videos"] = films
    folder.close()
    env.close()
    result = {
        "run_dir": str(folder.path),
        "env_steps": trainer.env_steps,
        "wall_s": trainer.wall_s,
        "steps_per_s": summary["steps_per_s"],
        "success_rate": evaluations.get("after PPO", summary)["success_rate"],
        "interrupted": interrupted,
        "total_s": time.monotonic() - started,
        **results,
        "evaluations": evaluations,
    }
    write_report(folder, result)
    if interrupted:
        say(f"stopped; continue with: llarp train resume={folder.path}")
    return result


def warm_start(config: RunConfig, policy: LLaRPPolicy, say: Callable[[str], None], stop: Callable[[], bool]) -> dict[str, Any]:
    """Clone demonstrations of a planner that sees no more than the robot; returns what was collected and learnt."""
    env = build_env(config, visibility=config.bc.demonstrator == "explorer")
    policy.bind_instructions(env.instruction_text)

    def log(metrics: dict[str, float]) -> None:
        say("warm start: " + ", ".join(f"{name.removeprefix('bc_')} {value:.4g}" for name, value in metrics.items()))

    demonstrations = collect_demonstrations(
        env, policy.encode, lambda: make_planner(config.bc.demonstrator), config.bc, seed=config.seed, log=log, stop=stop
    )
    env.close()
    result: dict[str, Any] = {
        "demonstrator": config.bc.demonstrator,
        "demonstrations": len(demonstrations),
        "demonstration_steps": len(demonstrations.action),
        "demonstrator_success_rate": float(demonstrations.success.float().mean()),
    }
    say(f"{len(demonstrations):,} demonstrations, {len(demonstrations.action):,} steps, "
        f"{result['demonstrator_success_rate']:.0%} of them successful")  # fmt: skip
    return result | clone(policy, demonstrations, config.bc, seed=config.seed, log=log, stop=stop)


class _HeldOut:
    """The run's own evaluation: the same episodes of held-out apartments every time."""

    def __init__(self, config: RunConfig):
        self.config = config
        chosen = replace(config.env, split=config.train.eval_split, episodes=config.train.eval_episodes, dataset="")
        self.episodes = load_episodes(chosen, EVAL_SEED)

    def measure(self, policy: LLaRPPolicy, say: Callable[[str], None], when: str) -> dict[str, Any]:
        config = self.config
        lookup = policy._lookup
        summary, _ = evaluate_split(
            PolicyAgent(policy), config.env, config.task, self.episodes, EVAL_SEED, config.device
        )
        if lookup is not None:  # the evaluation bound its own instructions
            policy.bind_instructions(lookup)
        for name, row in (("success", summary), ("pick and place", summary["pick_and_place"])):
            low, high = row["ci95"]
            say(f"{config.train.eval_split} {when}: {name} {row['success_rate']:.1%} "
                f"(95 %: {low:.1%} to {high:.1%}, {row['episodes']} episodes)")  # fmt: skip
        return summary


def _film(config: RunConfig, policy: LLaRPPolicy, folder: RunFolder, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Three held-out episodes on film."""
    chosen = replace(config.env, split=config.train.eval_split, episodes=100, dataset="")
    episodes = load_episodes(chosen, EVAL_SEED).select([0, 1, 2])
    path = folder.videos / "held_out.mp4"
    shown = film(path, PolicyAgent(policy), config.env, config.task, episodes, EVAL_SEED, config.device)
    say(f"filmed {path}")
    return shown


class _Narrator:
    """Says what is going on, each line with the time since the start."""

    def __init__(self, started: float):
        self.started, self.show = started, lambda text: print(text, flush=True)

    def __call__(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        self.show(f"[{int(seconds // 60)}:{int(seconds % 60):02}] {text}")


@contextmanager
def stop_on_interrupt(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """A flag that Ctrl-C (or a job scheduler's SIGTERM) raises; a second Ctrl-C interrupts at once."""
    asked: list[bool] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        say("stopping after this step and writing a checkpoint (once more: at once)")

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
