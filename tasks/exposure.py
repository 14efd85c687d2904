"""What a set of episodes shows to whoever plays it: wordings, phrases, categories, object models, layouts, episodes."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .entities import CATEGORIES, RECEPTACLES
from .episodes import EpisodeSet
from .instructions import INSTRUCTION_TYPES, SINGULAR, SLOT, plural, wording, wording_ids
from .phrases import all_phrases
from .state import ObjectCatalog, SceneSet

_CHUNK = 8192  # episodes whose arrangement is read at a time
_FIXED_WORDS = {"a": "a", "the": "the", "on": "on the", "onto": "onto the", "off": "off the", "from": "from the",
                "it": "it"}  # fmt: skip
"""What the forms of a slot add to its word; of "in" and "on", "it" and "them", "a" and "an", one stands for both."""
_SAME_WORDS = {"an": "a", "them": "it", "in": "on", "into": "onto"}
_MACRO_LAYOUT = re.compile(r"(v3_sc\d+)_staging_\d+")


class ManifestError(ValueError):
    """A manifest that cannot be used, in one line."""


@dataclass(frozen=True, order=True)
class Wording:
    """A wording that instructions were made from."""

    kind: str  # instruction type
    id: int  # of `instructions.wording`; -1: none of ours, and `text` is an instruction with its things cut out
    text: str  # slots and all

    @property
    def words(self) -> list[str]:
        """Its words, slots removed."""
        return re.findall(r"[a-z']+", re.sub(r"\{[^}]*\}", " ", self.text).lower())

    @property
    def spelled(self) -> list[str]:
        """Its words with those of the slots' forms, by which it can be compared with one that is not ours."""
        text = SLOT.sub(lambda slot: f" {_FIXED_WORDS.get(slot[1], '')} {{}} ", self.text)
        words = re.findall(r"[a-z']+", text.replace("{}", " ").lower())
        return [_SAME_WORDS.get(word, word) for word in words]


@dataclass(frozen=True)
class Exposure:
    """What a set of episodes shows. Sequences are sorted and without doubles."""

    source: str  # the dataset file, or "built-in"
    published: bool  # a published file: instruction types are the goals' forms, and object models belong to no split
    split: str
    seed: int
    episodes: int
    types: tuple[str, ...]  # instruction types
    wordings: tuple[Wording, ...]
    phrases: tuple[str, ...]  # those of `phrases.py` that occur in an instruction
    targets: tuple[str, ...]  # object categories that goals name
    categories: tuple[str, ...]  # object categories in the rooms
    models: tuple[str, ...]  # object models in the rooms
    layouts: tuple[str, ...]  # names of scenes, or of the macro-layouts they are variants of
    shapes: tuple[str, ...]  # digests of where the furniture of each scene stands
    keys: NDArray[np.uint64] = field(repr=False, compare=False)  # (E,) of scene, arrangement and goal together
    ids: tuple[int, ...] = ()  # (E,) episode ids, for messages; not saved

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; the keys as base64 of little-endian 64-bit numbers in rising order."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in _KINDS}
        plain |= {name: list(getattr(self, name)) for name in _LISTS}
        plain["wordings"] = [[w.kind, w.id, w.text] for w in self.wordings]
        return plain | {"keys": base64.b64encode(np.unique(self.keys).astype("<u8").tobytes()).decode()}

    @classmethod
    def from_dict(cls, plain: Any) -> Exposure:
        """What `to_dict` gave, checked. `ManifestError` for anything else."""
        if not isinstance(plain, Mapping):
            raise ManifestError("what a stage has shown must be a mapping")
        for name, kind in _KINDS.items():
            if type(plain.get(name)) is not kind:
                raise ManifestError(f"{name!r} must be of type {kind.__name__}")
        for name in _LISTS:
            if not (isinstance(plain.get(name), list) and all(isinstance(x, str) for x in plain[name])):
                raise ManifestError(f"{name!r} must be a list of names")
        rows = plain.get("wordings")
        if not isinstance(rows, list) or any(not _is_wording(row) for row in rows):
            raise ManifestError("'wordings' must be a list of [type, id, text]")
        try:
            raw = base64.b64decode(plain["keys"], validate=True)
            keys = np.frombuffer(raw, "<u8").astype(np.uint64)
        except (KeyError, TypeError, ValueError):
            raise ManifestError("'keys' must be base64 of 64-bit numbers") from None
        named: dict[str, Any] = {name: plain[name] for name in _KINDS}
        named |= {name: tuple(plain[name]) for name in _LISTS}
        return cls(**named, wordings=tuple(Wording(*row) for row in rows), keys=keys)

    def same_as(self, other: Exposure) -> bool:
        """Whether both show the same."""
        return self.to_dict() == other.to_dict()


def _is_wording(row: Any) -> bool:
    return isinstance(row, list) and [type(x) for x in row] == [str, int, str]


_KINDS = {"source": str, "published": bool, "split": str, "seed": int, "episodes": int}
_LISTS = ("types", "phrases", "targets", "categories", "models", "layouts", "shapes")


def expose(
    episodes: EpisodeSet, scenes: SceneSet, catalog: ObjectCatalog, source: str = "built-in", published: bool = False
) -> Exposure:
    """What `episodes`, over `scenes` and `catalog`, show."""
    used = np.unique(episodes.object_model.numpy())
    used = used[used >= 0]
    rows = sorted(set(episodes.scene.tolist()))
    said = set(zip(episodes.instruction_type, episodes.wording.tolist(), episodes.instruction, strict=True))
    text = "\n".join(sorted({instruction for _, _, instruction in said})).lower()
    return Exposure(
        source=source,
        published=published,
        split=episodes.split,
        seed=episodes.seed,
        episodes=len(episodes),
        types=tuple(sorted({kind for kind, _, _ in said})),
        wordings=tuple(sorted({_wording(*row) for row in said})),
        phrases=tuple(sorted(phrase for phrase in all_phrases() if phrase.lower() in text)),
        targets=tuple(sorted(_targets(episodes, catalog))),
        categories=tuple(sorted({CATEGORIES[c] for c in catalog.category[torch.from_numpy(used).long()].tolist()})),
        models=tuple(sorted(catalog.names[m] for m in used)),
        layouts=tuple(sorted({layout_of(scenes.names[i]) for i in rows})),
        shapes=tuple(sorted({_shape(scenes, i) for i in rows})),
        keys=episode_keys(episodes),
        ids=tuple(episodes.episode_id.tolist()),
    )


def layout_of(scene: str) -> str:
    """The layout that a scene is a variant of: "v3_sc3" for ReplicaCAD's "v3_sc3_staging_07", else the scene itself."""
    match = _MACRO_LAYOUT.fullmatch(scene)
    return match[1] if match else scene


def episode_keys(episodes: EpisodeSet) -> NDArray[np.uint64]:
    """A number (E,) for each episode's scene, arrangement (models and places to the mm, in any order) and goal."""
    goals = list(episodes.goal)
    number = {goal: _digest(goal) for goal in set(goals)}
    keys = np.array([number[goal] for goal in goals], np.uint64)
    keys = _mix(keys ^ np.array([_digest(name) for name in episodes.scene_names], np.uint64)[episodes.scene.numpy()])
    names = np.array([*map(_digest, episodes.model_names), 0], np.uint64)  # index -1, an empty slot, is the last
    for first in range(0, len(episodes), _CHUNK):
        rows = slice(first, first + _CHUNK)
        model = episodes.object_model[rows].numpy()
        place = np.rint(episodes.object_position[rows].numpy().astype(np.float64) * 1000).astype(np.int64)
        room = names[model]
        for axis in range(3):
            room = _mix(room ^ place[..., axis].view(np.uint64))
        keys[rows] = _mix(keys[rows] ^ np.where(model >= 0, room, np.uint64(0)).sum(1, dtype=np.uint64))
    return keys


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of the result depends on every bit of `x`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _shape(scenes: SceneSet, i: int) -> str:
    """A digest of where the furniture of a scene stands, to the mm."""
    arrays = (scenes.receptacle_center[i], scenes.receptacle_half[i], scenes.handle_position[i])
    placed = [np.rint(a.numpy().astype(np.float64) * 1000).astype(np.int64).tobytes() for a in arrays]
    return hashlib.blake2b(b"".join(placed), digest_size=8).hexdigest()


def _targets(episodes: EpisodeSet, catalog: ObjectCatalog) -> set[str]:
    """The object categories that goals name, as the type of a variable or through an object of the room."""
    found: set[str] = set()
    with_slots = set()
    for goal in set(episodes.goal):
        found |= {name.replace("_", " ") for name in re.findall(r'"expr_type":\s*"([^"]+)"', goal)}
        if "object_" in goal:
            with_slots.add(goal)
    for i, goal in enumerate(episodes.goal if with_slots else ()):
        if goal in with_slots:
            slots = [int(slot) for slot in re.findall(r"\bobject_(\d+)", goal)]
            found |= {CATEGORIES[int(catalog.category[int(episodes.object_model[i, slot])])] for slot in slots}
    return found & set(CATEGORIES)


# -- wordings ----------------------------------------------------------------------------------------------------------


def _wording(kind: str, wording_id: int, instruction: str) -> Wording:
    """The wording that an instruction says it was made from, if it was; else its own words with its things cut out."""
    if kind in INSTRUCTION_TYPES and 0 <= wording_id < wording_ids(kind, "eval").stop:
        if _pattern(kind, wording_id).fullmatch(instruction):
            return Wording(kind, wording_id, wording(kind, wording_id))
    return Wording(kind, -1, _things().sub("{}", instruction))


@functools.cache
def _pattern(kind: str, wording_id: int) -> re.Pattern[str]:
    """What matches instructions made from a wording."""
    parts = re.split(r"\{\w+:\w+\}", wording(kind, wording_id))
    return re.compile(".+".join(map(re.escape, parts)), re.IGNORECASE)


@functools.cache
def _things() -> re.Pattern[str]:
    """What matches names of objects and receptacles."""
    objects = [word for c in CATEGORIES for word in (c, SINGULAR.get(c, c), plural(c))]
    return _one_of([*objects, *(r.name for r in RECEPTACLES)])


def _one_of(words: Iterable[str]) -> re.Pattern[str]:
    longest_first: Sequence[str] = sorted(set(words), key=len, reverse=True)
    named = "|".join(rf"(?<=[ae] ){word}" if word == "can" else re.escape(word) for word in longest_first)
    return re.compile(rf"\b(?:{named})\b", re.IGNORECASE)  # a can has an article: "can" is more often a verb
