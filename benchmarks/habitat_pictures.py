"""Do both simulators show the same? Pictures of the same state from the same pose, object by object.

    python benchmarks/habitat_pictures.py [--dataset FILE.pickle --scenes FOLDER] [--poses 100] [--size 128] [--png OUT]

The robot goes about in Habitat, opens what it can and carries things; after every step the embedded simulator draws
the state that Habitat-Sim then has. An object over 30 pixels in either picture agrees where both show it, with its
centre at most 3 pixels off. Prints their share with its 95 % interval, all of it and beside the arms (a robot given by
--robot has an arm of another shape, which hides other things); exit code 1 below 90 %. The PNG has pairs side by side
(left: embedded, right: Habitat), green boxes where objects agree, red where they do not.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from words import count, one_line

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.evaluation.statistics import wilson
from llarp.habitat.assets import find_assets
from llarp.habitat.episodes import Episodes
from llarp.habitat.worlds import HabitatWorlds
from llarp.sim.world import BatchWorld
from llarp.tasks.actions import ACTION_NAMES, PICK_BASE
from llarp.tasks.state import MAX_OBJECTS
from llarp.tasks.task import TaskConfig

MIN_PIXELS, OFF_PIXELS, BAR = 30, 3.0, 0.9
SHOWN = 24
"""Pairs in the PNG."""
STEPS = 10
"""Steps of an episode that are looked at."""


@dataclass(frozen=True)
class Pair:
    """What both simulators show of one state: pictures (H, W, 3) and what is seen at each pixel (H, W).

    That is the slot of an object, MAX_OBJECTS: the robot, -1: anything else."""

    where: str
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    slots: tuple[NDArray[np.int64], NDArray[np.int64]]

    def beside_arms(self) -> Pair:
        """The same without what either robot covers."""
        arms = (self.slots[0] == MAX_OBJECTS) | (self.slots[1] == MAX_OBJECTS)
        return Pair(self.where, self.pictures, tuple(np.where(arms, -1, s) for s in self.slots))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sight:
    """An object in a pair: how many pixels show it, and how far apart their centres are (pixels)."""

    slot: int
    pixels: tuple[int, int]
    off: float  # infinite where only one shows it

    @property
    def verdict(self) -> str:
        if min(self.pixels) == 0:
            return f"only {'Habitat' if self.pixels[0] == 0 else 'embedded'} shows it"
        return "agrees" if self.off <= OFF_PIXELS else "centre off"


def sights(pair: Pair) -> list[Sight]:
    """The objects that cover more than 30 pixels in either picture."""
    counts = [np.bincount(s.ravel() + 1, minlength=MAX_OBJECTS + 2)[1:-1] for s in pair.slots]
    found = []
    for slot in np.flatnonzero(np.maximum(*counts) > MIN_PIXELS).tolist():
        centres = [np.argwhere(s == slot).mean(0) if (s == slot).any() else np.full(2, np.inf) for s in pair.slots]
        both = all(np.isfinite(c).all() for c in centres)
        off = float(np.linalg.norm(centres[0] - centres[1])) if both else math.inf
        found.append(Sight(slot, (int(counts[0][slot]), int(counts[1][slot])), off))
    return found


def pairs(config: EnvConfig, poses: int, seed: int = 1) -> Iterator[Pair]:
    """So many pairs, ten an episode, the episodes in as many scenes as there are."""
    episodes, assets, task = load_episodes(config, seed), load_assets_for(config), TaskConfig()
    embedded = BatchWorld(
        assets, episodes, 1, task, image_size=config.image_size, rules=config.rule_set, segmentation=True
    )
    source = Episodes(config, episodes, assets.scenes, assets.catalog)
    habitat = HabitatWorlds(source, 1, task, config, segmentation=True)
    first = {int(scene): row for row, scene in reversed(list(enumerate(episodes.scene.tolist())))}
    scenes = sorted(first)
    chosen = [first[scenes[i * len(scenes) // max(1, poses // STEPS)]] for i in range(math.ceil(poses / STEPS))]
    rng, everyone, left = np.random.default_rng(seed), torch.ones(1, dtype=torch.bool), poses
    try:
        for row in chosen:
            begin = torch.tensor([row]), torch.zeros(1, dtype=torch.int64)
            habitat.reset(everyone, *begin)
            embedded.reset(everyone, *begin)
            for _ in range(min(STEPS, left)):
                does = np.flatnonzero(habitat.valid_actions()[0].numpy())
                acts = does[does >= PICK_BASE]  # every other step at most, so that robots get about
                skill = int(rng.choice(acts if len(acts) and rng.random() < 0.4 else does[does < PICK_BASE]))
                habitat.apply(torch.tensor([skill]))
                if bool(habitat.judge(everyone).terminated):
                    habitat.reset(everyone, *begin)
                embedded.state = habitat.snapshot()
                left -= 1
                yield Pair(
                    f"{source.scene(row)}: {ACTION_NAMES[skill]}",
                    (embedded.render()[0].numpy(), habitat.render()[0].numpy()),
                    (embedded.renderer.seen_slots()[0].numpy(), habitat.seen_slots()[0].numpy()),
                )
    finally:
        habitat.close()


def sheet(shown: list[Pair], size: int = 320) -> Image.Image:
    """Pairs side by side, two a row, objects boxed."""
    columns, title = 2, 14
    rows = math.ceil(len(shown) / columns)
    page = Image.new("RGB", (columns * (2 * size + 12), rows * (size + title + 4)), "white")
    pen = ImageDraw.Draw(page)
    for i, pair in enumerate(shown):
        x, y = (i % columns) * (2 * size + 12), (i // columns) * (size + title + 4)
        pen.text((x, y), pair.where, fill="black")
        for side, (picture, slots) in enumerate(zip(pair.pictures, pair.slots, strict=True)):
            left, top, scale = x + side * size, y + title, size / len(picture)
            page.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST), (left, top))
            for sight in sights(pair):
                at = np.argwhere(slots == sight.slot)
                if len(at):
                    (v, u), (w, t) = at.min(0) * scale, (at.max(0) + 1) * scale
                    colour = "lime" if sight.verdict == "agrees" else "red"
                    pen.rectangle((left + u, top + v, left + t - 1, top + w - 1), outline=colour)
    return page


def report(name: str, made: list[Pair]) -> bool:
    """Print how many objects agree; whether these are at least 90 %."""
    found = [sight for pair in made for sight in sights(pair)]
    verdicts = Counter(sight.verdict for sight in found)
    good, (low, high) = verdicts["agrees"], wilson(verdicts["agrees"], len(found))
    off = np.array([sight.off for sight in found if math.isfinite(sight.off)])
    middle, most = np.quantile(off, (0.5, 0.95)) if len(off) else (math.nan, math.nan)
    print(f"{name}: {good} of {len(found)} objects over {MIN_PIXELS} pixels agree, {good / max(1, len(found)):.1%} "
          f"(95 %: {low:.1%} to {high:.1%}); centres off: median {middle:.2f}, 95 % within {most:.2f}")  # fmt: skip
    print("  " + ", ".join(f"{verdict}: {count}" for verdict, count in verdicts.most_common()))
    return bool(found) and good >= BAR * len(found)


@one_line
def main(words: list[str]) -> int:
    """Compares and prints; the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("dataset", ""), ("scenes", ""), ("objects", ""), ("robot", ""), ("png", "")):
        options.add_argument(f"--{name}", default=default)
    for name, number in (("poses", 100), ("size", 128), ("seed", 1)):
        options.add_argument(f"--{name}", type=int if name == "seed" else count, default=number)
    options.add_argument("--list", action="store_true", help="also list every object that does not agree")
    chosen = options.parse_args(words)
    config = EnvConfig(
        backend="habitat", dataset=chosen.dataset, scenes=chosen.scenes, objects=chosen.objects, robot=chosen.robot,
        image_size=chosen.size, split="new_scenes", episodes=100,
    )  # fmt: skip
    made, notes = list(pairs(config, chosen.poses, chosen.seed)), find_assets(config).notes
    scenes = len({pair.where.split(":")[0] for pair in made})
    print(f"{len(made)} poses in {scenes} scenes at {chosen.size}x{chosen.size}; {'; '.join(notes) or 'no stand-ins'}")
    good = report("all", made)
    report("beside the arms", [pair.beside_arms() for pair in made])
    same = np.mean([pair.slots[0] == pair.slots[1] for pair in made])
    print(f"pixels that show the same object, the robot, or neither: {same:.2%}")
    if chosen.list:
        for pair in made:
            for sight in sights(pair):
                if sight.verdict != "agrees":
                    print(f"{pair.where}: slot {sight.slot}, {sight.pixels} pixels: {sight.verdict} ({sight.off:.1f})")
    if chosen.png:
        worst = sorted(made, key=lambda pair: -sum(s.verdict != "agrees" for s in sights(pair)))
        each = max(1, len(made) // (SHOWN // 2))
        sheet([*worst[: SHOWN // 2], *made[::each][: SHOWN // 2]]).save(Path(chosen.png))
        print(f"{chosen.png}: the {SHOWN // 2} pairs that agree least, then {SHOWN // 2} others")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
