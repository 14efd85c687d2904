"""The linter and the type checker are part of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package laid out as it is installed (`tasks/` inside `llarp/`), by links to the sources."""
    root = tmp_path_factory.mktemp("package")
    (root / "llarp").mkdir()
    for path in (ROOT / "llarp").iterdir():
        if path.name != "__pycache__":
            (root / "llarp" / path.name).symlink_to(path)
    for name in ("tasks", "habitat_configs"):
        (root / "llarp" / name).symlink_to(ROOT / name)
    return root


def _run(*words: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    _run("ruff", "check", "--no-cache", ".", cwd=ROOT)


def test_mypy_finds_nothing(package: Path) -> None:
    cache = str(package / ".mypy_cache")
    _run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", cache, "-p", "llarp", cwd=package)
