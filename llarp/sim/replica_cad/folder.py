"""A folder of downloaded data that no path may lead out of, and typed access to its JSON files.

Errors are one line that names the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llarp.errors import UserError

Floats = NDArray[np.float64]

MAX_BYTES = 16 << 20
"""No JSON or URDF file of a scene dataset is nearly as large."""
_LIMIT = 1e6  # no length, scale or angle in a scene is larger


@dataclass(frozen=True)
class Folder:
    """A folder of downloaded data that no path may lead out of."""

    root: Path

    def inside(self, path: Path, named_in: Path) -> Path:
        """The path if it lies in the folder. Symbolic links within it or into a Hugging Face cache's blobs are fine."""
        root = Path(os.path.abspath(self.root))
        plain = Path(os.path.abspath(path))
        if plain.is_relative_to(root):
            real, real_root = plain.resolve(), root.resolve()
            homes = [real_root] + [root.parents[1] / "blobs"] * (root.parent.name == "snapshots")
            if any(real.is_relative_to(home) for home in homes):
                return plain
        raise UserError(f"{named_in}: {path} leads out of {self.root}: refused")

    def read(self, path: Path, what: str, named_in: Path | None = None, limit: int = MAX_BYTES) -> bytes:
        """What a file of the folder holds."""
        path = self.inside(path, named_in or path)
        where = f" (named in {named_in})" if named_in else ""
        try:
            if not path.is_file():
                raise UserError(f"{path}: no such {what}{where}: is the download complete?")
            if path.stat().st_size > limit:
                raise UserError(f"{path}: larger than {limit >> 20} MiB, which no {what} is: refused")
            return path.read_bytes()
        except OSError as e:
            raise UserError(f"{path}: cannot be read ({e.strerror})") from e

    def read_json(self, path: Path, what: str, named_in: Path | None = None) -> dict[str, Any]:
        """The object in a JSON file."""
        text = self.read(path, what, named_in)
        try:
            found = json.loads(text.decode("utf-8-sig"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as e:
            why = "nested too deeply" if isinstance(e, RecursionError) else str(e)
            raise UserError(f"{path}: not a readable {what}: {why}") from e
        if not isinstance(found, dict):
            raise UserError(f"{path}: not a {what}: an object {{...}} was expected")
        return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


@dataclass(frozen=True)
class Reader:
    """Typed access to one JSON object; errors name the file and the key."""

    file: Path
    values: dict[str, Any]
    at: str = ""

    def _fail(self, key: str, expected: str) -> UserError:
        return UserError(f"{self.file}: {self.at}{key} is {str(self.values.get(key))[:60]!r}: expected {expected}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._fail(key, "a text")
        return value

    def vector(self, key: str, size: int, default: tuple[float, ...] | None = None) -> Floats:
        value = self.values.get(key, default)
        if isinstance(value, list | tuple) and len(value) == size and all(_is_number(v) for v in value):
            return np.array(value, float)
        raise self._fail(key, f"{size} numbers")

    def quaternion(self, key: str) -> Floats:
        value = self.vector(key, 4, (1.0, 0.0, 0.0, 0.0))
        if np.linalg.norm(value) < 1e-3:
            raise self._fail(key, "a quaternion")
        return value / np.linalg.norm(value)

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if not _is_number(value):
            raise self._fail(key, "a number")
        return float(value)

    def object(self, key: str) -> Reader:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self._fail(key, "an object {...}")
        return Reader(self.file, value, f"{self.at}{key}.")

    def objects(self, key: str) -> Iterator[Reader]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self._fail(key, "a list of objects {...}")
        return (Reader(self.file, v, f"{self.at}{key}[{i}].") for i, v in enumerate(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LIMIT
