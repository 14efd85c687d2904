"""The page of an evaluation: numbers where they belong, other people's numbers marked, nothing fetched."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llarp import cli
from llarp.evaluation.benchmark_report import bars, differs, in_order, page
from llarp.evaluation.gallery import Shown, data_uri
from llarp.evaluation.published_results import GROUPS, LLARP, TESTS, Results


def row(rate: float, **failures: int) -> dict[str, Any]:
    rates = {"episodes": 20, "success_rate": rate, "ci95": [rate / 2, (1 + rate) / 2], "mean_progress": 0.25,
             "mean_steps": 12.5, "invalid_rate": 0.125}  # fmt: skip
    return rates | {"failures": failures, "by_form": {"robot_at(place 1)": dict(rates)}}


RESULT: dict[str, Any] = {
    "splits": {"new_scenes": row(0.4, stuck=3, carrying=9), "context": row(0.1, carrying=18), "mine <b>": row(1.0)},
    "total": {"episodes": 60, "success_rate": 0.5, "ci95": [0.377, 0.623]}, "backend": "mujoco", "dataset": "built-in",
    "rules": "clean", "policy": "zero_shot", "seed": 1, "notes": ["7 models are stand-ins"],
}  # fmt: skip
THEIRS = Results("Theirs", "a paper", {"context": 0.34}, 0.42)


class Reader(HTMLParser):
    """The text of each table row, and everything that a page refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.refers: list[str] = []
        self.tags: list[str] = []
        self.cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.refers += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.cell = self.rows[-1] if tag in ("td", "th", "b") and self.rows else None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell[-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.cell = None


def test_numbers_stand_in_their_rows() -> None:
    rows = {r[0]: r for r in Reader(page(RESULT, {}, THEIRS)).rows[:6]}
    assert rows["split"][4] == "Theirs *"
    assert rows["context"][2:] == ["10.0%", "5.0% to 55.0%", "34%", "0.25", "12.5", "12.5%", "20"]
    assert rows["new_scenes"][4] == "" and rows["mine <b>"][2] == "100.0%"
    assert rows["total"][2:5] == ["50.0%", "37.7% to 62.3%", ""]  # their total is over ten splits


def test_the_published_total_stands_beside_that_of_all_ten_splits_only() -> None:
    result = RESULT | {"splits": dict.fromkeys(TESTS, row(0.5))}
    text = page(result, {}, THEIRS)
    total = next(r for r in Reader(text).rows if r[0] == "total")
    assert total[2:5] == ["50.0%", "37.7% to 62.3%", "42%"]
    assert "in 10 splits" in text and "train_validation is not counted" in text


def test_failures_are_counted_and_explained() -> None:
    text = page(RESULT, {}, LLARP)
    reader = Reader(text)
    counts = [r for r in reader.rows if r[0] == "new_scenes"][-1]
    assert counts == ["new_scenes", "3", "9"]
    assert "the last 10 actions were all impossible" in text and "wrong object" not in text  # only what occurred
    assert "7 models are stand-ins" in text


def test_groups_show_only_where_they_are_complete() -> None:
    assert "mean of 5 splits" not in page(RESULT, {}, THEIRS)
    full = RESULT | {"paraphrastic_robustness": {"success_rate": 0.2, "ci95": [0.1, 0.3], "episodes": 100}}
    cells = next(r for r in Reader(page(full, {}, THEIRS)).rows if r[0] == "paraphrastic robustness")
    assert cells[1:5] == ["mean of 5 splits", "20.0%", "10.0% to 30.0%", ""]  # theirs is not known for all five
    whole = Results("x", "y", dict.fromkeys(GROUPS["paraphrastic_robustness"], 0.5))
    cells = next(r for r in Reader(page(full, {}, whole)).rows if r[0] == "paraphrastic robustness")
    assert cells[4] == "50%"


@pytest.mark.parametrize(("dataset", "rules", "other"), [
    ("built-in", "clean", True), ("a/b.pickle", "clean", True), ("a/b.pickle", "published", False)])  # fmt: skip
def test_published_numbers_are_marked_unless_episodes_and_rules_are_theirs(dataset, rules, other) -> None:
    result = RESULT | {"dataset": dataset, "rules": rules}
    assert differs(result, LLARP) == other
    assert ("Another simulator" in page(result, {}, LLARP)) == other
    mine = Results("mine", "file", {}, None, dataset="built-in", rules="clean")
    assert differs(result, mine) == (dataset != "built-in")


def test_bars_lie_where_the_numbers_say() -> None:
    drawn = bars({"context": row(0.5)}, THEIRS, width=530)  # 210 left of the axis, 120 right of it: 200 long
    assert re.search(r'<rect x="210" y="13.0" width="100.0"', drawn)
    assert "M260.0 21.0H360.0" in drawn  # the interval, 0.25 to 0.75
    assert "M278.0 14.0l6 7" in drawn  # theirs, 0.34
    assert in_order(RESULT["splits"]) == ["new_scenes", "mine <b>", "context"]


def test_pictures_and_steps_are_inside_the_page() -> None:
    uri = data_uri(np.full((400, 400, 3), (200, 30, 30), np.uint8))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == (200, 200) and picture.getpixel((100, 100))[0] > 180  # type: ignore[index]
    steps = (("go to the sink", True), ("pick up the cup", False))
    shown = Shown("Say <i>it</i>", False, "wrong_place", steps, uri, uri, uri)
    text = page(RESULT, {"context": [shown]}, LLARP)
    reader = Reader(text)
    assert reader.refers == [uri] * 3 and not {"script", "link", "iframe", "i"} & set(reader.tags)
    assert not re.search(r"https?:|//|@import|url\(", text.replace(uri, ""))
    assert "Say &lt;i&gt;it&lt;/i&gt;" in text and "failed: wrong place" in text and "<s>pick up the cup</s>" in text


# -- the command ------------------------------------------------------------------------------------------------------

QUICK = ["eval", "policy=random", "config=smoke", "split=context", "episodes=4", "env.num_envs=4", "task.max_steps=5"]


def test_the_command_writes_the_page_and_compares_with_an_earlier_result(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*QUICK, "out=a.json"]) == 0
    assert cli.main([*QUICK, "seed=2", "report=b.html", "compare=a.json", "out=b.json"]) == 0
    result, text = json.loads(Path("b.json").read_text()), Path("b.html").read_text()
    assert result["report"] == "b.html" and text.count("data:image/jpeg") == 9  # three failures, three pictures each
    assert "Another simulator" not in text
    head, cells = Reader(text).rows[:2]
    assert head[4] == "random" and cells[0] == "context" and cells[4] == "0%"


@pytest.mark.parametrize(("words", "says"), [
    (["report=none/x.html"], "report=none/x.html cannot be written"), (["report=x.html", "compare=no.json"], "no.json"),
    (["compare=a.json"], "add report=FILE.html"), (["calibrated=true"], "goes with policy=zero_shot")])  # fmt: skip
def test_what_cannot_be_is_said_at_once(tmp_path: Path, monkeypatch, capsys, words: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*QUICK, *words]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())
