"""The command line: `llarp COMMAND [config=NAME] [key=value ...]`.

Commands import what they need when they run. Bad usage and bad input end with one line and exit code 2, other
failures with a traceback and 1, Ctrl-C with 130.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, options
from .errors import PeersLost, UserError
from .options import ALIASES
from .summary import plain, summary_lines

if TYPE_CHECKING:
    from .config import RunConfig


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    what: str  # second word of `bench` and `data`, else ""
    options: Any  # the command's options dataclass
    preset: str | None
    overrides: tuple[str, ...]
    seed_from: str = ""  # the commit that decided the seed, where one did

    def config(self, run: Path | None = None, *more: str) -> RunConfig:
        """The settings: of an earlier run where one is given, else of the preset, with the overrides.

        A run's device is not taken over: it belonged to the machine of then.
        """
        from . import config

        if run is None:
            return config.load(self.preset, self.overrides)
        if self.preset is not None:
            raise UserError(f"config={self.preset}: settings come from {run} here; give single ones as key=value")
        file = run / "config.yaml" if (run / "config.yaml").is_file() else run / "config.json"  # of a policy folder
        return config.load(str(file.absolute()), ("device=auto", *more, *self.overrides))


# -- commands ---------------------------------------------------------------------------------------------------------


def _train(request: Request) -> dict[str, Any] | None:
    from .rl import distributed

    ranks = distributed.join()
    resume, config = ranks.agree(lambda: _run_to_train(request))
    from .train import train

    result = train(config, resume=resume, ranks=ranks)
    ranks.leave()
    return result if ranks.leads else None


def _run_to_train(request: Request) -> tuple[Path | None, RunConfig]:
    """The run folder to continue, if any, and the settings."""
    from .runfolder import find_run, run_to_continue

    if request.options.resume != "auto":
        resume = find_run(request.options.resume) if request.options.resume else None
        return resume, request.config(resume)
    config = request.config()
    resume = run_to_continue(config)
    return resume, config if resume is None else dataclasses.replace(request, preset=None).config(resume)


def _actor(request: Request) -> tuple[RunConfig, Path | None]:
    """Settings and checkpoint of a command in which somebody acts."""
    chosen = request.options
    if (chosen.checkpoint is None) == (chosen.policy is None):
        from .policy.hub import listed, names

        raise UserError("give either checkpoint=PATH or policy=NAME (random, oracle, explorer, sweep, zero_shot); "
                        f"policies that llarp ships, for checkpoint=: {listed(names())}")  # fmt: skip
    if chosen.calibrated and chosen.policy != "zero_shot":
        raise UserError("calibrated=true goes with policy=zero_shot")
    if chosen.checkpoint is None:
        return request.config(), None
    return _settings_and_weights(request, chosen.checkpoint)


def _settings_and_weights(request: Request, name: str) -> tuple[RunConfig, Path]:
    """Of a run or a checkpoint, else of a policy folder given by path, shipped name or hub id."""
    from .policy import hub
    from .runfolder import find_run

    path = Path(name).expanduser()
    if path.exists() and not (path / hub.CARD).is_file():
        return request.config(find_run(path), "env.num_envs=auto"), path
    folder = hub.read(hub.find(name))
    return request.config(folder.path, "env.num_envs=auto", *folder.overrides()), folder.path


def _eval(request: Request) -> dict[str, Any]:
    chosen = request.options
    if chosen.episodes < 1:
        raise UserError(f"episodes={chosen.episodes}: must be at least 1")
    page = None if chosen.report is None else Path(chosen.report)
    if page is not None:
        check_out(page, "report")
    if chosen.compare is not None and page is None:
        raise UserError(f"compare={chosen.compare} goes on a page: add report=FILE.html")
    from .evaluation.published_results import read_results

    beside = None if chosen.compare is None else read_results(Path(chosen.compare))
    config, checkpoint = _actor(request)
    from .evaluation.evaluate import evaluate

    return evaluate(
        config, checkpoint=checkpoint, policy=chosen.policy, split=chosen.split, episodes=chosen.episodes,
        sample=chosen.sample, calibrated=chosen.calibrated, pictures=chosen.pictures, report=page, beside=beside,
    )  # fmt: skip


def _video(request: Request) -> dict[str, Any]:
    from .evaluation.video import check_target

    chosen = request.options
    target = check_target(chosen.out)
    if chosen.episode < 0:
        raise UserError(f"episode={chosen.episode}: must not be negative")
    if chosen.instruction is not None and not (chosen.instruction.strip() and chosen.instruction.isprintable()):
        raise UserError("instruction= must hold printable words")
    config, checkpoint = _actor(request)
    from .evaluation.rollout_video import record

    return record(
        config, target, checkpoint=checkpoint, policy=chosen.policy, split=chosen.split, episode=chosen.episode,
        instruction=chosen.instruction, sample=chosen.sample, calibrated=chosen.calibrated,
    )  # fmt: skip


def _replay(request: Request) -> dict[str, Any] | list[dict[str, Any]]:
    from .evaluation.replay import read_sequences, replay

    if request.options.actions is None:
        raise UserError("actions=FILE.json is missing: the actions to replay")
    sequences, many = read_sequences(Path(request.options.actions), request.options.episode)
    config = request.config()
    from .evaluation.replay_world import open_worlds

    with contextlib.closing(open_worlds(config, sequences)) as worlds:
        results = replay(worlds, sequences)
    return results if many else results[0]


def _bench(request: Request) -> dict[str, Any]:
    if request.options.repeats < 1:
        raise UserError(f"repeats={request.options.repeats}: must be at least 1")
    config = request.config()
    from .bench import bench

    return bench(request.what, config, request.options.repeats)


def _data(request: Request) -> dict[str, Any]:
    config = request.config()
    if request.what == "check":
        from .disjoint import check_splits

        return check_splits(config, request.options.manifest, request.options.split, request.options.episodes)
    if not config.env.dataset:
        raise UserError(f"dataset=FILE is missing: the episode file to {request.what}")
    path = Path(config.env.dataset)
    if request.what != "generate" and not path.is_file():
        raise UserError(f"dataset={path}: there is no such file")
    chosen = request.options
    if chosen.picture is not None:
        check_out(Path(chosen.picture), "picture")
    from . import data

    if request.what == "generate":
        return data.generate_files(config, path, chosen.split or "train", chosen.episodes, chosen.processes)
    if request.what == "validate":
        return data.validate_file(config, path, chosen.processes, chosen.render)
    beside = Path(chosen.out).with_suffix(".png") if chosen.out is not None else None
    picture = Path(chosen.picture) if chosen.picture is not None else beside
    return data.inspect_file(config, path, chosen.rows, chosen.episode, picture)


def _assets(request: Request) -> dict[str, Any]:
    chosen = request.options
    if request.what == "check":
        from .habitat.check import check_assets

        rows = check_assets(chosen.scenes or "", chosen.objects or "", chosen.robot or "")
        return {"checks": [dataclasses.asdict(row) for row in rows]}
    if chosen.out is None:
        raise UserError("name the folder to write: llarp assets stand-ins OUT")
    from .habitat.standins import write_stand_ins

    out = Path(chosen.out)
    made = write_stand_ins(out)
    return {"folder": str(out), "files": sum(file.is_file() for file in out.rglob("*")), "made": "; ".join(made)}


def _pretrain(request: Request) -> dict[str, Any]:
    chosen = request.options
    if request.what == "vision":
        if chosen.vision_weights is not None or chosen.card:
            raise UserError("vision_weights= and card= go with llarp pretrain probe; pretraining begins untrained")
        resume, config = _run_to_train(request)
        from .pretrain.trainer import pretrain
        from .train import stop_on_interrupt

        with stop_on_interrupt() as stop:
            return pretrain(config, resume, stop)
    if chosen.resume is not None:
        raise UserError(f"resume={chosen.resume} goes with llarp pretrain vision")
    config = request.config()
    from .pretrain.card import add_probe, read_card
    from .pretrain.probe import probe

    weights = chosen.vision_weights or config.policy.vision_weights
    if chosen.card:
        read_card(Path(weights))
    report = probe(config, weights, chosen.split)
    if chosen.card:
        add_probe(Path(weights), report)
    return report


def _ship(request: Request) -> dict[str, Any]:
    from .policy import hub
    from .shipped import add_results, ship, ship_vision

    chosen = request.options
    if (chosen.checkpoint is None) == (chosen.vision_weights is None):
        raise UserError("give either checkpoint=RUN or vision_weights=FILE: what to ship")
    results, stages = ([part for part in text.split(",") if part] for text in (chosen.results, chosen.stages))
    if chosen.checkpoint is not None and (Path(chosen.checkpoint) / hub.CARD).is_file():  # shipped before
        folder = Path(chosen.checkpoint)
        if chosen.out is not None or chosen.name or not (results or chosen.hub):
            raise UserError(f"checkpoint={folder} is a policy folder already: add results=FILE or hub=user/name to it")
        report: dict[str, Any] = {"folder": str(folder)}
        if results:
            report["results"] = len(add_results(folder, results)["results"])
    elif chosen.out is None or not chosen.name:
        raise UserError("name=NAME and out=FOLDER are missing: what it is to be called, and where it is to be written")
    elif chosen.vision_weights is not None:
        return ship_vision(Path(chosen.vision_weights), Path(chosen.out), chosen.name)
    else:
        config, checkpoint = _settings_and_weights(request, chosen.checkpoint)
        report = ship(config, checkpoint, Path(chosen.out), name=chosen.name, stages=stages, results=results,
                      selected_on=chosen.selected_on, licence=chosen.licence)  # fmt: skip
    if chosen.hub is not None:
        report["hub"] = hub.push(Path(report["folder"]), chosen.hub, chosen.private)
    return report


def _doctor(request: Request) -> dict[str, Any]:
    config = request.config()
    from .doctor import examine

    return examine(config)


@dataclass(frozen=True)
class Command:
    summary: str
    options: type
    run: Callable[[Request], Any]
    whats: tuple[str, ...] = ()
    json_out: bool = True  # `out=` is a JSON file
    folder_out: tuple[str, ...] = ()  # of `whats`: `out=` is a folder, and may be given as OUT alone


COMMANDS: dict[str, Command] = {
    "train": Command("train a policy; writes runs/NAME", options.TrainOptions, _train),
    "eval": Command("success of a policy or planner, split by split", options.EvalOptions, _eval),
    "video": Command("film one episode", options.VideoOptions, _video, json_out=False),
    "replay": Command("step episodes through given actions", options.ReplayOptions, _replay),
    "bench": Command("measure speed", options.BenchOptions, _bench, ("sim", "policy", "update", "train")),
    "data": Command("episode files", options.DataOptions, _data, ("generate", "validate", "inspect", "check")),
    "assets": Command("what Habitat loads", options.AssetsOptions, _assets, ("check", "stand-ins"),
                      folder_out=("stand-ins",)),
    "pretrain": Command("the vision model: pretrain it on rendered pictures, or probe its features",
                        options.PretrainOptions, _pretrain, ("vision", "probe")),
    "ship": Command("a trained policy as a folder to give away, with its card and manifest", options.ShipOptions, _ship,
                    json_out=False),
    "doctor": Command("what is installed, found or missing, and how to mend it", options.DoctorOptions, _doctor),
}  # fmt: skip


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


def check_out(path: Path, what: str = "out") -> None:
    """UserError, before any work, if `path`, given as `what=`, cannot be written."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{what}={path} cannot be written: {error.strerror or error}") from None


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
