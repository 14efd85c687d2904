"""The cloning of a run, by itself or before PPO: demonstrations, rounds of cloning and of DAgger, all resumable."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .config import RunConfig
from .errors import UserError
from .policy.base import Policy
from .rl import checkpoint
from .rl.bc import Cloner
from .rl.demonstrate import ByPolicy, Metrics, Noise, collect, play
from .rl.demonstrations import Demonstrations, Played, Store
from .rl.distributed import ALONE, Ranks
from .runfolder import RunFolder
from .tasks.episodes import EpisodeSet
from .tasks.planners import make_planner

KIND = "behaviour cloning"
"""What a checkpoint of this stage is called inside."""
READINGS = "readings"
"""Where in a folder of demonstrations lies what the policy has read of their instructions."""


class Cloning:
    """Collects what demonstrations are lacking, clones them, and plays DAgger's rounds.

    A checkpoint is written at the beginning, every `bc.checkpoint_minutes`, when stopped and at the end; with the
    newest one loaded, `run` goes on exactly where that was taken, collected episodes included. Only a policy that was
    interrupted while it played episodes of DAgger plays the others with other draws.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        episodes: EpisodeSet,
        make_env: Callable[..., Any],
        folder: RunFolder,
        say: Callable[[str], None],
        log: Callable[[Metrics], None] = lambda metrics: None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`make_env(**settings)`: `build_env` of this run. `log`: gets a dict of numbers every 5 s of cloning.

        UserError where `bc.demonstrations` cannot be used."""
        self.config, self.policy, self.episodes, self.make_env = config, policy, episodes, make_env
        self.folder, self.say, self.log, self.ranks = folder, say, log, ranks
        if ranks.team_size > 1 and config.bc.dagger_rounds:
            raise UserError("bc.dagger_rounds does not go with policy.tensor_parallel: clone without, or on one device")
        self.cloner = Cloner(policy, config.bc, config.seed, ranks.clock)
        self._own = folder.path / "demonstrations"
        self.base = Path(config.bc.demonstrations).expanduser() if config.bc.demonstrations else self._own / "planner"
        if config.bc.demonstrations:
            ranks.agree(lambda: (self._store(0), None)[1])  # refused now rather than later; made by one

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of this stage; UserError for one of another."""
        state = checkpoint.load(path, self.policy)
        if state.get("kind") != KIND:
            raise UserError(f"{path}: is no checkpoint of behaviour cloning")
        self.cloner.load_state_dict(state)

    def save(self) -> None:
        """A checkpoint of the state, between two gradient steps; the oldest are forgotten."""
        state = {"kind": KIND} | self.cloner.state_dict()
        if self.ranks.leads:
            path = self.folder.checkpoints / checkpoint.file_name(self.cloner.steps, checkpoint.CLONE)
            checkpoint.save(path, self.policy, state)
            checkpoint.prune(self.folder.checkpoints, self.config.train.keep_checkpoints)

    def run(self, stop: Callable[[], bool]) -> dict[str, Any]:
        """To the end of all rounds, or until `stop()`; what came of it."""
        cloner, config = self.cloner, self.config.bc

        def stopped() -> bool:
            return self.ranks.in_team(stop())

        if not cloner.steps:
            self.save()  # from here on there is something to resume
        last_said = -60.0

        def log(metrics: Metrics) -> None:
            nonlocal last_said
            self.log(metrics)
            if (now := time.monotonic()) - last_said >= 10:
                last_said = now
                self._tell(metrics)

        while not cloner.finished:
            if cloner.numbers is None:
                self._collect(cloner.round, stop)
            if stopped():
                break
            demonstrations = self.demonstrations(cloner.round)
            if cloner.numbers is None:
                share = float(demonstrations.success.float().mean()) if len(demonstrations) else 0.0
                self.say(f"{len(demonstrations):,} demonstrations, {len(demonstrations.action):,} steps, "
                         f"{share:.0%} of them successful")  # fmt: skip
            if self.ranks.alone:
                self._read(demonstrations.texts, stop)
            cloner.begin(demonstrations)
            if cloner.train(log, stopped, self.save):
                summary = cloner.summary()
                self._tell(summary)
                self.log({"bc_progress": cloner.progress, "bc_round": cloner.round} | summary)
                cloner.next_round()
                self.save()
        else:
            return self._report(self.demonstrations(config.dagger_rounds))
        self.save()
        return {"demonstrator": config.demonstrator, "bc_steps": cloner.steps, "bc_seconds": cloner.seconds}

    def demonstrations(self, number: int) -> Demonstrations:
        """Those of a round and all before it; in a round that has begun, the ones it began with."""
        numbers = self.cloner.numbers
        # a round's own first: a shared folder may hold a planner's demonstrations of the same episodes
        shards = [shard for r in reversed(range(number + 1)) for shard in self._store(r).read()]
        return self._chosen(shards, numbers, range(self._numbers(number).stop))

    def provide(self, stop: Callable[[], bool], numbers: list[int] | None = None) -> Demonstrations:
        """The planner's, for PPO to learn from as well: those of the given numbers, or as many as are to be had.

        They are to lie where all ranks see them. A meeting."""
        if self.ranks.leads and numbers is None:
            self._fill(0, stop)
        self.ranks.wait()
        found = self._chosen(self._store(0).read(), numbers, self._numbers(0))
        if not len(found) and not stop():
            raise UserError(f"{self.base}: no demonstrations were collected; raise bc.collect_minutes")
        return found

    def forget(self) -> None:
        """Remove the run's own demonstrations."""
        if self.ranks.leads:
            shutil.rmtree(self._own, ignore_errors=True)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _chosen(self, shards: list[Any], numbers: list[int] | None, planned: range) -> Demonstrations:
        """Those of the given numbers, UserError if one lacks; without any, what there is of the planned ones."""
        found = Demonstrations(shards, planned if numbers is None else set(numbers))
        if numbers is not None and found.number.tolist() != numbers:
            raise UserError(
                f"{self.base}: lacks demonstrations that this run is learning; put them back, or begin anew"
            )
        return found

    def _report(self, demonstrations: Demonstrations) -> dict[str, Any]:
        """After all rounds."""
        if not len(self.cloner.used):  # resumed after the end
            self.cloner.begin(demonstrations)
        own = demonstrations.number < self.config.bc.episodes
        return {
            "demonstrator": self.config.bc.demonstrator,
            "demonstrations": len(demonstrations),
            "demonstration_steps": len(demonstrations.action),
            "demonstrator_success_rate": float(demonstrations.success[own].float().mean()),
            **self.cloner.summary(),
        }

    def _numbers(self, number: int) -> range:
        """The episodes of a round: each has its own."""
        bc = self.config.bc
        if number == 0:
            return range(bc.episodes)
        first = bc.episodes + (number - 1) * bc.dagger_episodes
        return range(first, first + bc.dagger_episodes)

    def _store(self, number: int) -> Store:
        settings = settings_of(self.config, self.policy, self.episodes)
        if number == 0:
            return Store(self.base, settings)
        mixed = {"round": number, "beta": self.config.bc.dagger_beta, "first": self._numbers(number).start}
        return Store(self._own / f"round_{number}", settings | mixed)

    def _collect(self, number: int, stop: Callable[[], bool]) -> None:
        """What a round needs and is not there yet; one process does it, its team waits."""
        if self.ranks.leads:
            self._fill(number, stop)
        self.ranks.in_team(False)

    def _fill(self, number: int, stop: Callable[[], bool]) -> None:
        collect(
            self._store(number), self._numbers(number), lambda missing: self._played(number, missing),
            minutes=self.config.bc.collect_minutes, log=self._tell, stop=stop,
        )  # fmt: skip

    def _played(self, number: int, missing: list[int]) -> Iterator[Played]:
        bc = self.config.bc
        env = self.make_env(
            episode_set=self.episodes.select(rows_of(missing, len(self.episodes), self.config.data_seed)),
            num_envs=min(self.config.env.num_envs, len(missing)),
            seed=self.config.data_seed,
            quota=True,
            visibility=bc.demonstrator == "explorer",
        )
        choose: Any = Noise(bc.noise, self.config.data_seed)
        if number:
            choose = ByPolicy(self.policy, env, bc.dagger_beta**number, self.config.seed + number)
        yield from play(env, self.policy.encode, lambda: make_planner(bc.demonstrator), choose, missing)
        env.close()

    def _read(self, texts: list[str], stop: Callable[[], bool]) -> None:
        """Instructions are the same for all that learn from these demonstrations: their readings lie beside them."""
        said = time.monotonic()
        for left in self.policy.read_into(self.base / READINGS, texts):
            if stop():
                break
            if time.monotonic() - said > 10:
                said = time.monotonic()
                self._tell({"instructions": float(len(texts)), "to_be_read": float(left)})

    def _tell(self, metrics: Metrics) -> None:
        values = (f"{name.removeprefix('bc_')} {value:.4g}" for name, value in metrics.items())
        self.say("cloning: " + ", ".join(values))


def rows_of(numbers: list[int], count: int, seed: int) -> list[int]:
    """Which of `count` training episodes those with the given numbers are: passes in an order drawn from the seed."""
    orders: dict[int, list[int]] = {}
    rows = []
    for number in numbers:
        turn, at = divmod(number, count)
        if turn not in orders:
            generator = torch.Generator().manual_seed(seed + 1_000_003 * turn)
            orders[turn] = torch.randperm(count, generator=generator).tolist()
        rows.append(orders[turn][at])
    return rows


def settings_of(config: RunConfig, policy: Policy, episodes: EpisodeSet) -> dict[str, Any]:
    """What decides the content of demonstrations, as plain values; how many there are does not."""
    about = hashlib.sha256()
    for part in (episodes.episode_id.numpy().tobytes(), "\n".join(episodes.instruction).encode()):
        about.update(part)
    return {
        "vision": policy.frozen_fingerprint().get("vision", ""),
        "vision_pool": config.policy.vision_pool,
        "pictures": config.policy.pictures,
        "image_size": config.env.image_size,
        "backend": config.env.backend,
        "rules": config.env.rule_set,
        "split": episodes.split,
        "episodes": about.hexdigest()[:16],
        "max_steps": config.task.max_steps,
        "demonstrator": config.bc.demonstrator,
        "noise": config.bc.noise,
        "seed": config.data_seed,
    }
