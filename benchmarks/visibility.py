"""Does the robot see what it is asked to fetch? Pixels of each episode's target after nav to the furniture it lies on.

    python benchmarks/visibility.py [episodes]

Prints, for generated training and held-out episodes at 128x128, the share of targets that cover at least 40 pixels,
with its 95 % interval; exit code 1 below 90 %.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from llarp.envs import make
from llarp.evaluation.statistics import wilson
from llarp.tasks.actions import nav_to_receptacle
from llarp.tasks.planners import wants_of

MIN_PIXELS, BAR, NUM_ENVS = 40, 0.9, 16


def target_pixels(split: str, count: int) -> np.ndarray:
    """Pixels of every wanted object (the one its category names; the largest of several on that furniture)."""
    env = make(
        NUM_ENVS, output="torch", autoreset_mode="disabled", split=split, episodes=count, quota=True, visibility=True
    )
    pixels: list[int] = []
    while True:
        env.reset()
        playing = env.active.tolist()
        if not any(playing):
            return np.array(pixels)
        episodes = [env.episodes.episode(e) for e in env.world.episode.tolist()]
        category = env.world.state.object_category.cpu().numpy()
        todo = []  # per world: (receptacle, slots)
        for i, episode in enumerate(episodes):
            wanted = wants_of(episode.goal).categories if playing[i] else set()
            on = episode.object_receptacle
            todo.append([(int(r), np.flatnonzero((category[i] == c) & (on == r))) for c in wanted
                         for r in sorted(set(on[category[i] == c])) if 1 <= r <= 7])  # fmt: skip
        while any(todo):
            now = [jobs.pop() if jobs else None for jobs in todo]
            action = [nav_to_receptacle(job[0] if job else 0) for job in now]
            env.step(torch.tensor(action))
            seen = env.world.renderer.visible_pixels().cpu().numpy()
            pixels += [int(seen[i, job[1]].max()) for i, job in enumerate(now) if job]


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    good = True
    for split in ("train", "new_scenes"):
        pixels = target_pixels(split, count)
        hits = int((pixels >= MIN_PIXELS).sum())
        low, high = wilson(hits, len(pixels))
        print(f"{split}: {hits / len(pixels):.1%} of {len(pixels)} targets cover at least {MIN_PIXELS} pixels "
              f"(95 %: {low:.1%} to {high:.1%}); median {np.median(pixels):.0f}")  # fmt: skip
        good &= hits / len(pixels) >= BAR
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
