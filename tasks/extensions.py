"""Objects, skills and predicates of your own beside the benchmark's. See docs/extending.md.

The benchmark's tables are made once, when `llarp.tasks` is first used; what is to be in them must be said before.
Either import your module first, or name it (or its file) in the environment variable LLARP_EXTENSIONS, several with
commas: that also reaches processes that llarp starts. Without any, everything is exactly the benchmark with its 70
skills.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llarp.errors import UserError

VARIABLE = "LLARP_EXTENSIONS"
LEAST_MODELS = 2
"""A category needs a model for training apartments and one for held-out ones."""
ARGUMENTS = ("object", "receptacle", "handle")
"""What an argument of a predicate can be: a slot (56), one of 11 receptacles, one of 5 handles."""


class ExtensionError(UserError):
    """An extension that cannot be, in one line."""


@dataclass(frozen=True)
class ObjectKind:
    """A category of objects; its pick skill follows from it."""

    name: str  # as in instructions: "teapot"
    shape: Callable[..., Any]  # gives a llarp.sim.assets.Mesh; called once for each of `models`
    models: Sequence[Mapping[str, Any]]  # arguments of `shape`; the first four are for training scenes, but
    # at least the last two (of two models: the last) for held-out ones
    training: bool  # True: tasks of training and of most test splits; False: of novel_objects alone
    looks: tuple[str, ...] = ()  # phrases for referring_expressions, with their article
    uses: tuple[str, ...] = ()  # phrases for context


@dataclass(frozen=True)
class Skill:
    """A skill that changes states of worlds (`llarp.tasks.state.WorldState`)."""

    name: str  # "turn()"
    words: str  # "turn around": what a language model is shown
    possible: Callable[[Any, str], Any]  # (state, rules) -> bool (N,): where its precondition holds
    effect: Callable[[Any, Any], None]  # (state, here bool (N,)): change the state in place, only where `here`


@dataclass(frozen=True)
class Predicate:
    """A fact that goals can ask about."""

    name: str
    arguments: tuple[str, ...]  # of ARGUMENTS
    truth: Callable[[Any, str], Any]  # (state, rules) -> bool (N, size of the first argument, ...)


OBJECTS: list[ObjectKind] = []
SKILLS: list[Skill] = []
PREDICATES: list[Predicate] = []
_used = False


def add_object(
    name: str, shape: Callable[..., Any], models: Sequence[Mapping[str, Any]], training: bool = True,
    looks: Sequence[str] = (), uses: Sequence[str] = (),
) -> None:
    """A category of objects, see `ObjectKind`. Its pick skill is appended to the 70."""
    _check(name, r"[a-z][a-z ]*", [o.name for o in OBJECTS])
    if len(models) < LEAST_MODELS:
        raise ExtensionError(f"{name!r} has {len(models)} models; it needs at least {LEAST_MODELS}, of which the last "
                             "are for held-out scenes")  # fmt: skip
    OBJECTS.append(ObjectKind(name, shape, tuple(models), training, tuple(looks), tuple(uses)))


def add_skill(
    name: str, words: str, possible: Callable[[Any, str], Any], effect: Callable[[Any, Any], None]
) -> None:
    """A skill, see `Skill`. It comes after the pick skills of own objects."""
    _check(name, r"[a-z]\w*\([\w ]*\)", [s.name for s in SKILLS])
    SKILLS.append(Skill(name, words, possible, effect))


def add_predicate(name: str, arguments: Sequence[str], truth: Callable[[Any, str], Any]) -> None:
    """A predicate, see `Predicate`, with one or two arguments."""
    _check(name, r"[a-z]\w*", [p.name for p in PREDICATES])
    if not 1 <= len(arguments) <= 2 or not set(arguments) <= set(ARGUMENTS):
        raise ExtensionError(f"predicate {name!r} needs one or two arguments out of {', '.join(ARGUMENTS)}")
    PREDICATES.append(Predicate(name, tuple(arguments), truth))


def _check(name: str, pattern: str, taken: Sequence[str]) -> None:
    if _used:
        raise ExtensionError(f"{name!r} comes too late: the tables are made. Add it before llarp.tasks is used, or "
                             f"name the module in {VARIABLE}")  # fmt: skip
    if not re.fullmatch(pattern, name) or name in taken:
        raise ExtensionError(f"{name!r} is no name for it, or taken")


def use() -> None:
    """Import what LLARP_EXTENSIONS names; from here on nothing more can be added. Raises ExtensionError, one line."""
    global _used
    if _used:
        return
    for name in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        try:
            _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except ExtensionError:
            raise
        except Exception as error:
            raise ExtensionError(f"{VARIABLE}: {name} cannot be used ({type(error).__name__}: {error})") from error
    _used = True


def _load_file(path: Path) -> None:
    name = path.stem
    if name in sys.modules:  # imported already
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExtensionError(f"{VARIABLE}: there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def digest() -> str:
    """Names what episodes depend on; empty without extensions."""
    if not OBJECTS:
        return ""
    told = repr([(o.name, o.training, o.looks, o.uses, len(o.models)) for o in OBJECTS])
    return hashlib.sha256(told.encode()).hexdigest()[:12]
