"""Results in words, for people; the JSON file has everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def summary_lines(result: Any) -> Iterable[str]:
    """A few lines that say what came out."""
    if isinstance(result, list):
        solved = sum(any(row["success"]) for row in result)
        yield f"{len(result)} sequences replayed, {solved} with success"
        return
    for key, value in result.items():
        if key == "splits":
            for split, row in value.items():
                yield f"{split}: {rates(row)}"
                if row.get("failures"):
                    counts = sorted(row["failures"].items(), key=lambda item: -item[1])
                    yield "    failed: " + ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in counts)
        elif key == "evaluations":
            for when, row in value.items():
                yield f"held-out episodes {when}: {rates(row)}"
                if "pick_and_place" in row:
                    yield f"held-out episodes {when}, pick and place only: {rates(row['pick_and_place'])}"
        elif key == "disjoint":
            for split, row in value.items():
                found = f"{len(row['leaks'])} leaks" if row["leaks"] else "disjoint from training"
                yield f"{split}: {row['episodes']} episodes, {found} ({', '.join(row['disjoint_in'])})"
        elif key == "leaks":
            yield from (f"leak: {leak}" for leak in value)
        elif key == "checks":
            for check in value:
                yield f"[{'ok' if check['ok'] else '--'}] {check['name']}: {check['detail']}"
                if not check["ok"]:
                    yield f"     fix: {check['fix']}"
        elif isinstance(value, dict) and {"success_rate", "ci95", "episodes"} <= value.keys():
            yield f"{key.replace('_', ' ')}: {rates(value)}"
        elif isinstance(value, dict):
            if shown := [f"{k} {plain(v)}" for k, v in value.items() if not isinstance(v, dict) and _short(v)]:
                yield f"{key}: " + ", ".join(shown)
        elif _short(value):
            yield f"{key}: {plain(value)}"


def rates(row: dict[str, Any]) -> str:
    """The rates of one set of episodes."""
    low, high = row["ci95"]
    text = f"success {row['success_rate']:.1%} (95 %: {low:.1%} to {high:.1%}) in {row['episodes']} episodes"
    if "mean_progress" not in row:
        return text
    played = f"{row['mean_steps']:.1f} steps, {row['invalid_rate']:.1%} invalid"
    return f"{text}, progress {row['mean_progress']:.2f}, {played}"


def plain(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(plain(v) for v in value)}]"
    return str(value)


def _short(value: Any) -> bool:
    """Whether a value fits into a line: no long list, and none of mappings."""
    return not isinstance(value, (list, tuple)) or (len(value) <= 3 and not any(isinstance(v, dict) for v in value))
