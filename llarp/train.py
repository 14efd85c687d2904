"""A whole training run: build, warm start, measure, PPO, measure again, film and report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .cloning import READINGS, Cloning
from .config import RunConfig
from .disjoint import inherit, record
from .envs.double_buffer import DoubleBuffered
from .envs.episode_source import asset_notes, load_episodes
from .envs.vector import LanguageRearrangementVectorEnv
from .errors import UserError
from .evaluation.agents import PolicyAgent
from .evaluation.report import write_report
from .evaluation.rollout_video import film
from .policy import hub
from .policy.build import make_policy
from .policy.llm import find_model
from .policy.policy import LLaRPPolicy
from .progress import Progress
from .rl import checkpoint
from .rl.config import TrainConfig
from .rl.critic import fit_critic
from .rl.distributed import ALONE, Ranks
from .rl.trainer import Trainer
from .rl.unknown import Hearing
from .runfolder import RunFolder, find_run
from .session import EVAL_SEED, HeldOut, Narrator, stop_on_interrupt, within

PREEMPT_SHARE = 0.6
"""Share of ranks whose end of a rollout ends that of the others, with Habitat (DD-PPO's)."""
KEPT = ("stage", "warm_start", "cloning", "evaluations")
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
        seed=settings.pop("seed", config.seed),
        device=config.device,
        **settings,
    )


def train(config: RunConfig, resume: Path | None = None, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train as `config` says, or continue the run in folder `resume`; what `llarp train` does and reports.

    Of several ranks all make this call with the same arguments; rank 0 alone (the ranks of its team with it) clones,
    evaluates and films, rank 0 alone writes and speaks.
    """
    started = time.monotonic()
    only_clone = config.train.algorithm == "bc"
    config = replace(config, device=ranks.take_device(config.device), train=_with_preemption(config))
    if config.policy.tensor_parallel > 1:
        ranks.agree(lambda: _check_tensor_parallel(config))
        ranks.form_teams(config.policy.tensor_parallel, config.device)
    if only_clone and ranks.num_teams > 1:
        ranks.agree(_refuse_to_clone)
    folder, earlier = ranks.agree(lambda: _folder(config, resume))
    say = Narrator(started, silent=not ranks.leads)
    with ranks.in_turn():
        if ranks.mesh is None:
            policy = build_policy(config)
        else:
            find_model(config.policy.llm)  # fetched before the team loads it together
        threads = config.env.render_threads or (0 if config.env.backend == "habitat" else ranks.threads())
        env, episodes = None, load_episodes(config.env, config.data_seed)
        if not only_clone:
            env = build_training_env(
                config, ranks.team, ranks.num_teams, render_threads=threads, episode_set=episodes
            )
    if ranks.mesh is not None:
        policy = build_policy(config, ranks)
    if config.train.init and resume is None:
        load_weights(policy, config.train.init)
    say(policy.describe())
    each = "" if ranks.alone else f" of each of {ranks.num_teams} ranks"
    if ranks.team_size > 1:
        each = f" of each of {ranks.num_teams} teams of {ranks.team_size} ranks"
    say(f"{len(episodes):,} training episodes in {config.env.num_envs} worlds{each}, "
        f"{torch.get_num_threads()} threads")  # fmt: skip
    held_out = HeldOut(config, say) if config.train.eval_episodes and ranks.team == 0 else None
    live = None if ranks.leads else False
    shown = Progress(100, "cloning", "percent", live) if only_clone else Progress(
        config.train.total_steps, "PPO", live=live
    )  # fmt: skip
    with shown, stop_on_interrupt(insist=ranks.alone) as asked:
        stop = within(config.train.session_minutes, started, asked)
        if ranks.leads:
            say.show = shown.message

        def log(metrics: dict[str, float]) -> None:
            folder.log(metrics)
            shown.update(metrics)

        trainer = None
        if env is not None and config.ppo.pretends:
            env = Hearing(env, config.ppo, config.data_seed)
        if env is not None:
            trainer = Trainer(
                env, policy, config.ppo, config.train, seed=config.seed, log=log, checkpoint_dir=folder.checkpoints,
                ranks=ranks,
            )  # fmt: skip
        results: dict[str, Any] = {"stage": "warm start"} | {k: earlier[k] for k in KEPT if k in earlier}
        evaluations: dict[str, Any] = results.setdefault("evaluations", {})
        torch.manual_seed(ranks.seed(config.seed))
        source = cloning = None
        if config.train.clones or config.ppo.bc_coef:
            make_env = partial(build_env, config, render_threads=threads)
            told = _cloning_log(log) if only_clone else (lambda metrics: None)
            source = Cloning(config, policy, episodes, make_env, folder, say, told, ranks)
        if config.train.clones and ranks.team == 0 and (only_clone or results["stage"] == "warm start"):
            cloning = source
        clone = None
        if resume:
            newest, clone = checkpoint.latest(folder.path), checkpoint.latest_clone(folder.path)
            if trainer is not None and newest != clone:
                same_worlds = trainer.load(newest)
                say(f"continuing {folder.path} at {trainer.env_steps:,} environment steps")
                if not same_worlds:
                    say(f"{ranks.num_teams} ranks did not leave it: weights and optimiser go on, the worlds begin anew")
                if ranks.leads:
                    folder.truncate_metrics(trainer.env_steps)
        elif ranks.leads:
            folder.create(config)
            say(f"writing to {folder.path}")
        if resume is not None and ranks.leads:
            folder.note_start()
            for line in folder.changed(config):
                say(f"not as it began: {line}")
        known = resume is None  # what the run was shown so far
        if resume is None and config.train.init and ranks.leads:
            known = inherit(folder.path, config.train.init)
        if cloning is not None:
            if clone is not None:
                cloning.load(clone)
                say(f"continuing {folder.path} at {cloning.cloner.steps:,} steps of cloning")
                if ranks.leads and only_clone:
                    folder.truncate_metrics(cloning.cloner.tokens)
            if ranks.leads:
                record(folder.path, "bc", episodes, config.env, resumed=not known)
            results["cloning" if only_clone else "warm_start"] = cloning.run(stop)
        if trainer is not None:
            _reinforce(config, trainer, policy, source, folder, results, held_out, stop, say, known)
        interrupted = ranks.any(stop())
        if not interrupted and ranks.team == 0:
            if held_out:
                evaluations["after cloning" if only_clone else "after PPO"] = held_out.measure(
                    policy, "after cloning" if only_clone else "after PPO"
                )
            with tempfile.TemporaryDirectory() as nowhere:
                results["videos"] = _film(config, policy, folder.videos if ranks.leads else Path(nowhere), say)
    folder.close()
    if env is not None:
        env.close()
    if trainer is not None:
        summary: dict[str, Any] = trainer.summary()
    else:
        assert cloning is not None
        tokens, seconds = cloning.cloner.tokens, cloning.cloner.seconds
        rate = tokens / max(seconds, 1e-9)
        summary = {"env_steps": tokens, "wall_s": seconds, "steps_per_s": rate, "success_rate": None}
    last = evaluations.get("after cloning" if only_clone else "after PPO", summary)
    result = {
        "run_dir": str(folder.path),
        "env_steps": summary["env_steps"],
        "wall_s": summary["wall_s"],
        "steps_per_s": summary["steps_per_s"],
        "success_rate": last["success_rate"],
        "interrupted": interrupted,
        "total_s": time.monotonic() - started,
        **({"notes": list(notes)} if (notes := asset_notes(config.env)) else {}),
        **results,
    }
    if only_clone:
        del result["stage"]
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


def _refuse_to_clone() -> None:
    raise UserError("train.algorithm=bc runs in one process: start it without torchrun, then PPO with train.init=RUN")


def load_weights(policy: LLaRPPolicy, where: str) -> None:
    """Put the weights of an earlier run, a checkpoint, or a policy that was shipped (by folder or name) into a policy;
    trained parts that it has and the other lacks (`policy.word_prior`, say) begin anew.

    UserError: missing, or of another policy."""
    if (folder := hub.at_hand(where)) is not None:
        hub.fill(policy, hub.read(folder), grow=True)
        return
    path = Path(where).expanduser()
    if not path.exists():
        raise UserError(f"train.init={where}: there is no such run or checkpoint")
    checkpoint.load(checkpoint.latest(find_run(path)) if path.is_dir() else path, policy, grow=True)


def _reinforce(
    config: RunConfig,
    trainer: Trainer,
    policy: LLaRPPolicy,
    source: Cloning | None,
    folder: RunFolder,
    results: dict[str, Any],
    held_out: HeldOut | None,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    manifest: bool,
) -> None:
    """What follows the cloning, if any: the critic fitted, an evaluation, PPO. `source`: where demonstrations come
    from, if any are used; `manifest`: whether to write in it."""
    ranks, env, steps = trainer.ranks, trainer.collector.env, config.train.critic_warmup_steps

    def stopped() -> bool:
        return ranks.in_team(stop())

    if config.bc.demonstrations and ranks.alone:  # the same episodes: what cloning has read need not be read again
        list(policy.read_into(Path(config.bc.demonstrations).expanduser() / READINGS, []))
    if results["stage"] == "warm start":
        policy.bind_instructions(env.instruction_text)
        if ranks.team == 0 and steps and (config.train.clones or config.train.init) and not stopped():
            fitted = fit_critic(env, policy, config.ppo, steps, stopped, trainer.scale)
            results["warm_start"] = results.get("warm_start", {}) | fitted
            say(f"critic fitted: explains {fitted['critic_explained_variance']:.0%} of the returns' variance")
        if config.train.clones and ranks.any(stop()):
            return  # it is resumed from the cloning's checkpoint
        trainer.start()
        trainer.save()
        if not ranks.any(stop()):
            results["stage"] = "PPO"
            if ranks.leads:
                write_report(folder, results)
            if source is not None and not config.ppo.bc_coef:
                source.forget()
            if held_out:
                results["evaluations"]["before PPO"] = held_out.measure(policy, "before PPO")
    policy.bind_instructions(env.instruction_text)
    if ranks.leads:
        record(folder.path, "ppo", env.episodes, config.env, resumed=not manifest)
    if config.ppo.bc_coef and source is not None:
        trainer.learn_beside(source.provide(stop, trainer.shown), config.bc)
    trainer.run(stop)


def _cloning_log(log: Callable[[dict[str, float]], None]) -> Callable[[dict[str, float]], None]:
    """The metrics of a run that only clones, under the names that run folders and progress know."""

    def told(metrics: dict[str, float]) -> None:
        tokens, seconds = metrics.get("bc_tokens", 0), metrics.get("bc_seconds", 0.0)
        own = {name.removeprefix("bc_"): value for name, value in metrics.items()}
        rate = {"env_steps": tokens, "wall_s": seconds, "steps_per_s": tokens / max(seconds, 1e-9)}
        log({**rate, "percent": 100 * metrics.get("bc_progress", 0.0), **own})

    return told


def _film(config: RunConfig, policy: LLaRPPolicy, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Three held-out episodes on film."""
    chosen = config.env.built_in(split=config.train.eval_split, episodes=100)
    episodes = load_episodes(chosen, EVAL_SEED).select([0, 1, 2])
    path = folder / "held_out.mp4"
    shown = film(path, PolicyAgent(policy), chosen, config.task, episodes, EVAL_SEED, config.device)
    say(f"filmed {path}")
    return shown
