"""Where things that are made or fetched once are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from llarp.errors import UserError


def cache_dir(*parts: str) -> Path:
    """A folder below $LLARP_CACHE (default: ~/.cache/llarp), made if need be."""
    root = Path(os.environ.get("LLARP_CACHE") or Path.home() / ".cache" / "llarp")
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        why = f"cannot make the cache folder {folder} ({e.strerror})"
        raise UserError(f"{why}: set LLARP_CACHE to a writable folder") from e
    return folder
