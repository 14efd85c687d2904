"""What the commands do with a parsed command line. They import what they need when they run."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options
from .errors import UserError
from .machine import share_cores

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


def _train(request: Request) -> dict[str, Any] | None:
    from .rl import distributed

    ranks = distributed.join()
    resume, config = ranks.agree(lambda: _run_to_train(request))
    share_cores()
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
    share_cores()
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
        sample=chosen.sample, calibrated=chosen.calibrated, pictures=chosen.pictures, hears=chosen.hears, report=page,
        beside=beside,
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
    share_cores()
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
        share_cores()
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
    lists = chosen.results, chosen.stages, chosen.average
    results, stages, average = ([part for part in text.split(",") if part] for text in lists)
    if chosen.checkpoint is not None and (Path(chosen.checkpoint) / hub.CARD).is_file():  # shipped before
        folder = Path(chosen.checkpoint)
        if chosen.out is not None or chosen.name or stages or average or not (results or chosen.hub):
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
        report = ship(config, checkpoint, Path(chosen.out), name=chosen.name, stages=stages, average=average,
                      results=results, selected_on=chosen.selected_on, licence=chosen.licence)  # fmt: skip
    if chosen.hub is not None:
        report["hub"] = hub.push(Path(report["folder"]), chosen.hub, chosen.private)
    return report


def _doctor(request: Request) -> dict[str, Any]:
    config = request.config()
    from .doctor import examine

    return examine(config)


def check_out(path: Path, what: str = "out") -> None:
    """UserError, before any work, if `path`, given as `what=`, cannot be written."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{what}={path} cannot be written: {error.strerror or error}") from None


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
