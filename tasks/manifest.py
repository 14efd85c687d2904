"""Proof that training and evaluation are disjoint: what every training stage was shown, compared with a split.

A manifest is a JSON file to which each training stage adds what it shows before it begins. `check` names every leak.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .exposure import Exposure, ManifestError, Wording

__all__ = ["DISJOINT", "Leak", "Manifest", "ManifestError", "check", "required"]

FORMAT_VERSION = 1

_HELD_OUT = ("layout", "model", "episode")
_NEW_TASKS = (*_HELD_OUT, "wording", "type")
DISJOINT: dict[str, tuple[str, ...]] = {
    "train_validation": ("episode",),
    "new_scenes": _HELD_OUT,
    "rephrasing": (*_HELD_OUT, "wording"),
    "novel_objects": (*_HELD_OUT, "category"),
    "multiple_rearrangements": _NEW_TASKS,
    "referring_expressions": (*_NEW_TASKS, "phrase"),
    "context": (*_NEW_TASKS, "phrase"),
    "irrelevant_text": _NEW_TASKS,
    "multiple_objects": _NEW_TASKS,
    "spatial_relationships": (*_NEW_TASKS, "phrase"),
    "conditional_instructions": _NEW_TASKS,
}
"""What of each evaluation split must not occur in training."""
_OURS_ALONE = ("model", "type")
"""Not asked of published files: all their splits share the object models, and their types are only the goals' forms."""


@dataclass(frozen=True)
class Leak:
    """Something of an evaluation split that training has seen."""

    split: str
    kind: str  # "wording", "phrase", "category", "layout", "model", "type" or "episode"
    what: str

    def __str__(self) -> str:
        return f"{self.split}: {self.kind}: {self.what}"


@dataclass
class Manifest:
    """The stages of a training run, in order, and what each was shown (index into `shown`)."""

    stages: list[tuple[str, int]] = field(default_factory=list)
    shown: list[Exposure] = field(default_factory=list)

    def add(self, stage: str, exposure: Exposure) -> None:
        """Enter a stage; one that is entered again with the same data is kept once."""
        same = [i for i, known in enumerate(self.shown) if known.same_as(exposure)]
        if not same:
            self.shown.append(exposure)
        entry = (stage, same[0] if same else len(self.shown) - 1)
        if entry not in self.stages:
            self.stages.append(entry)

    def to_json(self) -> str:
        """The file's text."""
        stages = [{"stage": stage, "shown": index} for stage, index in self.stages]
        shown = [exposure.to_dict() for exposure in self.shown]
        return json.dumps({"format_version": FORMAT_VERSION, "stages": stages, "shown": shown}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """What `to_json` wrote. `ManifestError`, one line, for anything else."""
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError):
            raise ManifestError("no manifest: it cannot be read as JSON") from None
        if not isinstance(plain, dict) or plain.get("format_version") != FORMAT_VERSION:
            raise ManifestError(f"no manifest of format version {FORMAT_VERSION}")
        stages, shown = plain.get("stages"), plain.get("shown")
        if not isinstance(stages, list) or not isinstance(shown, list) or not stages:
            raise ManifestError("it names no training stage, or not what it was shown")
        manifest = cls([_stage(entry, len(shown)) for entry in stages], [Exposure.from_dict(x) for x in shown])
        if {index for _, index in manifest.stages} != set(range(len(shown))):
            raise ManifestError("it holds data that no stage was shown")
        return manifest


def _stage(entry: Any, num_shown: int) -> tuple[str, int]:
    stage, index = (entry.get("stage"), entry.get("shown")) if isinstance(entry, dict) else (None, None)
    if not isinstance(stage, str) or type(index) is not int or not 0 <= index < num_shown:
        raise ManifestError(f"{str(entry)[:60]!r} is no training stage")
    return stage, index


def required(split: str, published: bool) -> tuple[str, ...]:
    """What must be disjoint for a split. `ManifestError` for one that is no evaluation split."""
    if split not in DISJOINT:
        raise ManifestError(f"split {split!r} is no evaluation split; those are {', '.join(DISJOINT)}")
    return tuple(kind for kind in DISJOINT[split] if not (published and kind in _OURS_ALONE))


def check(manifest: Manifest, evaluation: Exposure, split: str) -> list[Leak]:
    """Everything of an evaluation split that a training stage was shown and must not have been; none: disjoint."""
    leaks = []
    for index, shown in enumerate(manifest.shown):
        stages = ", ".join(stage for stage, i in manifest.stages if i == index)
        found = {
            "wording": _wordings,
            "phrase": _phrases,
            "category": _categories,
            "layout": _layouts,
            "model": _models,
            "type": _types,
            "episode": _episodes,
        }
        for kind in required(split, evaluation.published):
            leaks += [Leak(split, kind, f"{what} (stage {stages})") for what in found[kind](evaluation, shown)]
    return leaks


def shares_more_than_half(held_out: Wording, trained: Wording) -> bool:
    """Whether more than half the words of a held-out wording, slots removed, are in one used in training."""
    words, known = held_out.words, set(trained.words)
    shared = sum(word in known for word in words)
    return 2 * shared > len(words) or 2 * len(known & set(words)) > len(set(words))


def _wordings(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    """Our wordings by the words they share; others only where they are the same."""
    for held_out in evaluation.wordings:
        for trained in shown.wordings:
            if held_out.id < 0 or trained.id < 0:
                if held_out.spelled == trained.spelled:
                    yield f"{held_out.text!r} was used in training"
                    break
            elif shares_more_than_half(held_out, trained):
                yield f"{held_out.text!r} has more than half its words in {trained.text!r}"
                break


def _phrases(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    for phrase in sorted(set(evaluation.phrases) & set(shown.phrases)):
        yield f"{phrase!r} was used in training"


def _categories(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    """Target categories that training had as targets; on built-in data also those that only lay about."""
    for category in sorted(set(evaluation.targets) & (set(shown.targets) | set(shown.categories))):
        if category in shown.targets:
            yield f"{category!r} was wanted in training"
        elif not shown.published:
            yield f"{category!r} lay about in training"


def _layouts(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    names = sorted(set(evaluation.layouts) & set(shown.layouts))
    for name in names:
        yield f"{name!r} is a scene of training"
    if shapes := set(evaluation.shapes) & set(shown.shapes):
        if not names:
            yield f"the furniture of {len(shapes)} of its scenes stands as in scenes of training with other names"


def _models(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    for model in sorted(set(evaluation.models) & set(shown.models)):
        yield f"{model!r} was in rooms of training"


def _types(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    for kind in sorted(set(evaluation.types) & set(shown.types)):
        yield f"instructions of type {kind!r} were given in training"


def _episodes(evaluation: Exposure, shown: Exposure) -> Iterator[str]:
    for row in np.flatnonzero(np.isin(evaluation.keys, shown.keys)).tolist():
        name = evaluation.ids[row] if evaluation.ids else row
        yield f"scene, arrangement and goal of episode {name} were played in training"
