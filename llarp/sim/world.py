"""N household worlds that step and are drawn together: the task's semantics over the simulator's state."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from llarp.tasks import atoms, semantics
from llarp.tasks.episodes import EpisodeSet, episode_key
from llarp.tasks.keyed_random import uniform
from llarp.tasks.state import ObjectCatalog, SceneSet, WorldState
from llarp.tasks.task import StepResult, TaskConfig, TaskTracker

from .assets import LayoutTables, Material, Mesh
from .layouts import build_layouts
from .objects import build_objects
from .renderer import BatchRenderer

OUTSIDE_SIZE = 512
"""Pixels, height and width of the pictures from outside the robot."""
MIN_PIXELS = 40
"""An object counts as seen from this many pixels of a 128x128 picture on; fewer are hard to make out."""


@dataclass(frozen=True)
class Assets:
    """What every world is built from."""

    scenes: SceneSet
    layouts: LayoutTables
    catalog: ObjectCatalog
    object_meshes: list[Mesh]
    object_material: Material
    notes: tuple[str, ...] = ()  # what is not as it would be with complete data, for reports


@functools.cache
def load_assets() -> Assets:
    """The built-in apartments and objects, made once a process."""
    scenes, layouts = build_layouts()
    catalog, object_meshes, object_material = build_objects()
    return Assets(scenes, layouts, catalog, object_meshes, object_material)


class BatchWorld:
    """N worlds; `state` is changed in place by skills and drawn by the renderer.

    Args:
        assets: scenes, furniture and objects.
        episodes: what may be played; `reset` names rows of it.
        num_worlds: N.
        segmentation: also make out which objects the head camera sees (`visible`).
        pictures: False for worlds of which only the task's semantics are wanted; they cannot be drawn.
    """

    def __init__(
        self,
        assets: Assets,
        episodes: EpisodeSet,
        num_worlds: int,
        task: TaskConfig,
        *,
        image_size: int = 128,
        rules: str = "clean",
        device: torch.device | str = "cpu",
        render_threads: int = 0,
        segmentation: bool = False,
        pictures: bool = True,
    ):
        self.num_worlds, self.device, self.rules, self.seed = num_worlds, torch.device(device), rules, 0
        self.whole = self.device.type != "cpu"
        """Skills and resets are computed for all worlds and kept where they apply: the host need not know where."""
        self._assets = assets
        self.scenes, self.catalog = assets.scenes.to(self.device), assets.catalog.to(self.device)
        self._episodes = episodes.to(self.device)
        self._draw = functools.partial(
            BatchRenderer,
            assets.layouts,
            assets.object_meshes,
            assets.object_material,
            num_worlds,
            device=self.device,
            num_threads=render_threads or None,
        )
        self._head = self._draw(size=image_size, segmentation=segmentation) if pictures else None
        self._outside: BatchRenderer | None = None
        self.tracker = TaskTracker(num_worlds, task, self.device)
        self._before: tuple[Tensor, Tensor] | None = None  # facts the last skill read, and what they were
        self._everyone = torch.arange(num_worlds, device=self.device)
        self.episode = torch.zeros(num_worlds, dtype=torch.int64, device=self.device)  # row of `episodes` a world plays
        self.occurrence = torch.zeros_like(self.episode)  # how often that row had been played before
        self.state = self._first_state(self._everyone)
        self._furnish(self._head, self._everyone)

    # -- playing --------------------------------------------------------------------------------------------------

    def reset(self, mask: Tensor, episode: Tensor, occurrence: Tensor) -> None:
        """Start episode `episode` (N,) for the `occurrence`-th time (N,) in the worlds of `mask` (N,)."""
        if self.whole:
            self.episode = torch.where(mask, episode, self.episode)
            self.occurrence = torch.where(mask, occurrence, self.occurrence)
            first = self._first_state(self._everyone)
            for f in fields(WorldState):
                now = getattr(self.state, f.name)
                now.copy_(torch.where(mask.view(-1, *[1] * (now.dim() - 1)), getattr(first, f.name), now))
            self.restart_progress(self._everyone, mask)
            self._furnish(self._head, self._everyone)
            return
        rows = self._everyone[mask]
        self.episode[rows], self.occurrence[rows] = episode[rows], occurrence[rows]
        first = self._first_state(rows)
        for f in fields(WorldState):
            getattr(self.state, f.name)[rows] = getattr(first, f.name)
        self.restart_progress(rows)
        self._furnish(self._head, rows)

    def apply(self, action: Tensor) -> Tensor:
        """Skill `action` (N,) in every world; returns where its precondition failed and nothing changed, bool (N,)."""
        read = semantics.read_atoms(self.state, action, self.rules)
        self._before = None if read is None else (read, atoms.truth(self.state, self.rules))
        draws = uniform(self.seed, self._key(), self.tracker.steps, semantics.PLACE_STREAM, (semantics.NUM_DRAWS,))
        return semantics.apply(
            self.state, action, draws, self.catalog.half_size, self.rules, whole=self.whole
        )

    def judge(self, invalid: Tensor) -> StepResult:
        """Count a step: reward, progress and end as the worlds now stand, after `apply` gave `invalid`.

        Facts that published rules keep for the length of a step are taken from before it."""
        facts = atoms.truth(self.state, self.rules)
        if self._before is not None:
            facts = torch.where(self._before[0], self._before[1], facts)
            self._before = None
        return self.tracker.update(facts, invalid)

    def restart_progress(self, rows: Tensor, only: Tensor | None = None) -> None:
        """Begin to count anew in the worlds `rows` (R,), or those of them that `only` (R,) names, as they now stand."""
        here = atoms.truth(self.state.rows(rows), self.rules)
        self.tracker.reset(rows, self._episodes.circuits.rows(self.episode[rows]), here, only)

    def standing(self) -> StepResult:
        """Progress as it stands, with no reward and no end: what a reset reports."""
        none = torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device)
        progress = self.tracker.progress
        return StepResult(torch.zeros_like(progress), none, none, none, progress, self.tracker.reached.sum(1))

    def valid_actions(self) -> Tensor:
        """Skills whose precondition holds, bool (N, 70)."""
        return semantics.valid_actions(self.state, self.rules)

    # -- looking --------------------------------------------------------------------------------------------------

    def render(self) -> Tensor:
        """What the head cameras see, uint8 (N, H, W, 3), a new tensor."""
        self.renderer.set_poses(self.state)
        return self.renderer.render()

    def render_outside(self) -> Tensor:
        """The worlds from a camera that follows the robot, uint8 (N, 512, 512, 3)."""
        if self._outside is None:
            self._outside = self._draw(size=OUTSIDE_SIZE, camera="third_person", model=self.renderer.model)
        self._furnish(self._outside, self._everyone)
        self._outside.set_poses(self.state)
        return self._outside.render()

    def visible(self, min_pixels: int = MIN_PIXELS) -> Tensor:
        """Objects that cover at least `min_pixels`, scaled to its size, of the picture last drawn, bool (N, 56)."""
        return self.renderer.visible_pixels() >= min_pixels * (self.renderer.size / 128) ** 2

    def snapshot(self) -> WorldState:
        """A copy of the state, for `render_snapshot`."""
        return WorldState(**{f.name: getattr(self.state, f.name).clone() for f in fields(WorldState)})

    def render_snapshot(self, state: WorldState) -> Tensor:
        """What the head cameras saw in an earlier state, uint8 (N, H, W, 3)."""
        now, self.state = self.state, state
        self._furnish(self._head, self._everyone)
        picture = self.render()
        self.state = now
        self._furnish(self._head, self._everyone)
        return picture

    def close(self) -> None:
        """Nothing to end."""

    # -- continuing -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the worlds go on, as copies."""
        return {
            "state": {f.name: getattr(self.state, f.name).clone() for f in fields(WorldState)},
            "tracker": self.tracker.state_dict(),
            "episode": self.episode.clone(),
            "occurrence": self.occurrence.clone(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from `state_dict()` of as many worlds over the same episodes."""
        self.state = WorldState(**saved["state"]).to(self.device).rows(self._everyone)
        self.tracker.load_state_dict(saved["tracker"])
        self.episode, self.occurrence = (saved[k].to(self.device).clone() for k in ("episode", "occurrence"))
        self._furnish(self._head, self._everyone)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _key(self) -> Tensor:
        """Names an episode and its repetition in keyed random numbers."""
        return episode_key(self._episodes.episode_id[self.episode], self.occurrence)

    @property
    def renderer(self) -> BatchRenderer:
        """The head cameras' renderer."""
        if self._head is None:
            raise RuntimeError("these worlds were made with pictures=False and cannot be drawn")
        return self._head

    def _furnish(self, renderer: BatchRenderer | None, rows: Tensor) -> None:
        if renderer is not None:
            renderer.set_scene(rows, self.state.scene[rows], self.state.object_model[rows])

    def _first_state(self, rows: Tensor) -> WorldState:
        """The states in which the episodes of the worlds `rows` (R,) begin."""
        return self._episodes.start_state(
            self.episode[rows], self.scenes, self.catalog, self.seed, self.occurrence[rows]
        )
