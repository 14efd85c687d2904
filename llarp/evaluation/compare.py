"""Policies compared over the same episodes: rates over training seeds, paired differences, steps where both succeed.

Input is what `llarp eval out=` wrote, one file for each training seed. All intervals are 95 %, by a bootstrap that
draws seeds and, within each split, episodes (crossed: every seed played the same episodes). With one seed the interval
is over episodes alone and says nothing of other seeds; with two or three the draw of seeds is coarse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llarp.errors import UserError

from .published_results import GROUPS, LLARP, NOT_UNSEEN, Results, kind_of_dataset
from .statistics import wilson

DRAWS = 4000
"""Of the bootstrap, always the same ones."""


@dataclass(frozen=True)
class Played:
    """What one policy did in the episodes of each split, a row for each training seed."""

    name: str
    success: Mapping[str, NDArray[np.bool_]]  # split -> (S, E)
    steps: Mapping[str, NDArray[np.int64]]  # split -> (S, E)
    episodes: Mapping[str, str]  # split -> digest of which episodes these are
    settings: Mapping[str, Any]  # dataset, rules, backend, seed: of the evaluation, the same for all seeds

    @property
    def seeds(self) -> int:
        """How many trained policies were evaluated."""
        return len(next(iter(self.success.values())))

    @property
    def unseen(self) -> list[str]:
        """The splits that count in the total."""
        return [split for split in self.success if split not in NOT_UNSEEN]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is nothing to tell it from."""

    value: float
    low: float
    high: float


def read_played(name: str, paths: Sequence[Path]) -> Played:
    """The evaluations of one policy, a file for each training seed; UserError where they do not belong together."""
    if not paths:
        raise UserError(f"{name}: name at least one result file")
    reports = [_report(path) for path in paths]
    first = reports[0]
    for path, report in zip(paths, reports, strict=True):
        for key in ("dataset", "rules", "backend", "seed"):
            if report.get(key) != first.get(key):
                raise UserError(f"{path}: {key} is {report.get(key)}, and {first.get(key)} in {paths[0]}")
        if report["outcomes"].keys() != first["outcomes"].keys():
            raise UserError(f"{path}: has other splits than {paths[0]}")
        for split, row in report["outcomes"].items():
            other = first["outcomes"][split]
            if (row["episodes_sha256"], len(row["steps"])) != (other["episodes_sha256"], len(other["steps"])):
                raise UserError(f"{path}: {split} is of other episodes than in {paths[0]}")
    splits = list(first["outcomes"])
    rows = {split: [report["outcomes"][split] for report in reports] for split in splits}
    return Played(
        name=name,
        success={split: np.array([row["success"] for row in rows[split]], bool) for split in splits},
        steps={split: np.array([row["steps"] for row in rows[split]], np.int64) for split in splits},
        episodes={split: rows[split][0]["episodes_sha256"] for split in splits},
        settings={key: first.get(key) for key in ("dataset", "rules", "backend", "seed", "seed_from")},
    )


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON file") from None
    outcomes = report.get("outcomes") if isinstance(report, dict) else None
    if not isinstance(outcomes, dict) or not outcomes:
        raise UserError(f"{path}: holds no outcomes of episodes: evaluate again with this version's llarp eval out=")
    for split, row in outcomes.items():
        good = isinstance(row, dict) and isinstance(row.get("episodes_sha256"), str)
        numbers = [row[k] for k in ("success", "steps") if isinstance(row.get(k), list)] if good else []
        whole = all(type(value) is int and 0 <= value < 1 << 31 for values in numbers for value in values)
        if len(numbers) != 2 or len(numbers[0]) != len(numbers[1]) or not numbers[0] or not whole:
            raise UserError(f"{path}: the outcomes of {split} are not what llarp eval writes")
    return dict(report)


# -- numbers ----------------------------------------------------------------------------------------------------------


def rate(played: Played, splits: Sequence[str]) -> Estimate:
    """Success over seeds and the episodes of some splits. One seed: Wilson's interval, as in `llarp eval`."""
    count = sum(played.success[split].shape[1] for split in splits)
    wins = sum(int(played.success[split].sum()) for split in splits)
    value = wins / (count * played.seeds)
    if played.seeds == 1 or value in (0.0, 1.0):  # the same in every draw
        return Estimate(value, *wilson(round(value * count), count))
    who, which = _draws(played.seeds, played, splits)
    total = sum(_mean(played.success[s].astype(float), who, which[s]) * played.success[s].shape[1] for s in splits)
    return _estimate(value, total / count)


def difference(a: Played, b: Played, splits: Sequence[str], same_seeds: bool = False) -> Estimate:
    """Success of `a` less that of `b` over the same episodes; `same_seeds`: seed k of one goes with seed k of the other
    (one is the other trained on), so that they are drawn together."""
    check_same_episodes(a, b, splits)
    who_a, who_b, which = _pair(a, b, splits, same_seeds)
    count = sum(a.success[split].shape[1] for split in splits)
    value, drawn = 0.0, np.zeros(DRAWS)
    for split in splits:
        one, two = a.success[split].astype(float), b.success[split].astype(float)
        share = one.shape[1] / count
        value += share * float(one.mean() - two.mean())
        drawn += share * (_mean(one, who_a, which[split]) - _mean(two, who_b, which[split]))
    return _estimate(value, drawn)


def steps_ratio(a: Played, b: Played, splits: Sequence[str], same_seeds: bool = False) -> tuple[Estimate, int]:
    """Steps of `a` as a multiple of those of `b`, where both succeed; and in how many of the episodes any two did.

    Each pair of a seed of `a` and one of `b` counts in the episodes that both of them solved."""
    check_same_episodes(a, b, splits)
    who_a, who_b, which = _pair(a, b, splits, same_seeds)
    above, below = np.zeros(DRAWS), np.zeros(DRAWS)
    top = bottom = 0.0
    joint = 0
    for split in splits:
        won_a, won_b = a.success[split].astype(float), b.success[split].astype(float)
        took_a, took_b = won_a * a.steps[split], won_b * b.steps[split]
        top += float((took_a.mean(0) * won_b.mean(0)).sum())
        bottom += float((won_a.mean(0) * took_b.mean(0)).sum())
        joint += int((won_a.any(0) & won_b.any(0)).sum())
        above += ((who_a @ took_a) * (who_b @ won_b) * which[split]).sum(1)
        below += ((who_a @ won_a) * (who_b @ took_b) * which[split]).sum(1)
    if not bottom:
        return Estimate(float("nan"), float("nan"), float("nan")), 0
    return _estimate(top / bottom, above[below > 0] / below[below > 0]), joint


def common_steps(policies: Sequence[Played], splits: Sequence[str]) -> tuple[int, list[float]]:
    """How many episodes of these splits all policies solved, with at least one of their seeds each, and how many steps
    each took in those, a mean over the seeds that solved them. So a teacher's steps stand beside its pupil's."""
    for other in policies[1:]:
        check_same_episodes(policies[0], other, splits)
    solved = {s: np.all([p.success[s].any(0) for p in policies], axis=0) for s in splits}
    count = sum(int(rows.sum()) for rows in solved.values())
    means = []
    for p in policies:
        taken = [(p.success[s] * p.steps[s]).sum(0)[solved[s]] / p.success[s].sum(0)[solved[s]] for s in splits]
        means.append(float(sum(rows.sum() for rows in taken)) / max(count, 1))
    return count, means


def check_same_episodes(a: Played, b: Played, splits: Sequence[str]) -> None:
    """UserError unless both played the same episodes of these splits."""
    for split in splits:
        if a.episodes.get(split) != b.episodes.get(split):
            raise UserError(f"{a.name} and {b.name} played other episodes of {split}: evaluate them with the same "
                            "seed=, episodes= and dataset=")  # fmt: skip


def _draws(
    seeds: int, played: Played, splits: Sequence[str]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Weights of seeds (D, S) and, by split, of episodes (D, E); each row sums to 1."""
    return _weights(seeds, 0), {s: _weights(played.success[s].shape[1], 1 + i) for i, s in enumerate(splits)}


def _pair(
    a: Played, b: Played, splits: Sequence[str], same_seeds: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    if same_seeds and a.seeds != b.seeds:
        raise UserError(f"{a.name} has {a.seeds} seeds and {b.name} {b.seeds}: they do not go in pairs")
    who_a, which = _draws(a.seeds, a, splits)
    return who_a, who_a if same_seeds else _weights(b.seeds, 1 << 16), which


def _weights(number: int, stream: int) -> NDArray[np.float64]:
    if number == 1:
        return np.ones((DRAWS, 1))
    random = np.random.default_rng([20231017, stream])
    return random.multinomial(number, np.full(number, 1 / number), size=DRAWS) / number


def _mean(
    values: NDArray[np.float64], who: NDArray[np.float64], which: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means (D,) of values (S, E) under the draws."""
    drawn: NDArray[np.float64] = ((who @ values) * which).sum(1)
    return drawn


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


# -- tables -----------------------------------------------------------------------------------------------------------


def markdown(
    policies: Sequence[Played], against: Played | None = None, beside: Results = LLARP, same_seeds: bool = False
) -> str:
    """Success of each policy by split, group and in total, with the published numbers beside; then each of the others
    compared with `against` (default: the first), over the same episodes."""
    first = against or policies[0]
    splits = [split for split in first.success if all(split in p.success for p in policies)]
    unseen = [split for split in splits if split not in NOT_UNSEEN] or splits
    heads = ["split", *map(_head, policies), f"{beside.name}, published"]
    lines = [_source(first), "", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for split in splits:
        lines.append(_row(split, policies, [split], beside.splits.get(split)))
    for group, members in GROUPS.items():
        if set(members) <= set(splits):
            lines.append(_row(f"*{group.replace('_', ' ')}*", policies, members, beside.group(members)))
    complete = len(unseen) == 10
    lines.append(_row(f"**total** ({len(unseen)} splits)", policies, unseen, beside.total if complete else None))
    lines += ["", _caveat(first, beside)]
    others = [p for p in policies if p is not first]
    if not others:
        return "\n".join(lines) + "\n"
    lines += ["", f"Over the same episodes, {first.name} less each other one (total over {len(unseen)} splits); "
              "steps are its steps as a multiple of theirs, where both succeed:", "",
              "| compared with | success, points | steps | episodes both solved |",
              "| --- | --- | --- | --- |"]  # fmt: skip
    for other in others:
        gain = difference(first, other, unseen, same_seeds)
        ratio, joint = steps_ratio(first, other, unseen, same_seeds)
        told = "" if joint == 0 else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        lines.append(f"| {other.name} | {100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}) | "
                     f"{told} | {joint} |")  # fmt: skip
    count, steps = common_steps(policies, unseen)
    if count:
        told = ", ".join(f"{p.name} {mean:.2f}" for p, mean in zip(policies, steps, strict=True))
        lines += ["", f"Steps in the {count} episodes that all of them solved: {told}."]
    return "\n".join(lines) + "\n"


def _source(played: Played) -> str:
    s = played.settings
    seed = f"seed {s['seed']}" + (f" ({s['seed_from']})" if s.get("seed_from") else "")
    return (f"Episodes: {s['dataset']}, rules {s['rules']}, simulator {s['backend']}, {seed}. Success in %, 95 % "
            "interval over training seeds and episodes (one seed: over episodes alone, Wilson).")  # fmt: skip


def _head(played: Played) -> str:
    sizes = {rows.shape[1] for rows in played.success.values()}
    episodes = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
    return f"{played.name} ({played.seeds} seed{'s' * (played.seeds > 1)} x {episodes})"


def _row(name: str, policies: Sequence[Played], splits: Sequence[str], known: float | None) -> str:
    cells = []
    for played in policies:
        found = rate(played, splits)
        cells.append(f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})")
    return f"| {name} | " + " | ".join(cells) + f" | {'' if known is None else f'{100 * known:.0f}'} |"


def _caveat(played: Played, beside: Results) -> str:
    if (kind_of_dataset(str(played.settings["dataset"])), played.settings["rules"]) == (beside.dataset, beside.rules):
        what = "The published numbers are of the same episodes and rules; pictures and robot are this simulator's."
    else:
        what = ("The published numbers are from another simulator and other episodes: they show how hard the splits "
                "are there, and are not to be compared digit by digit.")  # fmt: skip
    return f"{what} Source: {beside.source}."
