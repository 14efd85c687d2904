"""Which splits form the paper's two groups, and the numbers ours stand beside: those published, or a file's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llarp.errors import UserError

GROUPS: dict[str, tuple[str, ...]] = {
    "paraphrastic_robustness": (
        "rephrasing", "referring_expressions", "spatial_relationships", "context", "irrelevant_text",
    ),
    "behaviour_generalisation": (
        "novel_objects", "multiple_rearrangements", "multiple_objects", "conditional_instructions",
    ),
}  # fmt: skip
"""The paper's groups (arXiv 2310.17722, sec. 4): tasks as in training said in other ways, and tasks that take other
actions than any in training. Each counts as the mean of its splits."""

TESTS: dict[str, str] = {
    "train_validation": "training apartments, new arrangements",
    "new_scenes": "apartments never seen",
    "rephrasing": "new wordings",
    "novel_objects": "kinds of objects never asked for",
    "multiple_rearrangements": "all objects of a kind (the paper calls this Multiple Objects)",
    "referring_expressions": "objects called by their look",
    "context": "objects called by their use",
    "irrelevant_text": "clauses that distract",
    "multiple_objects": "three objects (the paper calls this Multiple Rearrangements)",
    "spatial_relationships": "places called by what they are beside",
    "conditional_instructions": "an action that depends on the fridge",
}
"""What each evaluation split tests. The published files named multiple_* are swapped against the paper's names."""

NOT_UNSEEN = ("train", "train_validation")
"""Splits that do not count in the total, which is over unseen tasks."""


@dataclass(frozen=True)
class Results:
    """Success rates of somebody else: by split, by group, and in total; what is not known is left out."""

    name: str
    source: str
    splits: Mapping[str, float] = field(default_factory=dict)
    total: float | None = None
    dataset: str = "published files"
    rules: str = "published"

    def group(self, members: Iterable[str]) -> float | None:
        """The mean over the splits of a group; None if one of them is not known."""
        rates = [self.splits.get(name) for name in members]
        known = [rate for rate in rates if rate is not None]
        return sum(known) / len(known) if known and len(known) == len(rates) else None


LLARP = Results(
    name="LLaRP (LLaMA-7B)",
    source="A. Szot et al., Large Language Models as Generalizable Policies for Embodied Tasks, arXiv 2310.17722: 42 % "
    "of 1,000 unseen tasks, from the abstract; the rates by split, from its table of results, were entered from memory "
    "and only checked against that total: look them up before quoting them",
    splits={
        "train_validation": 0.99,
        "new_scenes": 0.96,
        "rephrasing": 0.92,
        "novel_objects": 0.95,
        "multiple_objects": 0.47,  # the paper's Multiple Rearrangements
        "referring_expressions": 0.26,
        "context": 0.34,
        "irrelevant_text": 0.32,
        "multiple_rearrangements": 0.0,  # the paper's Multiple Objects
        "spatial_relationships": 0.08,
        "conditional_instructions": 0.39,
    },
    total=0.42,
)


def read_results(path: Path) -> Results:
    """Results from a JSON file: what an earlier `llarp eval out=` wrote, or numbers of a paper put in by hand.

    `splits` maps names to rates between 0 and 1 or to objects with `success_rate`; `total`, `name` and `source` may be
    absent. UserError, which names the file, for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"compare={path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"compare={path} is no JSON file") from None
    if not isinstance(data, dict) or not isinstance(data.get("splits"), dict):
        raise UserError(f'compare={path} must hold an object with "splits": {{"new_scenes": 0.5, ...}}')
    splits = {str(name): _rate(path, f"splits.{name}", value) for name, value in data["splits"].items()}
    total = data.get("total")
    return Results(
        name=str(data.get("name") or data.get("policy") or path.stem)[:60],
        source=str(data.get("source") or path.name)[:300],
        splits=splits,
        total=None if total is None else _rate(path, "total", total),
        dataset=kind_of_dataset(str(data.get("dataset") or "published files"))[:100],
        rules=str(data.get("rules") or "published")[:20],
    )


def kind_of_dataset(dataset: str) -> str:
    """"published files" for those, whatever they are called; else the name as it is."""
    return "published files" if dataset.endswith((".pickle", ".pkl")) else dataset


def _rate(path: Path, key: str, value: Any) -> float:
    if isinstance(value, dict):
        value = value.get("success_rate")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f"compare={path}: {key} must be a rate between 0 and 1")
    return float(value)
