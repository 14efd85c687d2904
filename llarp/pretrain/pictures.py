"""Pictures of rooms that nobody plays in: random apartments, arrangements and poses, drawn as they are wanted.

Number `k` of a seed is always the same picture, in whatever batch it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llarp.config import RunConfig
from llarp.envs.episode_source import load_episodes
from llarp.errors import UserError
from llarp.sim.layouts import SLOTS
from llarp.sim.renderer import BatchRenderer
from llarp.sim.world import Assets, load_assets
from llarp.tasks import semantics
from llarp.tasks.entities import CATEGORIES, JOINT_OPEN_TO, NUM_HANDLES, NUM_NAV_TARGETS
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.keyed_random import uniform
from llarp.tasks.state import MAX_OBJECTS, SceneSet, WorldState

PICTURE_STREAM, MASK_STREAM, COLOUR_STREAM = 201, 202, 203
"""Keyed random streams: what is seen, which patches are hidden, colours."""
NUM_FURNITURE = len(SLOTS)
CLASSES: tuple[str, ...] = (*SLOTS, *CATEGORIES, "robot", "nothing")
"""What a pixel can show: furniture by its slot, objects by their category."""
FIRST_CATEGORY = NUM_FURNITURE

NAV_SHARE, NEAR_NAV_SHARE = 0.45, 0.25
"""Of the pictures so many are from a nav pose and from near one; the others from anywhere in free space."""
NEAR_M, NEAR_RAD = 0.15, 0.35
"""How far off a nav pose "near" is, each way."""
HOLDING_SHARE, OPEN_SHARE = 0.3, 0.25
"""How often a hand holds something, and how often each drawer or the fridge is opened besides those that are open."""


@dataclass
class Pictures:
    """N pictures and what is known of them."""

    number: Tensor  # (N,) int64
    rgb: Tensor  # (N, H, W, 3) uint8
    slot: Tensor | None  # (N, H, W) int64 object slot of each pixel, MAX_OBJECTS: robot, -1: anything else
    label: Tensor | None  # (N, H, W) int64 index into CLASSES
    state: WorldState


class PictureSource:
    """Draws pictures of the rooms of an EpisodeSet.

    Args:
        labels: also make out what each pixel shows.
    """

    def __init__(
        self,
        episodes: EpisodeSet,
        batch: int,
        image_size: int,
        seed: int,
        *,
        assets: Assets | None = None,
        labels: bool = False,
        device: torch.device | str = "cpu",
        render_threads: int = 0,
    ):
        assets = assets or load_assets()
        self.batch, self.seed, self.labels, self.device = batch, seed, labels, torch.device(device)
        self.scenes, self.catalog = assets.scenes.to(self.device), assets.catalog.to(self.device)
        self.episodes = episodes.to(self.device)
        self._renderer = BatchRenderer(
            assets.layouts, assets.object_meshes, assets.object_material, batch, size=image_size, device=self.device,
            num_threads=render_threads or None, segmentation=labels,
        )  # fmt: skip
        self._everyone = torch.arange(batch, device=self.device)

    def draw(self, first: int) -> Pictures:
        """Pictures number `first` to `first + batch`."""
        number = first + self._everyone
        state = self.room(number)
        self._renderer.set_scene(self._everyone, state.scene, state.object_model)
        self._renderer.set_poses(state)
        rgb = self._renderer.render()
        if not self.labels:
            return Pictures(number, rgb, None, None, state)
        slot = self._renderer.seen_slots()
        return Pictures(number, rgb, slot, self._classes(slot, state.object_category), state)

    def room(self, number: Tensor) -> WorldState:
        """The rooms and robots of pictures `number` (N,)."""
        n, zero = len(number), torch.zeros_like(number)
        u = uniform(self.seed, number, zero, PICTURE_STREAM, (10 + NUM_HANDLES,))
        row = _index(u[:, 0], torch.full_like(number, len(self.episodes)))
        state = self.episodes.start_state(row, self.scenes, self.catalog, self.seed)
        target = _index(u[:, 1], torch.full_like(number, NUM_NAV_TARGETS))
        nav = state.nav_pose[torch.arange(n, device=number.device), target]
        reach = torch.tensor([NEAR_M, NEAR_M, NEAR_RAD], device=number.device)
        free = self.scenes.free_xy[state.scene]
        spot = free[torch.arange(n, device=number.device), _index(u[:, 2], torch.full_like(number, free.shape[1]))]
        anywhere = torch.cat([spot, (u[:, 3:4] * 2 - 1) * math.pi], dim=1)
        kind = u[:, 4:5]
        near = nav + (u[:, 5:8] * 2 - 1) * reach
        state.robot = torch.where(
            kind < NAV_SHARE, nav, torch.where(kind < NAV_SHARE + NEAR_NAV_SHARE, near, anywhere)
        )
        _open(state, u[:, 10:] < OPEN_SHARE)
        there = state.object_category >= 0
        rank = _index(u[:, 8], there.sum(1))  # which of the objects that are there
        slot = (there.cumsum(1) > rank[:, None]).int().argmax(1)
        state.held = torch.where((u[:, 9] < HOLDING_SHARE) & there.any(1), slot, -1)
        held = state.held >= 0
        state.object_inside[held, slot[held]] = -1
        semantics.refresh(state)
        return state

    def _classes(self, slot: Tensor, category: Tensor) -> Tensor:
        """Index into CLASSES of every pixel, (N, H, W), from the object slots (N, H, W) and categories (N, M)."""
        shown = self._renderer.shown().long()
        nothing = torch.where((shown >= 0) & (shown < NUM_FURNITURE), shown, len(CLASSES) - 1)
        objects = category.gather(1, slot.flatten(1).clamp(0, MAX_OBJECTS - 1)).view_as(slot) + FIRST_CATEGORY
        label = torch.where((slot >= 0) & (slot < MAX_OBJECTS), objects, nothing)
        return torch.where(slot == MAX_OBJECTS, len(CLASSES) - 2, label)


def _index(u: Tensor, count: Tensor) -> Tensor:
    """Uniform numbers (N,) as indices below `count` (N,)."""
    return torch.minimum((u * count).long(), count - 1).clamp(min=0)


def _open(state: WorldState, opened: Tensor) -> None:
    """Open the furniture `opened` (N, 5), in place; what lies in drawers moves with them."""
    before = state.receptacle_center_now()
    state.joint = torch.where(opened, torch.tensor(JOINT_OPEN_TO, device=opened.device), state.joint)
    moved = state.receptacle_center_now() - before  # (N, 11, 3)
    inside = state.object_inside
    shift = moved.gather(1, inside.clamp(min=0)[..., None].expand(-1, -1, 3))
    state.object_position = state.object_position + torch.where((inside >= 0)[..., None], shift, 0.0)


# -- which rooms ------------------------------------------------------------------------------------------------------


def check_source(config: RunConfig) -> None:
    """UserError unless the settings mean training rooms of the embedded simulator."""
    env = config.env
    if env.backend != "mujoco":
        raise UserError(f"backend={env.backend}: pictures for pretraining are drawn by the embedded simulator")
    if env.dataset or env.scenes or env.objects:
        key = next(name for name in ("dataset", "scenes", "objects") if getattr(env, name))
        raise UserError(f"{key}={getattr(env, key)}: pretraining takes built-in training apartments; leave it out")
    if env.split != "train":
        raise UserError(f"env.split={env.split}: pretraining takes split train, nothing that is evaluated on")


def training_rooms(config: RunConfig, validation: bool = False) -> EpisodeSet:
    """Episodes of training apartments, without those kept for validation; with `validation` those alone."""
    check_source(config)
    scenes = load_assets().scenes
    kept = kept_layouts(scenes, config.pretrain.validation_layouts)
    episodes = load_episodes(config.env, config.seed)
    is_kept = torch.isin(episodes.scene.long(), torch.tensor(kept))
    chosen = (is_kept if validation else ~is_kept).nonzero()[:, 0]
    if not len(chosen):
        raise UserError(f"env.episodes={config.env.episodes} are too few: none is in an apartment wanted here")
    return episodes.select(chosen)


def kept_layouts(scenes: SceneSet, count: int) -> Sequence[int]:
    """The last `count` training apartments, rows of `scenes`; UserError where none would be left to train on."""
    train = [i for i, split in enumerate(scenes.splits) if split == "train"]
    if count >= len(train):
        most = len(train) - 1
        raise UserError(f"pretrain.validation_layouts={count}: there are {len(train)} apartments; give at most {most}")
    return train[-count:]
