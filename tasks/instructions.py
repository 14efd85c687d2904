"""Wordings of instructions, by instruction type: ours alone, with a training and an evaluation part.

A wording is a sentence with slots `{form:slot}`. Forms, by what the slot holds:

* an object (`object`, `object2`, `object3`, `other`): `a` ("an apple", "a pair of scissors"), `the`, `one` (the bare
  singular), `s` (the bare plural), `it` ("it" or "them"). No verb follows a `the` object that had to agree with its
  number.
* a receptacle (`source`, `source2`, `target`, `target2`, `target3`, `other_place`): `the`, `on` ("on the sofa", "in the
  sink"), `onto`, `off`, `from`.
* a noun phrase with its article (`phrase` for an object, `place` for a receptacle; see `phrases.py`): `a`, `the`.
* `state`, "open" or "closed", of the fridge: `is`, and `not` for the opposite.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from .wordings_eval import EVAL
from .wordings_train import TRAIN as FIRST
from .wordings_varied import VARIED

Part = Literal["train", "eval"]
TRAIN: dict[str, tuple[str, ...]] = {kind: texts + VARIED.get(kind, ()) for kind, texts in FIRST.items()}

INSTRUCTION_TYPES: tuple[str, ...] = tuple(TRAIN)
TEST_TYPES = ("place_all", "place_three", "refer", "purpose", "distracted", "spatial", "if_fridge")
"""Types that only test splits have; those draw from the evaluation part, which is larger for them."""
TRAINING_TYPES: tuple[str, ...] = tuple(kind for kind in TRAIN if kind not in TEST_TYPES)

_PHRASES = ("phrase", "place")
_OPPOSITE = {"open": "closed", "closed": "open"}
_INSIDE = frozenset({"sink", "fridge", "left drawer", "right drawer"})  # one is in these, and on the others
SINGULAR = {"scissors": "pair of scissors", "lego": "lego brick"}
_PLURAL = {"scissors": "scissors", "lego": "lego bricks", "knife": "knives"}
SLOT = re.compile(r"\{(\w+):(\w+)\}")
_SENTENCE = re.compile(r"(?:^|(?<=[.?!] ))[a-z]")


def wordings(kind: str, part: Part = "train") -> tuple[str, ...]:
    """Wordings of an instruction type, slots and all. `ValueError` for an unknown type or part."""
    if kind not in TRAIN:
        raise ValueError(f"unknown instruction type {kind!r}; known: {', '.join(INSTRUCTION_TYPES)}")
    if part not in ("train", "eval"):
        raise ValueError(f"unknown part {part!r} of the wordings; known: train, eval")
    return (TRAIN if part == "train" else EVAL)[kind]


def wording_ids(kind: str, part: Part = "train") -> range:
    """Ids of a type's wordings: the training ones from 0 on, the evaluation ones after them."""
    first = 0 if part == "train" else len(wordings(kind, "train"))
    return range(first, first + len(wordings(kind, part)))


def wording(kind: str, wording_id: int) -> str:
    """One wording, slots and all. `ValueError` for an unknown type or id."""
    texts = wordings(kind, "train") + wordings(kind, "eval")
    if not 0 <= wording_id < len(texts):
        raise ValueError(f"{kind} has no wording {wording_id}, it has {len(texts)}")
    return texts[wording_id]


def render(kind: str, wording_id: int, slots: Mapping[str, str | int]) -> str:
    """The sentence of a wording, slots filled: `render("place_one", 0, {"object": "apple", "target": "sink"})`.

    Object slots take category names, receptacle slots names from RECEPTACLES, `phrase` and `place` phrases, `state`
    "open" or "closed". `object_count` above 1 makes `the` and `it` plural. `ValueError` for an unknown wording or
    state, or a missing slot."""

    def fill(match: re.Match[str]) -> str:
        form, slot = match.groups()
        if slot not in slots:
            raise ValueError(f"wording {wording_id} of {kind} needs the slot {slot!r}")
        word = str(slots[slot])
        if slot in _PHRASES:
            return word
        if slot == "state":
            return _state_word(form, word)
        if slot.startswith("object") or slot == "other":
            return _object_words(form, word, many=int(slots.get(f"{slot}_count", 1)) > 1)
        return _receptacle_words(form, word)

    text = SLOT.sub(fill, wording(kind, wording_id))
    return _SENTENCE.sub(lambda match: match[0].upper(), text)


def _state_word(form: str, state: str) -> str:
    if state not in _OPPOSITE:
        raise ValueError(f"the fridge cannot be {state!r}; known: open, closed")
    return _OPPOSITE[state] if form == "not" else state


def _object_words(form: str, category: str, many: bool) -> str:
    one = SINGULAR.get(category, category)
    if form == "one":
        return one
    if form == "a":
        return ("an " if one[0] in "aeiou" else "a ") + one
    if form == "s":
        return plural(category)
    plural_only = category == "scissors"
    if form == "it":
        return "them" if many or plural_only else "it"
    return "the " + (plural(category) if many or plural_only else one)


def plural(category: str) -> str:
    if category in _PLURAL:
        return _PLURAL[category]
    if category.endswith(("ch", "x", "s", "sh")):
        return category + "es"
    if category.endswith("y") and category[-2] not in "aeiou":
        return category[:-1] + "ies"
    return category + "s"


def _receptacle_words(form: str, name: str) -> str:
    inside = name in _INSIDE
    lead = {
        "the": "",
        "from": "from ",
        "on": "in " if inside else "on ",
        "onto": "into " if inside else "onto ",
        "off": "out of " if inside else "off ",
    }
    return f"{lead[form]}the {name}"
