"""What an episode is about before it has a room: which objects start where and are wanted where. From that follow the
goal expression, the subgoals and the words that fill the slots of its instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .entities import CATEGORIES, FRIDGE_HANDLE, HANDLES, RECEPTACLES, TASK_RECEPTACLES
from .phrases import purposes, referring, spatial_phrases
from .spatial import Relation

NONE = -1
FREE_OF_START = ("go_to_receptacle", "find_object")
"""Kinds whose goal may hold at the start already: it is about where the robot is, and that is drawn at random."""
_TWICE = 0.15  # share of target categories that have a second object in the room
_SAME_SOURCE = 0.25  # share of tasks with two objects that both start in one place
_NUM_ALL = (2, 3)  # objects of an "all of them" task; 3 make 12 subgoals, the most there can be
_HANDLE = HANDLES[FRIDGE_HANDLE]
_FRIDGE_STATE = {True: f"opened_fridge({_HANDLE})", False: f"closed_fridge({_HANDLE})"}
_SAYS = ("refer", "purpose", "distracted", "spatial")  # one object to one place, said in a special way
_NUM_MOVES = {"place_two": 2, "place_two_apart": 2, "swap": 2, "if_fridge": 2, "place_three": 3}


@dataclass(frozen=True)
class Move:
    """An object of `category` that starts on receptacle `source` and is wanted on `target` (NONE: nowhere there)."""

    category: int
    source: int
    target: int = NONE


@dataclass
class Draft:
    """`moves` are the objects the task is about, in the order of its variables (one variable for all in "place_all").

    In "if_fridge" the first is to be moved and the second to be left; `named_first` tells whether the condition that
    holds is the one its instruction names first."""

    kind: str
    moves: tuple[Move, ...] = ()
    extras: tuple[tuple[int, int], ...] = ()  # category and receptacle of more objects that have to be there
    at: int = NONE  # receptacle to go to
    fridge_open: bool = False
    named_first: bool = True
    words: dict[str, str | int] = field(default_factory=dict)  # slots that follow from nothing else

    @property
    def required(self) -> list[tuple[int, int]]:
        """Category and receptacle of every object that has to be there, the moved ones first."""
        return [(m.category, m.source) for m in self.moves] + list(self.extras)


def draw(
    rng: np.random.Generator, kind: str, categories: Sequence[int], facts: Callable[[], list[Relation]]
) -> Draft | None:
    """A task of a kind about objects of `categories`. Nothing wanted on a receptacle starts there.

    `facts` gives the relations that hold in the scene; None if none does that the task could be about."""
    if kind in ("open_fridge", "close_fridge"):
        return Draft(kind, fridge_open=kind == "close_fridge")
    places = rng.permutation(TASK_RECEPTACLES).tolist()
    if kind == "go_to_receptacle":
        return Draft(kind, at=places[0])
    words: dict[str, str | int] = {}
    if kind == "spatial":
        relation = _one(rng, facts())
        if relation is None:
            return None
        places.remove(relation.target)
        places.insert(1, relation.target)
        words["place"] = _choice(rng, spatial_phrases(relation.target, relation.anchor, relation.name))
    if kind in ("refer", "purpose"):
        phrases = referring if kind == "refer" else purposes
        categories = [c for c in categories if phrases(CATEGORIES[c])]
    chosen = rng.permutation(categories)[: _NUM_MOVES.get(kind, 1)].tolist()
    if kind in ("refer", "purpose"):
        words["phrase"] = _choice(rng, phrases(CATEGORIES[chosen[0]]))
    draft = Draft(kind, _moves(rng, kind, chosen, places), words=words)
    if kind == "if_fridge":
        draft.fridge_open, draft.named_first = rng.random() < 0.5, rng.random() < 0.5
    elif kind == "distracted":
        other = _choice(rng, [c for c in categories if c not in chosen])
        words["other"], words["other_place"] = CATEGORIES[other], RECEPTACLES[places[2]].name
        draft.extras = ((other, places[2]),)
    if kind not in ("place_all", "if_fridge"):
        draft.extras += _doubles(rng, draft)
    return draft


def _moves(rng: np.random.Generator, kind: str, chosen: list[int], places: list[int]) -> tuple[Move, ...]:
    """Where the chosen categories start and are wanted; `places` are the task receptacles in random order."""
    a, b, c, d, e, f, _ = places
    if kind == "place_all":
        number = int(rng.choice(_NUM_ALL))
        return tuple(Move(chosen[0], _choice(rng, places[1:]), a) for _ in range(number))
    same = rng.random() < _SAME_SOURCE
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    if kind == "place_two":
        sources, targets = (b, b if same else c), (a, a)
    elif kind == "place_two_apart":
        sources, targets = (c, c if same else d), (a, b)
    elif kind == "swap":
        sources, targets = (a, b), (b, a)
    elif kind == "if_fridge":
        sources, targets = (c, d), (a, b)
    elif kind == "place_three":
        sources, targets = (d, e, f), (a, b, c)
    else:  # one object
        sources, targets = (a,), (b if kind.startswith("place") or kind in _SAYS else NONE,)
    return tuple(map(Move, chosen, sources, targets))


def _doubles(rng: np.random.Generator, draft: Draft) -> tuple[tuple[int, int], ...]:
    """Second objects of the categories, where they are not wanted; of what is to be cleared off, often beside it."""
    doubles = []
    for move in draft.moves:
        others = [r for r in TASK_RECEPTACLES if r not in (move.source, move.target)]
        place = move.source if draft.kind == "clear" and rng.random() < 0.5 else _choice(rng, others)
        if rng.random() < _TWICE:
            doubles.append((move.category, place))
    return tuple(doubles)


def _choice(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def _one(rng: np.random.Generator, facts: list[Relation]) -> Relation | None:
    """One of the relations, each place that some are about being as likely as the next."""
    if not facts:
        return None
    target = _choice(rng, sorted({fact.target for fact in facts}))
    return _choice(rng, [fact for fact in facts if fact.target == target])


# -- what follows from it ----------------------------------------------------------------------------------------------


def slots(d: Draft) -> dict[str, str | int]:
    """What fills the slots of a wording."""
    out = dict(d.words)
    if d.kind in ("open_fridge", "close_fridge"):
        out["target"] = "fridge"
    if d.at != NONE:
        out["target"] = RECEPTACLES[d.at].name
    moves = d.moves[:1] if d.kind == "place_all" else d.moves
    if d.kind == "if_fridge":
        out["state"] = "open" if d.fridge_open == d.named_first else "closed"
        moves = moves if d.named_first else moves[::-1]
    for number, move in zip(("", "2", "3"), moves, strict=False):
        out[f"object{number}"] = CATEGORIES[move.category]
        out[f"source{number}"] = RECEPTACLES[move.source].name
        if move.target != NONE:
            out[f"target{number}"] = RECEPTACLES[move.target].name
        if d.kind == "clear" and (move.category, move.source) in d.extras:
            out[f"object{number}_count"] = 2
    return out


def goal(d: Draft) -> dict[str, Any]:
    """The goal expression, in the format of the published files."""
    if d.kind in ("open_fridge", "close_fridge"):
        return {"expr_type": "AND", "sub_exprs": [_FRIDGE_STATE[d.kind == "open_fridge"]]}
    if d.kind == "go_to_receptacle":
        return {"expr_type": "AND", "sub_exprs": [f"robot_at({RECEPTACLES[d.at].name})"]}
    moves = d.moves[:1] if d.kind == "place_all" else d.moves
    inputs = [{"name": n, "expr_type": CATEGORIES[m.category]} for n, m in zip("XYZ", moves, strict=False)]
    quantifier = "FORALL" if d.kind == "place_all" else "EXISTS"
    quantified: dict[str, Any] = {"expr_type": "AND", "quantifier": quantifier, "inputs": inputs}
    if d.kind == "find_object":
        return quantified | {"sub_exprs": ["robot_at(X)"]}
    if d.kind == "clear":
        none = quantified | {"expr_type": "NAND", "sub_exprs": [f"on_top(X, {RECEPTACLES[moves[0].source].name})"]}
        return {"expr_type": "AND", "sub_exprs": ["not_holding()", none]}
    wanted = [m.target for m in moves]
    if d.kind == "if_fridge":
        wanted[1] = moves[1].source  # left where it is
    placed = [f"on_top({n}, {RECEPTACLES[r].name})" for n, r in zip("XYZ", wanted, strict=False)]
    quantified |= {"sub_exprs": [*placed, "not_holding()"]}
    if d.kind == "if_fridge":
        return {"expr_type": "AND", "sub_exprs": [_FRIDGE_STATE[d.fridge_open], quantified]}
    return quantified


def subgoals(d: Draft, names: Sequence[str]) -> list[list[str]]:
    """Predicates that come true one after the other along a solution, each list together; `names` of the required
    objects."""
    if d.kind in ("open_fridge", "close_fridge"):
        return [[f"robot_at({_HANDLE})"], [_FRIDGE_STATE[d.kind == "open_fridge"]]]
    if d.kind == "go_to_receptacle":
        return [[f"robot_at({RECEPTACLES[d.at].name})"]]
    if d.kind == "find_object":
        return [[f"robot_at({names[0]})"]]
    if d.kind == "clear":
        first = d.required[0]
        taken = [name for name, required in zip(names, d.required, strict=False) if required == first]
        return [[f"robot_at({RECEPTACLES[first[1]].name})"], *([f"holding({name})"] for name in taken)]
    steps: list[list[str]] = []
    placed: list[str] = []
    for name, move in zip(names, d.moves[:1] if d.kind == "if_fridge" else d.moves, strict=False):
        at, there = RECEPTACLES[move.source].name, RECEPTACLES[move.target].name
        steps += [[*placed, f"robot_at({at})"], [f"holding({name})"], [f"holding({name})", f"robot_at({there})"]]
        placed.append(f"on_top({name}, {there})")
        steps.append([*placed, "not_holding()"])
    return steps
