"""Our update and the plain one give the same losses and gradients; the benchmark that compares their speed runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from tiny_llm import make_tiny_llm

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/reference_update.py`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import reference_update

    return reference_update


@pytest.mark.parametrize("rollout", ["natural", "long", "short"])
def test_losses_and_gradients_are_the_plain_updates(rollout: str, benchmark: ModuleType, tmp_path: Path) -> None:
    llm, out = make_tiny_llm(tmp_path / "llm"), tmp_path / "out.json"
    words = [f"llm={llm}", "worlds=4", "steps=12", "minibatches=2", "repeats=1", f"rollout={rollout}", f"out={out}"]
    assert benchmark.main(words) == 0
    result = json.loads(out.read_text())
    assert max(result["apart"].values()) < 1e-4
    assert result["settings"]["episodes"] == {"natural": 7, "long": 4, "short": 8}[rollout]
    assert {"plain float32", "plain bfloat16", "+ instructions read once", "ours"} <= result["median_s"].keys()
    assert all(len(seconds) == 1 for seconds in result["seconds"].values())


def test_episodes_last_no_longer_than_the_task_allows(benchmark: ModuleType, tmp_path: Path) -> None:
    llm, out = make_tiny_llm(tmp_path / "llm"), tmp_path / "out.json"
    words = ["worlds=2", "steps=70", "rollout=long", "minibatches=2", "repeats=1", "ablations=false"]
    assert benchmark.main([f"llm={llm}", f"out={out}", *words]) == 0
    result = json.loads(out.read_text())
    assert result["settings"]["episodes"] == 6  # 32, 32 and the 6 steps left, in either world
    assert max(result["apart"].values()) < 1e-4


BAD = {"wrlds=3": "wrlds", "worlds": "worlds", "worlds=0": "at least 1", "worlds=x": "worlds=x", "repeats=0": "repeats",
       "threads=-1": "at least 0", "ablations=yes": "true or false", "rollout=odd": "natural, long, short",
       "attention=flash": "eager, sdpa", "out=none/x.json": "out=none/x.json", "llm=nope": "nope"}  # fmt: skip


@pytest.mark.parametrize("word", BAD)
def test_bad_words_are_named_before_anything_is_measured(
    word: str, benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main([word]) == 2
    message = capsys.readouterr().err
    assert BAD[word] in message and message.count("\n") == 1


def test_a_gpu_that_is_not_there_is_named(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert benchmark.main(["device=cuda"]) == 2
    assert "device=cuda" in capsys.readouterr().err
