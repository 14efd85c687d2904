"""Phrases: enough of them, one thing each, no name given away, and true of the object models where that can be read."""

import re
from collections import Counter

import pytest

from llarp.tasks import phrases
from llarp.tasks.entities import CATEGORIES, NUM_RECEPTACLES, NUM_TRAIN_CATEGORIES, RECEPTACLES
from llarp.tasks.instructions import INSTRUCTION_TYPES, TRAINING_TYPES, wording_ids, wordings

SYNONYMS = {
    "ball": "ball football", "clamp": "clamp vice vise", "hammer": "hammer mallet", "screwdriver": "screw driver",
    "padlock": "padlock lock pad", "scissors": "scissor shears", "block": "block", "drill": "drill",
    "spatula": "spatula turner flipper", "knife": "knife knives cutter", "spoon": "spoon ladle",
    "plate": "plate saucer", "sponge": "spong", "cleanser": "clean detergent", "plum": "plum", "pear": "pear",
    "peach": "peach nectarine", "apple": "apple", "lemon": "lemon", "can": "can canned tin", "box": "box carton",
    "banana": "banana", "strawberry": "straw berry", "lego": "lego brick", "rubriks cube": "rubik rubrik cube",
    "book": "book novel", "bowl": "bowl", "cup": "cup mug tumbler glass beaker", "mug": "mug cup",
    "orange": "orange tangerine mandarin", "lid": "lid cover", "toy airplane": "toy airplane aeroplane plane jet",
    "wrench": "wrench spanner",
}  # fmt: skip
SHORT = {"can", "tin", "pad", "lid", "cup", "mug", "jet", "toy"}  # stems that other words begin with: whole words only


def words_of(phrase: str) -> list[str]:
    return re.findall(r"[a-z]+", phrase.lower())


@pytest.mark.parametrize("table", [phrases.referring, phrases.purposes])
def test_at_least_thirty_phrases_over_twenty_training_categories_and_none_twice(table):
    found = {c: table(c) for c in CATEGORIES}
    every = [p for ps in found.values() for p in ps]
    assert len(every) >= 30 and len(set(every)) == len(every)
    assert sum(bool(found[c]) for c in CATEGORIES[:NUM_TRAIN_CATEGORIES]) >= 20


@pytest.mark.parametrize("table", [phrases.referring, phrases.purposes])
def test_no_phrase_names_its_category_or_a_word_for_it(table):
    for category in CATEGORIES:
        for phrase in table(category):
            for stem in SYNONYMS[category].split():
                if category == "lid" and table is phrases.purposes and stem == "cover":
                    continue  # what it is for: "to cover a pot"
                pattern = rf"\b{stem}(s|es)?\b" if stem in SHORT else rf"\b\w*{stem}"
                assert not re.search(pattern, phrase), (category, stem, phrase)


def test_no_phrase_names_any_thing_or_place_of_the_benchmark():
    names = {re.escape(n) for n in CATEGORIES} | {re.escape(r.name.lower()) for r in RECEPTACLES}
    named = re.compile(rf"\b({'|'.join(names)})(s|es)?\b")
    for category in CATEGORIES:
        for phrase in phrases.referring(category) + phrases.purposes(category):
            assert not named.search(phrase), phrase


def test_phrases_bring_their_article_and_are_short():
    for category in CATEGORIES:
        for phrase in phrases.referring(category) + phrases.purposes(category):
            first, second, *_ = words_of(phrase)
            assert first in ("a", "an", "something")
            if first != "something":
                assert (first == "an") == (second[0] in "aeiou" and second not in ("u", "utensil")), phrase
            assert len(words_of(phrase)) <= 12 and phrase == phrase.strip(" .") and "  " not in phrase


def test_no_phrase_fits_two_categories():
    count = Counter(p for c in CATEGORIES for p in {*phrases.referring(c), *phrases.purposes(c)})
    assert max(count.values()) == 1


def test_training_wordings_know_no_phrase():
    training = " ".join(w.lower() for kind in INSTRUCTION_TYPES for w in wordings(kind, "train"))
    assert not [p for p in phrases.all_phrases() if p in training]
    for kind in TRAINING_TYPES:
        for i in wording_ids(kind):
            assert ":phrase}" not in wordings(kind)[i] and ":place}" not in wordings(kind)[i]


COLOURS = {
    "red": {"red", "crimson", "scarlet"}, "green": {"green", "lime", "leaf", "dark green"},
    "yellow": {"yellow", "lemon", "gold", "amber"}, "greenish": {"green", "dark green", "teal", "leaf"},
    "yellowish": {"yellow", "lemon", "gold", "amber"}, "purple": {"plum", "aubergine", "violet", "lilac", "magenta"},
    "pink": {"pink", "magenta"}, "grey": {"grey", "steel"}, "silvery": {"silver", "steel", "grey"},
    "brown": {"brown", "dark brown", "wood"}, "black": {"black", "charcoal"}, "white": {"white"},
    "blue": {"sky", "cyan", "blue", "navy"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("category", "argument", "said"),
    [
        ("knife", "handle", "brown black"), ("sponge", "top", "yellowish"), ("sponge", "bottom", "greenish"),
        ("cleanser", "bottle", "white blue"), ("plum", "skin", "purple"), ("apple", "skin", "red green"),
        ("lemon", "skin", "yellow"), ("banana", "skin", "yellow"), ("strawberry", "skin", "red"),
        ("cup", "outside", "pink purple"), ("lid", "dome", "silvery"), ("wrench", "color", "grey"),
    ],
)  # fmt: skip
def test_colours_that_phrases_name_are_those_of_every_model(category, argument, said):
    from llarp.sim.objects import _MODELS

    text = " ".join(phrases.referring(category))
    assert all(colour in text for colour in said.split())
    meant = set().union(*(COLOURS[colour] for colour in said.split()))
    assert {model[argument] for model in _MODELS[category][1]} <= meant


def test_places_are_described_by_their_neighbour_alone():
    sink, left = 4, 6
    assert "the spot right of the left counter" in phrases.spatial_phrases(sink, left, "right_of")
    for relation in phrases.RELATIONS:
        for anchor in range(NUM_RECEPTACLES):
            target = (anchor + 1) % NUM_RECEPTACLES
            made = phrases.spatial_phrases(target, anchor, relation)
            assert len(set(made)) == len(made) >= 3
            assert all(p.startswith("the ") and p.endswith(f" the {RECEPTACLES[anchor].name}") for p in made)
            assert set(made) <= phrases.all_phrases()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4, 4, "beside"), "by itself"), ((4, 5, "under"), "'under'"), ((4, 11, "beside"), "no receptacle 11"),
     ((-1, 3, "beside"), "no receptacle -1")],
)  # fmt: skip
def test_places_that_cannot_be_described(arguments, message):
    with pytest.raises(ValueError, match=message):
        phrases.spatial_phrases(*arguments)


def test_unknown_categories_have_no_phrases():
    for table in (phrases.referring, phrases.purposes):
        with pytest.raises(ValueError, match="'sword'"):
            table("sword")
