"""Where things that are made or fetched once are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from llarp.errors import UserError


def cache_root() -> Path:
    """$LLARP_CACHE, else ~/.cache/llarp."""
    return Path(os.environ.get("LLARP_CACHE") or "~/.cache/llarp").expanduser()


def cache_dir(*parts: str) -> Path:
    """A folder below `cache_root()`, made if need be."""
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        why = f"cannot make the cache folder {folder} ({e.strerror})"
        raise UserError(f"{why}: set LLARP_CACHE to a writable folder") from e
    return folder
