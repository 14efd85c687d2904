"""What frozen features hold of what is seen: linear models on top, fitted in training apartments, tested in others.

Three questions, of features exactly as the policy gets them (`FrozenVision.encode`, `policy.vision_pool`):
category: of a cell of the picture, the category of the object that covers most of it (where one covers enough);
in view: of the whole picture, which categories are in it, as mean average precision;
position: of a cell, where the object that covers most of it is from the robot (m forward, m left).
What the hand holds is left out: it is always at one place. Letters in shapes: P pictures, G * G cells, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llarp.config import RunConfig
from llarp.envs.episode_source import load_episodes
from llarp.errors import UserError
from llarp.policy.llm import choose_dtype
from llarp.policy.vision import FrozenVision
from llarp.sim.world import MIN_PIXELS
from llarp.tasks.entities import NUM_TRAIN_CATEGORIES
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.splits import SPLITS
from llarp.tasks.state import MAX_OBJECTS

from .linear import average_precision, fit_classes, fit_positions, layout_weights, ratio_interval
from .methods import cell_counts
from .pictures import PictureSource, check_source, training_rooms

PROBE_SEED = 30_000
"""Of the pictures (and held-out episodes) of a probe: none that pretraining draws."""
TEST_EPISODES = 200
"""Arrangements of an evaluation split that a probe looks at."""
VALIDATION = "validation"
"""The training apartments that pretraining leaves out (`pretrain.validation_layouts`)."""
BATCH = 50


@dataclass
class Seen:
    """Features of pictures and what is in them."""

    features: dict[str, Tensor]  # weights -> (P, G * G, D) float16
    layout: Tensor  # (P,) row of the SceneSet
    category: Tensor  # (P, G * G) category of the object that covers most of a cell, -1: none covers enough
    position: Tensor  # (P, G * G, 2) where that object is from the robot: m forward, m left
    in_view: Tensor  # (P, C) bool

    def __len__(self) -> int:
        return len(self.layout)


def check_split(split: str) -> None:
    """UserError for a split that a probe cannot be tested on."""
    known = [name for name, spec in SPLITS.items() if spec.scenes == "heldout"]
    if split != VALIDATION and split not in known:
        raise UserError(f"split={split}: choose {VALIDATION} (training apartments that were left out) or a split in "
                        f"held-out apartments: {', '.join(known)}")  # fmt: skip


def probe(config: RunConfig, weights: str, split: str) -> dict[str, Any]:
    """What `llarp pretrain probe` reports: `weights` against random ones, on the same pictures of `split`."""
    check_split(split)
    check_source(config)
    count = config.pretrain.probe_pictures
    if not count:
        raise UserError("pretrain.probe_pictures=0: a probe needs at least 50")
    names = ["random"] if weights == "random" else [weights, "random"]
    models = [_model(config, name) for name in names]
    fit = look(config, training_rooms(config), models, count, PROBE_SEED)
    test = look(config, _test_rooms(config, split), models, max(BATCH, count // 2), PROBE_SEED + 1)
    result: dict[str, Any] = {
        "vision": config.policy.vision,
        "weights": weights,
        "pool": config.policy.vision_pool,
        "split": split,
        "fit_pictures": len(fit),
        "fit_layouts": len(fit.layout.unique()),
        "pictures": len(test),
        "layouts": len(test.layout.unique()),
        "objects": int((test.category >= 0).sum()),
    }
    if not result["objects"]:
        raise UserError(f"split={split}: none of {len(test)} pictures shows an object: raise pretrain.probe_pictures")
    draws = layout_weights(test.layout)  # (B, P)
    correct: dict[str, Tensor] = {}
    for name in names:
        label = "random" if name == "random" else "pretrained"
        result[label], correct[label] = _measure(fit, test, name, draws)
    result["guessing"] = _guessing(fit, test)
    if "pretrained" in correct:
        good, bad = correct["pretrained"], correct["random"]
        low, high = ratio_interval(good, bad, draws)
        result["times_random"] = {"category": float(good.sum() / bad.sum().clamp(min=1)), "ci95": [low, high]}
    return result


def look(config: RunConfig, rooms: EpisodeSet, models: list[FrozenVision], count: int, seed: int) -> Seen:
    """`count` pictures of rooms (rounded up to whole batches) and their features by every model."""
    source = PictureSource(rooms, BATCH, config.env.image_size, seed, labels=True, device=config.device,
                           render_threads=config.env.render_threads)  # fmt: skip
    side = round(models[0].num_tokens ** 0.5)
    enough = MIN_PIXELS * (config.env.image_size / 128) ** 2
    rows: list[list[Tensor]] = []
    for first in range(0, count, BATCH):
        shown = source.draw(first)
        state = shown.state
        assert shown.slot is not None
        slot = torch.where(shown.slot == state.held[:, None, None], -1, shown.slot)
        slot = torch.where((slot >= 0) & (slot < MAX_OBJECTS), slot, MAX_OBJECTS)
        pixels = cell_counts(slot, side, MAX_OBJECTS + 1)[..., :-1].flatten(1, 2)  # (P, G * G, M)
        most, which = pixels.max(-1)
        delta = state.object_position.gather(1, which[..., None].expand(-1, -1, 3))[..., :2] - state.robot[:, None, :2]
        cos, sin = state.robot[:, 2:].cos(), state.robot[:, 2:].sin()
        x, y = delta.unbind(-1)
        position = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)
        category = torch.where(most >= enough, state.object_category.gather(1, which), -1)
        category = torch.where(category < NUM_TRAIN_CATEGORIES, category, -1)  # novel ones were never fitted
        visible = pixels.sum(1) >= enough  # (P, M)
        kinds = torch.where(visible & (state.object_category >= 0), state.object_category, NUM_TRAIN_CATEGORIES)
        in_view = torch.zeros(len(slot), NUM_TRAIN_CATEGORIES + 1, dtype=torch.bool, device=slot.device)
        in_view.scatter_(1, kinds.clamp(max=NUM_TRAIN_CATEGORIES), True)
        features = [model.encode(shown.rgb) for model in models]
        rows.append([t.cpu() for t in (state.scene, category, position, in_view[:, :-1], *features)])
    layout, category, position, in_view, *found = (torch.cat(column) for column in zip(*rows, strict=True))
    return Seen({m.weights: f for m, f in zip(models, found, strict=True)}, layout, category, position, in_view)


def _model(config: RunConfig, weights: str) -> FrozenVision:
    device = torch.device(config.device)
    dtype = choose_dtype(config.policy.precision, device)
    chosen = config.policy
    return FrozenVision(chosen.vision, weights, chosen.vision_pool, config.env.image_size, dtype).to(device)


def _test_rooms(config: RunConfig, split: str) -> EpisodeSet:
    if split == VALIDATION:
        return training_rooms(config, validation=True)
    return load_episodes(config.env.built_in(split=split, episodes=TEST_EPISODES), PROBE_SEED)


def _measure(fit: Seen, test: Seen, weights: str, draws: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Figures of one set of weights, and the cells named rightly in each test picture, (P,)."""
    here, there = fit.category >= 0, test.category >= 0
    x, z = fit.features[weights].float(), test.features[weights].float()
    groups = fit.layout[:, None].expand_as(fit.category)
    name = fit_classes(x[here], fit.category[here], groups[here], NUM_TRAIN_CATEGORIES)
    right = torch.zeros(there.shape).masked_scatter(there, (name(z[there]).argmax(-1) == test.category[there]).float())
    total = there.float().sum(1)
    accuracy = float(right.sum() / total.sum())
    inside = fit_classes(x.flatten(1), fit.in_view.float(), fit.layout, NUM_TRAIN_CATEGORIES)
    scores = inside(z.flatten(1))
    place = fit_positions(_with_cell(x, here), fit.position[here], groups[here])
    error = (place(_with_cell(z, there)) - test.position[there]).norm(dim=-1)
    missed = torch.zeros(there.shape).masked_scatter(there, error).sum(1)
    found = float(average_precision(scores, test.in_view, torch.ones(1, len(test)))[0])
    return {
        "category_accuracy": accuracy,
        "category_ci95": ratio_interval(right.sum(1), total, draws),
        "in_view_map": found,
        "in_view_ci95": _interval(found, average_precision(scores, test.in_view, draws[:200])),
        "position_error_m": float(missed.sum() / total.sum()),
        "position_ci95": ratio_interval(missed, total, draws),
    }, right.sum(1)


def _guessing(fit: Seen, test: Seen) -> dict[str, Any]:
    """The same figures for one who knows what is common and which cell is asked about, and sees nothing."""
    here, there = fit.category >= 0, test.category >= 0
    common = torch.bincount(fit.category[here], minlength=NUM_TRAIN_CATEGORIES).argmax()
    groups = fit.layout[:, None].expand_as(fit.category)
    nothing = torch.zeros(*fit.category.shape, 0), torch.zeros(*test.category.shape, 0)
    place = fit_positions(_with_cell(nothing[0], here), fit.position[here], groups[here])
    error = (place(_with_cell(nothing[1], there)) - test.position[there]).norm(dim=-1)
    return {
        "category_accuracy": float((test.category[there] == common).float().mean()),
        "in_view_map": float(test.in_view.float().mean(0)[test.in_view.any(0)].mean()),
        "position_error_m": float(error.mean()),
    }


def _with_cell(features: Tensor, chosen: Tensor) -> Tensor:
    """Features of the chosen cells (P, G * G) and which cell each is, (n, D + G * G): the policy knows that as well."""
    cells = features.shape[1]
    return torch.cat([features, torch.eye(cells).expand(len(features), -1, -1)], dim=-1)[chosen]


def _interval(found: float, values: Tensor) -> list[float]:
    """95 % interval about a figure from resampled ones, whose median is brought to it: pictures that are drawn twice
    raise average precision."""
    low, high = torch.quantile(values - values.median() + found, torch.tensor([0.025, 0.975])).tolist()
    return [low, high]
