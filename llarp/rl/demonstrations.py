"""Demonstrations on the disk: episodes with their frozen features, in shards that are read through memory maps.

    FOLDER/settings.json              what decides the content: vision weights, episodes, demonstrator, noise, seed
    FOLDER/NUMBER-RANDOM.safetensors  some episodes, complete when the file is there

An episode's number is its place in the order in which training episodes are demonstrated; the same number is the same
episode, wherever and in whichever shard it was collected.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llarp.errors import UserError
from llarp.policy.base import NO_ACTION, SegmentBatch
from llarp.runfolder import write_atomically
from llarp.tasks.actions import NUM_ACTIONS

FORMAT = 1
"""To be raised when the same settings give other demonstrations than before."""
SETTINGS = "settings.json"
_STEP_FIELDS = ("features", "action", "label")
_EPISODE_FIELDS = ("number", "length", "success")


@dataclass
class Played:
    """One episode of T steps as it was played; one that the simulator lost has none."""

    number: int
    instruction: str
    success: bool
    features: Tensor  # (T, num_tokens, dim) float16, on the CPU
    action: list[int]  # (T,) what was done
    label: list[int]  # (T,) what the planner would have done


class Demonstrations:
    """E episodes of S steps in all, in the order of their numbers; the features stay in the files until asked for."""

    def __init__(self, shards: Iterable[dict[str, Any]], wanted: Container[int] | None = None) -> None:
        """`shards`: what `Store.read` gives, of one or several folders. Of episodes with the same number the first
        counts; `wanted`: the numbers to take (None: all)."""
        self._features: list[Tensor] = []  # (steps, num_tokens, dim) a shard
        found: dict[int, tuple[int, int, int, bool, str]] = {}  # number -> shard, first row, length, success, text
        actions, labels = [], []
        for k, shard in enumerate(shards):
            self._features.append(shard["features"])
            actions.append(shard["action"].long())
            labels.append(shard["label"].long())
            begin = 0
            columns = (shard[name].tolist() for name in _EPISODE_FIELDS)
            for number, length, success, text in zip(*columns, shard["instruction"], strict=True):
                if length and (wanted is None or number in wanted):
                    found.setdefault(number, (k, begin, length, bool(success), text))
                begin += length
        self.number = torch.tensor(sorted(found), dtype=torch.int64)  # (E,)
        rows = [found[n] for n in self.number.tolist()]
        self._at = [(shard, begin) for shard, begin, *_ in rows]
        self.length = torch.tensor([row[2] for row in rows], dtype=torch.int64)  # (E,)
        self.success = torch.tensor([row[3] for row in rows], dtype=torch.bool)  # (E,)
        self.texts = sorted({row[4] for row in rows})
        place = {text: i for i, text in enumerate(self.texts)}
        self.instruction_id = torch.tensor([place[row[4]] for row in rows], dtype=torch.int64)  # (E,)
        cut = [slice(begin, begin + length) for _, begin, length, *_ in rows]
        nothing = torch.empty(0, dtype=torch.int64)
        self.action = torch.cat([nothing, *(actions[row[0]][at] for row, at in zip(rows, cut, strict=True))])  # (S,)
        self.label = torch.cat([nothing, *(labels[row[0]][at] for row, at in zip(rows, cut, strict=True))])  # (S,)
        self._begin = self.length.cumsum(0) - self.length

    def __len__(self) -> int:
        return len(self.number)

    def instruction_text(self, instruction_id: int) -> str:
        """The words behind an id of `instruction_id`."""
        return self.texts[instruction_id]

    def features(self, episode: int) -> Tensor:
        """Of one episode, (T, num_tokens, dim) float16, still in the file."""
        shard, begin = self._at[episode]
        return self._features[shard][begin : begin + int(self.length[episode])]

    def batch(self, index: Tensor) -> SegmentBatch:
        """The given episodes, on the CPU; `action` holds the labels, `previous_action` what was really done."""
        length = self.length[index]
        at = torch.arange(int(length.max()))[None]
        valid = at < length[:, None]
        step = self._begin[index][:, None] + torch.where(valid, at, 0)
        previous = self.action[(step - 1).clamp(min=0)]
        previous[:, 0] = NO_ACTION
        shown = [self.features(i) for i in index.tolist()]
        features = torch.zeros(len(index), at.shape[1], *shown[0].shape[1:])
        for row, own in zip(features, shown, strict=True):
            row[: len(own)] = own
        return SegmentBatch(
            instruction_id=self.instruction_id[index],
            features=features,
            previous_action=previous,
            action=self.label[step],
            valid=valid,
        )

    def batches(self, index: Tensor, max_tokens: int, generator: torch.Generator, pads: bool) -> list[Tensor]:
        """The given episodes in batches of at most `max_tokens` steps (a longer one by itself), in random order.

        Where padding costs (`pads`) it counts as steps, and those of similar lengths are put together."""
        index = index[torch.randperm(len(index), generator=generator)]
        if pads:
            index = index[self.length[index].argsort(descending=True, stable=True)]
        cut: list[Tensor] = []
        first, steps = 0, 0
        for at, length in enumerate(self.length[index].tolist()):
            longest = int(self.length[index[first]])
            if at > first and (longest * (at + 1 - first) if pads else steps + length) > max_tokens:
                cut.append(index[first:at])
                first, steps = at, 0
            steps += length
        if len(index):
            cut.append(index[first:])
        return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]

    def held_out(self, share: float, seed: int) -> Tensor:
        """Which episodes are kept from training, bool (E,): of every number the same, however many there are."""
        if not len(self):
            return torch.zeros(0, dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(int(self.number[-1]) + 1, generator=generator)[self.number] < share


class Store:
    """A folder of demonstrations, all made with the same settings."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Opens a folder or makes one; UserError for one that holds others' demonstrations, or cannot be used."""
        self.path = path
        settings = json.loads(json.dumps({"format": FORMAT} | settings))
        file = path / SETTINGS
        try:
            if file.exists():
                self._check(json.loads(file.read_text(encoding="utf-8")), settings)
            elif path.exists() and any(path.iterdir()):
                raise UserError(f"{path}: holds no demonstrations but something else; name another bc.demonstrations")
            else:
                path.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(settings, indent=1) + "\n")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be used for demonstrations ({error}); name another folder") from None

    def _check(self, theirs: Any, ours: dict[str, Any]) -> None:
        if not isinstance(theirs, dict):
            raise UserError(f"{self.path}: its {SETTINGS} is damaged; name another bc.demonstrations")
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                raise UserError(
                    f"{self.path}: holds demonstrations with {key}={theirs.get(key)}, this run wants "
                    f"{ours.get(key)}; name another bc.demonstrations, or leave that as it was"
                )

    def shards(self) -> list[Path]:
        """Its files, oldest numbers first."""
        return sorted(self.path.glob("*.safetensors"))

    def numbers(self) -> set[int]:
        """The episodes that are there, lost ones among them."""
        return {n for path in self.shards() for n in _read(path)["number"].tolist()}

    def add(self, episodes: list[Played]) -> None:
        """Write a shard; it appears under its name only when complete. UserError where the disk refuses."""
        shape = next((e.features.shape[1:] for e in episodes if len(e.action)), torch.Size((1, 1)))
        tensors = {
            "features": torch.cat([torch.empty(0, *shape).half(), *(e.features for e in episodes if len(e.action))]),
            "action": torch.tensor([a for e in episodes for a in e.action], dtype=torch.int16),
            "label": torch.tensor([a for e in episodes for a in e.label], dtype=torch.int16),
            "number": torch.tensor([e.number for e in episodes], dtype=torch.int64),
            "length": torch.tensor([len(e.action) for e in episodes], dtype=torch.int64),
            "success": torch.tensor([e.success for e in episodes], dtype=torch.bool),
        }
        name = f"{min(e.number for e in episodes):08d}-{uuid.uuid4().hex[:8]}.safetensors"
        texts = json.dumps([e.instruction for e in episodes])
        try:
            write_atomically(self.path / name, save(tensors, {"instruction": texts}))
        except OSError as error:
            raise UserError(f"{self.path}: demonstrations cannot be written ({error}); make room") from None

    def read(self) -> list[dict[str, Any]]:
        """Its shards, memory-mapped, for `Demonstrations`. UserError for damaged files."""
        return [_read(path) for path in self.shards()]


def _read(path: Path) -> dict[str, Any]:
    """A shard's tensors, memory-mapped, and instructions; UserError for a file that is damaged or none of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            shard: dict[str, Any] = {name: file.get_tensor(name) for name in (*_STEP_FIELDS, *_EPISODE_FIELDS)}
            shard["instruction"] = json.loads((file.metadata() or {})["instruction"])
        fits = _fits(shard)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no shard of demonstrations, or damaged ({error}); delete it") from None
    if not fits:
        raise UserError(f"{path}: is no shard of demonstrations, or damaged; delete it")
    return shard


def _fits(shard: dict[str, Any]) -> bool:
    """Whether the parts of a shard belong together and hold what they may."""
    columns = [shard[name] for name in (*_STEP_FIELDS[1:], *_EPISODE_FIELDS)]
    length, texts = shard["length"], shard["instruction"]
    return (
        all(column.ndim == 1 and not column.is_floating_point() for column in columns)
        and shard["features"].ndim == 3
        and shard["features"].dtype == torch.float16
        and len(shard["features"]) == len(shard["label"]) == len(shard["action"]) == int(length.sum())
        and len(length) == len(shard["success"]) == len(shard["number"]) == len(texts)
        and isinstance(texts, list)
        and all(isinstance(text, str) for text in texts)
        and bool((length >= 0).all() and (shard["number"] >= 0).all())
        and all(bool(((part >= 0) & (part < NUM_ACTIONS)).all()) for part in columns[:2])
    )
