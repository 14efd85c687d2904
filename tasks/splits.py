"""The splits: which scenes, object models, wordings and kinds of task each is made of, and in which shares.

The two `multiple_*` names are those of the published files, which are swapped against the paper's own definitions: the
paper's "Multiple Objects" are the "all of them" tasks, here multiple_rearrangements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .arrangements import NUM_OBJECTS
from .entities import NOVEL_KINDS, TRAINING_KINDS
from .instructions import Part

MANY_OBJECTS = (51, 52, 53)
"""How many objects a room holds in "all of them" tasks, as in the published file."""


@dataclass(frozen=True)
class SplitSpec:
    """What episodes of a split are made of."""

    scenes: str  # "train" or "heldout"
    models: str  # the same, of object models
    wordings: Part
    shares: Mapping[str, float]  # instruction types; sums to 1
    novel: bool = False  # tasks are about the held-out categories, which lie in these rooms only
    num_objects: tuple[int, int, int] = NUM_OBJECTS  # a room's number of objects: the middle one in 8 of 10

    @property
    def categories(self) -> Sequence[int]:
        """Object categories that tasks of the split are about."""
        return NOVEL_KINDS if self.novel else TRAINING_KINDS


_TRAIN = {
    "place_one": 0.16, "place_from": 0.13, "place_two": 0.12, "place_two_apart": 0.20, "swap": 0.10, "clear": 0.10,
    "close_fridge": 0.05, "open_fridge": 0.03, "go_to_receptacle": 0.06, "find_object": 0.05,
}
_PUBLISHED_TRAIN = {
    "place_one": 0.29, "place_two": 0.15, "close_fridge": 0.15, "place_from": 0.15, "go_to_receptacle": 0.14,
    "clear": 0.12,
}
_NEW_SCENES = {
    "place_one": 0.22, "place_from": 0.22, "place_two": 0.18, "swap": 0.14, "clear": 0.14, "open_fridge": 0.05,
    "close_fridge": 0.05,
}
_REPHRASING = {"place_two": 0.16, "place_one": 0.15, "clear": 0.25, "place_from": 0.29, "close_fridge": 0.15}


SPLITS: dict[str, SplitSpec] = {
    # all ten types, those of several steps more often than in the published files
    "train": SplitSpec("train", "train", "train", _TRAIN),
    "train_validation": SplitSpec("train", "train", "train", _PUBLISHED_TRAIN),
    "new_scenes": SplitSpec("heldout", "heldout", "train", _NEW_SCENES),
    "rephrasing": SplitSpec("heldout", "heldout", "eval", _REPHRASING),
    "novel_objects": SplitSpec("heldout", "heldout", "train", {"place_one": 0.5, "place_from": 0.5}, novel=True),
    "multiple_rearrangements": SplitSpec("heldout", "heldout", "eval", {"place_all": 1.0}, num_objects=MANY_OBJECTS),
    "referring_expressions": SplitSpec("heldout", "heldout", "eval", {"refer": 1.0}),
    "context": SplitSpec("heldout", "heldout", "eval", {"purpose": 1.0}),
    "irrelevant_text": SplitSpec("heldout", "heldout", "eval", {"distracted": 1.0}),
    "multiple_objects": SplitSpec("heldout", "heldout", "eval", {"place_three": 1.0}),
    "spatial_relationships": SplitSpec("heldout", "heldout", "eval", {"spatial": 1.0}),
    "conditional_instructions": SplitSpec("heldout", "heldout", "eval", {"if_fridge": 1.0}),
}
"""The splits, with the shares of the published files (but `train`)."""
