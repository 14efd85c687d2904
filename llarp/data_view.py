"""What `llarp data inspect` shows: a table of episodes and a picture of where one begins."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from .envs.config import EnvConfig
from .errors import UserError
from .tasks.entities import RECEPTACLE_INDEX, RECEPTACLES
from .tasks.episodes import EpisodeSet

if TYPE_CHECKING:
    from .config import RunConfig


def print_table(episodes: EpisodeSet, rows: int) -> None:
    """The first `rows` episodes, one after the other, on the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "scene", "kind", "instruction", "goal"):
        table.add_column(name, overflow="fold", justify="right" if name == "id" else "left")
    table.add_column("subgoals", justify="right")
    table.add_column("objects", justify="right")
    for i in range(min(rows, len(episodes))):
        row = episodes.episode(i)
        number = int((row.object_model >= 0).sum())
        scene = episodes.scene_names[row.scene]
        table.add_row(str(row.episode_id), scene, row.instruction_type, row.instruction, goal_text(row.goal),
                      str(len(row.subgoals)), str(number))  # fmt: skip
    Console(highlight=False, markup=False, width=max(120, shutil.get_terminal_size().columns)).print(table)


def goal_text(goal: Mapping[str, Any] | str) -> str:
    """A goal expression as a line: "some X: ball, on_top(X, sofa) and not_holding()"."""
    if isinstance(goal, str):
        for name in RECEPTACLE_INDEX:
            if name in goal:
                goal = goal.replace(name, RECEPTACLES[RECEPTACLE_INDEX[name]].name)
        return goal
    kind = str(goal["expr_type"])
    parts = [goal_text(part) for part in goal["sub_exprs"]]
    text = f" {'or' if kind.endswith('OR') else 'and'} ".join(parts)
    if goal.get("quantifier"):
        variables = ", ".join(f"{v['name']}: {v['expr_type']}" for v in goal["inputs"])
        text = f"{'some' if goal['quantifier'] == 'EXISTS' else 'all'} {variables}, {text}"
    if kind.startswith("N"):
        return f"not ({text})"
    return f"({text})" if goal.get("quantifier") is None and len(parts) > 1 and kind == "OR" else text


def draw_start(config: RunConfig, env: EnvConfig, episodes: EpisodeSet, row: int, target: Path) -> None:
    """Writes a PNG of the start of an episode: the robot's view and the room from outside, with the instruction."""
    from .envs.vector import LanguageRearrangementVectorEnv
    from .evaluation.video import draw_frame

    chosen = episodes.select([row])
    worlds = LanguageRearrangementVectorEnv(1, output="torch", config=env, task=config.task, seed=config.seed,
                                            device=config.device, episode_set=chosen)  # fmt: skip
    observation, _ = worlds.reset()
    frame = draw_frame(observation["rgb"][0].cpu().numpy(), worlds.world.render_outside()[0].cpu().numpy(),
                       chosen.instruction[0], 0, "", progress=float(worlds.world.tracker.progress[0]),
                       reward=None, max_steps=config.task.max_steps)  # fmt: skip
    worlds.close()
    try:
        Image.fromarray(frame).save(target, format="PNG")
    except OSError as error:
        raise UserError(f"picture={target} cannot be written: {error.strerror or error}") from None


def row_of(episodes: EpisodeSet, episode_id: int) -> int:
    """The row of an episode; UserError if no episode has that id."""
    found = (episodes.episode_id == episode_id).nonzero()[:, 0]
    if not len(found):
        low, high = torch.aminmax(episodes.episode_id)
        raise UserError(f"episode={episode_id} is not in the file; its ids are between {int(low)} and {int(high)}")
    return int(found[0])
