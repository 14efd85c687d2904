"""The tools behind the results page: intervals over seeds and episodes, pairs, curves, seeds of commits."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llarp import cli
from llarp.errors import UserError
from llarp.evaluation.compare import Played, common_steps, difference, markdown, rate, read_played, steps_ratio
from llarp.evaluation.curves import Curve, mean_curve, read_curve, svg
from llarp.evaluation.published_results import NOT_UNSEEN, TESTS
from llarp.evaluation.statistics import wilson
from llarp.provenance import seed_of_commit

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
COMMIT = "9b0a81100000000000000000000000000000abcd"


def played(name: str, success: Any, steps: Any = None, split: str = "new_scenes", episodes: str = "same") -> Played:
    won = np.atleast_2d(np.asarray(success, bool))
    took = np.full(won.shape, 10) if steps is None else np.atleast_2d(np.asarray(steps))
    settings = {"dataset": "built-in", "rules": "clean", "backend": "mujoco", "seed": 1, "seed_from": None}
    return Played(name, {split: won}, {split: took}, {split: episodes}, settings)


def test_one_seed_has_wilsons_interval() -> None:
    found = rate(played("a", [1] * 8 + [0] * 2), ["new_scenes"])
    assert (found.value, found.low, found.high) == (0.8, *wilson(8, 10))


def test_seeds_widen_the_interval() -> None:
    """Two seeds at 0.9 and 0.1: what a third would do, nobody knows; two that agree tell more."""
    half = [1] * 5 + [0] * 5
    agree = rate(played("a", [half * 20, half * 20]), ["new_scenes"])
    apart = rate(played("b", [[1] * 180 + [0] * 20, [1] * 20 + [0] * 180]), ["new_scenes"])
    assert agree.value == apart.value == 0.5
    assert agree.high - agree.low < 0.16 and apart.high - apart.low > 0.7


def test_intervals_cover_what_they_claim() -> None:
    """Over experiments with 6 seeds whose rates scatter, about 95 % of the intervals hold the true rate."""
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(50):
        skill = random.normal(0.5, 0.1, size=6)
        hardness = random.normal(0, 0.2, size=60)
        share = np.clip(skill[:, None] + hardness, 0, 1)
        found = rate(played("a", random.random((6, 60)) < share), ["new_scenes"])
        inside += found.low <= 0.5 <= found.high
    assert 41 <= inside <= 50  # six seeds are few: a percentile bootstrap is somewhat narrow


def test_a_pair_is_told_apart_where_two_rates_are_not() -> None:
    """Episodes differ much in hardness; one policy solves all that the other does and 6 more of 100."""
    weak, strong = [1] * 50 + [0] * 50, [1] * 56 + [0] * 44
    a, b = played("a", strong), played("b", weak)
    gain = difference(a, b, ["new_scenes"])
    assert gain.value == pytest.approx(0.06) and gain.low > 0
    assert rate(a, ["new_scenes"]).low < rate(b, ["new_scenes"]).high  # by themselves they are not apart
    same = difference(a, a, ["new_scenes"])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_seeds_in_pairs_are_drawn_together() -> None:
    """Each seed gains 10 points on the one it began with, and seeds differ by 60."""
    before = [[1] * 20 + [0] * 80, [1] * 80 + [0] * 20]
    after = [[1] * 30 + [0] * 70, [1] * 90 + [0] * 10]
    apart = difference(played("a", after), played("b", before), ["new_scenes"])
    together = difference(played("a", after), played("b", before), ["new_scenes"], same_seeds=True)
    assert apart.value == together.value == pytest.approx(0.1)
    assert apart.low < 0 < together.low
    with pytest.raises(UserError, match="do not go in pairs"):
        difference(played("a", after), played("b", before[0]), ["new_scenes"], same_seeds=True)


def test_steps_count_where_both_succeed() -> None:
    a = played("a", [1, 1, 0, 1], [4, 6, 32, 9])
    b = played("b", [1, 1, 1, 0], [10, 10, 3, 32])
    ratio, joint = steps_ratio(a, b, ["new_scenes"])
    assert ratio.value == pytest.approx(10 / 20) and joint == 2
    assert ratio.low >= 0.4 - 1e-9 and ratio.high <= 0.6 + 1e-9
    ratio, joint = steps_ratio(played("a", [1, 0]), played("b", [0, 1]), ["new_scenes"])
    assert joint == 0 and np.isnan(ratio.value)


def test_steps_where_all_of_them_succeed() -> None:
    """A third policy decides which episodes count; of two seeds those that solved one count in it."""
    a = played("a", [[1, 1, 1, 0], [1, 0, 1, 0]], [[4, 6, 8, 32], [8, 32, 8, 32]])
    b, c = played("b", [1, 1, 1, 1], [10, 20, 30, 40]), played("c", [1, 1, 0, 1], [5, 7, 32, 9])
    assert common_steps([a, b], ["new_scenes"]) == (3, [pytest.approx(20 / 3), 20.0])
    assert common_steps([a, b, c], ["new_scenes"]) == (2, [6.0, 15.0, 6.0])
    assert "Steps in the 2 episodes that all of them solved: a 6.00, b 15.00, c 6.00." in markdown([a, b, c])
    assert "Steps in the" not in markdown([a]) + markdown([b, played("d", [0, 0, 0, 0])])


def test_other_episodes_are_not_compared() -> None:
    with pytest.raises(UserError, match="other episodes of new_scenes"):
        difference(played("a", [1, 0]), played("b", [1, 0], episodes="others"), ["new_scenes"])


def report(folder: Path, name: str, success: float, count: int = 10, **changes: Any) -> Path:
    """A result file of `llarp eval split=all`."""
    wins = round(success * count)
    outcomes = {
        split: {"episodes_sha256": split, "success": [1] * wins + [0] * (count - wins), "steps": [7] * count}
        for split in TESTS
    }
    base = {"dataset": "built-in", "rules": "clean", "backend": "mujoco", "seed": 5, "seed_from": f"commit {COMMIT}"}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(base | {"outcomes": outcomes} | changes))
    return path


def test_the_table(tmp_path: Path) -> None:
    ours = read_played("ours", [report(tmp_path, "s1", 0.6), report(tmp_path, "s2", 0.8)])
    sweep = read_played("sweep", [report(tmp_path, "w", 0.2)])
    text = markdown([ours, sweep])
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert set(TESTS) < rows.keys() and "*paraphrastic robustness*" in rows
    assert "| 70.0 (" in rows["**total** (10 splits)"] and rows["**total** (10 splits)"].endswith("| 42 |")
    assert "ours (2 seeds x 10) | sweep (1 seed x 10)" in rows["split"]
    assert rows["sweep"].startswith("| sweep | +50.0 (") and "| 1.00 (1.00 to 1.00) | 20 |" in rows["sweep"]
    assert f"seed 5 (commit {COMMIT})" in text and "not to be compared digit by digit" in text
    assert len(ours.unseen) == 10 and not set(ours.unseen) & set(NOT_UNSEEN)
    one = markdown([read_played("one", [report(tmp_path, "s1", 0.6)])])
    assert "compared with" not in one


BAD: dict[str, tuple[Any, str]] = {
    "not there": (lambda f: f / "none.json", "cannot be read"),
    "no JSON": (lambda f: written(f, "{"), "no JSON file"),
    "of an earlier version": (lambda f: written(f, '{"splits": {}}'), "evaluate again"),
    "half an outcome": (lambda f: written(f, '{"outcomes": {"x": {"episodes_sha256": ""}}}'), "are not what"),
    "words for numbers": (
        lambda f: report(f, "x", 0.5, outcomes={"x": outcome("") | {"steps": ["3"]}}), "are not what"
    ),
    "another seed": (lambda f: report(f, "x", 0.5, seed=6), "seed is 6"),
    "other splits": (lambda f: report(f, "x", 0.5, outcomes={"new_scenes": outcome("x")}), "other splits"),
    "other episodes": (lambda f: report(f, "x", 0.5, outcomes={s: outcome("x") for s in TESTS}), "of other episodes"),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "bad.json"
    path.write_text(text)
    return path


def outcome(digest: str) -> dict[str, Any]:
    return {"episodes_sha256": digest, "success": [1], "steps": [3]}


@pytest.mark.parametrize("what", BAD)
def test_files_that_do_not_belong_together(what: str, tmp_path: Path) -> None:
    make, said = BAD[what]
    with pytest.raises(UserError, match=said):
        read_played("a", [report(tmp_path, "good", 0.5), make(tmp_path)])


def test_the_scripts(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)

    def run(script: str, *words: str) -> int:
        return runpy.run_path(str(BENCHMARKS / script))["main"](list(words))

    a, b = report(tmp_path, "a", 0.9), report(tmp_path, "b", 0.4)
    assert run("results_table.py", f"ours={a}", f"the LSTM={b}", "against=the LSTM", "out=t.md") == 0
    assert "the LSTM less each other one" in (tmp_path / "t.md").read_text()
    assert run("results_table.py", f"ours={a}", "against=x") == 2
    assert capsys.readouterr().err.startswith("results_table: error: against=x: choose ours")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "metrics.jsonl").write_text('{"env_steps": 1, "success_rate": 0.1}\n{"env_steps": 9}\n' * 2)
    assert run("curves.py", "out=c.svg", "ours=r") == 0 and (tmp_path / "c.svg").stat().st_size
    assert run("curves.py", "out=c.svg", "ours=r", "y=wings") == 2


def test_curves(tmp_path: Path) -> None:
    rows = [{"env_steps": 10 * i, "success_rate": float(i % 2)} for i in range(1, 9)]
    rows.append({"env_steps": 5, "success_rate": float("nan")})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut')
    plain, smooth = (read_curve(tmp_path, "env_steps", "success_rate", n) for n in (1, 2))
    assert plain.x.tolist() == [10 * i for i in range(1, 9)] and plain.y.tolist() == [1, 0] * 4
    assert smooth.y.tolist() == [1] + [0.5] * 7
    mean = mean_curve([Curve(np.array([0.0, 10]), np.array([0.0, 1])), Curve(np.array([5.0, 20]), np.array([1.0, 1]))])
    assert (mean.x[0], mean.x[-1], mean.y[0], mean.y[-1]) == (5, 10, 0.75, 1)
    text = svg({"a <b>": [plain, smooth], "c": [plain]}, "env_steps", "success_rate")
    assert "a &lt;b&gt; (2 runs)" in text and text.count("stroke-width=\"2.5\" ") == 0
    assert text.count('<path d="M') == text.count("<path")
    wide = svg({"x" * 100: [plain]}, "env_steps", "success_rate")
    (begins,), (width,) = re.findall(r'x="(\d+)"[^>]*>x{100}', wide), re.findall(r'^<svg[^>]* width="(\d+)"', wide)
    assert int(begins) + 7 * 100 <= int(width) and int(begins) > 640, "the legend is cut off or covers the curves"
    with pytest.raises(UserError, match="no metrics.jsonl"):
        read_curve(tmp_path / "none", "env_steps", "success_rate")


def test_seeds_of_commits(capsys: pytest.CaptureFixture[str]) -> None:
    request = cli.parse(cli.COMMANDS["eval"], ["policy=random", f"seed=commit:{COMMIT}"])
    assert request.config().seed == seed_of_commit(COMMIT) and request.seed_from == f"commit {COMMIT}"
    assert 0 <= seed_of_commit(COMMIT) < 1 << 31
    assert seed_of_commit(COMMIT) != seed_of_commit(COMMIT[::-1])
    assert cli.main(["eval", "policy=random", "seed=commit:--help"]) == 2
    assert "names no commit" in capsys.readouterr().err


def test_an_evaluation_holds_each_outcome(tmp_path: Path) -> None:
    words = ["policy=sweep", "episodes=4", "split=new_scenes", "env.num_envs=4", f"seed=commit:{COMMIT}"]
    for name in ("a", "b"):
        assert cli.main(["eval", *words, f"out={tmp_path / name}.json"]) == 0
    one = read_played("sweep", [tmp_path / "a.json"])
    found = json.loads((tmp_path / "a.json").read_text())
    assert one.success["new_scenes"].mean() == found["splits"]["new_scenes"]["success_rate"]
    assert one.steps["new_scenes"].mean() == found["splits"]["new_scenes"]["mean_steps"]
    assert one.settings["seed_from"] == f"commit {COMMIT}"
    assert difference(one, read_played("again", [tmp_path / "b.json"]), ["new_scenes"]).value == 0
