"""The folder of a run: what is in it, how it is named, and that nothing in it is ever half-written."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .config import RunConfig


def write_atomically(path: Path, content: str | bytes) -> None:
    """Put `content` at `path` in one go: readers see the old file or the new one, never part of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: numbers that are not finite become null, numpy and torch scalars plain ones."""

    def plain(x: Any) -> Any:
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return [plain(v) for v in x]
        if isinstance(x, Path):
            return str(x)
        if hasattr(x, "tolist"):
            return plain(x.tolist())
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(plain(value), indent=indent, allow_nan=False)


def find_run(path: Path | str) -> Path:
    """The run folder that a path names: the folder itself, its `checkpoints/`, or something inside that."""
    start = Path(path)
    if not start.exists():
        raise UserError(f"{path}: there is no such run or checkpoint")
    for folder in (start, *start.absolute().parents[:2]):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"{path}: not part of a run folder (no config.yaml beside it)")


def run_to_continue(config: RunConfig) -> Path | None:
    """For `resume=auto`: the run of that name if it has a checkpoint; None where it is to begin.

    What was stopped before its first checkpoint is moved aside and begins anew.
    """
    if not config.run_name:
        raise UserError("resume=auto needs run_name=NAME: the run to continue, or to begin where there is none")
    path = Path(config.output_dir) / config.run_name
    if not (path / "config.yaml").is_file():
        return None
    if any((path / "checkpoints").glob("*_*.pt")):
        return path
    count = 1
    while (aside := path.with_name(f"{path.name}.unfinished{count}")).exists():
        count += 1
    path.rename(aside)
    return None


class RunFolder:
    """`runs/NAME/`: config.yaml, manifest.json (what training was shown), starts.jsonl (by which commands),
    metrics.jsonl, tb/, checkpoints/, videos/, report.json, report.html."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.videos = path / "checkpoints", path / "videos"
        self._metrics: IO[str] | None = None
        self._tensorboard: Any = None

    @classmethod
    def planned(cls, config: RunConfig) -> RunFolder:
        """Where a run will go, checked (free name, writable, room on the disk), with nothing written yet."""
        from .machine import HABITAT_WORLD_GIB, check_room

        parent = Path(config.output_dir)
        if config.run_name != Path(config.run_name).name or config.run_name == "..":
            raise UserError(f"run_name={config.run_name!r} must be a plain folder name")
        nearest = parent.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"output_dir={parent} cannot be written: set output_dir to a folder that can")
        path = parent / (config.run_name or _free_name(parent))
        if path.exists():
            raise UserError(f"{path} exists already: choose another run_name, or continue it with resume={path}")
        habitat = config.env.backend == "habitat"
        worlds_in_memory = config.env.num_envs if habitat or config.device == "cpu" else 0
        room = (HABITAT_WORLD_GIB,) if habitat else ()
        check_room(worlds_in_memory, config.env.image_size, parent, *room)
        return cls(path)

    def create(self, config: RunConfig) -> RunFolder:
        """Make the folder with the resolved config; call it once everything that can be refused has been built."""
        from .config import to_yaml

        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{self.path} exists already: choose another run_name") from None
        self.checkpoints.mkdir()
        self.videos.mkdir()
        write_atomically(self.path / "config.yaml", to_yaml(config))
        self.note_start()
        return self

    def note_start(self) -> None:
        """Add to starts.jsonl with which command, of which commit, the run begins or goes on."""
        from .provenance import start_line

        with open(self.path / "starts.jsonl", "a", encoding="utf-8") as file:
            file.write(to_json(start_line()) + "\n")

    def changed(self, config: RunConfig) -> list[str]:
        """The settings that are not those the run began with, as `key=NEW, before OLD`."""
        from .config import flat, read_yaml

        before, now = flat(read_yaml(self.path / "config.yaml")), flat(dataclasses.asdict(config))
        return [f"{key}={now[key]}, before {before[key]}" for key in now if key in before and now[key] != before[key]]

    def starts(self) -> list[dict[str, Any]]:
        """The lines of starts.jsonl; none where an earlier version made the run."""
        return _json_lines(self.path / "starts.jsonl")

    @classmethod
    def existing(cls, path: Path | str) -> RunFolder:
        """The folder of an earlier run (also from a path inside it)."""
        return cls(find_run(path))

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, flushed, and the same numbers to TensorBoard at `env_steps`."""
        if self._metrics is None:
            from torch.utils.tensorboard import SummaryWriter

            self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")
            self._tensorboard = SummaryWriter(str(self.path / "tb"))
        self._metrics.write(to_json(metrics) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._tensorboard.add_scalar(name, value, int(metrics.get("env_steps", 0)))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one cut off by a crash is left out."""
        return _json_lines(self.path / "metrics.jsonl")

    def report(self) -> dict[str, Any]:
        """What report.json holds; empty where there is none yet, or one that cannot be read."""
        try:
            found = json.loads((self.path / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def truncate_metrics(self, env_steps: int) -> None:
        """Forget lines past `env_steps`: a resumed run writes them anew."""
        kept = [row for row in self.metrics() if row.get("env_steps", 0) <= env_steps]
        write_atomically(self.path / "metrics.jsonl", "".join(to_json(row) + "\n" for row in kept))

    def close(self) -> None:
        """Flush and close the logs."""
        if self._metrics is not None:
            self._metrics.close()
            self._tensorboard.close()
            self._metrics = self._tensorboard = None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, broken lines left out; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _free_name(parent: Path) -> str:
    """The time as a name, with a number behind it where two runs start in one second."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    name, count = stamp, 1
    while (parent / name).exists():
        count += 1
        name = f"{stamp}_{count}"
    return name
