"""Can the objects be told apart? A small network learns 33 categories from what the head camera sees.

    python benchmarks/recognisability.py [--train-rooms 384] [--test-rooms 128] [--epochs 8]

A room is a layout with five objects on each of its seven open receptacles, models drawn evenly over all categories
(episodes know only the 28 that are trained on). The robot drives to each receptacle; every object there that covers at
least 12 pixels is cut out (a square around its pixels, enlarged to 48x48) and is one sample. The network, trained from
scratch on training layouts and models, is tested on held-out layouts with held-out models. Also printed: the share of
all objects on the receptacle driven to that cover at least 40 pixels. Exit code 1 where a bound is missed: 80 % of
samples right, 90 % of objects at 40 pixels.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llarp.evaluation.statistics import wilson
from llarp.sim.renderer import BatchRenderer
from llarp.sim.world import Assets, load_assets
from llarp.tasks.entities import CATEGORIES, NUM_HANDLES, TASK_RECEPTACLES
from llarp.tasks.state import MAX_OBJECTS, WorldState

CROP, MIN_PIXELS, TARGET_PIXELS = 48, 12, 40
REACH_ACCURACY, REACH_COVERED = 0.80, 0.90
_WORLDS, _BATCH = 32, 64  # rooms drawn together, samples a training step
_OBJECTS_EACH, _TRIES = 5, 40  # objects on a receptacle, attempts to find a free spot for one


@dataclass
class Samples:
    """S samples and what they were taken from."""

    crops: Tensor  # (S, 3, 48, 48) uint8
    label: Tensor  # (S,) int64 category
    pixels: Tensor  # (T,) int64 pixels that each of the T >= S objects covers, from where the robot was sent for it

    def covered(self) -> float:
        """Share of objects that cover at least 40 pixels."""
        return (self.pixels >= TARGET_PIXELS).float().mean().item()


def cut_out(picture: Tensor, mask: Tensor) -> Tensor:
    """The square around the pixels of mask (H, W) in a picture (H, W, 3), 2 pixels wider, as uint8 (3, 48, 48)."""
    size = mask.shape[0]
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    low = torch.stack((columns[0], rows[0])).float()
    high = torch.stack((columns[-1], rows[-1])).float() + 1
    side = (high - low).max() * 1.25 + 2
    steps = (torch.arange(CROP) + 0.5) / CROP - 0.5
    x, y = ((low + high) / 2 + steps[:, None] * side).T / size * 2 - 1  # in [-1, 1] over the picture
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1)
    channels = picture.permute(2, 0, 1)[None].float()
    return F.grid_sample(channels, grid[None], padding_mode="border", align_corners=False)[0].byte()


def furnish(assets: Assets, split: str, rng: np.random.Generator) -> tuple[WorldState, Tensor]:
    """Rooms of a split with objects that do not touch, and the receptacle of every slot, (32, 56), -1: empty."""
    scenes, half = assets.scenes, assets.catalog.half_size.numpy()
    scene = torch.from_numpy(rng.choice([i for i, s in enumerate(scenes.splits) if s == split], _WORLDS))
    models = [k for k, s in enumerate(assets.catalog.splits) if s == split]
    model, receptacle = np.full((2, _WORLDS, MAX_OBJECTS), -1)
    position = np.zeros((_WORLDS, MAX_OBJECTS, 3), np.float32)
    for world, row in enumerate(scene.tolist()):
        slot = 0
        for r in TASK_RECEPTACLES:
            center, reach = scenes.receptacle_center[row, r].numpy(), scenes.receptacle_half[row, r].numpy()[:2]
            cos, sin = np.cos(yaw := float(scenes.receptacle_yaw[row, r])), np.sin(yaw)
            taken: list[tuple[np.ndarray, float]] = []
            for k in rng.choice(models, _OBJECTS_EACH):
                radius = half[k, :2].max()
                for spot in rng.uniform(-1, 1, (_TRIES, 2)) * np.maximum(reach - radius, 0.01):
                    if all(np.hypot(*(spot - other)) > radius + its for other, its in taken):
                        taken.append((spot, radius))
                        offset = (cos * spot[0] - sin * spot[1], sin * spot[0] + cos * spot[1])
                        position[world, slot, :2] = center[:2] + offset
                        position[world, slot, 2] = scenes.surface_z[row, r] + half[k, 2]
                        model[world, slot], receptacle[world, slot] = k, r
                        slot += 1
                        break
    object_model = torch.from_numpy(model)
    rows = ("receptacle_center", "receptacle_half", "receptacle_yaw", "receptacle_slide", "surface_z",
            "handle_position", "nav_pose")  # fmt: skip
    state = WorldState(
        scene=scene,
        robot=torch.zeros(_WORLDS, 3),
        joint=torch.zeros(_WORLDS, NUM_HANDLES),
        held=torch.full((_WORLDS,), -1),
        object_model=object_model,
        object_category=torch.where(object_model < 0, -1, assets.catalog.category[object_model.clamp(min=0)]),
        object_position=torch.from_numpy(position),
        object_yaw=torch.from_numpy(rng.uniform(-np.pi, np.pi, model.shape).astype(np.float32)),
        object_inside=torch.full_like(object_model, -1),
        **{name: getattr(scenes, name)[scene] for name in rows},
    )
    return state, torch.from_numpy(receptacle)


def collect(assets: Assets, split: str, rooms: int, seed: int) -> Samples:
    """Every visible object of every open receptacle, from where the robot stands after nav to it."""
    rng = np.random.default_rng(seed)
    renderer = BatchRenderer(assets.layouts, assets.object_meshes, assets.object_material, _WORLDS, segmentation=True)
    crops, labels, pixels = [], [], []
    for _ in range(-(-rooms // _WORLDS)):
        state, receptacle = furnish(assets, split, rng)
        renderer.set_scene(torch.arange(_WORLDS), state.scene, state.object_model)
        for r in TASK_RECEPTACLES:
            state.robot = state.nav_pose[:, NUM_HANDLES + r]
            renderer.set_poses(state)
            picture = renderer.render()
            slot = renderer.seen_slots()  # of each pixel, (N, H, W)
            there, seen = receptacle == r, renderer.visible_pixels()
            pixels.append(seen[there])
            for world, m in (there & (seen >= MIN_PIXELS)).nonzero().tolist():
                crops.append(cut_out(picture[world], slot[world] == m))
                labels.append(int(state.object_category[world, m]))
    return Samples(torch.stack(crops), torch.tensor(labels), torch.cat(pixels))


def network() -> nn.Module:
    """Four convolutions and a linear layer: pictures (B, 3, 48, 48) in [-2, 2] to logits (B, 33)."""

    def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(3, 24, 2), *block(24, 48), nn.MaxPool2d(2), *block(48, 96), nn.MaxPool2d(2), *block(96, 128),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, len(CATEGORIES)),
    )  # fmt: skip


def scaled(crops: Tensor) -> Tensor:
    """uint8 pixels as numbers in [-2, 2]."""
    return (crops.float() / 255 - 0.5) * 4


def train(samples: Samples, epochs: int) -> nn.Module:
    """A network fitted to the samples, with mirrored, shifted and relit pictures."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    batches = len(samples.label) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(samples.label))[: batches * _BATCH].view(-1, _BATCH):
            x = scaled(samples.crops[index])
            gain, offset = 0.3 * (torch.rand(2, _BATCH, 1, 1, 1) - 0.5)
            x = x * (1 + gain) + offset
            x = x.flip(3) if torch.rand(()) < 0.5 else x
            x = torch.roll(x, torch.randint(-3, 4, (2,)).tolist(), (2, 3))
            loss = F.cross_entropy(model(x), samples.label[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / batches:.3f}, {seconds:.0f} s", flush=True)
    return model.eval()


def report(label: Tensor, predicted: Tensor) -> float:
    """Print the accuracy over all categories and for each; returns the first."""
    right = predicted == label
    low, high = wilson(int(right.sum()), len(right))
    accuracy = right.float().mean().item()
    print(f"accuracy over {len(CATEGORIES)} categories: {accuracy:.1%} (95 %: {low:.1%} to {high:.1%}, n {len(right)})")
    for i, category in enumerate(CATEGORIES):
        of = label == i
        if not of.any():
            print(f"  {category:13s} no samples")
            continue
        wrong = torch.bincount(predicted[of & ~right], minlength=len(CATEGORIES))
        mistaken = f", most often taken for {CATEGORIES[int(wrong.argmax())]}" if wrong.any() else ""
        print(f"  {category:13s} {right[of].float().mean():4.0%} of {int(of.sum())}{mistaken}")
    return accuracy


def main() -> int:
    """Collect, train, test."""
    parser = argparse.ArgumentParser(description="Accuracy of a small classifier over the 33 object categories.")
    parser.add_argument("--train-rooms", type=int, default=384)
    parser.add_argument("--test-rooms", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    assets, samples = load_assets(), {}
    for split, rooms, seed in (("train", options.train_rooms, 1), ("heldout", options.test_rooms, 2)):
        started = time.perf_counter()
        made = samples[split] = collect(assets, split, rooms, seed)
        seconds = time.perf_counter() - started
        print(f"{split}: {len(made.label)} samples of {len(made.pixels)} objects, {made.covered():.1%} of which cover "
              f"at least {TARGET_PIXELS} pixels; {seconds:.0f} s", flush=True)  # fmt: skip
    model = train(samples["train"], options.epochs)
    with torch.no_grad():
        predicted = torch.cat([model(scaled(x)).argmax(1) for x in samples["heldout"].crops.split(256)])
    accuracy = report(samples["heldout"].label, predicted)
    return 0 if accuracy >= REACH_ACCURACY and samples["heldout"].covered() >= REACH_COVERED else 1


if __name__ == "__main__":
    sys.exit(main())
