"""Where a result is from: the commit of this checkout, what a run was started with, seeds that a commit decides."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llarp

from .errors import UserError

SEEDS = 1 << 31
"""Seeds made from commits are below this."""


def commit() -> str:
    """The commit of the checkout this package lies in, "+" behind it where files differ; else "unknown"."""
    here = Path(__file__).parent
    try:
        ours, head, changed = (
            _git(*words, folder=here)
            for words in (("ls-files", "--error-unmatch", Path(__file__).name), ("rev-parse", "HEAD"),
                          ("status", "--porcelain", "-uno"))
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    if ours.returncode or head.returncode:  # installed, perhaps inside somebody else's checkout
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def start_line() -> dict[str, Any]:
    """What a run is started with: command, commit, version, time."""
    program = "llarp" if Path(sys.argv[0]).name in ("llarp", "__main__.py") else Path(sys.argv[0]).name
    return {
        "command": shlex.join([program, *sys.argv[1:]]),
        "commit": commit(),
        "llarp": llarp.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def whole_commit(name: str) -> str:
    """The 40 digits of a commit: given as such, or anything that names one in the checkout this package lies in."""
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return name
    try:
        found = _git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}", folder=Path(__file__).parent)
    except (OSError, subprocess.SubprocessError):
        found = None
    if found is None or found.returncode or not re.fullmatch(r"[0-9a-f]{40}", found.stdout.strip()):
        raise UserError(f"commit:{name} names no commit of this checkout: give its 40 hexadecimal digits")
    return found.stdout.strip()


def seed_of_commit(commit: str) -> int:
    """A seed that nobody could choose before the commit was made: its 40 digits, hashed."""
    return int.from_bytes(hashlib.sha256(f"llarp test splits {commit}".encode()).digest()[:8], "big") % SEEDS


def _git(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
