"""What a worker process is told, and how an episode reaches a simulator: plain records and tensors."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from llarp.tasks.goals import Circuits
from llarp.tasks.state import MAX_OBJECTS, WorldState
from llarp.tasks.task import TaskConfig


def send(pipe: Connection, what: Any) -> None:
    """Put something into a pipe. By plain pickle: `Connection.send` would share tensors by file descriptors."""
    pipe.send_bytes(pickle.dumps(what))


def receive(pipe: Connection) -> Any:
    """What the other side of a pipe, a process of ours, has sent."""
    return pickle.loads(pipe.recv_bytes())


Pose = tuple[float, float, float, float]
"""x, y, yaw in our frame, and the height of the robot's base."""


@dataclass(frozen=True)
class TaskSettings:
    """What the task needs besides an episode."""

    rules: str
    task: TaskConfig
    half_size: Tensor  # (K, 3) of the object catalogue


@dataclass(frozen=True)
class EpisodeLabels:
    """What an episode is called."""

    episode_id: str
    scene: str  # name of the scene in its dataset
    instruction: str


@dataclass
class Beginning:
    """How an episode begins, in one world."""

    labels: EpisodeLabels
    navmesh: Path | None  # None: nav poses are the scene's own, as in the built-in apartments
    models: tuple[str, ...]  # (56,) name of the object model in every slot, "" where it is empty
    key: int  # with `seed`, names the episode and its repetition in keyed random numbers
    seed: int
    state: WorldState  # of one world
    circuits: Circuits  # of one episode


@dataclass(frozen=True)
class WorkerSettings:
    """One simulator process."""

    config: Path  # Habitat-Lab YAML
    overrides: tuple[str, ...]
    dataset: Path  # scene dataset config
    task: TaskSettings
    image_size: int
    visibility: bool  # also make out which objects the head camera sees
    environment_light: bool = False  # light scenes by an environment map, too


@dataclass(frozen=True)
class Told:
    """What of a step is otherwise random or the simulator's own, fixed by whoever replays an episode."""

    pose: Pose | None = None  # the robot after the step
    placed: tuple[float, float, float] | None = None  # where the object put down comes to lie


# What a worker hands back of its world after every command, as float64 in shared memory: see `pack`.
_FIELDS = (("robot", 3), ("robot_height", 1), ("joint", 5), ("held", 1), ("object_position", 3 * MAX_OBJECTS),
           ("object_yaw", MAX_OBJECTS), ("object_inside", MAX_OBJECTS), ("nav_pose", 48),
           ("nav_height", 16))  # fmt: skip
STATE_SIZE = sum(size for _, size in _FIELDS)


def pack(state: WorldState, out: np.ndarray) -> None:
    """Write what can change of a one-world state into `out` (STATE_SIZE,) float64."""
    at = 0
    for name, size in _FIELDS:
        out[at : at + size] = getattr(state, name).numpy().reshape(-1)
        at += size


def unpack(values: np.ndarray, state: WorldState, row: int) -> None:
    """Read what `pack` wrote into row `row` of a state of many worlds on the CPU."""
    at = 0
    for name, size in _FIELDS:
        target = getattr(state, name).numpy()[row : row + 1]
        target[...] = values[at : at + size].reshape(target.shape)
        at += size
