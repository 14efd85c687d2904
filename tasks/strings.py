"""Many strings as a few tensors, each distinct one stored once; they can stay in a file that is mapped into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class PackedStrings(Sequence[str]):
    """E strings: `which` (E,) int32 of T distinct texts, the UTF-8 bytes of text t being
    `blob[offsets[t] : offsets[t + 1]]` (`blob` uint8 (B,), `offsets` int64 (T + 1,))."""

    def __init__(self, blob: Tensor, offsets: Tensor, which: Tensor):
        self.blob, self.offsets, self.which = blob, offsets, which

    @classmethod
    def pack(cls, texts: Sequence[str]) -> PackedStrings:
        """The texts in that order; packed ones are taken as they are."""
        if isinstance(texts, PackedStrings):
            return texts
        number: dict[str, int] = {}
        index = [number.setdefault(text, len(number)) for text in texts]
        return cls(*_table([text.encode() for text in number]), torch.tensor(index, dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # int -> str; slices are not offered
        return self._text(int(self.which[range(len(self))[int(i)]])).decode()

    def __iter__(self) -> Iterator[str]:
        texts: dict[int, str] = {}
        for t in self.which.tolist():
            if t not in texts:
                texts[t] = self._text(t).decode()
            yield texts[t]

    def distinct(self) -> list[str]:
        """The T texts."""
        blob, ends = self.blob.numpy().tobytes(), self.offsets.tolist()
        return [blob[begin:end].decode() for begin, end in zip(ends, ends[1:], strict=False)]

    def _text(self, t: int) -> bytes:
        return self.blob[int(self.offsets[t]) : int(self.offsets[t + 1])].numpy().tobytes()

    def rows(self, index: Tensor) -> PackedStrings:
        """The strings at `index`, over the same texts unless few of those are needed."""
        rows = PackedStrings(self.blob, self.offsets, self.which[index])
        return rows.compact() if 2 * len(rows) < len(self.offsets) - 1 else rows

    def compact(self) -> PackedStrings:
        """The same strings without texts that none of them is."""
        used, index = self.which.unique(return_inverse=True)
        if len(used) == len(self.offsets) - 1:
            return self
        return PackedStrings(*_table([self._text(t) for t in used.tolist()]), index.to(torch.int32))


def join(parts: Sequence[Sequence[str]]) -> PackedStrings:
    """The strings of all parts one after the other."""
    number: dict[bytes, int] = {}
    index = []
    for part in map(PackedStrings.pack, parts):
        ids = [number.setdefault(part._text(t), len(number)) for t in range(len(part.offsets) - 1)]
        index.append(torch.tensor(ids, dtype=torch.int32)[part.which.long()])
    return PackedStrings(*_table(list(number)), torch.cat(index))


def _table(texts: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return torch.from_numpy(np.frombuffer(b"".join(texts), np.uint8).copy()), torch.from_numpy(offsets)
