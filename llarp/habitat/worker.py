"""A process with one Habitat simulator: `python -m llarp.habitat.worker FD_OF_PIPE FD_OF_MEMORY`, started by `pool.py`.

It takes one command after another from the pipe, and after each puts pictures and state into the shared memory (see
`layout`) and answers. Whatever it prints goes to its log file. `--probe [GPU]` says whether there is a device to draw
with, and ends.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llarp.cache import cache_dir
from llarp.errors import UserError
from llarp.runfolder import write_atomically
from llarp.tasks.actions import NUM_ACTIONS

from .messages import STATE_SIZE, Beginning, Told, WorkerSettings, pack, receive, send

OUTSIDE_SIZE = 512
"""Pixels, height and width of the pictures from outside the robot; as `llarp.sim.world.OUTSIDE_SIZE`."""


@dataclass
class Memory:
    """What worker and pool share, as views of one block."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    outside: NDArray[np.uint8]  # (512, 512, 3)
    pixels: NDArray[np.int64]  # (56,) that each object covers
    state: NDArray[np.float64]  # (STATE_SIZE,)
    result: NDArray[np.float64]  # (8,) see RESULT
    possible: NDArray[np.bool_]  # (70,) skills whose precondition holds


RESULT = ("invalid", "reward", "terminated", "truncated", "success", "progress", "subgoal")


def sizes(image_size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of every part of the memory, in the order in which they lie in it."""
    return {
        "state": ((STATE_SIZE,), np.float64),
        "result": ((8,), np.float64),
        "pixels": ((56,), np.int64),
        "rgb": ((image_size, image_size, 3), np.uint8),
        "outside": ((OUTSIDE_SIZE, OUTSIDE_SIZE, 3), np.uint8),
        "possible": ((NUM_ACTIONS,), np.bool_),
    }


def memory_size(image_size: int) -> int:
    """Bytes of the shared memory."""
    return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in sizes(image_size).values())


def layout(buffer: Any, image_size: int) -> Memory:
    """The parts of a block of `memory_size` bytes."""
    parts, at = {}, 0
    for name, (shape, kind) in sizes(image_size).items():
        count = int(np.prod(shape))
        parts[name] = np.frombuffer(buffer, kind, count, at).reshape(shape)
        at += count * np.dtype(kind).itemsize
    return Memory(**parts)


class World:
    """One simulator and the episode in it; every public method is a command."""

    def __init__(self, settings: WorkerSettings, memory: Memory):
        self._settings, self._memory = settings, memory
        self._env: Any = None

    def start(self, begin: Beginning, tracker: dict[str, Any] | None = None, draw: bool = True) -> None:
        """Begin an episode; with a tracker's `state_dict`, go on in the middle of one."""
        from . import plugin

        episode = plugin.habitat_episode(lambda: begin, begin.labels, self._settings.dataset)
        if self._env is None:
            config = plugin.get_config(self._settings.config, self._settings.overrides)
            self._env = plugin.open_env(config, self._settings.task, episode)
        env = self._env
        env.current_episode = episode
        if draw:
            self._see(env.reset())
        else:
            env.reconfigure(env._config)
            env.task.begin()
        if tracker is not None:
            env.task.tracker.load_state_dict(tracker)
        self._report()

    def step(self, skill: int) -> None:
        """Use a skill, and draw what is then seen."""
        self._see(self._env.step({"action": "household_skill", "action_args": {"skill": skill}}))
        self._report()

    def take(self, skill: int, told: Told | None) -> None:
        """Use a skill without looking; `told` fixes what else would be random."""
        self._env.task.act(skill, told)
        self._env.task.judge()
        self._report()

    def outside(self) -> None:
        """Draw the world from the camera that follows the robot."""
        from . import plugin

        self._memory.outside[...] = self._env.sim.draw(plugin.OUTSIDE)[..., :3]

    def seen_slots(self) -> NDArray[np.int64]:
        """See `plugin.LanguageRearrangementSim.seen_slots`; only with `WorkerSettings.visibility`."""
        return self._env.sim.seen_slots()

    def tracker(self) -> dict[str, Any]:
        """What has been reached so far, for a checkpoint."""
        return self._env.task.tracker.state_dict()

    def _see(self, observations: Any) -> None:
        for channel in range(3):  # a strided copy of three bytes at a time takes four times as long
            self._memory.rgb[..., channel] = observations["head_rgb"][..., channel]
        if self._settings.visibility:
            self._memory.pixels[...] = self._env.sim.visible_pixels()

    def _report(self) -> None:
        task = self._env.task
        result = task.result
        values = (task.invalid, *(float(getattr(result, name)) for name in RESULT[1:]))
        self._memory.result[: len(RESULT)] = values
        self._memory.possible[...] = task.possible.numpy()[0]
        pack(task.state, self._memory.state)


def serve(connection: Connection, memory: Any) -> None:
    """Obey commands until the pipe closes. Answers: ("ok", value), ("refused", line) or ("failed", traceback)."""
    settings: WorkerSettings = receive(connection)
    if not settings.environment_light:
        skip_environment_map()
    world = World(settings, layout(memory, settings.image_size))
    while True:
        try:
            name, arguments = receive(connection)
        except EOFError:
            return
        try:
            answer = ("ok", getattr(world, name)(*arguments))
        except UserError as error:
            answer = ("refused", str(error))
        except Exception:
            answer = ("failed", traceback.format_exc())
        with contextlib.suppress(BrokenPipeError):
            send(connection, answer)


def probe(gpu: int) -> int:
    """Whether Habitat-Sim can draw here: one line, exit code 0 or 1 (or a signal's, where the driver aborts)."""
    from . import plugin

    print(plugin.probe(gpu))
    return 0


def skip_environment_map() -> None:
    """Go to a folder whose shader config names no files for lighting by an environment map.

    Habitat-Sim looks for that config in the working folder and else prepares such a map at its start, which takes 10 to
    40 seconds on a CPU.
    """
    folder = cache_dir("habitat", "start", "data")
    none = {"enable_ibl": False, "ibl_blut_filename": "none.png", "ibl_envmap_filename": "none.hdr"}
    write_atomically(folder / "default.pbr_config.json", json.dumps(none))
    os.chdir(folder.parent)


def main(words: list[str]) -> int:
    """Run as a process of the pool, or `--probe`."""
    if words[:1] == ["--probe"]:
        skip_environment_map()
        return probe(int(words[1]) if len(words) > 1 else -1)
    import torch

    torch.set_num_threads(1)
    pipe, file = int(words[0]), int(words[1])
    with contextlib.suppress(KeyboardInterrupt):
        serve(Connection(pipe), mmap.mmap(file, 0))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # Habitat-Sim's destructors have nothing to save, and may hang where a driver misbehaves
