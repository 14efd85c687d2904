"""Markers for tests that need what not every machine has, and the folder of shared benchmark data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
LEAST_HABITAT = 30
"""So many tests marked `habitat` pass where Habitat is installed, or a run of all of them fails."""
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # each with threads for all cores would spin
    from llarp.machine import cores

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))


def shared_folder() -> Path:
    """Where the shared benchmark data would be."""
    return Path(os.environ.get("LLARP_SHARED") or ROOT.parent / "shared")


def _missing(marker: str) -> str | None:
    """Why tests with this marker cannot run here; None if they can."""
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "no CUDA device"
    if marker == "habitat":
        absent = [m for m in ("habitat_sim", "habitat") if importlib.util.find_spec(m) is None]
        return f"{absent[0]} is not installed" if absent else None
    if marker == "shared_data":
        there = (shared_folder() / "traces").is_dir()
        return None if there else f"no shared data at {shared_folder()} (set LLARP_SHARED)"
    from llarp.policy import smollm

    return None if smollm.is_cached() else "the language model has not been fetched (llarp train does)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, saying why."""
    reasons: dict[str, str | None] = {}
    for item in items:
        for marker in ("gpu", "habitat", "shared_data", "llm"):
            if item.get_closest_marker(marker):
                if marker not in reasons:
                    reasons[marker] = _missing(marker)
                if reason := reasons[marker]:
                    item.add_marker(pytest.mark.skip(reason=reason))


def _everything_was_asked_for(config: pytest.Config) -> bool:
    """True for `pytest` and `pytest -m habitat`, not where files, names or other marks narrow it down."""
    chosen = [Path(a).resolve() for a in config.args]
    option = config.option
    narrowed = option.keyword or getattr(option, "lf", False) or option.deselect or option.ignore
    return not narrowed and config.option.markexpr in ("", "habitat") and set(chosen) <= {ROOT, ROOT / "tests"}


_OUTCOMES: dict[str, set[str]] = {"passed": set(), "skipped": set()}
"""Tests marked `habitat`."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count tests of Habitat."""
    if "habitat" in report.keywords and (report.when == "call" or report.skipped) and report.outcome in _OUTCOMES:
        _OUTCOMES[report.outcome].add(report.nodeid)


def _habitat_complaint(config: pytest.Config) -> str:
    """What is wrong with a whole run where Habitat is installed; a process of pytest-xdist sees a part of one."""
    part = hasattr(config, "workerinput") or config.option.collectonly
    if part or not _everything_was_asked_for(config) or _missing("habitat"):
        return ""
    passed, skipped = len(_OUTCOMES["passed"]), sorted(_OUTCOMES["skipped"])
    if skipped:
        return f"Habitat is installed, yet {len(skipped)} of its tests were skipped, such as {skipped[0]}"
    if passed < LEAST_HABITAT:
        return f"Habitat is installed, yet only {passed} of its tests passed: {LEAST_HABITAT} are expected"
    return ""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run of all tests fails where Habitat is installed and too few of its tests passed."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and _habitat_complaint(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say so."""
    if complaint := _habitat_complaint(config):
        terminalreporter.write_line(f"ERROR: {complaint}", red=True)


@pytest.fixture
def shared() -> Path:
    """The folder of shared benchmark data (for tests marked `shared_data`)."""
    return shared_folder()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests make and keep lies in a folder of their own; a language model fetched earlier is used where it is."""
    from llarp.policy import smollm

    model, folder = smollm.model_folder(), tmp_path_factory.mktemp("cache")
    if model.is_dir():
        (folder / model.name).symlink_to(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLARP_CACHE", str(folder))
        yield
