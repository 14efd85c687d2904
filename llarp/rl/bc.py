"""Behaviour cloning: cross-entropy to a planner's labels, in rounds (DAgger's), exactly where it was when resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llarp.errors import UserError
from llarp.policy.base import Policy, SegmentBatch
from llarp.tasks.actions import NOVEL_PICKS

from .config import BCConfig
from .demonstrations import Demonstrations
from .unknown import text_of, varied
from .update import trainable_parameters

Metrics = dict[str, float]
Log = Callable[[Metrics], None]
CALIBRATION_STEPS = 2000
"""Enough for means and deviations, little memory."""
HELD_OUT_EPISODES = 500
"""At most so many of the episodes kept from training are looked at."""


class Cloner:
    """Trains a policy on demonstrations: `begin` a round with all that there are by then, `train` it, `next_round`.

    Which batch comes when, and its noise, follow from the seed and the counters of `state_dict`. The learning rate
    rises, then falls along a cosine to 0 over all rounds; the schedule follows the epochs, or the minutes of cloning
    where those are used up first.
    """

    def __init__(
        self, policy: Policy, config: BCConfig, seed: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.policy, self.config, self.seed, self.clock = policy, config, seed, clock
        self.reader: Any = getattr(getattr(policy, "heads", None), "reader", None)
        if config.word_dropout and self.reader is None:
            readers = "policy.instruction_skip or policy.kind=encoder_decoder"
            raise UserError(f"bc.word_dropout hides words from {readers}: set one, or leave this out")
        for name in ("unknown_share", "described_share"):
            if getattr(config, name) and not policy.unknown_steps:
                raise UserError(f"bc.{name} is for policy.kind=encoder_decoder: set that, or leave this out")
        self.parameters = trainable_parameters(policy)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.round = self.steps = self.tokens = 0  # gradient steps and steps of episodes, of all rounds
        self.seen = self.block = self.at = 0  # in this round: episodes, blocks behind, batches of the present block
        self.numbers: list[int] | None = None  # the demonstrations of this round; None: not begun
        self.finished = False
        self.used = self.held_out = torch.empty(0, dtype=torch.int64)  # which demonstrations are trained on
        self._before = 0.0
        self._since: float | None = None  # when the present `train` began
        self._sums = _Sums()

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device

    @property
    def seconds(self) -> float:
        """Spent in `train`, earlier sessions included."""
        return self._before + (self.clock() - self._since if self._since is not None else 0.0)

    @property
    def progress(self) -> float:
        """Share of all rounds done, 0 to 1."""
        rounds = self.config.dagger_rounds + 1
        passes = self.seen / max(self.config.epochs * len(self.used), 1)
        minutes = self.config.train_minutes
        return min(1.0, max((self.round + passes) / rounds, self.seconds / (60 * minutes) if minutes else 0.0))

    def begin(self, demonstrations: Demonstrations) -> None:
        """Take up a round, or go on with it. UserError where there is nothing to learn from."""
        self.demonstrations = demonstrations
        held_out = demonstrations.held_out(self.config.holdout, self.seed)
        self.used, self.held_out = (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
        if not len(self.used):
            raise UserError(f"bc: {len(demonstrations)} demonstrations are too few to clone; raise bc.episodes")
        self.numbers = demonstrations.number.tolist()
        generator = torch.Generator().manual_seed(self.seed)
        some: list[Tensor] = []
        for i in torch.randperm(len(demonstrations), generator=generator).tolist():
            some.append(demonstrations.features(i).float())
            if sum(map(len, some)) >= CALIBRATION_STEPS:
                break
        shown = torch.cat(some)
        self.policy.calibrate(shown.to(self.device))
        self._blur = self.config.feature_noise * shown.std(0)  # (num_tokens, dim)

    def next_round(self) -> None:
        """The round is done."""
        self.round, self.seen, self.block, self.at, self.numbers = self.round + 1, 0, 0, 0, None
        self.finished = self.round > self.config.dagger_rounds

    def train(self, log: Log, stop: Callable[[], bool], save: Callable[[], None] = lambda: None) -> bool:
        """Gradient steps until the round is done (True) or `stop()`, which is asked before each, is true (False).

        `log` gets the means since its last call, every 5 s; `save` is called every `bc.checkpoint_minutes`, after the
        held-out episodes were looked at.
        """
        config, end = self.config, (self.round + 1) / (self.config.dagger_rounds + 1)
        self._since = self.clock()
        reported = saved = self._since
        with self.policy.bound_to(partial(text_of, self.demonstrations.texts)):
            for index in self._batches():
                if self.progress >= end or stop():
                    break
                self._step(self.demonstrations.batch(index), index)
                now = self.clock()
                if now - reported > 5:
                    reported = now
                    log(self._metrics())
                if now - saved > 60 * config.checkpoint_minutes:
                    log(self._metrics() | self.evaluate())
                    save()
                    saved = self.clock()
        done = self.progress >= end or self.seen >= config.epochs * len(self.used)
        self._before, self._since = self.seconds, None
        return done

    def _batches(self) -> Iterator[Tensor]:
        """Episodes of the batches from where the round is, to the end of its epochs.

        Passes come `window_passes` at a time over some `window` episodes: what the policy has read of their
        instructions is then still at hand.
        """
        config, count = self.config, len(self.used)
        windows = math.ceil(count / config.window)
        while self.seen < config.epochs * count:
            turn, rest = divmod(self.block, windows * config.window_passes)
            passes = min(config.window_passes, config.epochs - turn * config.window_passes)
            first = rest // passes * config.window
            order = self.used[torch.randperm(count, generator=self._generator(1, turn))]
            own = self._generator(2, self.block)
            pads = self.policy.pads
            batches = self.demonstrations.batches(order[first : first + config.window], config.batch_tokens, own, pads)
            while self.at < len(batches):
                yield batches[self.at]
            self.block, self.at = self.block + 1, 0

    def _generator(self, *key: int) -> torch.Generator:
        """Random numbers of this run, round and key."""
        return torch.Generator().manual_seed(self._seed(*key))

    def _seed(self, *key: int) -> int:
        return int(np.random.SeedSequence([self.seed, self.round, *key]).generate_state(1, np.uint64)[0]) >> 1

    def _step(self, batch: SegmentBatch, index: Tensor) -> None:
        config = self.config
        rising = min(1.0, max(self.progress, 1e-4) / max(config.warmup, 1e-9))
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * rising * 0.5 * (1 + math.cos(math.pi * self.progress))
        if config.feature_noise > 0:
            noise = torch.randn(batch.features.shape, generator=self._generator(3, self.steps))
            same = (batch.features[:, 1:] == batch.features[:, :-1]).flatten(2).all(-1)  # pictures that nothing changed
            for t in range(1, noise.shape[1]):
                noise[:, t] = torch.where(same[:, t - 1, None, None], noise[:, t - 1], noise[:, t])
            batch.features += self._blur * noise
        draws = (self._generator(stream, self.steps) for stream in (6, 8))
        batch = varied(batch, config, self.policy.unknown_steps, self.demonstrations.texts, *draws)
        self.optimizer.zero_grad(set_to_none=True)
        if config.word_dropout:
            self.reader.hide = config.word_dropout, self._generator(5, self.steps)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed(7, self.steps))
            self.policy.train()
            loss = CloningLoss(self.policy, batch.to(self.device))
            self.policy.eval()
        if config.word_dropout:
            self.reader.hide = None
        loss.mean.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self._sums.add(loss)
        self.steps, self.seen, self.at = self.steps + 1, self.seen + len(index), self.at + 1
        self.tokens += loss.count

    def _metrics(self) -> Metrics:
        """Where the cloning is, with the means since the last call."""
        sums, self._sums = self._sums, _Sums()
        lr = self.optimizer.param_groups[0]["lr"]
        where = {"bc_progress": self.progress, "bc_round": self.round, "bc_steps": self.steps, "bc_tokens": self.tokens}
        return {**where, "bc_seconds": self.seconds, "bc_lr": lr, **sums.metrics("bc")}

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """Loss and accuracy on episodes kept from training; empty where none are."""
        if not len(self.held_out):
            return {}
        sums = _Sums()
        some = self.held_out[:HELD_OUT_EPISODES]
        with self.policy.bound_to(self.demonstrations.instruction_text):
            for index in self.demonstrations.batches(
                some, self.config.batch_tokens, self._generator(4), self.policy.pads
            ):
                sums.add(CloningLoss(self.policy, self.demonstrations.batch(index).to(self.device)))
        return sums.metrics("bc_held_out")

    def summary(self) -> Metrics:
        """What came of it: steps, seconds, episodes trained on, means since the last log, held-out metrics."""
        count = {"bc_steps": self.steps, "bc_seconds": self.seconds, "bc_tokens": self.tokens}
        return {**count, "bc_episodes": len(self.used), **self._sums.metrics("bc"), **self.evaluate()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs but the policy's weights, as plain values and tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "numbers": None if self.numbers is None else torch.tensor(self.numbers),
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; UserError for what is no such state."""
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self._before = float(state["seconds"])
            self.numbers = None if state["numbers"] is None else state["numbers"].tolist()
            for name in _COUNTERS:
                setattr(self, name, type(getattr(self, name))(state[name]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"the checkpoint is none of behaviour cloning, or of another policy ({error})") from None


_COUNTERS = ("round", "steps", "tokens", "seen", "block", "at", "finished")


class CloningLoss:
    """Cross-entropy of one batch, over its steps, to the labels in `action`.

    Picking up a category that training holds out is never right there. That is no reason to unlearn it: unless the
    policy knows such skills by what they share with others only (`unknown_steps`), they are left out of the sum over
    skills, so that what it makes of their words comes from the others'.
    """

    def __init__(self, policy: Policy, batch: SegmentBatch) -> None:
        logits, _ = policy.action_logits(batch)
        logits, label = logits[batch.valid], batch.action[batch.valid]
        if not policy.unknown_steps:
            silent = torch.zeros_like(logits, dtype=torch.bool)
            silent[:, NOVEL_PICKS] = True
            logits = logits.masked_fill(silent.scatter(1, label[:, None], False), -torch.inf)
        self.mean = torch.nn.functional.cross_entropy(logits, label)
        self.right = (logits.argmax(-1) == label).sum()
        self.count = len(label)


class _Sums:
    """Running means over steps; they stay on the device till they are asked for."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.right: Tensor | float = 0.0
        self.count = 0

    def add(self, loss: CloningLoss) -> None:
        self.loss = self.loss + loss.mean.detach() * loss.count
        self.right = self.right + loss.right
        self.count += loss.count

    def metrics(self, prefix: str) -> Metrics:
        if self.count == 0:
            return {}
        return {f"{prefix}_loss": float(self.loss) / self.count, f"{prefix}_accuracy": float(self.right) / self.count}
