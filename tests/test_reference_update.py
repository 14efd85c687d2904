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


@pytest.mark.parametrize("rollout", ["long", "short"])
def test_losses_and_gradients_are_the_plain_updates(rollout: str, benchmark: ModuleType, tmp_path: Path) -> None:
    llm, out = make_tiny_llm(tmp_path / "llm"), tmp_path / "out.json"
    words = [f"llm={llm}", "worlds=4", "steps=12", "minibatches=2", "repeats=1", f"rollout={rollout}", f"out={out}"]
    assert benchmark.main(words) == 0
    result = json.loads(out.read_text())
    assert max(result["apart"].values()) < 1e-4
    assert result["settings"]["episodes"] == (4 if rollout == "long" else 8)
    assert {"plain float32", "plain bfloat16", "+ instructions read once", "ours"} <= result["median_s"].keys()
    assert all(len(seconds) == 1 for seconds in result["seconds"].values())


def test_unknown_settings_are_named(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["wrlds=3"]) == 2
    assert "wrlds" in capsys.readouterr().err
