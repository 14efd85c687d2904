"""Finds, on a CPU, where a loop would make the host wait for a GPU, or copy between the two."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import llarp.tasks

OURS = tuple(f"{Path(str(file)).parent}{os.sep}" for file in (__file__, llarp.__file__, llarp.tasks.__file__))
"""Folders of our own code, wherever it is installed."""

ASKING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "argwhere", "bincount", "unique2",
    "_unique2", "unique_dim", "unique_consecutive", "histc", "_linalg_check_errors",
    "multinomial",  # asks whether these are probabilities
    "lift_fresh",  # a tensor made of Python numbers: copied to the device, or to no use there
}  # fmt: skip
"""Operations that read a tensor's values on the host, or whose result's size depends on them."""
COPYING = {"cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__array__"}


class HostWaits(TorchDispatchMode):
    """While it is entered, counts in `places` ("operation at file:line") what would make the host wait for a device.

    `x[index] = 1.0` counts too: a number that CUDA copies from memory that is not pinned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._methods = _Methods(self)

    def __enter__(self) -> HostWaits:
        self._methods.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def note(self, what: str) -> None:
        """Count a place: the innermost frame of our own code outside this file."""
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(OURS) and f.filename != __file__]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        self.places[f"{what} at {where}"] += 1

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::").rstrip("_")
        if name in ASKING or _by_mask_or_number(name, args) or _of_unknown_length(name, args, kwargs):
            self.note(name)
        return operation(*args, **kwargs)


def _by_mask_or_number(name: str, args: tuple) -> bool:
    """Indexing by booleans, of which the true ones have to be counted first, or setting to one number."""
    if name not in ("index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put"):
        return False
    masked = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return masked or (name != "index" and len(args) > 2 and args[2].dim() == 0)


def _of_unknown_length(name: str, args: tuple, kwargs: dict) -> bool:
    return name == "repeat_interleave" and not isinstance(args[-1], int) and kwargs.get("output_size") is None


class _Methods(TorchFunctionMode):
    """Sees calls that are no operations where the tensor is on the CPU already."""

    def __init__(self, waits: HostWaits) -> None:
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in COPYING and args and isinstance(args[0], Tensor):
            self.waits.note(name)
        if name in ("tensor", "as_tensor", "from_numpy") and args and not isinstance(args[0], Tensor):
            self.waits.note(name)
        return function(*args, **(kwargs or {}))
