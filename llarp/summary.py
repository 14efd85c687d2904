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
                low, high = row["ci95"]
                yield (
                    f"{split}: success {row['success_rate']:.1%} (95 %: {low:.1%} to {high:.1%}) in {row['episodes']} "
                    f"episodes, progress {row['mean_progress']:.2f}, {row['mean_steps']:.1f} steps, "
                    f"{row['invalid_rate']:.1%} invalid"
                )
        elif key == "checks":
            for check in value:
                yield f"[{'ok' if check['ok'] else '--'}] {check['name']}: {check['detail']}"
                if not check["ok"]:
                    yield f"     fix: {check['fix']}"
        elif isinstance(value, dict):
            yield f"{key}: " + ", ".join(f"{k} {plain(v)}" for k, v in value.items() if not isinstance(v, (dict, list)))
        elif not isinstance(value, list) or len(value) <= 2:
            yield f"{key}: {plain(value)}"


def plain(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(plain(v) for v in value)}]"
    return str(value)
