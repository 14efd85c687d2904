"""Markers for tests that need what not every machine has, and the folder of shared benchmark data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, saying why."""
    reasons: dict[str, str | None] = {}
    for item in items:
        for marker in ("gpu", "habitat", "shared_data", "llm"):
            if item.get_closest_marker(marker):
                if marker not in reasons:
                    reasons[marker] = _missing(marker)
                if reason := reasons[marker]:
                    item.add_marker(pytest.mark.skip(reason=reason))


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
