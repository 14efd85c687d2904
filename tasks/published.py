"""The published Language Rearrangement episode files (pickles of apple/ml-llarp), read as plain records and checked.

A file holds `all_transforms` (n, 4, 4), `idx_to_name` {int: str} and `all_eps`, a list of dicts in which names and
transforms are indices. Everything here stays in Habitat's frame (y up, m); `published_episodes` makes worlds of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .unpickle import UnpickleError, load_plain

SCENE_ENDING = ".scene_instance.json"
OBJECT_ENDING = ".object_config.json"
MAX_CHARACTERS = 2000
"""The longest instruction."""
_BARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_FARTHEST_M = 1000.0


class PublishedFileError(ValueError):
    """A published file that cannot be used: one line that names the file, the episode and what is wrong."""


@dataclass(frozen=True)
class PublishedObject:
    """A rigid object of an episode."""

    name: str  # as predicates call it: "026_sponge_:0000"
    model: str  # "026_sponge"
    transform: np.ndarray  # (4, 4) float64, object to world
    receptacle: str | None  # published name of the receptacle it starts on


@dataclass(frozen=True)
class PublishedEpisode:
    """One episode, as written."""

    episode_id: str
    scene: str  # "v3_sc3_staging_00"
    instruction: str
    instruct_id: str
    objects: tuple[PublishedObject, ...]  # sorted by name: the order in which pick looks for one
    joints: Mapping[tuple[str, int], float]  # (articulated object, link) -> joint value, m or rad
    start: tuple[float, float, float, float] | None  # x, y, z, yaw; None: drawn at random, as all known files ask for
    start_predicates: tuple[str, ...]
    goal: Mapping[str, Any]
    subgoals: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PublishedFile:
    """A published episode file."""

    path: Path
    episodes: tuple[PublishedEpisode, ...]

    @property
    def scenes(self) -> list[str]:
        """The scenes that occur, sorted."""
        return sorted({e.scene for e in self.episodes})

    @property
    def models(self) -> list[str]:
        """The object models that occur, sorted."""
        return sorted({o.model for e in self.episodes for o in e.objects})


class _Wrong(ValueError):
    """What is wrong with a part, without the file's name."""


def read_published(path: str | Path) -> PublishedFile:
    """The episodes of a file. Raises PublishedFileError, which names the file and the episode."""
    path = Path(path)
    if not path.is_file():
        raise PublishedFileError(f"{path}: there is no such file")
    try:
        content = load_plain(path)
        transforms, names, records = _tables(content)
    except (UnpickleError, _Wrong, OSError) as error:
        raise PublishedFileError(f"{path}: {error}") from None
    episodes = []
    for position, record in enumerate(records):
        label = f"number {position}"
        try:
            _expect(isinstance(record, dict), "is no dict")
            label = repr(_text(record, "episode_id", _is_bare))
            episodes.append(_episode(record, transforms, names))
        except _Wrong as error:
            raise PublishedFileError(f"{path}: episode {label}: {error}") from None
    return PublishedFile(path, tuple(episodes))


def _tables(content: Any) -> tuple[np.ndarray, dict[int, str], list[Any]]:
    wanted = {"all_transforms", "idx_to_name", "all_eps"}
    if not isinstance(content, dict) or not wanted <= set(content):
        raise _Wrong(f"no published episode file: it holds no dict with {', '.join(sorted(wanted))}")
    transforms, names, records = content["all_transforms"], content["idx_to_name"], content["all_eps"]
    _expect(isinstance(transforms, np.ndarray) and transforms.dtype.kind == "f" and transforms.ndim == 3
            and transforms.shape[1:] == (4, 4), "all_transforms is no array (n, 4, 4) of floats")  # fmt: skip
    _expect(isinstance(names, dict) and all(_is_index(k) and isinstance(v, str) for k, v in names.items()),
            "idx_to_name is no dict from whole numbers to names")  # fmt: skip
    _expect(isinstance(records, list) and len(records) > 0, "all_eps is no list of episodes")
    return transforms.astype(np.float64), names, records


def _episode(record: dict[str, Any], transforms: np.ndarray, names: dict[int, str]) -> PublishedEpisode:
    known = _Names(names)
    return PublishedEpisode(
        episode_id=_text(record, "episode_id", _is_bare),
        scene=_scene(_text(record, "scene_id")),
        instruction=" ".join(_text(record, "instruction", _is_instruction).split()),
        instruct_id=_text(record, "instruct_id") if "instruct_id" in record else "",
        objects=_objects(record, transforms, known),
        joints=_joints(record.get("ao_states", {}), known),
        start=_start(record),
        start_predicates=_predicates(record.get("start_preds", []), "start_preds"),
        goal=_goal(record.get("goal_preds")),
        subgoals=_subgoals(record.get("subgoals")),
    )


class _Names:
    """`idx_to_name` with words for what is missing."""

    def __init__(self, names: dict[int, str]):
        self.names = names

    def __getitem__(self, index: Any) -> str:
        if not _is_index(index) or index not in self.names:
            raise _Wrong(f"refers to name {_show(index)}, which idx_to_name does not hold")
        return self.names[int(index)]


def _objects(record: dict[str, Any], transforms: np.ndarray, names: _Names) -> tuple[PublishedObject, ...]:
    starts: dict[str, str] = {}
    for entity, receptacle in _pairs(record.get("name_to_receptacle", []), "name_to_receptacle"):
        starts[names[entity]] = names[receptacle]
    made: list[PublishedObject] = []
    count: Counter[str] = Counter()
    for config, row in _pairs(record.get("rigid_objs"), "rigid_objs"):
        model = _bare_name(names[config], OBJECT_ENDING, "object")
        name = f"{model}_:{count[model]:04d}"  # the handle that Habitat gives the next instance of a model
        count[model] += 1
        _expect(_is_index(row) and 0 <= row < len(transforms), f"object {name} has no transform {_show(row)}")
        transform = transforms[int(row)]
        _expect(_is_rigid(transform), f"the transform of object {name} is no rotation and translation")
        made.append(PublishedObject(name, model, transform, starts.pop(name, None)))
    if starts:
        raise _Wrong(f"name_to_receptacle speaks of object {_show(min(starts))}, which is not in rigid_objs")
    return tuple(sorted(made, key=lambda o: o.name))


def _joints(states: Any, names: _Names) -> dict[tuple[str, int], float]:
    _expect(isinstance(states, dict), "ao_states is no dict")
    joints: dict[tuple[str, int], float] = {}
    for thing, values in states.items():
        name = names[thing] if _is_index(thing) else thing
        _expect(isinstance(name, str) and isinstance(values, dict), "ao_states is no dict of dicts")
        for link, value in values.items():
            _expect(_is_index(link), f"ao_states of {name:.80}: {_show(link)} is no link's number")
            _expect(_is_number(value) and abs(value) < 10, f"ao_states of {name:.80}: link {link} has no proper value")
            joints[name, int(link)] = float(value)
    return joints


def _start(record: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Where the robot starts, of `start_position` and the turn about y of `start_rotation` (a quaternion, w last)."""
    x, y, z = _numbers(record.get("start_position", [0, 0, 0]), 3, "start_position")
    _, turn, _, w = _numbers(record.get("start_rotation", [0, 0, 0, 1]), 4, "start_rotation")
    return (x, y, z, 2 * math.atan2(turn, w)) if any((x, y, z)) else None


def _numbers(value: Any, count: int, what: str) -> list[float]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    good = isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_number, value))
    _expect(good and max(map(abs, value)) < _FARTHEST_M, f"{what} is no list of {count} proper numbers")
    return [float(v) for v in value]


def _goal(value: Any) -> Mapping[str, Any]:
    """The goal, every part of a kind that `goals.parse` expects; what it means is checked there."""
    if not isinstance(value, dict):
        raise _Wrong(f"goal_preds or a part of it is no dict but {_show(value)}")
    for key in ("expr_type", "quantifier"):
        _expect(isinstance(value.get(key), (str, type(None))), f"goal_preds has a {key} that is no text")
    terms, variables = value.get("sub_exprs"), value.get("inputs") or []
    if not isinstance(terms, (list, tuple)):
        raise _Wrong("goal_preds has sub_exprs that are no list")
    good = isinstance(variables, (list, tuple)) and all(isinstance(v, dict) for v in variables)
    _expect(good and all(isinstance(t, str) for v in variables for t in v.values()), "goal_preds has odd inputs")
    return value | {"sub_exprs": [t if isinstance(t, str) else _goal(t) for t in terms]}


def _subgoals(value: Any) -> tuple[tuple[str, ...], ...]:
    _expect(isinstance(value, (list, tuple)), "subgoals is no list")
    return tuple(_predicates(predicates, f"subgoal {i + 1}") for i, predicates in enumerate(value))


def _predicates(value: Any, what: str) -> tuple[str, ...]:
    good = isinstance(value, (list, tuple)) and all(isinstance(p, str) for p in value)
    _expect(good, f"{what} is no list of predicates")
    return tuple(value)


def _pairs(value: Any, what: str) -> Sequence[Sequence[Any]]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    good = isinstance(value, (list, tuple)) and all(isinstance(p, (list, tuple)) and len(p) == 2 for p in value)
    _expect(good, f"{what} is no list of pairs")
    return value


def _scene(text: str) -> str:
    """The scene's name in `.../NAME.scene_instance.json`; folders are not used, but may not lead upwards."""
    *folders, last = text.split("/")
    _expect(".." not in folders and "\\" not in text and "\0" not in text, f"scene_id {_show(text)} is no safe path")
    return _bare_name(last, SCENE_ENDING, "scene")


def _bare_name(text: str, ending: str, what: str) -> str:
    name = text.removesuffix(ending)
    if name == text or not _is_bare(name):
        raise _Wrong(f"{what} {_show(text)} is no NAME{ending}")
    return name


def _text(record: dict[str, Any], key: str, good: Callable[[str], bool] = lambda _: True) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not good(value):
        raise _Wrong(f"{key} is missing or not proper text: {_show(value)}")
    return value


def _show(value: Any) -> str:
    """A value for a message, short whatever it is."""
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else value[:100] + "...")
    return str(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Wrong(otherwise)


def _is_bare(name: str) -> bool:
    return _BARE.fullmatch(name) is not None and ".." not in name and len(name) <= 128


def _is_instruction(text: str) -> bool:
    words = text.split()
    return bool(words) and all(map(str.isprintable, words)) and len(text) <= MAX_CHARACTERS


def _is_index(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_rigid(transform: np.ndarray) -> bool:
    rotation, place = transform[:3, :3], transform[:3, 3]
    return bool(
        np.isfinite(transform).all()
        and np.abs(transform[3] - (0, 0, 0, 1)).max() < 1e-3
        and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2
        and np.linalg.det(rotation) > 0
        and np.abs(place).max() < _FARTHEST_M
    )
