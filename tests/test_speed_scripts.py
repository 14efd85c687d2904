"""The scripts around the speed benchmarks: backbones of a shape, lines of the scaling table, tables from results."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_llm import make_tiny_llm

from llarp.habitat import version_of
from llarp.policy.llm import load_llm

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of `benchmarks/`, by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(request.param)


def test_scripts_import_the_tasks_as_they_are_installed() -> None:
    for path in BENCHMARKS.glob("*.py"):  # from another folder than the checkout `tasks` is llarp.tasks alone
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"tasks", "habitat_configs", "tests"} & {name.partition(".")[0] for name in names}, path


@pytest.mark.parametrize("script", ["make_backbone"], indirect=True)
def test_a_backbone_of_a_shape_loads(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = make_tiny_llm(tmp_path / "words")
    made = script.make_backbone(tmp_path / "made", "tiny", layers=2, tokenizer=tokenizer)
    llm = load_llm(str(made), "bfloat16")
    assert (llm.num_layers, llm.hidden_size) == (2, 192) and llm.dtype == torch.bfloat16
    assert (made / "RANDOM_WEIGHTS.txt").is_file()
    for words, told in (([str(tmp_path / "new"), "shape=unknown"], "llama-7b"), (["shape=tiny"], "FOLDER"),
                        ([str(made), "shape=tiny"], "is there already"),
                        ([str(tmp_path / "new"), "shape=tiny", "layers=x"], "layers=x")):  # fmt: skip
        assert script.main(words) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("script", ["scaling"], indirect=True)
def test_scaling_prints_a_line_a_setting(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm, out = make_tiny_llm(tmp_path / "llm"), tmp_path / "out.json"
    words = [f"policy.llm={llm}", "env.image_size=64", "env.episodes=64", "steps=4", "repeats=1", f"out={out}"]
    assert script.main(["axis=worlds", "worlds=1,2", *words]) == 0
    rows = json.loads(out.read_text())["worlds"]
    assert [row["name"] for row in rows] == ["1 worlds", "2 worlds"]
    assert all(row["rollout_ms"] + row["update_ms"] == pytest.approx(row["ms_a_step"]) for row in rows)
    assert rows[0]["gflop_a_step"] == pytest.approx(rows[1]["gflop_a_step"], rel=0.5)
    assert capsys.readouterr().out.count("worlds |") == 2
    for word, told in {"axis=widths": "worlds, context", "axis": "axis", "worlds=1,x": "worlds=x", "steps=0": "steps",
                       "env.num_env=4": "env.num_env", "out=none/x.json": "none/x.json"}.items():  # fmt: skip
        assert script.main([word]) == 2
        shown = capsys.readouterr()
        assert told in shown.err and not shown.out


@pytest.mark.parametrize("script", ["tables"], indirect=True)
def test_tables_show_what_was_measured(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = {"seconds": 2.0, "real_share": 0.5, "gflop_per_s": 30.0, "possible_gflop_per_s": 60.0,
            "achieved_over_possible": 0.5}  # fmt: skip
    decode = {"gbytes_per_s": 3.0, "bandwidth_gbytes_per_s": 30.0, "achieved_over_bandwidth": 0.1}
    train = {"what": "train", "settings": {}, "steps_per_s": 81.4, "repeat_s": [1.0, 2.0], "memory_mb": 2000.0,
             "rollout_steps_per_s": 120.0, "rollout_s": 4.0, "update_steps_per_s": 240.0, "update_s": 2.0,
             "parts": {"llm decode": part | decode}, "where": {"llm decode": 0.9, "rest": 0.1}}  # fmt: skip
    row = {"name": "2 worlds", "steps_per_s": 10.0, "ms_a_step": 100.0, "rollout_ms": 60.0, "update_ms": 40.0,
           "gflop_a_step": 1.5, "memory_mb": 900.0}  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "scaling-worlds.json").write_text(json.dumps({"worlds": [row]}))
    assert script.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for line in ("| train | 81 | 1.00 2.00 | 2000 |", "| train: rollout alone | 120 | 4.00 | |",
                 "| LLM, decode | 2.00 | 50% | 30 GFLOP/s | 60 | 50% |  |", "| llm decode | 90.0% |",
                 "| 2 worlds | 10.0 | 100.0 | 60.0 | 40.0 | 1.50 | 900 |"):  # fmt: skip
        assert line in shown
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for words, told in (([str(tmp_path)], "broken.json"), ([str(tmp_path / "empty")], "no results"), ([], "FOLDER")):
        assert script.main(words) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("sim_scaling", ["--device", "cuda"], "no GPU"),
        ("sim_scaling", ["--out", "none/x.json"], "none/x.json"),
        ("sim_scaling", ["--worlds", "0"], "at least 1"),
        ("habitat_step", ["none.pickle", "none"], "no such file" if version_of("habitat-sim") else "is not installed"),
        ("habitat_step", ["a", "b", "--steps", "x"], "at least 1"),
        ("habitat_workers", ["none.pickle", "none"], "none.pickle"),
        ("no_sync", ["steps=x"], "steps=x"),
        ("no_sync", ["env.num_env=2"], "env.num_env"),
        ("oracle_published", ["scenes=none", "none.pickle"], "none.pickle"),
        ("oracle_published", ["file.pickle"], "scenes=FOLDER"),
    ],
    indirect=["script"],
)
def test_words_that_cannot_be_are_refused_before_anything_is_measured(
    script: ModuleType, words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        code = script.main(words)
    except SystemExit as left:  # argparse
        code = left.code
    shown = capsys.readouterr()
    assert code == 2 and told in shown.err.splitlines()[-1] and not shown.out


@pytest.mark.parametrize("script", ["no_sync"], indirect=True)
def test_where_there_is_no_gpu_no_sync_says_so(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main(["steps=2", "env.num_envs=2"]) == 3
    assert "no CUDA device" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["memory"], indirect=True)
def test_memory_of_a_run_is_told_by_quarter(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    rows = [{"env_steps": 512 * (i + 1), "wall_s": 15.0 * (i + 1), "memory_mb": 1000.0 + 2 * i} for i in range(16)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert script.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "4.0 minutes of PPO, 16 updates: 1002, 1009, 1017, 1026 MB by quarter, +8.00 MB a minute" in shown
    assert "8192 steps: 34.1 a second" in shown
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    for words, told in (([str(tmp_path)], "has 1 updates"), ([], "runs/NAME"), ([str(tmp_path / "none")], "none")):
        assert script.main(words) == 2
        assert told in capsys.readouterr().err
