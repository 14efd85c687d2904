"""A whole training run: build, warm start, measure, PPO, measure again, film and report."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .config import RunConfig
from .disjoint import record
from .envs.double_buffer import DoubleBuffered
from .envs.episode_source import asset_notes, load_episodes
from .envs.vector import LanguageRearrangementVectorEnv
from .errors import UserError
from .evaluation.agents import PolicyAgent
from .evaluation.evaluate import evaluate_split
from .evaluation.report import write_report
from .evaluation.rollout_video import film
from .policy.build import make_policy
from .policy.llm import find_model
from .policy.policy import LLaRPPolicy
from .progress import Progress
from .rl import checkpoint
from .rl.bc import clone, collect_demonstrations
from .rl.config import TrainConfig
from .rl.critic import fit_critic
from .rl.distributed import ALONE, Ranks
from .rl.trainer import Trainer
from .runfolder import RunFolder
from .tasks.planners import make_planner

EVAL_SEED = 20_000
"""Held-out episodes of a run's own evaluation: the same for every run."""
PREEMPT_SHARE = 0.6
"""Share of ranks whose end of a rollout ends that of the others, with Habitat (DD-PPO's)."""
KEPT = ("stage", "warm_start", "evaluations")
"""What a resumed run takes over from the report of its earlier part."""


def build_policy(config: RunConfig, ranks: Ranks = ALONE) -> LLaRPPolicy:
    """The policy of a run, its trainable parts drawn from the run's seed; the ranks of a team make it together."""
    torch.manual_seed(config.seed)
    settings = replace(config.policy, image_size=config.env.image_size, max_steps=config.task.max_steps)
    return make_policy(settings, config.device, ranks.mesh)


def load_policy(config: RunConfig, path: Path) -> LLaRPPolicy:
    """The policy of a checkpoint file, or of the newest one of a run folder."""
    policy = build_policy(config)
    checkpoint.load(checkpoint.latest(path) if path.is_dir() else path, policy)
    return policy


def build_training_env(config: RunConfig, rank: int = 0, world_size: int = 1, **settings: Any) -> Any:
    """What a run trains in: `build_env`, or two halves of it."""
    if not config.env.double_buffer:
        return build_env(config, rank=rank, world_size=world_size, **settings)
    return DoubleBuffered(partial(build_env, config, **settings), config.env.num_envs, rank, world_size)


def build_env(config: RunConfig, **settings: Any) -> LanguageRearrangementVectorEnv:
    """The environment of a run; `settings` override."""
    return LanguageRearrangementVectorEnv(
        settings.pop("num_envs", config.env.num_envs),
        output="torch",
        autoreset_mode="same_step",
        config=config.env,
        task=config.task,
        seed=config.seed,
        device=config.device,
        **settings,
    )


def train(config: RunConfig, resume: Path | None = None, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train as `config` says, or continue the run in folder `resume`; what `llarp train` does and reports.

    A run stopped in its warm start begins that again when resumed, from the weights it had. Of several ranks all
    make this call with the same arguments; rank 0 alone (the ranks of its team with it) clones, evaluates and films,
    rank 0 alone writes and speaks.
    """
    started = time.monotonic()
    config = replace(config, device=ranks.take_device(config.device), train=_with_preemption(config))
    if config.policy.tensor_parallel > 1:
        ranks.agree(lambda: _check_tensor_parallel(config))
        ranks.form_teams(config.policy.tensor_parallel, config.device)
    folder, earlier = ranks.agree(lambda: _folder(config, resume))
    say = _Narrator(started, silent=not ranks.leads)
    with ranks.in_turn():
        if ranks.mesh is None:
            policy = build_policy(config)
        else:
            find_model(config.policy.llm)  # fetched before the team loads it together
        threads = config.env.render_threads or (0 if config.env.backend == "habitat" else ranks.threads())
        env = build_training_env(config, ranks.team, ranks.num_teams, render_threads=threads)
    if ranks.mesh is not None:
        policy = build_policy(config, ranks)
    say(policy.describe())
    each = "" if ranks.alone else f" of each of {ranks.num_teams} ranks"
    if ranks.team_size > 1:
        each = f" of each of {ranks.num_teams} teams of {ranks.team_size} ranks"
    say(f"{len(env.episodes):,} training episodes in {config.env.num_envs} worlds{each}, "
        f"{torch.get_num_threads()} threads")  # fmt: skip
    held_out = _HeldOut(config, say) if config.train.eval_episodes and ranks.team == 0 else None
    live = None if ranks.leads else False
    with (
        Progress(config.train.total_steps, "PPO", live=live) as shown,
        stop_on_interrupt(insist=ranks.alone) as stop,
    ):
        if ranks.leads:
            say.show = shown.message

        def log(metrics: dict[str, float]) -> None:
            folder.log(metrics)
            shown.update(metrics)

        trainer = Trainer(
            env, policy, config.ppo, config.train, seed=config.seed, log=log, checkpoint_dir=folder.checkpoints,
            ranks=ranks,
        )  # fmt: skip
        results: dict[str, Any] = {"stage": "warm start"} | {k: earlier[k] for k in KEPT if k in earlier}
        evaluations: dict[str, Any] = results.setdefault("evaluations", {})
        torch.manual_seed(ranks.seed(config.seed))
        if resume:
            same_worlds = trainer.load(checkpoint.latest(folder.path))
            say(f"continuing {folder.path} at {trainer.env_steps:,} environment steps")
            if not same_worlds:
                say(f"{ranks.num_teams} ranks did not leave it: weights and optimiser go on, the worlds begin anew")
            if ranks.leads:
                folder.truncate_metrics(trainer.env_steps)
        elif ranks.leads:
            folder.create(config)
            say(f"writing to {folder.path}")
        if results["stage"] == "warm start":
            if config.train.warm_start == "bc" and ranks.leads:
                record(folder.path, "bc", env.episodes, config.env, resumed=resume is not None)
            if config.train.warm_start == "bc" and ranks.team == 0:
                results["warm_start"] = warm_start(
                    config, env, policy, say, lambda: ranks.in_team(stop()), ranks.clock
                )
            trainer.start()
            trainer.save()
            if not ranks.any(stop()):
                results["stage"] = "PPO"
                if ranks.leads:
                    write_report(folder, results)
                if held_out:
                    evaluations["before PPO"] = held_out.measure(policy, "before PPO")
        policy.bind_instructions(env.instruction_text)
        if ranks.leads:
            record(folder.path, "ppo", env.episodes, config.env, resumed=resume is not None)
        trainer.run(stop)
        interrupted = ranks.any(stop())
        if not interrupted and ranks.team == 0:
            if held_out:
                evaluations["after PPO"] = held_out.measure(policy, "after PPO")
            with tempfile.TemporaryDirectory() as nowhere:
                results["videos"] = _film(config, policy, folder.videos if ranks.leads else Path(nowhere), say)
    folder.close()
    env.close()
    summary = trainer.summary()
    result = {
        "run_dir": str(folder.path),
        "env_steps": trainer.env_steps,
        "wall_s": trainer.wall_s,
        "steps_per_s": summary["steps_per_s"],
        "success_rate": evaluations.get("after PPO", summary)["success_rate"],
        "interrupted": interrupted,
        "total_s": time.monotonic() - started,
        **({"notes": list(notes)} if (notes := asset_notes(config.env)) else {}),
        **results,
    }
    if ranks.leads:
        write_report(folder, result)
    if interrupted:
        say(f"stopped; continue with: llarp train resume={folder.path}")
    return result


def _with_preemption(config: RunConfig) -> TrainConfig:
    """The settings of training with `preempt_share` made definite: simulators of Habitat differ much in speed."""
    default = PREEMPT_SHARE if config.env.backend == "habitat" else 0.0
    share = config.train.preempt_share
    return replace(config.train, preempt_share=default if share is None else share)


def _check_tensor_parallel(config: RunConfig) -> None:
    """UserError where the language model cannot be shared, or worlds would not run alike at those who share it."""
    from .policy.tensor_parallel import check_plan

    size, name = config.policy.tensor_parallel, config.policy.llm
    if config.env.backend == "habitat" or config.env.double_buffer:
        which = "backend=habitat" if config.env.backend == "habitat" else "env.double_buffer=true"
        asked = f"policy.tensor_parallel={size} does not go with {which}"
        raise UserError(f"{asked}: worlds must run alike in {size} processes")
    check_plan(name, find_model(name), size)


def _folder(config: RunConfig, resume: Path | None) -> tuple[RunFolder, dict[str, Any]]:
    """Where the run is or will be, and the report of its earlier part."""
    if resume is None:
        return RunFolder.planned(config), {}
    folder = RunFolder.existing(resume)
    return folder, folder.report()


def warm_start(
    config: RunConfig,
    env: Any,
    policy: LLaRPPolicy,
    say: Callable[[str], None],
    stop: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Clone demonstrations of a planner that sees no more than the robot, then fit the critic; what came of it.

    `env` is what `build_training_env` gave."""
    shown = build_env(config, episode_set=env.episodes, visibility=config.bc.demonstrator == "explorer")
    policy.bind_instructions(shown.instruction_text)

    def log(metrics: dict[str, float]) -> None:
        say("warm start: " + ", ".join(f"{name.removeprefix('bc_')} {value:.4g}" for name, value in metrics.items()))

    demonstrations = collect_demonstrations(
        shown,
        policy.encode,
        lambda: make_planner(config.bc.demonstrator),
        config.bc,
        seed=config.seed,
        log=log,
        stop=stop,
        clock=clock,
    )
    shown.close()
    result: dict[str, Any] = {
        "demonstrator": config.bc.demonstrator,
        "demonstrations": len(demonstrations),
        "demonstration_steps": len(demonstrations.action),
        "demonstrator_success_rate": float(demonstrations.success.float().mean()),
    }
    say(f"{len(demonstrations):,} demonstrations, {len(demonstrations.action):,} steps, "
        f"{result['demonstrator_success_rate']:.0%} of them successful")  # fmt: skip
    result |= clone(policy, demonstrations, config.bc, seed=config.seed, log=log, stop=stop, clock=clock)
    policy.bind_instructions(env.instruction_text)
    if config.train.critic_warmup_steps and not stop():
        result |= fit_critic(env, policy, config.ppo, config.train.critic_warmup_steps, stop)
        say(f"critic fitted: explains {result['critic_explained_variance']:.0%} of the returns' variance")
    return result


class _HeldOut:
    """The run's own evaluation: the same episodes of held-out apartments every time."""

    def __init__(self, config: RunConfig, say: Callable[[str], None]):
        self.config, self.say = config, say
        self.chosen = config.env.built_in(split=config.train.eval_split, episodes=config.train.eval_episodes)
        self.episodes = load_episodes(self.chosen, EVAL_SEED)

    def measure(self, policy: LLaRPPolicy, when: str) -> dict[str, Any]:
        """Rates now; binds the policy to these episodes' instructions."""
        config = self.config
        agent = PolicyAgent(policy)
        rates, _ = evaluate_split(agent, self.chosen, config.task, self.episodes, EVAL_SEED, config.device)
        for name, row in (("success", rates), ("pick and place", rates["pick_and_place"])):
            low, high = row["ci95"]
            self.say(f"{config.train.eval_split} {when}: {name} {row['success_rate']:.1%} "
                     f"(95 %: {low:.1%} to {high:.1%}, {row['episodes']} episodes)")  # fmt: skip
        return rates


def _film(config: RunConfig, policy: LLaRPPolicy, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Three held-out episodes on film."""
    chosen = config.env.built_in(split=config.train.eval_split, episodes=100)
    episodes = load_episodes(chosen, EVAL_SEED).select([0, 1, 2])
    path = folder / "held_out.mp4"
    shown = film(path, PolicyAgent(policy), chosen, config.task, episodes, EVAL_SEED, config.device)
    say(f"filmed {path}")
    return shown


class _Narrator:
    """Says what is going on, each line with the time since the start."""

    def __init__(self, started: float, silent: bool = False):
        self.started = started
        self.show: Callable[[str], None] = (lambda text: None) if silent else (lambda text: print(text, flush=True))

    def __call__(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        self.show(f"[{int(seconds // 60)}:{int(seconds % 60):02}] {text}")


@contextmanager
def stop_on_interrupt(insist: bool = True) -> Iterator[Callable[[], bool]]:
    """A flag that Ctrl-C (or a job scheduler's SIGTERM) raises; a second one interrupts at once, if they may `insist`.

    Under a launcher they may not: it hands on what a scheduler or a terminal has sent to all processes already.
    """
    asked: list[bool] = []

    def ask(number: int, frame: Any) -> None:
        if asked and insist:
            raise KeyboardInterrupt
        asked.append(True)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
