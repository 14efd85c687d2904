"""A run's report: `report.json` with the numbers, and `report.html`, one file that needs no other and no network."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llarp.runfolder import RunFolder, to_json, write_atomically

CURVES = {
    "success_rate": "share of the last finished episodes that succeeded",
    "mean_return": "undiscounted return of the last finished episodes",
    "policy_loss": "clipped PPO loss",
    "value_loss": "squared error of the critic, halved",
    "entropy": "entropy of the action distribution, nats",
    "approx_kl": "how far an update moved the policy, nats",
    "clip_fraction": "share of transitions whose ratio was clipped",
    "steps_per_s": "environment steps a second since the start",
}
"""Metrics drawn as curves, with what they mean."""

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1080px;padding:0 1em;color:#1c1e22}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}
figcaption{font-size:13px;color:#555;max-width:500px}table{border-collapse:collapse}
td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}
pre{background:#f4f5f7;padding:1em;overflow:auto;font-size:13px}img{max-width:100%}"""


def write_report(run: RunFolder | Path, summary: dict[str, Any]) -> Path:
    """Write report.json (`summary` as it is) and report.html into a run folder; the path of the latter.

    `summary` holds numbers, and under `evaluations` {name: result}, each result either one split's rates
    ({success_rate, ci95, episodes, ...}) or {"splits": {split: rates}}.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    write_atomically(folder.path / "report.json", to_json(summary, indent=2) + "\n")
    target = folder.path / "report.html"
    write_atomically(target, page(folder, summary))
    return target


def page(folder: RunFolder, summary: dict[str, Any]) -> str:
    """The report as HTML."""
    name = html.escape(folder.path.name)
    rows = folder.metrics()
    steps = [row["env_steps"] for row in rows if "env_steps" in row]
    parts = [f"<!doctype html><meta charset=utf-8><title>llarp {name}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>Training run {name}</h1>")
    parts += _numbers(summary)
    parts += [f"<p>Note: {html.escape(str(note))}.</p>" for note in summary.get("notes") or ()]
    parts += _evaluations(summary.get("evaluations") or {})
    if len(steps) == len(rows) and rows:
        parts.append("<h2>Training curves</h2><p>Over environment steps.</p>")
        for metric, meaning in CURVES.items():
            values = [row.get(metric) for row in rows]
            if any(isinstance(v, (int, float)) for v in values):
                words = f"<b>{metric}</b>: {meaning}"
                parts.append(f"<figure>{curve(steps, values)}<figcaption>{words}</figcaption></figure>")
    parts += _films(folder)
    config = folder.path / "config.yaml"
    if config.is_file():
        parts.append(f"<h2>Settings</h2><pre>{html.escape(config.read_text(encoding='utf-8'))}</pre>")
    return "\n".join(parts) + "\n"


def curve(x: Sequence[float], y: Sequence[float | None], width: int = 500, height: int = 220) -> str:
    """A line chart as inline SVG; points that are None or not finite leave a gap."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    if not points:
        return f'<svg width="{width}" height="{height}" role="img"></svg>'
    left, right, top, bottom = 62, 12, 10, 26
    x_ticks = ticks(min(a for a, _ in points), max(a for a, _ in points), 5)
    y_ticks = ticks(min(b for _, b in points), max(b for _, b in points), 5)

    def place(value: float, span: Sequence[float], start: float, length: float) -> float:
        return start + length * (value - span[0]) / (span[-1] - span[0])

    def at_x(value: float) -> float:
        return place(value, x_ticks, left, width - left - right)

    def at_y(value: float) -> float:
        return place(value, y_ticks, height - bottom, -(height - top - bottom))

    shapes = []
    for tick in y_ticks:
        shapes.append(f'<path d="M{left} {at_y(tick):.1f}H{width - right}" stroke="#e2e4e8"/>')
        shapes.append(f'<text x="{left - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_ticks:
        shapes.append(f'<text x="{at_x(tick):.1f}" y="{height - 8}" text-anchor="middle">{_short(tick)}</text>')
    line, pen = "", "M"
    for a, b in zip(x, y, strict=True):
        if b is None or not math.isfinite(b):
            pen = "M"
            continue
        line += f"{pen}{at_x(a):.1f} {at_y(b):.1f}"
        pen = "L"
    shapes.append(f'<path d="{line}" fill="none" stroke="#2563b0" stroke-width="2" stroke-linecap="round"/>')
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" font-size="12" fill="#555" '
        f'font-family="sans-serif">{"".join(shapes)}</svg>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers, evenly spaced, that span [low, high]; at least two."""
    if high <= low:
        high = low + max(abs(low) * 0.1, 1e-3)
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _short(value: float) -> str:
    """1500000 -> "1.5M"."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"


def _numbers(summary: dict[str, Any]) -> list[str]:
    flat = {k: v for k, v in summary.items() if not isinstance(v, dict)}
    for group, values in summary.items():
        if isinstance(values, dict) and group != "evaluations":
            flat |= {f"{group}: {key}": value for key, value in values.items()}
    cells = []
    for key, value in flat.items():
        if isinstance(value, (str, int, float)):
            shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
            cells.append(f"<tr><td>{html.escape(key)}<td>{html.escape(shown)}")
    return ["<h2>Numbers</h2><table>", *cells, "</table>"] if cells else []


def _evaluations(evaluations: dict[str, Any]) -> list[str]:
    named: list[tuple[str, dict[str, Any]]] = []
    for name, result in evaluations.items():
        for split, rates in (result.get("splits") or {"": result}).items():
            words = " ".join(filter(None, (name, split)))
            named.append((words, rates))
            if "pick_and_place" in rates:
                named.append((f"{words}, pick and place only", rates["pick_and_place"]))
    rows = []
    for words, rates in named:
        low, high = rates["ci95"]
        cells = [words, f"{rates['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", str(rates["episodes"])]
        for key, form in (("mean_progress", "{:.2f}"), ("mean_steps", "{:.1f}"), ("invalid_rate", "{:.1%}")):
            cells.append(form.format(rates[key]) if key in rates else "")
        rows.append("<tr>" + "".join(f"<td>{html.escape(c)}" for c in cells))
    if not rows:
        return []
    head = "<tr><th>evaluation<th>success<th>95 % interval<th>episodes<th>progress<th>steps<th>invalid"
    return ["<h2>Held-out episodes</h2><table>", head, *rows, "</table>"]


def _films(folder: RunFolder) -> list[str]:
    parts = []
    for path in sorted(folder.videos.glob("*.mp4")):
        name = html.escape(path.name)
        parts.append(f'<figure><a href="videos/{name}">{thumbnail(path)}</a><figcaption>{name}</figcaption></figure>')
    return ["<h2>Films</h2>", *parts] if parts else []


def thumbnail(path: Path, width: int = 480) -> str:
    """The last frame of a film as an inline picture."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    size = next(reader)["size"]
    frame = None
    for frame in reader:  # noqa: B007 (the last one is wanted)
        pass
    if frame is None:
        return html.escape(path.name)
    picture = Image.fromarray(np.frombuffer(frame, np.uint8).reshape(size[1], size[0], 3))
    picture.thumbnail((width, width))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
