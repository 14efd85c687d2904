"""Wordings: enough of them, short, correct English, and evaluation wordings unlike every training wording."""

import random
import re
from collections.abc import Iterator

import pytest

from llarp.tasks import instructions as ins
from llarp.tasks import phrases
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


LONGEST = {"object": "toy airplane", "object2": "screwdriver", "object3": "rubriks cube", "source": "brown table",
           "source2": "right counter", "target": "left counter", "target2": "black table", "target3": "right counter",
           "other": "strawberry", "other_place": "brown table", "state": "closed"}  # fmt: skip


def rendered(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` sentences (and their type) with random wordings and slots, the longest words among them."""
    rng = random.Random(seed)
    names = [r.name for r in RECEPTACLES]
    for i in range(count):
        kind = rng.choice(ins.INSTRUCTION_TYPES)
        category = rng.choice(CATEGORIES)
        places, objects = rng.sample(names, 6), rng.sample(CATEGORIES, 4)
        place = rng.choice(phrases.spatial_phrases(names.index(places[0]), names.index(places[1]), "right_of"))
        slots: dict[str, str | int] = dict(zip(("object", "object2", "object3", "other"), objects, strict=True))
        slots |= dict(zip(("source", "source2", "target", "target2", "target3", "other_place"), places, strict=True))
        slots |= {"state": rng.choice(("open", "closed")), "place": place}
        slots |= {"phrase": rng.choice(phrases.referring(category))}
        if i % 10 == 0:
            slots |= LONGEST
        if kind == "clear":
            slots["object_count"] = rng.choice((1, 2))
        if kind == "purpose":
            slots["phrase"] = rng.choice(phrases.purposes(category) or phrases.purposes("book"))
        if kind.endswith("_fridge") and kind != "if_fridge":
            slots["target"] = "fridge"
        wording = rng.choice([*ins.wording_ids(kind, "train"), *ins.wording_ids(kind, "eval")])
        yield kind, ins.render(kind, wording, slots)


def test_thousands_of_sentences_are_correct_as_far_as_a_pattern_can_tell():
    kinds = set()
    for kind, text in rendered(1, 6000):
        kinds.add(kind)
        assert text[0].isupper() and text[-1] in ".?", text
        assert not re.search(r"[{}_]|  | [,.;:?]|[,.;:?]{2}|[,.;:?][A-Za-z]", text), text
        assert not re.search(r"[.?] [a-z]", text), text  # every sentence begins with a capital
        assert not re.search(r"\ban (?=[^aeiou])|\ba (?=[aeio])|\ba (?=u(?!tensil))", text), text
        words = re.findall(r"[a-z']+", text.lower())
        assert not [w for w, after in zip(words, words[1:], strict=False) if w == after], text
        assert not re.search(r"\b(a|an|the) (a|an|the|something|every|any|no)\b", text.lower()), text
        assert not re.search(r"\b(on|onto|off) the (sink|fridge|left drawer|right drawer)\b", text), text
        assert not re.search(r"\b(in|into|out of) the (sofa|chair|TV stand|\w+ table|\w+ counter)\b", text), text
        assert not re.search(r"\b(a|every|each|one|whichever) (scissors|lego(?! brick))\b", text), text
        assert len(re.findall(r"\w+|[^\w\s]", text)) <= 45, text
    assert kinds == set(ins.INSTRUCTION_TYPES)


@pytest.mark.llm
def test_the_policy_has_room_for_every_instruction():
    from transformers import AutoTokenizer

    from llarp.policy import smollm
    from llarp.policy.config import PolicyConfig

    config = PolicyConfig()
    tokenizer = AutoTokenizer.from_pretrained(smollm.model_folder())
    texts = [config.prompt.format(instruction=text) for _, text in rendered(2, 6000)]
    longest = max(len(ids) for ids in tokenizer(texts)["input_ids"])
    assert longest + 1 <= config.max_instruction_tokens  # and the begin token


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
