"""The pretraining run: draw, loss, step; log, checkpoint, resume; at the end the weights, their card and a probe."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llarp.config import RunConfig
from llarp.disjoint import inherit_vision, record
from llarp.errors import UserError
from llarp.policy.llm import choose_dtype
from llarp.policy.vision import choose_attention, load_weights
from llarp.progress import Progress
from llarp.rl import checkpoint
from llarp.runfolder import RunFolder

from .card import write_card, write_weights
from .methods import METHODS
from .pictures import PictureSource, training_rooms
from .probe import probe

STAGE = "vision pretraining"
"""Its name in a run's manifest."""
FORMAT = "llarp pretraining 1"
_MAY_CHANGE = {"pretrain.minutes", "pretrain.checkpoint_minutes", "pretrain.log_interval", "pretrain.probe_pictures",
               "env.num_envs", "env.render_threads"}  # fmt: skip
"""Settings that a resumed run may change: what is learned from which picture stays the same."""


class Pretrainer:
    """Model, optimizer and pictures of a run; `step` is one update.

    Args:
        clock: seconds; where `pretrain.minutes` is set the schedule follows it.
    """

    def __init__(self, config: RunConfig, clock: Callable[[], float] = time.monotonic):
        self.config, self.settings, self.clock = config, config.pretrain, clock
        settings = self.settings
        kind = METHODS[settings.method]
        self.method = kind(config.policy.vision, config.env.image_size, settings, config.seed).to(config.device)
        choose_attention(self.method, torch.device(config.device))
        self.rooms = training_rooms(config)
        self.source = PictureSource(
            self.rooms, settings.batch, config.env.image_size, config.seed, labels=kind.needs_labels,
            device=config.device, render_threads=config.env.render_threads,
        )  # fmt: skip
        spared = {f"backbone.{name}" for name in self.method.backbone.no_weight_decay()} | {"hidden"}
        groups: dict[float, list[Tensor]] = {settings.weight_decay: [], 0.0: []}
        for name, weight in self.method.named_parameters():
            groups[0.0 if weight.ndim < 2 or name in spared else settings.weight_decay].append(weight)
        self.optimizer = torch.optim.AdamW(
            [{"params": weights, "weight_decay": decay} for decay, weights in groups.items()], lr=0.0, betas=(0.9, 0.95)
        )
        self.dtype = choose_dtype(config.policy.precision, torch.device(config.device))
        self.pictures = self.updates = 0
        self._before, self._started = 0.0, clock()

    @property
    def seconds(self) -> float:
        """How long the run has taken, its earlier parts included."""
        return self._before + self.clock() - self._started

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1: of the pictures, or of the minutes where there is less of these."""
        minutes = self.settings.minutes
        return min(1.0, max(self.pictures / self.settings.pictures, self.seconds / 60 / minutes if minutes else 0.0))

    def step(self) -> dict[str, Tensor | float]:
        """One update; its loss and learning rate."""
        lr = self.settings.lr * schedule(self.share, self.settings.warmup, self.updates == 0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.method.train()
        shown = self.source.draw(self.pictures)
        device = torch.device(self.config.device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss, parts = self.method.loss(shown)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.pictures += self.settings.batch
        self.updates += 1
        row = {"loss": loss, **parts, "grad_norm": norm}
        return {name: value.detach() for name, value in row.items()} | {"lr": lr}

    def begin(self) -> None:
        """Fill the backbone with the weights `pretrain.init`, if any: before the first step of a new run."""
        if init := self.settings.init:
            load_weights(self.method.backbone, init, "pretrain.init", "nothing: then it begins untrained")

    # -- continuing -----------------------------------------------------------------------------------------------

    def save(self, folder: Path, keep: int = 2) -> None:
        """A checkpoint of everything that decides how the run goes on."""
        tree = {
            "format": FORMAT,
            "settings": settings_of(self.config),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pictures": self.pictures,
            "updates": self.updates,
            "seconds": self.seconds,
        }
        checkpoint.write_tree(folder / checkpoint.file_name(self.pictures), tree)
        checkpoint.prune(folder, keep)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; UserError for one that is damaged, of another kind, or of other settings."""
        tree = checkpoint.read_tree(path)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise UserError(f"{path}: is no checkpoint of llarp pretrain vision")
        now, then = settings_of(self.config), tree["settings"]
        for key in sorted((now.keys() | then.keys()) - _MAY_CHANGE):
            if (now.get(key) or None) != (then.get(key) or None):  # one that came later is as if it were not set
                raise UserError(f"{path}: was made with {key}={then.get(key)}, not {now.get(key)}: leave it as it was, "
                                "or begin a new run")  # fmt: skip
        try:
            self.method.load_state_dict(tree["method"])
            self.optimizer.load_state_dict(tree["optimizer"])
        except (ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{path}: does not fit this model ({str(error).splitlines()[0]})") from None
        self.pictures, self.updates = tree["pictures"], tree["updates"]
        self._before, self._started = tree["seconds"], self.clock()


def schedule(share: float, warmup: float, first: bool = False) -> float:
    """The learning rate's share of its peak when `share` of the run is done: up in a line, down in a cosine.

    `first`: the first update, which has a hundredth of it instead of nothing."""
    if share < warmup:
        return max(share / warmup, 0.01 if first else 0.0)
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Full key -> value of every setting that a pretraining run depends on."""
    kept: dict[str, Any] = {"seed": config.seed, "policy.vision": config.policy.vision}
    kept["policy.precision"] = config.policy.precision
    for group in ("env", "pretrain"):
        kept |= {f"{group}.{key}": value for key, value in dataclasses.asdict(getattr(config, group)).items()}
    return kept


def pretrain(config: RunConfig, resume: Path | None, stop: Callable[[], bool]) -> dict[str, Any]:
    """What `llarp pretrain vision` does and reports."""
    folder = RunFolder.planned(config) if resume is None else RunFolder.existing(resume)
    run = Pretrainer(config)
    if resume is None:
        run.begin()
        folder.create(config)
        folder.videos.rmdir()
    else:
        run.load(checkpoint.latest(resume))
        folder.truncate_metrics(run.pictures)
    init = config.pretrain.init  # of weights without a manifest nobody knows what they were shown
    known = resume is None and (not init or inherit_vision(folder.path, init))
    record(folder.path, STAGE, run.rooms, config.env, resumed=not known)
    at_first, began = run.pictures, run.seconds
    with Progress(config.pretrain.pictures, "pretrain", "pictures") as progress:
        log = _Log(run, folder, progress)
        saved = run.seconds
        while run.share < 1 and not stop():
            log.add(run.step())
            if run.seconds - saved >= 60 * config.pretrain.checkpoint_minutes:
                run.save(folder.checkpoints)
                saved = run.seconds
        log.flush()
    if run.pictures > at_first:
        run.save(folder.checkpoints)
    speed = (run.pictures - at_first) / max(run.seconds - began, 1e-9)
    result = {
        "run_dir": str(folder.path),
        "method": config.pretrain.method,
        "pictures": run.pictures,
        "arrangements": len(run.rooms),
        "updates": run.updates,
        "wall_s": run.seconds,
        "pictures_per_s": speed,
        "loss": log.last.get("loss"),
        "interrupted": run.share < 1,
    }
    folder.close()
    if run.share >= 1:
        weights = write_weights(folder.path, run.method.backbone)
        report = probe(config, str(weights), "validation") if config.pretrain.probe_pictures else None
        write_card(weights, config, run.method.summary, result, report)
        result |= {"weights": str(weights)} | {f"probe_{name}": value for name, value in (report or {}).items()}
    else:
        print(f"stopped; continue with: llarp pretrain vision resume={folder.path}", flush=True)
    return result


class _Log:
    """Means of the metrics over `log_interval` updates."""

    def __init__(self, run: Pretrainer, folder: RunFolder, progress: Progress):
        self.run, self.folder, self.progress = run, folder, progress
        self.rows: list[dict[str, Tensor | float]] = []
        self.last: dict[str, Any] = {}
        self._since = run.pictures, run.seconds

    def add(self, row: dict[str, Tensor | float]) -> None:
        self.rows.append(row)
        if len(self.rows) >= self.run.settings.log_interval:
            self.flush()

    def flush(self) -> None:
        """Write a line for the updates since the last one."""
        if not self.rows:
            return
        means = {name: sum(float(row[name]) for row in self.rows) / len(self.rows) for name in self.rows[0]}
        if not math.isfinite(means["loss"]):
            raise UserError(f"the loss is {means['loss']} after {self.run.pictures} pictures: lower pretrain.lr")
        pictures, seconds = self._since
        self._since = self.run.pictures, self.run.seconds
        speed = (self._since[0] - pictures) / max(self._since[1] - seconds, 1e-9)
        self.last = {
            "env_steps": self.run.pictures,  # what run folders count in
            "pictures": self.run.pictures,
            "updates": self.run.updates,
            "wall_s": self.run.seconds,
            "pictures_per_s": speed,
            **means,
        }
        self.folder.log(self.last)
        self.progress.update(self.last)
        self.rows = []
