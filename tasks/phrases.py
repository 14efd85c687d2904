"""Phrases for test splits, in our own words: objects by their look or their use, places by what they stand next to.

Each phrase brings its article and fits exactly one of the 33 categories; it names no category and no receptacle. Looks
are true of every object model of the category (llarp/sim/objects.py), held-out ones included. No training uses any.
"""

from __future__ import annotations

from itertools import product

from . import extensions
from .entities import CATEGORY_INDEX, NUM_RECEPTACLES, RECEPTACLES

_LOOKS: dict[str, tuple[str, ...]] = {
    "ball": ("a perfectly round toy", "a big sphere with a painted pattern"),
    "clamp": ("a C-shaped frame with a threaded rod through one arm", "a U-shaped bracket with a cross handle"),
    "hammer": ("a tool with a wooden handle and a heavy metal head", "a tool with a split claw opposite a flat face"),
    "screwdriver": ("a thin metal shaft in a chunky bright grip", "a slim straight tool with a fat colourful handle"),
    "padlock": ("a squat metal body with a hoop on top", "a small metal thing with a keyhole and a curved bar"),
    "scissors": ("a tool with two crossed blades", "a tool with a finger loop on either handle"),
    "block": ("a wooden cube with a painted sign", "a wooden toy with flat square sides"),
    "drill": ("a pistol-shaped power tool", "a cordless machine with a slanted grip and a pointed bit"),
    "spatula": ("a long-handled tool with a broad slotted end", "a wide flat blade with slits, on a long handle"),
    "knife": ("a single sharp blade on a brown or black handle", "a utensil with a riveted grip and a pointed blade"),
    "spoon": ("a utensil with an oval hollow at one end", "a piece of cutlery with a rounded scoop"),
    "plate": ("a wide and nearly flat dish", "a shallow round dish with a ring of colour"),
    "sponge": ("a soft yellowish slab with a greenish underside", "a rectangular pad full of little pores"),
    "cleanser": ("a tall plastic bottle", "a white or light blue bottle with a label around it"),
    "plum": ("a round fruit with very dark purple skin", "a fruit that is almost black, with a shade of violet"),
    "pear": ("a greenish fruit with a narrow neck", "a bell-shaped fruit with a thick bottom"),
    "peach": ("an apricot-coloured fruit with a crease down its side", "a salmon-coloured fruit with a blushing cheek"),
    "apple": ("a dimpled round fruit with a thin stem", "a round fruit that is either bright red or green"),
    "lemon": ("a yellow fruit with two pointed ends", "an oval fruit with bright yellow skin"),
    "can": ("a metal cylinder with a printed label", "a cylinder with silvery rims at both ends"),
    "box": ("a tall thin package with a badge on its front", "an upright cardboard package"),
    "banana": ("a long bent fruit", "a crescent-shaped fruit in yellow peel"),
    "strawberry": ("a cone-shaped red fruit dotted with seeds", "a seedy red fruit with a leafy green cap"),
    "lego": ("a plastic toy with round studs on top", "a single-coloured toy with rows of knobs"),
    "rubriks cube": ("a toy with nine coloured squares on a side", "a puzzle covered with stickers in six colours"),
    "book": ("a stack of white pages between two covers", "a flat thing with a spine, a title and many pages"),
    "bowl": ("a deep round dish", "a round dish with high sides and a foot"),
    "cup": ("a pink or purple drinking vessel", "a drinking vessel that widens upward and has no handle"),
    "mug": ("a drinking vessel with a large handle", "a straight-sided vessel with an ear and a dark drink inside"),
    "orange": ("a round citrus fruit", "a round fruit with a pitted skin and a little green navel"),
    "lid": ("a low metal dome with a dark knob", "a shallow silvery dome that has a rim"),
    "toy airplane": ("a winged thing with a propeller in front", "a small model with a tail, two wings and wheels"),
    "wrench": ("a flat grey metal tool with an open jaw", "a steel bar that ends in a two-pronged jaw"),
}

_PURPOSES: dict[str, tuple[str, ...]] = {
    "ball": ("something to kick around in the garden", "something to bounce on the floor"),
    "clamp": ("something to press two boards together while the glue dries", "a tool that holds a workpiece tight"),
    "hammer": ("something to drive nails into a wall", "a tool for hanging pictures on nails"),
    "screwdriver": ("a hand tool to fasten a loose hinge with", "a hand tool for slotted and cross-headed fasteners"),
    "padlock": ("something to keep a garden gate shut", "something to guard a bicycle against thieves"),
    "scissors": ("something to snip ribbons with", "something to trim my fringe with"),
    "block": ("something for a toddler to stack and spell with", "a toy for learning the alphabet by hand"),
    "drill": ("something to bore holes in a wall with", "a power tool for making holes"),
    "spatula": ("something to flip pancakes with", "something to turn eggs over in a pan"),
    "knife": ("something to chop vegetables with", "something to carve a roast with"),
    "spoon": ("something to eat soup with", "something to stir tea with"),
    "plate": ("something to serve a slice of cake on", "something to put my sandwich on"),
    "sponge": ("something to soak up spilled milk with", "something absorbent to wipe the dishes with"),
    "cleanser": ("a liquid against stains on bathroom tiles", "something chemical that removes grime"),
    "plum": ("a fruit to dry for prunes", "a fruit that prunes are made from"),
    "pear": ("a fruit for pressing perry", "a fruit that perry is made from"),
    "peach": ("a fruit for mixing Bellini cocktails", "a fruit for a dessert in the style of Melba"),
    "apple": ("a fruit for making cider", "a fruit to bake into a strudel"),
    "lemon": ("something sour to squeeze over fish", "a sour thing to flavour tea with"),
    "can": ("something to eat that keeps for years", "a meal that needs an opener"),
    "box": ("something crunchy to pour milk over", "a supply of breakfast flakes"),
    "banana": ("a fruit that monkeys love to peel", "a fruit for making a split sundae"),
    "strawberry": ("a fruit to eat with cream at Wimbledon", "a fruit for pink milkshakes and shortcake"),
    "lego": ("a piece for a child's plastic castle", "a part that snaps onto others of its kind"),
    "rubriks cube": ("a puzzle to twist with both hands", "something to solve by turning rows of colours"),
    "book": ("something to read before falling asleep", "something to return to the library"),
    "bowl": ("something to eat cereal out of", "something to toss a salad in"),
    "orange": ("a fruit for making marmalade", "a fruit to squeeze for breakfast juice"),
    "lid": ("something to cover a boiling pot with", "something to keep steam in a pot"),
    "toy airplane": ("a gift for a child who wants to be a pilot", "a plaything for dreaming of flying"),
    "wrench": ("a tool for tightening hexagonal nuts", "a tool to loosen the nuts of a bicycle with"),
}

_LOOKS |= {kind.name: kind.looks for kind in extensions.OBJECTS}
_PURPOSES |= {kind.name: kind.uses for kind in extensions.OBJECTS}

RELATIONS = ("left_of", "right_of", "beside")
"""What `spatial_phrases` has words for: where the place is, as one sees it who faces the anchor."""

_SPOTS = ("spot", "place", "location")
_RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left_of": ("left of", "to the left of", "on the left-hand side of"),
    "right_of": ("right of", "to the right of", "on the right-hand side of"),
    "beside": ("next to", "beside", "adjacent to"),
}


def referring(category: str) -> tuple[str, ...]:
    """Phrases for a category by its look; every category has some. `ValueError` for an unknown category."""
    _check(category)
    return _LOOKS[category]


def purposes(category: str) -> tuple[str, ...]:
    """Phrases for a category by its use; none where no use is its alone. `ValueError` for an unknown category."""
    _check(category)
    return _PURPOSES.get(category, ())


def spatial_phrases(target: int, anchor: int, relation: str) -> tuple[str, ...]:
    """Phrases for receptacle `target` as the one in a relation to receptacle `anchor`: "the spot left of the sink".

    `target` and `anchor` index RECEPTACLES, `relation` is one of RELATIONS; whether it holds is for the caller to know.
    `ValueError` for anything else, or for a place beside itself."""
    for index in (target, anchor):
        if not 0 <= index < NUM_RECEPTACLES:
            raise ValueError(f"there is no receptacle {index}, there are {NUM_RECEPTACLES}")
    if target == anchor:
        raise ValueError(f"the {RECEPTACLES[target].name} cannot be described by itself")
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r}; known: {', '.join(RELATIONS)}")
    pairs = product(_SPOTS, _RELATION_WORDS[relation])
    return tuple(f"the {spot} {words} the {RECEPTACLES[anchor].name}" for spot, words in pairs)


def all_phrases() -> frozenset[str]:
    """Every phrase there is: what must never be met in training."""
    objects = {phrase for table in (_LOOKS, _PURPOSES) for phrases in table.values() for phrase in phrases}
    anchors = range(NUM_RECEPTACLES)
    places = {
        phrase
        for anchor in anchors
        for relation in RELATIONS
        for phrase in spatial_phrases(0 if anchor else 1, anchor, relation)
    }
    return frozenset(objects | places)


def _check(category: str) -> None:
    if category not in CATEGORY_INDEX:
        raise ValueError(f"unknown object category {category!r}")
