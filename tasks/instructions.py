"""Wordings of instructions, by instruction type: ours alone, with a training and an evaluation part.

A wording is a sentence with slots `{form:slot}`. Forms, for an object slot: `a` ("an apple", "a pair of scissors"),
`the`, `one` (the bare singular), `s` (the bare plural), `it` ("it" or "them"); for a receptacle slot: `the`, `on` ("on
the sofa", "in the sink"), `onto`, `off`, `from`. No verb follows a `the` object that had to agree with its number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Part = Literal["train", "eval"]

_TRAIN: dict[str, tuple[str, ...]] = {
    "place_one": (
        "Put {a:object} {on:target}.",
        "Find {a:object} and bring {it:object} to {the:target}.",
        "I would like {a:object} {on:target}, please.",
        "Carry {a:object} over to {the:target} and set {it:object} down there.",
        "There should be {a:object} {on:target}.",
        "{the:target} is missing {a:object}, go and fetch one.",
        "Could you get {a:object} and leave {it:object} {on:target}?",
        "Place {a:object} {on:target} for me.",
        "Get hold of {a:object}, then drop {it:object} {on:target}.",
        "Somebody asked for {a:object} {on:target}.",
        "Look for {a:object} and lay {it:object} {on:target}.",
        "Your job: transport {a:object} to {the:target}.",
    ),
    "place_from": (
        "Take {the:object} {off:source} and put {it:object} {on:target}.",
        "Transfer {the:object} {from:source} to {the:target}.",
        "{the:object} that I left {on:source} should go {onto:target}.",
        "Go to {the:source}, pick up {the:object} and bring {it:object} to {the:target}.",
        "Please shift {the:object} {on:source} over to {the:target}.",
        "There should be {a:object} {on:source}; I want {it:object} {on:target} instead.",
        "{from:source}, fetch {the:object} and set {it:object} down {on:target}.",
        "Get {the:object} {from:source} and leave {it:object} {on:target}.",
        "Could {the:object} {on:source} be carried to {the:target}?",
        "Lift {the:object} {off:source} and lay {it:object} {on:target}.",
        "I need {the:object} {from:source} placed {on:target}.",
        "{the:source} holds {a:object}, bring {it:object} across to {the:target}.",
    ),
    "place_two": (
        "Put {a:object} and {a:object2} {on:target}.",
        "Bring both {a:object} and {a:object2} to {the:target}.",
        "I want two things {on:target}: {a:object} and {a:object2}.",
        "First carry {a:object} to {the:target}, then {a:object2}.",
        "Fetch {a:object} as well as {a:object2} and leave them {on:target}.",
        "{the:target} should hold {a:object} together with {a:object2}.",
        "Collect {a:object} and {a:object2}, then place them {on:target}.",
        "Please set {a:object} down {on:target}, and {a:object2} too.",
        "Could you find {a:object} and {a:object2} and take both to {the:target}?",
        "Add {a:object} and also {a:object2} to what is {on:target}.",
        "{a:object} and {a:object2}: both of them go {on:target}.",
        "Someone will need {a:object} plus {a:object2} {on:target}.",
    ),
    "place_two_apart": (
        "Put {a:object} {on:target} and {a:object2} {on:target2}.",
        "Bring {a:object} to {the:target}, then bring {a:object2} to {the:target2}.",
        "I want {a:object} {on:target}, and {a:object2} should be {on:target2}.",
        "Carry {a:object} to {the:target}; after that carry {a:object2} to {the:target2}.",
        "Find {a:object} for {the:target} and {a:object2} for {the:target2}.",
        "Two errands: {a:object} goes {on:target}, {a:object2} goes {on:target2}.",
        "Place {a:object} {on:target}. Then place {a:object2} {on:target2}.",
        "Could you set {a:object} {on:target} and {a:object2} {on:target2}?",
        "{the:target} should get {a:object} while {the:target2} should get {a:object2}.",
        "Leave {a:object} {on:target} and leave {a:object2} {on:target2}, please.",
        "Fetch {a:object} and {a:object2}: the first for {the:target}, the second for {the:target2}.",
        "Lay {a:object} {on:target} and drop {a:object2} {on:target2}.",
    ),
    "swap": (
        "Swap {the:object} {on:source} with {the:object2} {on:source2}.",
        "Exchange {the:object} {from:source} and {the:object2} {from:source2}.",
        "{the:object} {on:source} and {the:object2} {on:source2} should trade places.",
        "Let {the:object} {on:source} and {the:object2} {on:source2} change places.",
        "Make {the:object} {on:source} switch places with {the:object2} {on:source2}.",
        "Bring {the:object} {from:source} to {the:source2}, and {the:object2} the other way.",
        "Could you switch around {the:object} {on:source} and {the:object2} {on:source2}?",
        "{the:source} should give {the:object} to {the:source2} and get {the:object2} in return.",
        "I mixed up {the:object} {on:source} and {the:object2} {on:source2}, please swap them.",
        "Carry {the:object} {from:source} to {the:source2}, then carry {the:object2} back.",
        "Take {the:object} to {the:source2} and {the:object2} to {the:source}, they are mixed up.",
        "{the:object} and {the:object2} should be exchanged between {the:source} and {the:source2}.",
    ),
    "clear": (
        "Remove {the:object} {from:source}.",
        "No {one:object} should be left {on:source}.",
        "Take every {one:object} away {from:source}.",
        "I do not want any {s:object} {on:source}.",
        "Free {the:source} of {s:object}.",
        "Get {the:object} {off:source}, anywhere else is fine.",
        "Make sure there are no {s:object} {on:source}.",
        "Find another spot for {the:object} {on:source}.",
        "Please tidy {s:object} away {from:source}.",
        "{the:object} must not stay {on:source}.",
        "Take {the:object} {off:source} and put {it:object} somewhere else.",
        "Could you rid {the:source} of any {s:object}?",
    ),
    "open_fridge": (
        "Open {the:target}.",
        "Please open {the:target} door.",
        "I want {the:target} to be open.",
        "Could you pull {the:target} open?",
        "Leave {the:target} open for me.",
        "Go to {the:target} and open the door.",
        "{the:target} should be standing open.",
        "Let me see what is inside {the:target}, open it.",
        "Make sure that {the:target} is open.",
        "Walk over to {the:target} and pull its door open.",
        "Someone shut {the:target}, I need it open.",
        "Get {the:target} open, please.",
    ),
    "close_fridge": (
        "Close {the:target}.",
        "Please shut {the:target}.",
        "I forgot to close {the:target}, do it for me.",
        "{the:target} door is open, close it.",
        "Push {the:target} shut.",
        "Go and shut the door of {the:target}.",
        "Make sure that {the:target} is closed.",
        "{the:target} should not be open.",
        "Could you close {the:target} door?",
        "Food is getting warm, shut {the:target}.",
        "Someone opened {the:target}, now close it again.",
        "I want {the:target} to be shut.",
    ),
    "go_to_receptacle": (
        "Go to {the:target}.",
        "Drive over to {the:target}.",
        "Walk to {the:target} and wait there.",
        "I need you at {the:target}.",
        "Please come to {the:target}.",
        "I will be waiting at {the:target}, join me.",
        "Stand in front of {the:target}.",
        "Could you head to {the:target}?",
        "Find {the:target} and stop there.",
        "Your next stop: {the:target}.",
        "Let us meet at {the:target}.",
        "Take yourself over to {the:target}.",
    ),
    "find_object": (
        "Find {a:object}.",
        "Look for {a:object} and stop in front of {it:object}.",
        "Go to {a:object}.",
        "Search the home for {a:object}.",
        "Show me where {a:object} can be found.",
        "Could you locate {a:object}?",
        "I am looking for {a:object}, go to one.",
        "Drive to a place with {a:object}.",
        "Stand close to {a:object}.",
        "Please walk up to {a:object}.",
        "I lost {a:object}, where could {it:object} be?",
        "Somewhere there should be {a:object}, go there.",
    ),
}

_EVAL: dict[str, tuple[str, ...]] = {
    "place_one": (
        "{the:target} needs {a:object} delivered promptly.",
        "My guests expect {a:object} waiting {on:target}.",
        "Grab whichever {one:object} you spot, destination: {the:target}.",
    ),
    "place_from": (
        "Kindly relocate {the:object}, currently lying {on:source}, {onto:target}.",
        "{the:target} suits {the:object} better than {the:source} does.",
        "Retrieve {the:object} {from:source}, destination: {the:target}.",
    ),
    "place_two": (
        "Gather {a:object} alongside {a:object2}; {the:target} awaits.",
        "My project requires {a:object} with {a:object2}, arranged {on:target}.",
        "Deliver {a:object}, afterwards {a:object2}, {onto:target}.",
    ),
    "place_two_apart": (
        "Supply {the:target} with {a:object}, also {the:target2} with {a:object2}.",
        "{a:object} belongs {on:target}, whereas {a:object2} belongs {on:target2}.",
        "Deposit {a:object} {on:target}, plus separately {a:object2} {on:target2}.",
    ),
    "swap": (
        "Reverse the positions of {the:object}, {on:source}, versus {the:object2}, {on:source2}.",
        "Interchange {the:object} ({the:source}) against {the:object2} ({the:source2}).",
        "Correct my mistake: {the:source2} takes {the:object}, {the:source} takes {the:object2}.",
    ),
    "clear": (
        "Banish all {s:object} {from:source} immediately.",
        "{the:source} looks cluttered, relocate its {s:object} elsewhere.",
        "Seeing {s:object} {on:source} annoys me.",
    ),
    "open_fridge": (
        "Unseal {the:target} so groceries fit.",
        "Swing {the:target} wide, letting cold air escape.",
        "Expose whatever {the:target} contains.",
    ),
    "close_fridge": (
        "Seal {the:target} before everything spoils.",
        "{the:target} wastes electricity, standing ajar.",
        "Stop cold air leaking out of {the:target}.",
    ),
    "go_to_receptacle": (
        "Approach {the:target}.",
        "Navigate until {the:target} lies right ahead.",
        "Position yourself near {the:target}.",
    ),
    "find_object": (
        "Track down {a:object}.",
        "Hunt around until {a:object} turns up.",
        "Discover whichever surface holds {a:object}.",
    ),
}

INSTRUCTION_TYPES: tuple[str, ...] = tuple(_TRAIN)

_INSIDE = frozenset({"sink", "fridge", "left drawer", "right drawer"})  # one is in these, and on the others
_SINGULAR = {"scissors": "pair of scissors", "lego": "lego brick"}
_PLURAL = {"scissors": "scissors", "lego": "lego bricks", "knife": "knives"}
_SLOT = re.compile(r"\{(\w+):(\w+)\}")


def wordings(kind: str, part: Part = "train") -> tuple[str, ...]:
    """Wordings of an instruction type, slots and all. `ValueError` for an unknown type or part."""
    if kind not in _TRAIN:
        raise ValueError(f"unknown instruction type {kind!r}; known: {', '.join(INSTRUCTION_TYPES)}")
    if part not in ("train", "eval"):
        raise ValueError(f"unknown part {part!r} of the wordings; known: train, eval")
    return (_TRAIN if part == "train" else _EVAL)[kind]


def wording_ids(kind: str, part: Part = "train") -> range:
    """Ids of a type's wordings: the training ones from 0 on, the evaluation ones after them."""
    first = 0 if part == "train" else len(wordings(kind, "train"))
    return range(first, first + len(wordings(kind, part)))


def render(kind: str, wording_id: int, slots: Mapping[str, str | int]) -> str:
    """The sentence of a wording, slots filled: `render("place_one", 0, {"object": "apple", "target": "sink"})`.

    Object slots (`object`, `object2`) take category names, receptacle slots (`source`, `source2`, `target`, `target2`)
    names from RECEPTACLES. `object_count` above 1 makes `the` and `it` plural. `ValueError` for an unknown wording or a
    missing slot."""
    texts = wordings(kind, "train") + wordings(kind, "eval")
    if not 0 <= wording_id < len(texts):
        raise ValueError(f"{kind} has no wording {wording_id}, it has {len(texts)}")

    def fill(match: re.Match[str]) -> str:
        form, slot = match.groups()
        if slot not in slots:
            raise ValueError(f"wording {wording_id} of {kind} needs the slot {slot!r}")
        word = str(slots[slot])
        if slot.startswith("object"):
            return _object_words(form, word, many=int(slots.get(f"{slot}_count", 1)) > 1)
        return _receptacle_words(form, word)

    text = _SLOT.sub(fill, texts[wording_id])
    return text[0].upper() + text[1:]


def _object_words(form: str, category: str, many: bool) -> str:
    one = _SINGULAR.get(category, category)
    if form == "one":
        return one
    if form == "a":
        return ("an " if one[0] in "aeiou" else "a ") + one
    if form == "s":
        return _plural(category)
    plural_only = category == "scissors"
    if form == "it":
        return "them" if many or plural_only else "it"
    return "the " + (_plural(category) if many or plural_only else one)


def _plural(category: str) -> str:
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
