"""What an episode file holds, and the checks that it does: whatever does not fit is refused in one line."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .atoms import NUM_ATOMS
from .entities import NUM_HANDLES, NUM_RECEPTACLES
from .goals import MAX_DEPTH, MAX_SUBGOALS, parse
from .rules import RULES
from .state import MAX_OBJECTS
from .strings import PackedStrings

FORMAT_VERSION = 2
METADATA_KEY = "llarp_episodes"

ARRAYS: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {  # dtype and shape of one row; `_M`: any number of slots
    "scene": (torch.int32, ()),
    "object_model": (torch.int16, (MAX_OBJECTS,)),
    "object_position": (torch.float32, (MAX_OBJECTS, 3)),
    "object_yaw": (torch.float32, (MAX_OBJECTS,)),
    "object_inside": (torch.int8, (MAX_OBJECTS,)),
    "object_receptacle": (torch.int8, (MAX_OBJECTS,)),
    "joint": (torch.float32, (NUM_HANDLES,)),
    "start_pose": (torch.float32, (3,)),
    "wording": (torch.int16, ()),
    "episode_id": (torch.int64, ()),
}
"""Arrays over episodes. A file may have fewer object slots than MAX_OBJECTS: the others are empty."""
STRINGS = ("instruction", "instruction_type", "goal", "subgoals")
CIRCUITS = {"node_op": torch.int8, "node_end": torch.int16, "source": torch.int16, "num_subgoals": torch.int8,
            "depth": torch.int8}
ABOUT: dict[str, type] = {"scene_names": list, "model_names": list, "rules": str, "split": str, "seed": int,
                          "rejected": int}


class EpisodeFileError(ValueError):
    """An episode file that cannot be used: one line that names it and what is wrong."""


def checksums(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, int]:
    """CRC-32 of each tensor's bytes, and of the description."""
    sums = {name: zlib.crc32(t.contiguous().view(-1).view(torch.uint8).numpy()) for name, t in tensors.items()}
    return sums | {"description": zlib.crc32(json.dumps(about, sort_keys=True).encode())}


def read_about(metadata: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
    """The description of a file, checked, and the checksums it claims."""
    try:
        about = json.loads(metadata[METADATA_KEY])
        version, claimed = about.pop("format_version"), about.pop("checksums", None)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise EpisodeFileError("not an episode file of llarp (its description is missing)") from None
    if version != FORMAT_VERSION:
        raise EpisodeFileError(f"format version {version!r}, but {FORMAT_VERSION} is read here: generate it again")
    for name, kind in ABOUT.items():
        value: Any = about.get(name)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (kind is list and any(not isinstance(x, str) for x in value)):
            raise EpisodeFileError(f"its description has no proper {name!r}")
    if about["rules"] not in RULES:
        raise EpisodeFileError(f"rules {about['rules']!r} are unknown; known: {', '.join(RULES)}")
    return {name: about[name] for name in ABOUT}, claimed


def check_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, Any], claimed: Any) -> None:
    """Types, shapes, ranges, strings, then the checksums: those come last, so that what is wrong is named if it can be.

    Raises EpisodeFileError."""
    _check_shapes(tensors)
    _check_ranges(tensors, about)
    for name in STRINGS:
        _check_strings(tensors, name)
    _check_goals(tensors)
    known = {name: t for name, t in tensors.items() if _is_known(name)}
    if checksums(known, about) != claimed:
        raise EpisodeFileError("its content does not have the checksums it was written with: it is damaged, "
                               "make it again")  # fmt: skip


def _is_known(name: str) -> bool:
    head, _, tail = name.partition(".")
    return name in ARRAYS or (head == "circuits" and tail in CIRCUITS) or (
        head in STRINGS and tail in ("blob", "offsets", "which"))


def _check_shapes(tensors: Mapping[str, Tensor]) -> None:
    def width(name: str, column: int) -> int:
        return tensors[name].shape[column] if name in tensors and tensors[name].dim() > column else 0

    num, slots = width("scene", 0), min(width("object_model", 1), MAX_OBJECTS)
    nodes, edges = max(width("circuits.node_op", 1), 1 + MAX_SUBGOALS), width("circuits.source", 1)
    wanted = {name: (dtype, (num, *(slots if n == MAX_OBJECTS else n for n in shape)))
              for name, (dtype, shape) in ARRAYS.items()}
    columns = {"node_op": (nodes,), "node_end": (nodes,), "source": (edges,)}
    wanted |= {f"circuits.{name}": (dtype, (num, *columns.get(name, ()))) for name, dtype in CIRCUITS.items()}
    for name in STRINGS:
        wanted |= {
            f"{name}.blob": (torch.uint8, (width(f"{name}.blob", 0),)),
            f"{name}.offsets": (torch.int64, (max(width(f"{name}.offsets", 0), 1),)),
            f"{name}.which": (torch.int32, (num,)),
        }
    for name, (dtype, shape) in wanted.items():
        found = tensors.get(name)
        if found is None:
            raise EpisodeFileError(f"array {name!r} is missing")
        if found.dtype != dtype or tuple(found.shape) != shape:
            raise EpisodeFileError(f"array {name!r} is {found.dtype} {tuple(found.shape)}, not {dtype} {shape}")


def _check_ranges(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    nodes, edges = tensors["circuits.node_op"].shape[1], tensors["circuits.source"].shape[1]
    limits = {
        "scene": (0, len(about["scene_names"])),
        "object_model": (-1, len(about["model_names"])),
        "object_inside": (-1, NUM_RECEPTACLES),
        "object_receptacle": (-1, NUM_RECEPTACLES),
        "circuits.node_op": (0, 4),
        "circuits.node_end": (0, edges + 1),
        "circuits.source": (0, NUM_ATOMS + nodes),
        "circuits.num_subgoals": (0, MAX_SUBGOALS + 1),
        "circuits.depth": (1, MAX_DEPTH + 1),
    } | {f"{name}.which": (0, len(tensors[f"{name}.offsets"]) - 1) for name in STRINGS}
    for name, (low, high) in limits.items():
        values = tensors[name]
        if values.numel() and not (low <= int(values.min()) and int(values.max()) < high):
            raise EpisodeFileError(f"array {name!r} has indices outside {low}..{high - 1}")
    for name, (dtype, _) in ARRAYS.items():
        values = tensors[name]
        if dtype.is_floating_point and values.numel():
            finite = values.isinf().logical_not() if name == "start_pose" else values.isfinite()
            if not bool(finite.all()):
                raise EpisodeFileError(f"array {name!r} holds numbers that are not finite")


def _check_strings(tensors: Mapping[str, Tensor], name: str) -> None:
    blob, offsets = tensors[f"{name}.blob"], tensors[f"{name}.offsets"]
    if offsets[0] != 0 or offsets[-1] != blob.numel() or bool((offsets.diff() < 0).any()):
        raise EpisodeFileError(f"offsets of the strings {name!r} do not fit their text")
    if blob.numel() and int(blob.max()) > 127:
        text, ends = blob.numpy().tobytes(), offsets.tolist()
        try:
            for begin, end in zip(ends, ends[1:], strict=False):
                text[begin:end].decode()
        except UnicodeDecodeError:
            raise EpisodeFileError(f"the strings {name!r} are no UTF-8 text") from None


def _check_goals(tensors: Mapping[str, Tensor]) -> None:
    """Every goal is an expression and all subgoals are lists of lists of predicates."""
    for name, check in (("goal", parse), ("subgoals", _check_subgoals)):
        texts = PackedStrings(*(tensors[f"{name}.{part}"] for part in ("blob", "offsets", "which"))).distinct()
        for t, text in enumerate(texts):
            try:
                check(json.loads(text))
            except (ValueError, RecursionError) as error:
                rows = (tensors[f"{name}.which"] == t).nonzero()[:, 0]
                whose = f"episode {int(tensors['episode_id'][rows[0]])}: " if len(rows) else ""
                what = str(error).splitlines()[0]
                raise EpisodeFileError(f"{whose}{name} that cannot be read: {what}") from None


def _check_subgoals(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise ValueError("they are no list of lists")
    if len(value) > MAX_SUBGOALS:
        raise ValueError(f"there are {len(value)}, and at most {MAX_SUBGOALS} are possible")
    for predicate in (p for part in value for p in part):
        if not isinstance(predicate, str):
            raise ValueError(f"{predicate!r} is no predicate")


def rows_of(what: str, wanted: list[str], known: list[str]) -> Tensor | None:
    """Rows of `known` that have the names `wanted`, None if the lists are the same. EpisodeFileError for a name that
    is not known."""
    if wanted == known:
        return None
    index = {name: i for i, name in enumerate(known)}
    missing = [name for name in wanted if name not in index]
    if missing:
        more = f"{len(missing)} of {len(wanted)} names are"
        raise EpisodeFileError(f"{what} {missing[0]!r} is unknown here ({more})")
    return torch.tensor([index[name] for name in wanted], dtype=torch.int64)
