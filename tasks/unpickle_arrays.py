"""The pieces of pickled numpy arrays, rebuilt from their bytes without calling what a file names."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric", "numpy")
FUNCTIONS = {"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"}
DTYPE = re.compile(r"b1|[iu][1248]|f[248]|O8")
MAX_ELEMENTS = 1 << 26
"""Product of an array's sizes, sizes of 0 left out."""


class UnpickleError(ValueError):
    """A pickle that is damaged, or that holds something else than plain data; one line that says what and where."""


class Named:
    """A numpy function that the file names; it is never called, `_Machine.reduce` does what is meant."""

    def __init__(self, name: str):
        self.name = name


class Type:
    """An element type: a numpy dtype to which the byte order is still to be added."""

    def __init__(self, code: str):
        self.code, self.order = code, "="

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code) if self.code != "O8" else np.dtype(object)


class Array:
    """An array that numpy's `_reconstruct` has announced and that the opcode BUILD fills."""

    value: np.ndarray | None = None


def from_bytes(raw: bytes, kind: Type, shape: tuple[Any, ...], order: Any) -> np.ndarray:
    """The array of that shape (order "C" or "F") whose elements are `raw`, in the machine's byte order."""
    if kind.code == "O8":
        raise UnpickleError("an array of objects given as bytes")
    dtype = kind.dtype
    if _count(shape) * dtype.itemsize != len(raw):
        raise UnpickleError(f"an array {dtype.str} {list(shape)} with {len(raw)} bytes of data")
    array = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return array.reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


def from_list(items: list[Any], shape: tuple[Any, ...], order: Any) -> np.ndarray:
    """The array of that shape that holds the items themselves."""
    if _count(shape) != len(items):
        raise UnpickleError(f"an array of objects {list(shape)} with {len(items)} items")
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape, order=order)


def _count(shape: tuple[Any, ...]) -> int:
    fits = len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
    if not fits or math.prod(n for n in shape if n) > MAX_ELEMENTS:
        raise UnpickleError("an array with an impossible shape")
    return math.prod(shape)
