"""How the embedded simulator's cost grows: with worlds, picture size, scene, threads and episodes; all in one run.

    python benchmarks/sim_scaling.py [--worlds 1 2 4 8 16 32 64] [--episodes 100000] [--repeats 5] [--device cpu]
        [--published DATASET.pickle --scenes REPLICA_CAD] [--out FILE]

Steps are whole environment steps as in `llarp bench sim`: valid actions that change the picture, natural resets,
pictures, all torch threads. Where two ways or sizes are compared, their repeats alternate; figures are medians and
`ratio` is the median of each repeat's own ratio. Printed as a table, and as JSON to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from words import check, count, one_line

from llarp.bench import ChangingActions, settings
from llarp.config import load
from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.sim.model import build_model
from llarp.sim.renderer import BatchRenderer
from llarp.sim.world import Assets
from llarp.tasks.entities import NUM_NAV_TARGETS
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.state import WorldState

EPISODES = 1_000
FRAMES = 4  # pictures of all worlds that one repeat of a drawing figure takes


@one_line
def main(words: list[str]) -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=count, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--episodes", type=count, default=100_000)
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--device", default="cpu"), parser.add_argument("--out", type=Path)
    parser.add_argument("--published", default=""), parser.add_argument("--scenes", default="")
    given = parser.parse_args(words)
    check(given.device, given.out)
    config = load("default", (f"device={given.device}", f"env.episodes={EPISODES}"))
    torch.manual_seed(0)
    episodes = load_episodes(config.env, seed=0)
    result: dict[str, Any] = {"settings": settings(config)}
    result["worlds"] = over_worlds(given.worlds, episodes, given.device, given.repeats)
    result["episodes"] = over_episodes(episodes, given.episodes, given.device, given.repeats)
    built_in, states = load_assets_for(config.env), start_states(config.env, episodes, given.device)
    result["drawing"] = over_drawing(built_in, states, given.device, given.repeats)
    if given.published:
        published = EnvConfig(dataset=given.published, scenes=given.scenes)
        states = start_states(published, load_episodes(published, seed=0), given.device)
        found = over_ways(load_assets_for(published), states, given.device, given.repeats)
        result["drawing"] |= {f"ReplicaCAD, {name}": figures for name, figures in found.items()}
    if given.out:
        given.out.write_text(json.dumps(result, indent=1))
    for part in ("worlds", "episodes", "drawing"):
        for name, figures in result[part].items():
            print(f"{part:9} {name:34}", ", ".join(f"{k} {v:.5g}" for k, v in figures.items()))
    return 0


def alternate(works: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each repeat of each work, turn by turn, after one untimed turn."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(repeats + 1):
        for name, work in works.items():
            _finish(device)
            start = time.perf_counter()
            work()
            _finish(device)
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def ratio(over: list[float], under: list[float]) -> float:
    """The median of a / b, repeat by repeat."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


class Stepper:
    """An environment stepped with valid actions."""

    def __init__(self, num_worlds: int, episodes: EpisodeSet, device: str):
        self.env = LanguageRearrangementVectorEnv(
            num_worlds, output="torch", autoreset_mode="same_step", episode_set=episodes, device=device
        )
        self.env.reset()
        self.actions = ChangingActions(num_worlds, device, seed=0)

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self.env.step(self.actions.draw(self.env.valid_actions()))


def over_worlds(counts: Sequence[int], episodes: EpisodeSet, device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Steps a second of each number of worlds."""
    found = {}
    for worlds in counts:
        stepper, steps = Stepper(worlds, episodes, device), max(4, 128 // worlds)
        stepper(36)  # past the first resets, which all worlds without success have at once
        seconds = alternate({"steps": lambda s=stepper, n=steps: s(n)}, repeats, device)["steps"]  # type: ignore[misc]
        median = statistics.median(seconds) / steps
        found[f"{worlds} worlds"] = {"steps_per_s": worlds / median, "ms_a_vector_step": median * 1e3}
        stepper.env.close()
    return found


def over_episodes(few: EpisodeSet, most: int, device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Steps of 16 worlds over few episodes and over those again and again, `most` in all."""
    many = few.select(torch.arange(most) % len(few))
    steppers = {len(e): Stepper(16, e, device) for e in (few, many)}
    steps = 96  # three episodes a world: other apartments, drawn in another time
    seconds = alternate({str(n): lambda s=s: s(steps) for n, s in steppers.items()}, repeats, device)  # type: ignore[misc]
    found = {f"{n} episodes": {"steps_per_s": 16 * steps / statistics.median(s)} for n, s in seconds.items()}
    found[f"{most} episodes"]["ratio_of_times"] = ratio(seconds[str(most)], seconds[str(len(few))])
    return found


def start_states(config: EnvConfig, episodes: EpisodeSet, device: str, count: int = 16) -> list[WorldState]:
    """The first episodes' states, the robots sent to `FRAMES` nav targets."""
    assets, rows = load_assets_for(config), torch.arange(count)
    scenes, catalog = assets.scenes.to(device), assets.catalog.to(device)
    states = []
    for frame in range(FRAMES):
        state = episodes.to(device).start_state(rows.to(device), scenes, catalog, 0, torch.zeros_like(rows).to(device))
        target = (rows * 5 + frame * 3) % NUM_NAV_TARGETS
        state.robot = state.nav_pose[rows, target].clone()
        states.append(state)
    return states


def _drawing(renderer: BatchRenderer, states: Sequence[WorldState]) -> Callable[[], None]:
    rows = torch.arange(renderer.num_worlds, device=renderer.device)

    def draw() -> None:
        for state in states:
            renderer.set_scene(rows, state.scene, state.object_model)
            renderer.set_poses(state)
            renderer.render()

    return draw


def _compare(works: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, dict[str, float]]:
    """Pictures a second of each work, and how many times as long as the first it takes."""
    seconds = alternate(works, repeats, device)
    first, pictures = next(iter(seconds.values())), FRAMES * 16
    return {
        name: {"pictures_per_s": pictures / statistics.median(s), "ratio_of_times": ratio(s, first)}
        for name, s in seconds.items()
    }


def over_ways(assets: Assets, states: Sequence[WorldState], device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Drawn by triangles, by MuJoCo Warp's ray caster, and by one thread of each."""
    parts = (assets.layouts, assets.object_meshes, assets.object_material, 16)
    model = build_model(*parts[:3])
    works = {
        f"{method}, {threads or 'all'} threads": _drawing(
            BatchRenderer(*parts, device=device, method=method, num_threads=threads, model=model), states
        )
        for method in ("triangles", "rays")
        for threads in (0, 1)
    }
    return _compare(works, repeats, device)


def over_drawing(
    assets: Assets, states: Sequence[WorldState], device: str, repeats: int
) -> dict[str, dict[str, float]]:
    """16 worlds drawn both ways, in other sizes, and with fewer objects."""
    found = over_ways(assets, states, device, repeats)
    parts = (assets.layouts, assets.object_meshes, assets.object_material, 16)
    model = build_model(*parts[:3])
    works = {}
    for size in (128, 64, 224, 256, 512):
        works[f"{size} pixels a side"] = _drawing(BatchRenderer(*parts, size, device=device, model=model), states)
    for share in (1.0, 0.5, 0.0):
        fewer = [_with_objects(state, share) for state in states]
        renderer = BatchRenderer(*parts, device=device, model=model)
        renderer.set_scene(torch.arange(16, device=device), fewer[0].scene, fewer[0].object_model)
        faces = torch.as_tensor(model.mujoco.mesh_facenum)[renderer._placed.mesh.cpu().long()]
        triangles = int(faces.sum(1).float().mean())
        works[f"{triangles} triangles a world"] = _drawing(renderer, fewer)
    return found | _compare(works, repeats, device)


def _with_objects(state: WorldState, share: float) -> WorldState:
    """The state with this share of its objects."""
    kept = state.rows(torch.arange(state.num_worlds, device=state.scene.device))
    there = kept.object_model >= 0
    last = (there.sum(1, keepdim=True) * share).round()
    kept.object_model[there & (there.cumsum(1) > last)] = -1
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
