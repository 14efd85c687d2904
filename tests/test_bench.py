"""The timing harness: what it counts, and that the actions it draws are the ones it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_llm import make_tiny_llm

from llarp import bench, cli
from llarp.config import load
from llarp.tasks.actions import NUM_ACTIONS, OPEN_FRIDGE, PICK_BASE


def test_warm_up_is_not_counted() -> None:
    calls: list[int] = []
    seconds = bench.time_repeats(lambda: calls.append(1), repeats=3, warm_up=2)
    assert len(seconds) == 3 and len(calls) == 5 and min(seconds) >= 0


def test_the_rate_is_that_of_the_median() -> None:
    assert bench._rate(100, [1.0, 50.0, 2.0])["steps_per_s"] == 50


def test_actions_are_valid_and_change_something() -> None:
    valid = torch.zeros(64, NUM_ACTIONS, dtype=torch.bool)
    valid[:, :3] = True  # three places to go
    valid[::2, PICK_BASE + 4] = True
    valid[:, OPEN_FRIDGE:] = True
    draws = bench.ChangingActions(64, "cpu", seed=0)
    last = torch.full((64,), -1)
    seen: set[int] = set()
    for _ in range(50):
        action = draws.draw(valid)
        assert valid.gather(1, action[:, None]).all() and (action < OPEN_FRIDGE).all()
        assert (action != last).logical_or(action >= PICK_BASE).all()
        last = torch.where(action < PICK_BASE, action, last)
        seen |= set(action.tolist())
    assert seen == {0, 1, 2, PICK_BASE + 4}


def test_bench_sim_reports_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "VECTOR_STEPS", 2)
    out = tmp_path / "b.json"
    assert cli.main(["bench", "sim", "config=smoke", "env.image_size=32", "repeats=2", f"out={out}"]) == 0
    result = json.loads(out.read_text())
    assert result["what"] == "sim" and result["steps_per_s"] > 0 and result["changed_share"] > 0.9
    assert len(result["repeat_s"]) == 2 and result["steps_a_repeat"] == 2 * 4
    assert result["settings"]["num_envs"] == 4 and result["settings"]["cores"] >= 1
    assert result["parts"]["render"]["pictures"] == 2 * 4 and result["memory_mb"] > 100


@pytest.mark.parametrize("what", ["policy", "update", "train"])
def test_the_other_benches_report(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "VECTOR_STEPS", 2)
    llm, out = make_tiny_llm(tmp_path / "llm"), tmp_path / "b.json"
    words = ["config=smoke", f"policy.llm={llm}", "env.image_size=64", "repeats=1", f"out={out}"]
    assert cli.main(["bench", what, *words]) == 0
    result = json.loads(out.read_text())
    assert result["what"] == what and result["steps_per_s"] > 0
    assert result["settings"]["policy"]["llm"] == str(llm)
    assert sum(result["where"].values()) == pytest.approx(1, abs=0.01) and result["where"]["rest"] < 0.5
    assert all(ratio > 0 for ratio in result["achieved_over_possible"].values())
    assert result["parts"]["llm decode" if what == "policy" else "llm forward"]["tokens_real"] > 0


def test_bench_train_counts_real_tokens_only(tmp_path: Path) -> None:
    llm = make_tiny_llm(tmp_path / "llm")
    settings = load("smoke", [f"policy.llm={llm}", "env.image_size=64", "ppo.num_steps=6", "ppo.num_epochs=3"])
    result = bench.bench("train", settings, repeats=2)
    transitions = 6 * settings.env.num_envs
    parts = result["parts"]
    transitions *= 2  # as many updates are watched as repeats are timed
    assert parts["llm decode"]["tokens_real"] == transitions
    old = parts.get("llm recompute", {"tokens_real": 0, "tokens_computed": 0})  # less what the first pass has anyway
    assert 0 <= old["tokens_real"] <= min(transitions, old["tokens_computed"])
    assert parts["llm forward"]["tokens_real"] == parts["llm backward"]["tokens_real"] == 3 * transitions
    context = parts["llm forward"]["context_steps_an_epoch"]
    assert parts["llm forward"]["tokens_computed"] >= 3 * (transitions + 2 * context)  # the rest is padding
    for part in (parts["llm forward"], parts["llm backward"]):
        real = part["computed_over_possible"] * part["real_share"]
        assert real == pytest.approx(part["achieved_over_possible"])
    assert {"llm backward", "llm decode", "vision", "render", "task", "optimizer", "heads"} <= result["where"].keys()
    assert min(result["repeat_s"]) <= result["rollout_s"] + result["update_s"] + 1e-6  # medians of two: means
    assert result["rollout_s"] + result["update_s"] <= max(result["repeat_s"]) + 1e-6
    assert result["cost_a_step"]["pixels"] == 64 * 64 and result["updates"] == 3


LEFT_OUT = {"policy.tensor_parallel=2": "tensor_parallel", "env.double_buffer=true": "env.double_buffer",
            "ppo.bc_coef=0.5": "ppo.bc_coef", "env.num_envs=10000000": "too little memory"}  # fmt: skip


@pytest.mark.parametrize("word", LEFT_OUT)
def test_what_would_not_be_timed_is_refused(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.json"
    assert cli.main(["bench", "train", "config=smoke", word, f"out={out}"]) == 2
    message = capsys.readouterr().err
    assert LEFT_OUT[word] in message and message.count("\n") == 1 and not out.exists()


def test_one_process_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["bench", "sim", "config=smoke"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_acting_is_timed_in_episodes_that_may_be(tmp_path: Path) -> None:
    llm, out = make_tiny_llm(tmp_path / "llm"), tmp_path / "b.json"
    words = ["config=smoke", f"policy.llm={llm}", "env.image_size=64", "task.max_steps=5", "repeats=1", f"out={out}"]
    assert cli.main(["bench", "policy", *words]) == 0
    assert json.loads(out.read_text())["steps_a_repeat"] == 5 * 4
