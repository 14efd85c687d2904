"""Wordings: enough of them, short, correct English, and evaluation wordings unlike every training wording."""

import re

import pytest

from llarp.tasks import instructions as ins
from llarp.tasks.entities import CATEGORIES, RECEPTACLES

SLOTS = {"object": "apple", "object2": "knife", "source": "sink", "source2": "sofa", "target": "sofa",
         "target2": "TV stand", "object3": "pear", "target3": "sink", "other": "book", "other_place": "brown table",
         "phrase": "a long bent fruit", "place": "the spot left of the sink", "state": "open"}


def bare_words(wording: str) -> set[str]:
    return set(re.findall(r"[a-z']+", re.sub(r"\{[^}]*\}", " ", wording).lower()))


def test_every_type_has_enough_wordings_and_none_twice():
    every = [w for kind in ins.INSTRUCTION_TYPES for part in ("train", "eval") for w in ins.wordings(kind, part)]
    assert len(set(every)) == len(every)
    for kind in ins.INSTRUCTION_TYPES:
        assert len(ins.wordings(kind, "train")) >= 11 and len(ins.wordings(kind, "eval")) >= 3


def test_evaluation_wordings_share_at_most_half_their_words_with_any_training_wording():
    train = [bare_words(w) for kind in ins.INSTRUCTION_TYPES for w in ins.wordings(kind, "train")]
    for kind in ins.INSTRUCTION_TYPES:
        for wording in ins.wordings(kind, "eval"):
            words = bare_words(wording)
            assert words, wording
            for other in train:
                assert len(words & other) <= len(words) / 2, (wording, words & other)


def test_evaluation_ids_follow_the_training_ids():
    kind = "place_one"
    train, held = ins.wording_ids(kind, "train"), ins.wording_ids(kind, "eval")
    assert list(train) + list(held) == list(range(len(train) + len(held)))
    text = ins.render(kind, held[0], SLOTS)
    assert text == "The sofa needs an apple delivered promptly."


@pytest.mark.parametrize(
    ("kind", "wording", "slots", "text"),
    [
        ("place_one", 0, {"object": "apple", "target": "sink"}, "Put an apple in the sink."),
        ("place_one", 1, {"object": "scissors", "target": "sofa"},
         "Find a pair of scissors and bring them to the sofa."),
        ("place_from", 0, {"object": "lego", "source": "sink", "target": "TV stand"},
         "Take the lego brick out of the sink and put it on the TV stand."),
        ("clear", 2, {"object": "knife", "source": "sofa"}, "Take every knife away from the sofa."),
        ("clear", 3, {"object": "strawberry", "source": "sofa"}, "I do not want any strawberries on the sofa."),
        ("clear", 10, {"object": "peach", "object_count": 2, "source": "sofa"},
         "Take the peaches off the sofa and put them somewhere else."),
        ("clear", 4, {"object": "box", "source": "black table"}, "Free the black table of boxes."),
        ("close_fridge", 4, {"target": "fridge"}, "Push the fridge shut."),
    ],
)
def test_rendered_english(kind, wording, slots, text):
    assert ins.render(kind, wording, slots) == text


def test_every_sentence_is_whole_and_short():
    longest = {"object": "rubriks cube", "object2": "screwdriver", "source": "brown table", "source2": "right counter",
               "target": "left counter", "target2": "black table", "object3": "toy airplane",
               "target3": "right counter", "other": "strawberry", "other_place": "brown table", "state": "closed",
               "phrase": "a U-shaped bracket with a long screw",
               "place": "the location on the right-hand side of the right counter"}
    for kind in ins.INSTRUCTION_TYPES:
        for i in [*ins.wording_ids(kind, "train"), *ins.wording_ids(kind, "eval")]:
            for slots in (SLOTS, SLOTS | longest, SLOTS | {"target": "fridge"}):
                text = ins.render(kind, i, slots)
                assert text[0].isupper() and text[-1] in ".?" and "{" not in text and "  " not in text
                assert len(re.findall(r"\w+|[^\w\s]", text)) <= 40
                assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\b(a|an|the) (a|an|the)\b", text), text


def test_every_entity_has_words():
    for category in CATEGORIES:
        text = ins.render("place_one", 0, {"object": category, "target": "sofa"})
        assert category in text
        assert ins.render("clear", 3, {"object": category, "source": "sofa"}).endswith("s on the sofa.")
    for receptacle in RECEPTACLES:
        assert receptacle.name in ins.render("place_one", 0, {"object": "cup", "target": receptacle.name})


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="juggle"):
        ins.wordings("juggle")
    with pytest.raises(ValueError, match="part 'test'"):
        ins.wordings("clear", "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no wording 99"):
        ins.render("clear", 99, SLOTS)
    with pytest.raises(ValueError, match="slot 'object2'"):
        ins.render("swap", 0, {"object": "cup", "source": "sink", "source2": "sofa"})
