"""Checkpoint files: everything training changes, and the names and digests of what it does not.

A file is written by `torch.save` and read with `weights_only=True`, so it cannot run code. It appears under its name
only when complete. Frozen weights that exist nowhere else are kept once, as `frozen.pt` beside the checkpoints.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llarp.errors import UserError
from llarp.policy.base import Policy, grown

FORMAT = 1
FROZEN_FILE = "frozen.pt"
CLONE, PPO = "bc", "step"
"""What the names of checkpoints begin with: in behaviour cloning they count gradient steps, else environment steps."""
_NAME = re.compile(r"(bc|step)_(\d+)\.pt")
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError
)  # fmt: skip


def file_name(steps: int, kind: str = PPO) -> str:
    """Name of the checkpoint after so many steps."""
    return f"{kind}_{steps:010d}.pt"


def save(path: Path, policy: Policy, trainer: dict[str, Any]) -> None:
    """Writes a checkpoint; `trainer` is a tree of tensors and plain values. UserError where the disk refuses."""
    _check_plain(trainer, "trainer")
    unfetchable = policy.unfetchable_weights()
    if unfetchable and not (path.parent / FROZEN_FILE).exists():
        write_tree(path.parent / FROZEN_FILE, {name: tensor.detach().cpu() for name, tensor in unfetchable.items()})
    tree = {
        "format": FORMAT,
        "parameters": policy.trainable_state_dict(),
        "frozen": policy.frozen_fingerprint(),
        "trainer": trainer,
    }
    write_tree(path, tree)


def load(path: Path, policy: Policy, grow: bool = False) -> dict[str, Any]:
    """Puts a checkpoint's weights into the policy and returns its `trainer` tree, tensors on the CPU. `grow`: the
    policy may have more trained parts, which stay as they are.

    Raises UserError for a file that is missing, damaged, no checkpoint, or of another configuration.
    """
    tree = read_tree(path)
    if not isinstance(tree, dict) or not {"format", "parameters", "frozen", "trainer"} <= tree.keys():
        raise UserError(f"{path}: is no checkpoint of llarp; give a file from the checkpoints/ folder of a run")
    if tree["format"] != FORMAT:
        raise UserError(f"{path}: has checkpoint format {tree['format']}, this version of llarp reads {FORMAT}")
    try:
        if (path.parent / FROZEN_FILE).exists():
            policy.load_unfetchable_weights(read_tree(path.parent / FROZEN_FILE))
        policy.load_trainable_state_dict(grown(policy, tree["parameters"]) if grow else tree["parameters"])
    except UserError as error:
        raise UserError(f"{path}: {error}; use the config.yaml of the run it is from") from None
    own = policy.frozen_fingerprint()
    for part in sorted(own.keys() | tree["frozen"].keys()):
        if own.get(part) != tree["frozen"].get(part):
            raise UserError(
                f"{path}: was made with other frozen weights of {part!r}; use the config.yaml of the run it is from"
            )
    return tree["trainer"]


def latest(run_dir: Path) -> Path:
    """The newest checkpoint in a run folder; UserError if there is none."""
    return latest_in(run_dir / "checkpoints")


def latest_clone(run_dir: Path) -> Path | None:
    """The newest one of behaviour cloning in a run folder, if any."""
    found = _checkpoints(run_dir / "checkpoints", CLONE)
    return found[-1] if found else None


def latest_in(folder: Path) -> Path:
    """The newest checkpoint in a folder: with the most steps, of PPO if that has begun; UserError if there is none."""
    found = _checkpoints(folder)
    if not found:
        raise UserError(f"{folder}: has no checkpoint; start a new run with `llarp train`")
    return found[-1]


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints of each kind."""
    for kind in (CLONE, PPO):
        for path in _checkpoints(folder, kind)[:-keep]:
            path.unlink()


def random_state() -> dict[str, Any]:
    """The states of the global random generators of Python, NumPy and torch."""
    version, keys, gauss = random.getstate()
    name, words, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(keys), gauss],
        "numpy": [name, [int(w) for w in words], *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave; CUDA's only where as many devices are there."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, *rest = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _checkpoints(folder: Path, kind: str = "") -> list[Path]:
    """Those of a folder (of one kind only), oldest first; cloning comes before PPO."""
    named = [(match[1], int(match[2]), path) for path in folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for found, _, path in sorted(named) if found.startswith(kind)]


def write_tree(path: Path, tree: dict[str, Any]) -> None:
    """Writes tensors and plain values; the path holds the old file or the whole new one. UserError: no room."""
    data = io.BytesIO()
    torch.save(tree, data)
    unfinished = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or change output_dir") from None


def read_tree(path: Path) -> Any:
    """What `write_tree` wrote, tensors on the CPU; UserError for a file that is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; give a file of a run's checkpoints/ folder")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not look at the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE:
        raise UserError(f"{path}: is damaged or no checkpoint; use an older one from the same folder") from None


def _check_plain(tree: Any, where: str) -> None:
    """TypeError naming what a safe reader would refuse to read back."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            _check_plain(part, f"{where}.{key}")
    elif isinstance(tree, (list, tuple)):
        for i, part in enumerate(tree):
            _check_plain(part, f"{where}[{i}]")
    elif not (tree is None or type(tree) in (bool, int, float, str) or isinstance(tree, Tensor)):
        raise TypeError(f"{where} is a {type(tree).__name__}; a checkpoint holds tensors and plain values only")
