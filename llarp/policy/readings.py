"""What a language model makes of texts: read once, kept in memory, and where a run says so in files."""

from __future__ import annotations

import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llarp.errors import UserError
from llarp.runfolder import write_atomically

from .context import tokens_of
from .instruction_cache import PREFIX_BATCH
from .llm import FrozenLLM

FORMAT = 1
"""To be raised when the same model and text give other readings than before."""
SHARD = 512
"""Texts in a file, some 50 MB."""

Parts = tuple[Tensor, ...]


class Readings(ABC):
    """What is kept of texts, some tensors each; every text is read once, and the oldest make room.

    With `read_into` they lie in files, which are read through memory maps: those take nothing of the budget.
    """

    what = ""
    """What is kept, in words: other words, other files."""

    def __init__(self, llm: FrozenLLM, max_tokens: int, max_bytes: int):
        self.llm, self.max_tokens, self.max_bytes = llm, max_tokens, max_bytes
        self._kept: OrderedDict[str, Parts] = OrderedDict()
        self._bytes = 0
        self._filed: dict[str, Parts] = {}

    @abstractmethod
    def read(self, ids: list[list[int]]) -> list[Parts]:
        """What is to be kept of texts, given as token ids."""

    @abstractmethod
    def get(self, texts: list[str]) -> Any:
        """What the policy acts on, of B texts; UserError for a text longer than `max_tokens`."""

    @torch.no_grad()
    def prepare(self, texts: list[str]) -> None:
        """Read what `get` will be asked for, many texts in one pass."""
        wanted = dict.fromkeys(text for text in texts if text not in self._filed)
        missing = {text: tokens_of(self.llm, text, self.max_tokens) for text in wanted if text not in self._kept}
        for text in wanted:
            if text not in missing:
                self._kept.move_to_end(text)
        by_length = sorted(missing, key=lambda text: len(missing[text]))
        for first in range(0, len(by_length), PREFIX_BATCH):
            batch = by_length[first : first + PREFIX_BATCH]
            for text, parts in zip(batch, self.read([missing[text] for text in batch]), strict=True):
                self._kept[text] = parts
                self._bytes += sum(part.nbytes for part in parts)
        while self._bytes > self.max_bytes and len(self._kept) > len(wanted):
            self._bytes -= sum(part.nbytes for part in self._kept.popitem(last=False)[1])

    def read_into(self, folder: Path, texts: list[str]) -> Iterator[int]:
        """Read texts into files of a folder, those that lack there; yields how many are still to be read.

        Whoever stops asking keeps what was read till then. UserError for a damaged file, or where the disk refuses."""
        about = [FORMAT, self.what, self.llm.fingerprint(), str(self.llm.dtype)]
        folder = folder / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
        for path in sorted(folder.glob("*.safetensors")):
            self._filed.update(_read(path))
        missing = sorted({text for text in texts if text not in self._filed}, key=len)
        if not missing:
            return
        try:
            for first in range(0, len(missing), 2 * PREFIX_BATCH):
                yield len(missing) - first
                self.prepare(missing[first : first + 2 * PREFIX_BATCH])
                if len(self._kept) >= SHARD or 2 * self._bytes > self.max_bytes:
                    self._file(folder)
        finally:
            self._file(folder)

    def _file(self, folder: Path) -> None:
        """Put what is only in memory into a file."""
        if self._kept:
            self._filed.update(_read(_write(folder, dict(self._kept))))
            self.forget()

    def forget(self) -> None:
        """Keep nothing in memory."""
        self._kept.clear()
        self._bytes = 0

    def _of(self, texts: list[str]) -> tuple[list[Tensor], ...]:
        """The parts kept of B texts, the first of all, then the second of all, ..."""
        self.prepare(texts)
        found = [self._filed.get(text) or self._kept[text] for text in texts]
        return tuple([part.to(self.llm.device) for part in column] for column in zip(*found, strict=True))


def _write(folder: Path, readings: dict[str, Parts]) -> Path:
    """A file of readings, the k-th parts of all in one row; it appears under its name only when complete."""
    path = folder / f"{uuid.uuid4().hex[:12]}.safetensors"
    tensors = {}
    for k, column in enumerate(zip(*readings.values(), strict=True)):
        tensors[f"part{k}"] = torch.cat([part.cpu().flatten() for part in column])
        tensors[f"shape{k}"] = torch.tensor([list(part.shape) for part in column])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, {"texts": json.dumps(list(readings))}))
    except OSError as error:
        raise UserError(f"{folder}: readings of instructions cannot be written ({error}); make room") from None
    return path


def _read(path: Path) -> Iterator[tuple[str, Parts]]:
    """Texts and their readings, memory-mapped; UserError for a file that is damaged or none of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            texts = json.loads((file.metadata() or {})["texts"])
            columns = []
            for k in range(len(file.keys()) // 2):
                shapes = file.get_tensor(f"shape{k}")
                flat = file.get_tensor(f"part{k}").split(shapes.prod(1).tolist())
                columns.append([part.view(shape) for part, shape in zip(flat, shapes.tolist(), strict=True)])
        yield from zip(texts, zip(*columns, strict=True), strict=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: holds no readings of instructions, or is damaged ({error}); delete it") from None
