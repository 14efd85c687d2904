"""Curves of several runs in one picture (SVG): how fast each kind of policy learns."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llarp.errors import UserError
from llarp.runfolder import RunFolder

from .report import ticks

COLOURS = ("#2563b0", "#c26a1b", "#2e9e58", "#b3261e", "#7a4fb3", "#5a6472", "#0f8b8d", "#a33b74")
_POINTS = 200  # at which a mean over runs is taken


@dataclass(frozen=True)
class Curve:
    """One run's metric over steps or time."""

    x: NDArray[np.float64]  # (P,) rising
    y: NDArray[np.float64]  # (P,)


def read_curve(run: Path, x: str, y: str, smooth: int = 1) -> Curve:
    """Metric `y` over `x` of a run folder, each point the mean of the last `smooth`; UserError where it has none."""
    if not (run / "metrics.jsonl").is_file():
        raise UserError(f"{run}: there is no metrics.jsonl: name a run folder")
    rows = [row for row in RunFolder(run).metrics() if _number(row.get(x)) and _number(row.get(y))]
    points = sorted((float(row[x]), float(row[y])) for row in rows)
    if not points:
        raise UserError(f"{run}: no line of metrics.jsonl has both {x} and {y}")
    at, values = np.array(points).T
    total = np.concatenate([[0.0], values.cumsum()])
    first = np.maximum(np.arange(len(values)) + 1 - smooth, 0)
    last = np.arange(1, len(values) + 1)
    return Curve(at, (total[last] - total[first]) / (last - first))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over runs, as far as all of them go."""
    low, high = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    grid = np.linspace(low, max(low, high), _POINTS)
    return Curve(grid, np.mean([np.interp(grid, c.x, c.y) for c in curves], axis=0))


def svg(groups: Mapping[str, Sequence[Curve]], x: str, y: str, width: int = 640, height: int = 420) -> str:
    """The picture: a colour for each group, thin lines its runs, a thick one their mean.

    `width`, `height`: in pixels; the legend comes beside, as wide as its longest name needs."""
    every = [curve for curves in groups.values() for curve in curves]
    labels = [name + (f" ({len(curves)} runs)" if len(curves) > 1 else "") for name, curves in groups.items()]
    left, top, bottom = 64, 14, 46
    whole = width + 56 + 7 * max(map(len, labels))  # 7 pixels a letter of the legend
    across = ticks(float(min(c.x[0] for c in every)), float(max(c.x[-1] for c in every)), 6)
    up = ticks(float(min(c.y.min() for c in every)), float(max(c.y.max() for c in every)), 6)

    def place(curve: Curve) -> str:
        px = left + (curve.x - across[0]) / (across[-1] - across[0]) * (width - left)
        py = height - bottom - (curve.y - up[0]) / (up[-1] - up[0]) * (height - top - bottom)
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(px, py, strict=True))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{height}" viewBox="0 0 {whole} {height}" '
           'font-family="sans-serif" font-size="12" fill="#444">',
           f'<rect width="{whole}" height="{height}" fill="#fff"/>']  # fmt: skip
    for tick in up:
        at = height - bottom - (tick - up[0]) / (up[-1] - up[0]) * (height - top - bottom)
        out.append(f'<path d="M{left} {at:.1f}H{width}" stroke="#e2e4e8"/>'
                   f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')  # fmt: skip
    for tick in across:
        at = left + (tick - across[0]) / (across[-1] - across[0]) * (width - left)
        out.append(f'<text x="{at:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:g}</text>')
    out.append(f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">{html.escape(x)}</text>')
    out.append(f'<text x="14" y="{(top + height - bottom) / 2}" text-anchor="middle" '
               f'transform="rotate(-90 14 {(top + height - bottom) / 2})">{html.escape(y)}</text>')  # fmt: skip
    for number, (label, curves) in enumerate(zip(labels, groups.values(), strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        if len(curves) > 1:
            thin = f'fill="none" stroke="{colour}" stroke-width="1" opacity="0.45"'
            out += [f'<path d="{place(c)}" {thin}/>' for c in curves]
        mean = curves[0] if len(curves) == 1 else mean_curve(curves)
        out.append(f'<path d="{place(mean)}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        at = top + 14 + 20 * number
        out.append(f'<path d="M{width + 14} {at - 4}h22" stroke="{colour}" stroke-width="2.5"/>'
                   f'<text x="{width + 42}" y="{at}" fill="#1c1e22">{html.escape(label)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
