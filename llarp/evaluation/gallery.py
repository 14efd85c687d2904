"""Pictures of some episodes of an evaluation: they are played again from their recorded actions.

What is drawn at random is keyed by seed, episode and step, so the same actions lead to the same end.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from llarp.envs.episode_source import load_assets_for
from llarp.sim.world import BatchWorld
from llarp.tasks.actions import ACTIONS
from llarp.tasks.episodes import EpisodeSet, concat
from llarp.tasks.state import WorldState

from .failures import Trace

if TYPE_CHECKING:
    from llarp.config import RunConfig

    from .evaluate import EpisodeResults

SUCCESSES, FAILED = 2, 3
"""At most so many episodes of a split are shown."""
WIDTH = 200
"""Pixels: a picture's width on the page. Head cameras draw twice as many, which smooths edges."""


@dataclass(frozen=True)
class Shown:
    """One episode on the page; pictures are data URIs."""

    instruction: str
    success: bool
    reason: str  # of a failure, else ""
    steps: tuple[tuple[str, bool], ...]  # words of each action, and whether it was possible
    start: str  # what the robot sees at first
    end: str  # and in the end
    outside: str  # the room around the robot in the end


def choose(results: EpisodeResults) -> list[int]:
    """Episodes to show: the first successes, and failures for different reasons, the commonest first."""
    won = np.flatnonzero(results.success)[:SUCCESSES].tolist()
    reasons = (results.reason if results.reason is not None else np.full(len(results.success), "")).tolist()
    lost = [i for i, success in enumerate(results.success) if not success]
    count = {why: sum(reasons[i] == why for i in lost) for why in sorted({reasons[i] for i in lost})}
    common = sorted(count, key=lambda why: -count[why])
    rank = {i: (sum(reasons[k] == reasons[i] for k in lost if k < i), common.index(reasons[i])) for i in lost}
    return won + sorted(lost, key=lambda i: rank[i])[:FAILED]


class Gallery:
    """Collects episodes while splits are evaluated, and draws them all at once in the end."""

    def __init__(self) -> None:
        self._sets: list[EpisodeSet] = []
        self._about: list[tuple[str, str, bool, str, Trace]] = []  # split, instruction, success, reason, trace

    def add(self, split: str, episodes: EpisodeSet, results: EpisodeResults) -> None:
        """Remember some episodes of a split."""
        chosen = choose(results)
        self._sets.append(replace(episodes.select(chosen), split="", seed=0))  # so that sets can be joined
        for i in chosen:
            reason = "" if results.reason is None else str(results.reason[i])
            about = (split, str(episodes.instruction[i]), bool(results.success[i]), reason, results.traces[i])
            self._about.append(about)

    def draw(self, config: RunConfig) -> dict[str, list[Shown]]:
        """The episodes by split."""
        out: dict[str, list[Shown]] = {}
        if not self._about:
            return out
        traces = [about[-1] for about in self._about]
        pictures = [_encoded(shots) for shots in replay_ends(config, concat(self._sets), traces)]
        for (split, instruction, success, reason, trace), *shots in zip(self._about, *pictures, strict=True):
            pairs = zip(trace.actions, trace.invalid, strict=True)
            steps = tuple((ACTIONS[action].words, not invalid) for action, invalid in pairs)
            out.setdefault(split, []).append(Shown(instruction, success, reason, steps, *shots))
        return out


def replay_ends(
    config: RunConfig, episodes: EpisodeSet, traces: list[Trace]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the head camera sees at the start and in the end, and the room in the end: uint8 (E, H, W, 3) each.

    Row i of `episodes` is played through the actions of `traces[i]`."""
    n = len(episodes)
    world = BatchWorld(
        load_assets_for(config.env), episodes, n, config.task, image_size=2 * WIDTH, rules=config.env.rule_set,
        device=config.device, render_threads=config.env.render_threads,
    )  # fmt: skip
    world.seed = config.seed
    everyone = torch.arange(n, device=world.device)
    world.reset(torch.ones_like(everyone, dtype=torch.bool), everyone, torch.zeros_like(everyone))
    first, end = world.render(), world.snapshot()
    for step in range(max(len(trace.actions) for trace in traces)):
        actions = [trace.actions[step] if step < len(trace.actions) else 0 for trace in traces]
        world.judge(world.apply(torch.tensor(actions, device=world.device)))
        ends = torch.tensor([len(trace.actions) == step + 1 for trace in traces], device=world.device)
        for f in fields(WorldState):
            getattr(end, f.name)[ends] = getattr(world.state, f.name)[ends]
    world.state = end
    return first, world.render(), world.render_outside()


def _encoded(pictures: torch.Tensor) -> list[str]:
    return [data_uri(picture) for picture in pictures.cpu().numpy()]


def data_uri(picture: np.ndarray, width: int = WIDTH) -> str:
    """A picture, uint8 (H, W, 3), as a small JPEG in a data URI."""
    image = Image.fromarray(picture)
    image = image.resize((width, round(width * picture.shape[0] / picture.shape[1])), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
