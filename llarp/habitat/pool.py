"""Simulator processes: started, told what to do, watched, and replaced when they die or hang.

Processes are fresh interpreters, never forks: neither CUDA nor Warp survives one. Pictures and states come back through
memory that both sides map; the pipe carries commands and short answers only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llarp.errors import UserError

from .messages import WorkerSettings, receive, send
from .worker import Memory, layout, memory_size

COMMAND = (sys.executable, "-m", "llarp.habitat.worker")
"""A worker's program; tests put another in its place."""
LAST_LINES = 3
"""Of a dead worker's log, quoted."""
_NOISE = ("]:[Metadata]", "duplicate static plugin", "none.png", "none.hdr")  # said at every start
_TELLING = ("rror", "bort", "ssert", "ESP_CHECK", "EGL", "cannot", "nable to")


class WorkerLost(Exception):
    """A process died or hung; the message says how, and what it said last."""


class Worker:
    """One process with one simulator.

    Args:
        environment: further environment variables (which GPU, how many threads).
        log: file for what the process prints.
        patience_s: seconds after which an answer is no longer waited for.
    """

    def __init__(self, settings: WorkerSettings, environment: dict[str, str], log: Path, patience_s: float):
        self.log, self.patience_s = log, patience_s
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryFile(dir=shared) as file:
            file.truncate(memory_size(settings.image_size))
            self._map = mmap.mmap(file.fileno(), 0)
            ours, theirs = Pipe()
            words = [*COMMAND, str(theirs.fileno()), str(file.fileno())]
            with open(log, "wb") as out:
                self.process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | environment,
                    pass_fds=(theirs.fileno(), file.fileno()), start_new_session=True,
                )  # fmt: skip
            theirs.close()
        self.memory: Memory = layout(self._map, settings.image_size)
        self.pipe: Connection = ours
        self._poll = select.poll()  # `Connection.poll` makes one every time
        self._poll.register(ours.fileno(), select.POLLIN)
        self.send(settings)

    def send(self, what: Any) -> None:
        """Hand over a command; a process that is gone is noticed when its answer is awaited."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self.pipe, what)

    def ask(self, name: str, *arguments: Any) -> None:
        """Begin a command of `worker.World`."""
        self.send((name, arguments))

    def answered(self, patience_s: float = 0.0) -> bool:
        """Whether an answer is there within so many seconds, or none can come any more."""
        return bool(self._poll.poll(1000 * patience_s))

    def answer(self) -> Any:
        """What the command gave. Raises WorkerLost if the process died, hung or broke, UserError if it refused."""
        try:
            if not self.answered(self.patience_s):
                raise WorkerLost(f"gave no answer for {self.patience_s:g} s")
            kind, value = receive(self.pipe)
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raise WorkerLost(f"{self._how_it_ended()}{self._last_words()}") from None
        if kind == "refused":
            raise UserError(value)
        if kind == "failed":
            raise WorkerLost(value.strip().splitlines()[-1])
        return value

    def call(self, name: str, *arguments: Any) -> Any:
        """`ask` and `answer`."""
        self.ask(name, *arguments)
        return self.answer()

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.pipe.close()

    def close(self) -> None:
        """Let the process end by itself, as it does when the pipe closes; kill it if it does not."""
        self.pipe.close()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.kill()

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code < 0:
            import signal

            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def _last_words(self) -> str:
        """The last lines of its log that say something."""
        try:
            with open(self.log, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 4000))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        said = [line.strip() for line in text.splitlines() if line.strip() and not any(n in line for n in _NOISE)]
        worth = [line for line in said if any(word in line for word in _TELLING)] or said
        return f"; its log ends: {' | '.join(worth[-LAST_LINES:])[:600]}" if worth else ""


class Pool:
    """N workers, each of which is replaced by a fresh one when it is lost."""

    def __init__(
        self,
        settings: WorkerSettings,
        num_workers: int,
        environment: Callable[[int], dict[str, str]],
        overrides: Callable[[int], Sequence[str]],
        patience_s: float,
    ):
        self._settings, self._environment, self._overrides = settings, environment, overrides
        self._patience_s = patience_s
        self._logs = tempfile.TemporaryDirectory(prefix="llarp-habitat-")
        self._num_workers = num_workers
        self._workers: list[Worker] = []

    @property
    def workers(self) -> list[Worker]:
        """The processes, started when they are first needed."""
        if not self._workers:
            self._workers = [self._begin(i) for i in range(self._num_workers)]
        return self._workers

    def replace(self, index: int) -> Worker:
        """A fresh process in the place of a lost one."""
        self.workers[index].kill()
        self.workers[index] = self._begin(index)
        return self.workers[index]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.pipe.close()
        deadline = time.monotonic() + 3
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
                continue
            worker.kill()
        self._logs.cleanup()

    def _begin(self, index: int) -> Worker:
        from dataclasses import replace

        settings = replace(self._settings, overrides=(*self._settings.overrides, *self._overrides(index)))
        log = Path(self._logs.name) / f"worker_{index}.log"
        return Worker(settings, self._environment(index), log, self._patience_s)
