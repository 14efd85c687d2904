"""Given actions: reading the files, and stepping worlds through them, one episode each.

A file holds a list of actions (indices or names, ours or the original's), or an object `{episode_id, actions,
start_pose?, placed?, poses?}`, or one such object a line (JSON lines). The optional parts fix what is random:
poses are [x, y, z, yaw] in Habitat's frame (y up, m, rad), `placed` has [object, x, y, z] or null a step.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llarp.errors import UserError
from llarp.tasks.actions import ACTION_NAMES, ACTIONS, NUM_ACTIONS
from llarp.tasks.entities import CATEGORIES, FRIDGE_HANDLE, HANDLES, RECEPTACLES

Pose = tuple[float, float, float, float]
Placed = tuple[str, float, float, float]


@dataclass(frozen=True)
class Sequence:
    """What one episode is to be stepped through."""

    actions: tuple[int, ...]
    episode_id: str | None = None  # None: the first episode
    start_pose: Pose | None = None
    placed: tuple[Placed | None, ...] | None = None  # one entry a step: where the object put down then comes to lie
    poses: tuple[Pose, ...] | None = None  # one entry a step: where the robot is after it, instead of our navigation

    def step(self, i: int) -> Step | None:
        """Action `i` with what is fixed of its outcome; None past the end."""
        if i >= len(self.actions):
            return None
        return Step(self.actions[i], self.placed[i] if self.placed else None, self.poses[i] if self.poses else None)


@dataclass(frozen=True)
class Step:
    """One action, with the given outcome of what is random."""

    action: int
    placed: Placed | None = None
    pose: Pose | None = None


@dataclass(frozen=True)
class Outcome:
    """What one step did."""

    invalid: bool
    reward: float
    progress: float
    success: bool
    done: bool


class ReplayWorlds(Protocol):
    """Worlds that can be told what is otherwise drawn at random; row i of everything belongs to sequence i of those
    that `start` was given."""

    num_worlds: int  # the most sequences that `start` takes

    def order(self, sequences: Rows[Sequence]) -> list[int]:
        """The order in which sequences, by index, are best played; UserError if there is no episode of an id."""

    def start(self, sequences: Rows[Sequence]) -> None:
        """Begin their episodes, from their start poses; UserError if there is no episode of an id."""

    def valid_actions(self) -> list[list[int]]:
        """Indices of the actions that would take effect now, ascending."""

    def step(self, steps: Rows[Step | None]) -> list[Outcome]:
        """One action in each world; None where the sequence is over and the outcome is not looked at."""

    def poses(self) -> list[Pose]:
        """Where the robots are."""

    def close(self) -> None:
        """End what runs besides this process."""


def replay(worlds: ReplayWorlds, sequences: Rows[Sequence]) -> list[dict[str, Any]]:
    """Step through all sequences, each to the end of its episode at most; a result's lists have one entry a step."""
    results: dict[int, dict[str, Any]] = {}
    order = worlds.order(sequences)
    for begin in range(0, len(order), worlds.num_worlds):
        chosen = order[begin : begin + worlds.num_worlds]
        results |= zip(chosen, _together(worlds, [sequences[i] for i in chosen]), strict=True)
    return [results[i] for i in range(len(sequences))]


_COLUMNS = ("actions", "action_names", "invalid", "rewards", "progress", "success", "valid_before", "poses")


def _together(worlds: ReplayWorlds, sequences: Rows[Sequence]) -> list[dict[str, Any]]:
    worlds.start(sequences)
    results: list[dict[str, Any]] = [
        {"episode_id": s.episode_id, **{name: [] for name in _COLUMNS}, "done_step": None} for s in sequences
    ]
    for i in range(max((len(s.actions) for s in sequences), default=0)):
        steps = [s.step(i) if result["done_step"] is None else None
                 for s, result in zip(sequences, results, strict=True)]  # fmt: skip
        if not any(steps):
            break
        valid = worlds.valid_actions()
        outcomes, poses = worlds.step(steps), worlds.poses()
        for row, (step, result) in enumerate(zip(steps, results, strict=True)):
            if step is None:
                continue
            out = outcomes[row]
            values = (step.action, ACTION_NAMES[step.action], out.invalid, out.reward, out.progress, out.success,
                      valid[row], list(poses[row]))  # fmt: skip
            for name, value in zip(_COLUMNS, values, strict=True):
                result[name].append(value)
            if out.done:
                result["done_step"] = i + 1
    return results


def read_sequences(path: Path, episode_id: str | None = None) -> tuple[list[Sequence], bool]:
    """The sequences in a file, and whether it is a JSON-lines file (one result line each).

    `episode_id` goes to sequences that name none. Raises UserError, naming the line, for anything that is not as above.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"actions={path} cannot be read: {error}") from None
    try:
        return [_sequence(json.loads(text), str(path), episode_id)], path.suffix == ".jsonl"
    except json.JSONDecodeError:
        lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    sequences = []
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: no JSON: {error}") from None
        sequences.append(_sequence(value, where, episode_id))
    if not sequences:
        raise UserError(f"{path}: holds no actions")
    return sequences, True


def action_index(action: Any, where: str) -> int:
    """The index of an action given by index or name."""
    if isinstance(action, int) and not isinstance(action, bool) and 0 <= action < NUM_ACTIONS:
        return action
    if isinstance(action, str) and action in _names():
        return _names()[action]
    example = f"an index from 0 to {NUM_ACTIONS - 1} or a name like {ACTION_NAMES[5]!r}"
    raise UserError(f"{where}: {action!r} is no action: give {example}")


@functools.cache
def _names() -> dict[str, int]:
    """Our names and the original's, to indices."""
    names: dict[str, int] = {}
    for action in ACTIONS:
        names[action.name] = action.index
        if action.kind == "nav":
            receptacle = action.target - len(HANDLES)
            target = RECEPTACLES[receptacle].published_name if receptacle >= 0 else HANDLES[action.target]
            names[f"nav({target})"] = action.index
        elif action.kind == "pick":
            names[f"pick_{CATEGORIES[action.target]}(robot_0)"] = action.index
        elif action.kind == "place":
            names[f"place({RECEPTACLES[action.target].published_name})"] = action.index
        else:
            group = "fridge" if action.target == FRIDGE_HANDLE else "cab"
            names[f"{action.kind}_{group}({HANDLES[action.target]})"] = action.index
    return names


_KEYS = {"episode_id", "actions", "start_pose", "placed", "poses"}


def _sequence(value: Any, where: str, episode_id: str | None) -> Sequence:
    if isinstance(value, list):
        value = {"actions": value}
    if not isinstance(value, dict) or not isinstance(value.get("actions"), list):
        raise UserError(f"{where}: expected a list of actions, or an object with `actions`")
    if unknown := set(value) - _KEYS:
        raise UserError(f"{where}: unknown key {sorted(unknown)[0]!r}: known are {', '.join(sorted(_KEYS))}")
    actions = tuple(action_index(a, where) for a in value["actions"])
    named = value.get("episode_id")
    if named is not None and (isinstance(named, bool) or not isinstance(named, (str, int))):
        raise UserError(f"{where}: episode_id must be a text or a number, not {named!r}")
    start = value.get("start_pose")
    placed, poses = _per_step(value, "placed", len(actions), where), _per_step(value, "poses", len(actions), where)
    return Sequence(
        actions,
        episode_id if named is None else str(named),
        None if start is None else _pose(start, where),
        None if placed is None else tuple(None if p is None else _placed(p, where) for p in placed),
        None if poses is None else tuple(_pose(p, where) for p in poses),
    )


def _per_step(value: dict[str, Any], key: str, steps: int, where: str) -> list[Any] | None:
    entries = value.get(key)
    if entries is not None and (not isinstance(entries, list) or len(entries) != steps):
        raise UserError(f"{where}: `{key}` must be a list with one entry for each of the {steps} actions")
    return entries


def _pose(value: Any, where: str) -> Pose:
    x, y, z, yaw = _numbers(value, 4, where, "a pose must be [x, y, z, yaw]")
    return x, y, z, yaw


def _placed(value: Any, where: str) -> Placed:
    shape = "an entry of `placed` must be null or [object, x, y, z]"
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise UserError(f"{where}: {shape}, not {value!r}")
    x, y, z = _numbers(value[1:], 3, where, shape)
    return value[0], x, y, z


def _numbers(value: Any, count: int, where: str, shape: str) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value):
        raise UserError(f"{where}: {shape}, not {value!r}")
    return [float(v) for v in value]
