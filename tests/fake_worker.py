"""A worker of the pool without any simulator: `fake_worker.py STATE_SIZE TROUBLE FD_OF_PIPE FD_OF_MEMORY`.

Its pictures, rewards and progress are functions of episode, step and skill; episodes last five steps. Skill 69 ends the
process, 68 hangs it, 67 raises; a file `start-EPISODE` in the folder TROUBLE with a number N ends the process at the
next N starts of that episode, `refuse-EPISODE` refuses with its text. It knows no torch, so it starts in no time.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import signal
import struct
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LENGTH = 5
"""Steps of an episode."""
DIE, HANG, RAISE = 69, 68, 67
"""Skills that end, hang and break the process."""


class Anything:
    """Stands for every object of ours; what was in it are its attributes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Anything:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __call__(self, *args: Any) -> Anything:
        return self


class Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if module in ("builtins", "pathlib", "collections") else Anything


class Fake:
    def __init__(self, settings: Any, memory: mmap.mmap, state_size: int, trouble: Path) -> None:
        self.size, self.memory, self.trouble = settings.image_size, memory, trouble
        self.at = 8 * state_size
        self.episode = self.steps = self.last = 0

    def start(self, begin: Any, tracker: dict[str, int] | None = None, draw: bool = True) -> None:
        name = begin.labels.episode_id
        file = self.trouble / f"start-{name}"
        if file.exists() and (left := int(file.read_text())) > 0:
            file.write_text(str(left - 1))
            print("Assertion `mesh` failed, says the simulator", flush=True)
            os.kill(os.getpid(), signal.SIGABRT)
        if (file := self.trouble / f"refuse-{name}").exists():
            raise PermissionError(file.read_text())
        self.episode, self.steps, self.last = int(name), (tracker or {}).get("steps", 0), 0
        self.show()

    def step(self, skill: int) -> None:
        if skill == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if skill == HANG:
            time.sleep(3600)
        if skill == RAISE:
            raise RuntimeError("the fake is broken")
        self.steps, self.last = self.steps + 1, skill
        self.show()

    def tracker(self) -> dict[str, int]:
        return {"steps": self.steps}

    def show(self) -> None:
        result = (0.0, self.last / 100, 0.0, float(self.steps >= LENGTH), 0.0, self.steps / 10, float(self.steps), 0.0)
        self.memory[self.at : self.at + 64] = struct.pack("8d", *result)
        picture = struct.pack("3B", self.episode % 251, self.steps, self.last)
        begin, count = self.at + 64 + 8 * 56, self.size * self.size
        self.memory[begin : begin + 3 * count] = picture * count


def main() -> None:
    state_size, trouble, pipe, file = sys.argv[1:]
    connection = Connection(int(pipe))
    settings = Reader(io.BytesIO(connection.recv_bytes())).load()
    fake = Fake(settings, mmap.mmap(int(file), 0), int(state_size), Path(trouble))
    while True:
        try:
            name, arguments = Reader(io.BytesIO(connection.recv_bytes())).load()
        except EOFError:
            return
        try:
            answer = ("ok", getattr(fake, name)(*arguments))
        except PermissionError as error:
            answer = ("refused", str(error))
        except Exception as error:
            answer = ("failed", f"Traceback\nRuntimeError: {error}\n")
        connection.send_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    main()
