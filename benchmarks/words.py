"""Command lines of the benchmarks: `key=value` words, all checked before anything is measured."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llarp.commands import check_out
from llarp.config import split_override, unknown_key
from llarp.errors import UserError


def read_words(words: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults with what the words say, of the same types; a whole number is at least 1, or 0 where the default is.

    UserError for a word that is not `key=value`, a key that has no default, another type, a device that is not there,
    and an `out` that cannot be written."""
    found = dict(defaults)
    for word in words:
        key, text = split_override(word)
        if key not in defaults:
            raise unknown_key(key, defaults)
        found[key] = _value(key, text, defaults[key])
    check(found.get("device", "cpu"), found.get("out"))
    return found


def check(device: str, out: str | Path | None) -> None:
    """UserError where the device is not there, or `out` cannot be written."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: there is no GPU here")
    if out:
        check_out(Path(out))


def count(text: str) -> int:
    """A number of something, for argparse."""
    try:
        return _whole("", text, 1)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("=")) from None


def _value(key: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"{key}={text}: must be true or false")
        return text == "true"
    if isinstance(default, int):
        return _whole(key, text, min(default, 1))
    if isinstance(default, list):
        return [_whole(key, part, 1) for part in text.split(",")]
    return text


def _whole(key: str, text: str, least: int) -> int:
    """A whole number; UserError where it is none, or less than `least`."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise UserError(f"{key}={text}: must be a whole number, at least {least}")
    return number


def one_line(main: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """`main` with a UserError as one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(words: list[str]) -> int:
        try:
            return main(words)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2

    return wrapped
