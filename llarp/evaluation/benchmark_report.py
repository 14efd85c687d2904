"""The page that `llarp eval report=FILE.html` writes: one file that needs no other and no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llarp.runfolder import write_atomically

from .failures import FAILURES
from .gallery import Shown
from .published_results import GROUPS, NOT_UNSEEN, TESTS, Results, kind_of_dataset
from .report import STYLE

COLOURS = {"": "#7b8494", "paraphrastic_robustness": "#2563b0", "behaviour_generalisation": "#c26a1b"}
"""Of a split's bar, by its group."""
MORE_STYLE = """table td.l,table th.l{text-align:left}td.n{white-space:nowrap}
.small{font-size:13px}.faint{color:#666;font-size:13px}
.shown{display:grid;grid-template-columns:repeat(3,200px) 1fr;gap:4px 8px;border-left:4px solid #ccc;margin:0 0 1em;
padding:2px 0 2px 10px}.shown p{grid-column:1/-1;margin:0}.shown img{display:block}
.won{border-color:#2e9e58}.lost{border-color:#c43e3a}h3{margin-bottom:.4em}.scroll{overflow-x:auto}
ol{font-size:13px;line-height:1.35;margin:0;padding-left:2em;columns:2}s{color:#a33;text-decoration-thickness:1px}"""


def write_page(path: Path, result: Mapping[str, Any], shown: Mapping[str, Sequence[Shown]], beside: Results) -> None:
    """Write the page of an evaluation's `result`, with pictures of the episodes `shown` by split."""
    write_atomically(path, page(result, shown, beside))


def page(result: Mapping[str, Any], shown: Mapping[str, Sequence[Shown]], beside: Results) -> str:
    """The page as HTML."""
    who = html.escape(str(result["policy"]))
    rows = result["splits"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>llarp eval {who}</title><style>{STYLE}\n{MORE_STYLE}</style><main>",
        f"<h1>Language Rearrangement: {who}</h1>",
        _headline(result, rows),
        "<h2>Success by split</h2>",
        f"<div class=scroll>{bars(rows, beside)}</div>",
        _legend(beside),
        _table(result, beside),
        "<h2>By form of goal</h2>",
        _forms(rows),
        "<h2>Why episodes failed</h2>",
        _reasons(rows),
    ]
    if shown:
        parts.append("<h2>Episodes</h2><p class=faint>What the robot sees at first and in the end, the room in the "
                     "end, and its steps; struck through: not possible, nothing changed.</p>")  # fmt: skip
    for split, episodes in shown.items():
        parts.append(f"<h3>{html.escape(split)}</h3>")
        parts += [_episode(episode) for episode in episodes]
    return "\n".join([*parts, "</main></html>"]) + "\n"


def differs(result: Mapping[str, Any], beside: Results) -> bool:
    """Whether the numbers beside ours come from other episodes or other rules, and so from another simulator."""
    return (kind_of_dataset(result["dataset"]), result["rules"]) != (beside.dataset, beside.rules)


def _headline(result: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    total = result["total"]
    low, high = total["ci95"]
    facts = [f"dataset {result['dataset']}", f"rules {result['rules']}", f"simulator {result['backend']}",
             f"seed {result['seed']}"]  # fmt: skip
    notes = [f"<p class=faint>Note: {html.escape(str(note))}.</p>" for note in result.get("notes") or ()]
    unseen = [split for split in rows if split not in NOT_UNSEEN] or list(rows)
    rest = "".join(f"; {split} is not counted" for split in rows if split not in unseen)
    return (
        f"<p><b>{total['success_rate']:.1%}</b> of {total['episodes']:,} episodes in {_several(len(unseen), 'split')} "
        f"(95 % interval {low:.1%} to {high:.1%}{rest}).</p>"
        f"<p class=faint>{html.escape(', '.join(facts))}.</p>" + "".join(notes)
    )


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def group_of(split: str) -> str:
    """The group a split belongs to, "" for none."""
    return next((group for group, members in GROUPS.items() if split in members), "")


def in_order(rows: Mapping[str, Any]) -> list[str]:
    """The splits, those of a group together."""
    order = ["", *GROUPS]
    return sorted(rows, key=lambda split: order.index(group_of(split)))


# -- plot -------------------------------------------------------------------------------------------------------------


def bars(rows: Mapping[str, Any], beside: Results, width: int = 860) -> str:
    """Inline SVG: each split's success as a bar with its 95 % interval, the number beside it as a diamond."""
    left, right, line, top = 210, 120, 26, 8
    span = width - left - right
    bottom = top + line * len(rows)
    out = []
    for tick in range(0, 101, 20):
        x = left + span * tick / 100
        out.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#e2e4e8"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick} %</text>')
    for i, split in enumerate(in_order(rows)):
        rate, (low, high) = rows[split]["success_rate"], rows[split]["ci95"]
        y = top + line * i + line / 2
        at = [left + span * v for v in (low, high, rate)]
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#1c1e22">{html.escape(split)}</text>')
        out.append(f'<rect x="{left}" y="{y - 8:.1f}" width="{at[2] - left:.1f}" height="16" rx="2" '
                   f'fill="{COLOURS[group_of(split)]}"/>')  # fmt: skip
        out.append(f'<path d="M{at[0]:.1f} {y:.1f}H{at[1]:.1f}M{at[0]:.1f} {y - 4:.1f}v8M{at[1]:.1f} {y - 4:.1f}v8" '
                   f'stroke="#1c1e22" stroke-width="1.3" fill="none"/>')  # fmt: skip
        known = beside.splits.get(split)
        if known is not None:
            x = left + span * known
            shape = f'd="M{x:.1f} {y - 7:.1f}l6 7l-6 7l-6 -7z"'
            out.append(f'<path {shape} fill="#fff" stroke="#b3261e" stroke-width="2"/>')
        out.append(f'<text x="{width - 50}" y="{y + 4:.1f}" text-anchor="end" fill="#1c1e22">{rate:.1%}</text>')
    return (
        f'<svg width="{width}" height="{bottom + 24}" viewBox="0 0 {width} {bottom + 24}" role="img" '
        f'aria-label="success by split" font-size="12.5" fill="#555" font-family="system-ui,sans-serif">'
        f"{''.join(out)}</svg>"
    )


def _legend(beside: Results) -> str:
    names = {"": "neither group", **{group: group.replace("_", " ") for group in GROUPS}}
    keys = [f"<span style='color:{COLOURS[group]}'>&#9632;</span> {words}" for group, words in names.items()]
    if beside.splits:
        keys.append(f"<span style='color:#b3261e'>&#9671;</span> {html.escape(beside.name)}")
    return f"<p class=faint>{' &nbsp; '.join(keys)} &nbsp; whiskers: 95 % interval (Wilson)</p>"


# -- tables -----------------------------------------------------------------------------------------------------------


def _table(result: Mapping[str, Any], beside: Results) -> str:
    rows = result["splits"]
    mark = " *" if differs(result, beside) else ""
    head = ["split", "what it tests", "success", "95 % interval", beside.name + mark, "progress", "steps", "invalid",
            "episodes"]  # fmt: skip
    heads = [f"<th class={'ln'[i > 1]}>{html.escape(words)}" for i, words in enumerate(head)]
    out = ["<div class=scroll><table><tr>", *heads]
    for split in in_order(rows):
        row = rows[split]
        low, high = row["ci95"]
        cells = [
            f"{row['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", _rate(beside.splits.get(split)),
            f"{row['mean_progress']:.2f}", f"{row['mean_steps']:.1f}", f"{row['invalid_rate']:.1%}",
            f"{row['episodes']:,}",
        ]  # fmt: skip
        out.append(f"<tr><td>{html.escape(split)}<td class=l>{TESTS.get(split, '')}" + _cells(cells))
    for group, members in GROUPS.items():
        if group in result:
            words = f"mean of {_several(len(members), 'split')}"
            low, high = result[group]["ci95"]
            cells = [f"{result[group]['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", _rate(beside.group(members)),
                     "", "", "", f"{result[group]['episodes']:,}"]  # fmt: skip
            out.append(f"<tr><td><b>{group.replace('_', ' ')}</b><td class=l>{words}" + _cells(cells))
    total = result["total"]
    low, high = total["ci95"]
    whole = set(rows) >= set(TESTS) - set(NOT_UNSEEN)  # else another total than theirs
    cells = [f"{total['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", _rate(beside.total) if whole else "", "", "",
             "", f"{total['episodes']:,}"]  # fmt: skip
    words = "all episodes" if set(rows) <= set(NOT_UNSEEN) else "all unseen tasks evaluated"
    out.append(f"<tr><td><b>total</b><td class=l>{words}" + _cells(cells) + "</table></div>")
    source = f"{html.escape(beside.name)}: {html.escape(beside.source)}."
    if mark:
        theirs = html.escape(f"{beside.dataset}, rules {beside.rules}")
        source += f" * Another simulator or other episodes ({theirs}): the numbers show how hard the splits are there, "
        source += "and are not to be compared digit by digit."
    elif beside.dataset == "published files":
        source += " The same episodes under the same rules; pictures and robot are this simulator's."
    return "".join(out) + f"<p class=faint>{source}</p>"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _cells(values: Sequence[str]) -> str:
    return "".join(f"<td class=n>{html.escape(value)}" for value in values)


def _forms(rows: Mapping[str, Any]) -> str:
    head = "<th class=l>split<th>success<th>95 % interval<th>progress<th>steps<th>invalid<th>episodes"
    out = [f"<div class=scroll><table class=small><tr><th>form of goal{head}"]
    for form in sorted({form for row in rows.values() for form in row.get("by_form", {})}):
        there = [split for split in in_order(rows) if form in rows[split].get("by_form", {})]
        for i, split in enumerate(there):
            row = rows[split]["by_form"][form]
            low, high = row["ci95"]
            cells = [f"{row['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", f"{row['mean_progress']:.2f}",
                     f"{row['mean_steps']:.1f}", f"{row['invalid_rate']:.1%}", str(row["episodes"])]  # fmt: skip
            first = f"<td rowspan={len(there)}>{html.escape(form)}" if i == 0 else ""
            out.append(f"<tr>{first}<td class=l>{html.escape(split)}" + _cells(cells))
    return "".join(out) + "</table></div>"


def _reasons(rows: Mapping[str, Any]) -> str:
    there = [why for why in FAILURES if any(row.get("failures", {}).get(why) for row in rows.values())]
    if not there:
        return "<p>None did.</p>"
    out = ["<div class=scroll><table><tr><th>split" + "".join(f"<th>{why.replace('_', ' ')}" for why in there)]
    for split in in_order(rows):
        counts = rows[split].get("failures", {})
        cells = []
        for why in there:
            share = counts.get(why, 0) / max(rows[split]["episodes"], 1)
            shade = f" style='background:rgba(196,62,58,{0.7 * share:.2f})'" if share else ""
            cells.append(f"<td{shade}>{counts.get(why) or ''}")
        out.append(f"<tr><td>{html.escape(split)}{''.join(cells)}")
    meanings = "".join(f"<li><b>{why.replace('_', ' ')}</b>: {html.escape(FAILURES[why])}" for why in there)
    out.append("</table></div><p class=faint>Number of episodes; each counts under the first reason that applies:</p>")
    return "".join(out) + f"<ul class=faint>{meanings}</ul>"


# -- episodes ---------------------------------------------------------------------------------------------------------


def _episode(shown: Shown) -> str:
    steps = "".join(f"<li>{_struck(html.escape(words), possible)}" for words, possible in shown.steps)
    why = shown.reason.replace("_", " ")
    end = f"success in {_several(len(shown.steps), 'step')}" if shown.success else f"failed: {why or 'not told'}"
    pictures = "".join(f'<img width=200 alt="{alt}" src="{picture}">' for alt, picture in (
        ("head camera at first", shown.start), ("head camera in the end", shown.end), ("the room", shown.outside)))
    words = f"<p><b>{html.escape(shown.instruction)}</b> &mdash; {end}</p>"
    return f"<div class='shown {'won' if shown.success else 'lost'}'>{words}{pictures}<ol>{steps}</ol></div>"


def _struck(words: str, possible: bool) -> str:
    return words if possible else f"<s>{words}</s>"
