"""The command line: `llarp COMMAND [config=NAME] [key=value ...]`.

Bad usage and bad input end with one line and exit code 2, other failures with a traceback and 1, Ctrl-C with 130.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from . import __version__
from .commands import COMMANDS, Command, Request, check_out
from .errors import PeersLost, UserError
from .options import ALIASES
from .summary import plain, summary_lines

# -- parsing ----------------------------------------------------------------------------------------------------------


def parse(command: Command, words: list[str]) -> Request:
    """The request behind the words after the command; UserError for words that mean nothing."""
    from .config import RunConfig, build, leaves, parse_value, split_override, unknown_key

    what = ""
    if command.whats:
        if not words or words[0] not in command.whats:
            raise UserError(f"choose what: {', '.join(command.whats)}" + (f" (got {words[0]!r})" if words else ""))
        what, *words = words
        if what in command.folder_out and words and "=" not in words[0] and not words[0].startswith("-"):
            words = [f"out={words[0]}", *words[1:]]
    kinds, settings = leaves(command.options), leaves(RunConfig)
    aliases = {short: full for short, full in ALIASES.items() if full in settings}
    chosen: dict[str, Any] = {}
    overrides: list[str] = []
    preset = None
    seed_from = ""
    for word in words:
        if word.startswith("-"):
            raise UserError(f"unknown flag {word}: settings are written key=value")
        key, value = split_override(word)
        if key == "config":
            preset = value
        elif key == "seed" and value.startswith("commit:"):
            from .provenance import seed_of_commit, whole_commit

            commit = whole_commit(value.removeprefix("commit:"))
            overrides.append(f"seed={seed_of_commit(commit)}")
            seed_from = f"commit {commit}"
        elif key in kinds:
            chosen[key] = parse_value(key, value, kinds[key])
        elif key in aliases:
            overrides.append(f"{aliases[key]}={value}")
        elif key in settings:
            overrides.append(word)
        else:
            raise unknown_key(key, [*kinds, *aliases, *settings, "config"])
    return Request(what, build(command.options, chosen), preset, tuple(overrides), seed_from)


def main(words: list[str]) -> int:
    """Run a command line (without the program's name); the exit code."""
    try:
        return _main(words)
    except UserError as error:
        return _refuse(str(error))
    except PeersLost as error:
        print(f"llarp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llarp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as in `llarp --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(f"the disk is full: {error}")
        if error.errno == errno.ENAMETOOLONG:
            return _refuse(str(error))
        traceback.print_exc()
    except MemoryError:
        return _refuse("too little memory: lower env.num_envs or ppo.micro_batch_tokens")
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which cannot be named without importing torch
            return _refuse("too little GPU memory: lower env.num_envs or ppo.micro_batch_tokens")
        traceback.print_exc()
    return 1


def _main(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words and words[0] == "--version":
        print(f"llarp {__version__}")
        return 0
    if not words:
        raise UserError(f"no command given: choose {', '.join(COMMANDS)} (llarp --help says more)")
    name, *rest = words
    if name not in COMMANDS:
        from .config import nearest

        raise UserError(f"unknown command {name!r}{nearest(name, COMMANDS)}: choose {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if any(word in ("-h", "--help") for word in rest):
        print(command_usage(name))
        return 0
    request = parse(command, rest)
    json_out = command.json_out and request.what not in command.folder_out
    out = Path(request.options.out) if json_out and request.options.out is not None else None
    if out is not None:
        check_out(out)
    result = command.run(request)
    if result is None:  # another process of this job reports
        return 0
    if request.seed_from and isinstance(result, dict) and "seed" in result:
        result["seed_from"] = request.seed_from
    if out is not None:
        _write_result(out, result)
    for line in summary_lines(result):
        print(line)
    return 1 if isinstance(result, dict) and result.get("leaks") else 0


def _refuse(message: str) -> int:
    print("llarp: error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _write_result(out: Path, result: Any) -> None:
    from .runfolder import to_json, write_atomically

    if isinstance(result, list):
        write_atomically(out, "".join(to_json(row) + "\n" for row in result))
    else:
        write_atomically(out, to_json(result, indent=2) + "\n")


# -- words for people -------------------------------------------------------------------------------------------------


def usage() -> str:
    """What `llarp --help` prints."""
    lines = ["usage: llarp COMMAND [config=NAME] [key=value ...]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {' '.join([name, '|'.join(command.whats)]).strip():32}{command.summary}")
    return "\n".join([*lines, "", "`llarp COMMAND --help` lists options and settings, `llarp --version` the version."])


def command_usage(name: str) -> str:
    """What `llarp COMMAND --help` prints: its options, then every setting with its default."""
    from .config import RunConfig, leaves, preset_names

    command = COMMANDS[name]
    head = " ".join(["llarp", name, "|".join(command.whats)]).strip()
    lines = [f"usage: {head} [config=NAME] [key=value ...]", "", command.summary, "", "options:"]
    for f in dataclasses.fields(command.options):
        default = "" if f.default is None else f" (default: {plain(f.default)})"
        lines.append(f"  {f.name + '=':20}{f.metadata['help']}{default}")
    settings = leaves(RunConfig)
    for short, full in ALIASES.items():
        if full in settings:
            lines.append(f"  {short + '=':20}short for {full}=")
    lines += ["", f"presets (config=NAME or a path): {', '.join(preset_names())}", "", "settings and their defaults:"]
    config = RunConfig()
    for key in settings:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        lines.append(f"  {key}={plain(value)}")
    return "\n".join(lines)


def run() -> None:
    """The `llarp` command. Where it ends with 2, the file that `LLARP_REFUSED` names, if any, is made: a launcher's own
    exit code does not tell bad input from a failure."""
    try:
        code: Any = main(sys.argv[1:])
    except SystemExit as end:
        code = end.code
    if code == 2 and (mark := os.environ.get("LLARP_REFUSED")):
        Path(mark).touch()
    sys.exit(code)
