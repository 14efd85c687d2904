"""Run folders, reports, intervals and the progress display."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from llarp import config
from llarp.errors import UserError
from llarp.evaluation.report import curve, ticks, write_report
from llarp.evaluation.statistics import wilson
from llarp.evaluation.video import VideoWriter
from llarp.progress import Progress, clock
from llarp.runfolder import RunFolder, find_run, to_json, write_atomically


def settings(tmp_path: Path, *overrides: str) -> config.RunConfig:
    return config.load("smoke", [f"output_dir={tmp_path}", *overrides])


def test_wilson_by_hand() -> None:
    # 5 of 10, z = 2: middle (0.5 + 4/20) / 1.4 = 0.5, half sqrt(0.025 + 4/400) / 1.4 = sqrt(0.035) / 1.4
    half = 2 * math.sqrt(0.025 + 0.01) / 1.4
    assert wilson(5, 10, z=2) == pytest.approx((0.5 - half, 0.5 + half))
    low, high = wilson(0, 20)
    assert low == 0 and high == pytest.approx(0.1611, abs=1e-3)
    assert wilson(20, 20)[1] == pytest.approx(1)
    assert wilson(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_a_planned_run_writes_nothing_until_created(tmp_path: Path) -> None:
    loaded = settings(tmp_path / "deep" / "runs", "run_name=a")
    folder = RunFolder.planned(loaded)
    assert list(tmp_path.iterdir()) == []
    folder.create(loaded)
    assert config.load_file(folder.path / "config.yaml") == loaded
    with pytest.raises(UserError, match="exists already"):
        RunFolder.planned(loaded)


def test_default_names_are_unique(tmp_path: Path) -> None:
    loaded = settings(tmp_path)
    paths = {RunFolder.planned(loaded).create(loaded).path for _ in range(3)}
    assert len(paths) == 3


@pytest.mark.parametrize("name", ["a/b", "..", "/x"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="plain folder name"):
        RunFolder.planned(settings(tmp_path, f"run_name={name}"))


def test_metrics_are_flushed_and_cut(tmp_path: Path) -> None:
    loaded = settings(tmp_path)
    folder = RunFolder.planned(loaded).create(loaded)
    for i in range(1, 4):
        folder.log({"env_steps": 10 * i, "policy_loss": math.nan if i == 2 else torch.tensor(0.5), "name": "x"})
    assert [row["policy_loss"] for row in folder.metrics()] == [0.5, None, 0.5]  # read while it is open
    folder.close()
    assert any((folder.path / "tb").iterdir())
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('7\n{"env_steps": 4')  # a number, and a crash in the middle of a line
    folder.truncate_metrics(20)
    assert [row["env_steps"] for row in RunFolder.existing(folder.path).metrics()] == [10, 20]


def test_runs_are_found_from_inside(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "run_name=a")
    folder = RunFolder.planned(loaded).create(loaded)
    (folder.checkpoints / "x.pt").touch()
    for path in (folder.path, folder.checkpoints, folder.checkpoints / "x.pt"):
        assert find_run(path).resolve() == folder.path.resolve()
    with pytest.raises(UserError, match="no such run"):
        find_run(tmp_path / "b")
    (tmp_path / "lonely.pt").touch()
    with pytest.raises(UserError, match="not part of a run"):
        find_run(tmp_path / "lonely.pt")


def test_json_and_atomic_writing(tmp_path: Path) -> None:
    value = {"a": np.float32(0.5), "b": torch.ones(2), "c": float("inf"), "d": (1, Path("x")), 3: None}
    assert json.loads(to_json(value)) == {"a": 0.5, "b": [1, 1], "c": None, "d": [1, "x"], "3": None}
    write_atomically(tmp_path / "f", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_the_report_stands_alone(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "run_name=<b>")
    folder = RunFolder.planned(loaded).create(loaded)
    for i in range(5):
        folder.log({"env_steps": 64 * (i + 1), "success_rate": i / 5, "value_loss": 1 / (i + 1)})
    folder.close()
    with VideoWriter(folder.videos / "one.mp4") as film:
        film.add(np.full((64, 64, 3), 90, np.uint8))
    rates = {"episodes": 300, "success_rate": 0.4, "ci95": [0.347, 0.456]}
    summary = {"env_steps": 320, "evaluations": {"after PPO": rates | {"pick_and_place": rates | {"episodes": 120}}}}
    page = write_report(folder, summary).read_text()
    assert json.loads((folder.path / "report.json").read_text()) == summary
    assert page.count("<svg") == 2 and "data:image/jpeg;base64," in page
    assert "40.0%" in page and "34.7% to 45.6%" in page and "pick and place only" in page
    assert "num_envs: 4" in page and "&lt;b&gt;" in page and "<b>a" not in page
    assert not re.search(r"https?://|<script|<link", page)


def test_curves_lie_where_the_numbers_say() -> None:
    drawn = curve([0, 50, 100], [0.0, None, 1.0], width=500, height=220)
    line = re.search(r'd="(M[^"]*)" fill="none"', drawn)
    assert line is not None
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", line[1])[1:]]
    assert points == [(62, 194), (488, 10)]  # bottom left to top right of the frame
    assert line[1].count("M") == 2  # the missing value leaves a gap
    assert "path d" not in curve([1, 2], [None, math.nan])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.31), (-5, 20480), (2, 2), (0, 0), (1e-9, 3e-9)])
def test_ticks_are_round_and_span_the_data(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12 and 2 <= len(found) <= 12
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:.0e}"[0] in "125"


def test_plain_progress_is_one_line_an_update(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(total=1000, title="PPO", live=False) as progress:
        progress.update({"env_steps": 100, "success_rate": 0.25})
        now[0] = 10.0
        progress.update({"env_steps": 300, "entropy": 2.5, "unknown": object()})
        progress.message("saved")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "PPO: 100 of 1,000, success 25.0%"
    assert second == "PPO: 300 of 1,000, success 25.0%, entropy 2.500, 0:35 left"  # 700 more at 20 a second
    assert third == "saved"


def test_the_live_panel_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=10, live=True) as progress:
        progress.update({"env_steps": 5, "success_rate": 0.5, "steps_per_s": 1.0})
    text = capsys.readouterr().out
    assert "50.0%" in text and "5 of 10" in text


def test_clock() -> None:
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
