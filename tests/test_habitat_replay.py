"""Replays in Habitat: as the original recorded them, as the embedded simulator plays them, and in the same places."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, shared_folder

from llarp.config import load as load_config
from llarp.errors import UserError
from llarp.evaluation.replay import Sequence, replay
from llarp.evaluation.replay_world import open_worlds
from llarp.tasks.entities import RECEPTACLES
from llarp.tasks.state import SceneSet

SEQUENCES = 12
SCENES = ("v3_sc3_staging_00", "v3_sc3_staging_05", "v3_sc3_staging_11")


def benchmark(name: str) -> ModuleType:
    """A script of `benchmarks/` as a module."""
    folder = str(ROOT / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def settings(backend: str, *others: str) -> Any:
    dataset = shared_folder() / "language_rearrangement" / "new_scenes.pickle"
    return load_config("smoke", [f"env.backend={backend}", f"env.dataset={dataset}",
                                 f"env.scenes={shared_folder() / 'replica_cad'}", *others])  # fmt: skip


@pytest.fixture(scope="module")
def traces() -> list[dict[str, Any]]:
    """Recorded sequences of all kinds, in few scenes."""
    with gzip.open(shared_folder() / "traces" / "traces_new_scenes.jsonl.gz", "rt") as file:
        recorded = [json.loads(line) for line in file]
    with_places = [t for t in recorded if any(t["placed"]) or t["kind"] != "guided"]
    each = Counter[str]()
    chosen = []
    for trace in with_places:
        each[trace["kind"]] += 1
        if each[trace["kind"]] <= SEQUENCES // 3:
            chosen.append(trace)
    return chosen


@pytest.fixture(scope="module")
def worlds() -> Iterator[Any]:
    opened = open_worlds(settings("habitat"), [Sequence((0,))] * SEQUENCES)
    yield opened
    opened.close()


def sequence(trace: dict[str, Any], told: str) -> Sequence:
    if told == "nothing":
        return Sequence(tuple(trace["actions"]), trace["episode_id"])
    return Sequence(
        tuple(trace["actions"]), trace["episode_id"], tuple(trace["start_pose"]),
        tuple(p and tuple(p) for p in trace["placed"]),
        tuple(map(tuple, trace["pose"])) if told == "places and poses" else None,
    )  # fmt: skip


@pytest.mark.habitat
@pytest.mark.shared_data
@pytest.mark.parametrize("told", ["places", "places and poses"])
def test_habitat_does_what_the_original_did(worlds: Any, traces: list[dict[str, Any]], told: str) -> None:
    results = replay(worlds, [sequence(t, told) for t in traces])
    kinds = Counter()
    for trace, result in zip(traces, results, strict=True):
        assert result["episode_id"] == trace["episode_id"]
        assert result["invalid"] == trace["invalid"] and result["success"] == trace["success"]
        assert result["progress"] == pytest.approx(trace["progress"], abs=1e-3)
        assert result["valid_before"] == [sorted(valid) for valid in trace["valid_before"]]
        for (x, _, z, yaw), (u, _, w, turned) in zip(trace["pose"], result["poses"], strict=True):
            assert math.dist((x, z), (u, w)) < 0.01
            assert abs(math.remainder(yaw - turned, math.tau)) < 0.01
        kinds.update(invalid=sum(result["invalid"]), valid=len(result["invalid"]) - sum(result["invalid"]),
                     placed=sum(p is not None for p in trace["placed"]), success=result["success"][-1])  # fmt: skip
    assert kinds["invalid"] > 20 and kinds["valid"] > 20 and kinds["placed"] > 2 and kinds["success"] > 1


@pytest.mark.habitat
@pytest.mark.shared_data
def test_both_simulators_agree_where_nothing_is_told(worlds: Any, traces: list[dict[str, Any]]) -> None:
    """Starts and places are drawn by the same keys, ways found in the same navmesh."""
    asked = [sequence(t, "nothing") for t in traces]
    ours = replay(open_worlds(settings("mujoco"), asked), asked)
    habitats = replay(worlds, asked)
    agreement = benchmark("compare_replays").agreement
    steps = [step for one, other in zip(ours, habitats, strict=True) for step in agreement(one, other)]
    assert len(steps) > 150
    for name in steps[0]:
        assert sum(step[name] for step in steps) >= 0.97 * len(steps), name


@pytest.mark.habitat
@pytest.mark.shared_data
def test_scenes_are_played_one_after_another(worlds: Any, traces: list[dict[str, Any]]) -> None:
    asked = [sequence(t, "nothing") for t in traces] * 3
    order = worlds.order(asked)
    assert sorted(order) == list(range(len(asked)))
    rows = {str(e): i for i, e in enumerate(worlds.worlds.source.episodes.episode_id.tolist())}
    scenes = [worlds.worlds.source.scene(rows[asked[i].episode_id or ""]) for i in order]
    played = [scenes[world :: worlds.num_worlds] for world in range(worlds.num_worlds)]
    changes = sum(a != b for one in played for a, b in zip(one, one[1:], strict=False))
    assert changes < len(set(scenes)) + worlds.num_worlds
    with pytest.raises(UserError, match="episode_id=nobody is not in the dataset"):
        worlds.order([Sequence((0,), "nobody")])


# -- places -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts() -> list[dict[str, Any]]:
    """What Habitat-Lab's own functions say of some scenes."""
    dataset = shared_folder() / "language_rearrangement" / "new_scenes.pickle"
    words = [sys.executable, str(Path(__file__).with_name("habitat_facts.py")), str(dataset)]
    done = subprocess.run([*words, str(shared_folder() / "replica_cad"), *SCENES], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FACTS")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[0].removeprefix("FACTS"))


@pytest.fixture(scope="module")
def scene_set() -> SceneSet:
    from llarp.envs.episode_source import load_assets_for

    return load_assets_for(settings("habitat").env).scenes


def in_our_frame(points: Any) -> np.ndarray:
    x, y, z = np.moveaxis(np.array(points), -1, 0)
    return np.stack([x, -z, y], axis=-1)


@pytest.mark.habitat
@pytest.mark.shared_data
def test_boxes_and_handles_are_where_habitat_lab_finds_them(facts: list[dict[str, Any]], scene_set: SceneSet) -> None:
    for fact in facts:
        row = scene_set.names.index(fact["scene"])
        corners = in_our_frame([fact["boxes"][r.published_name] for r in RECEPTACLES])
        center, span = corners.mean(1), np.abs(corners[:, 1] - corners[:, 0]) / 2
        np.testing.assert_allclose(scene_set.receptacle_center[row], center, atol=1e-4)
        np.testing.assert_allclose(scene_set.receptacle_span[row], span, atol=1e-4)
        np.testing.assert_allclose(scene_set.handle_position[row], in_our_frame(fact["handles"]), atol=1e-4)


@pytest.mark.habitat
@pytest.mark.shared_data
def test_nav_leads_where_habitats_pathfinder_does(facts: list[dict[str, Any]], scene_set: SceneSet) -> None:
    for fact in facts:
        row, nav = scene_set.names.index(fact["scene"]), in_our_frame(fact["nav"])
        np.testing.assert_allclose(scene_set.nav_pose[row, :, :2], nav[:, :2], atol=0.01)
        np.testing.assert_allclose(scene_set.nav_height[row], nav[:, 2], atol=0.01)
        boxes = in_our_frame([fact["boxes"][r.published_name] for r in RECEPTACLES])
        away = np.concatenate([in_our_frame(fact["handles"]), boxes.mean(1)]) - nav
        facing = np.arctan2(away[:, 1], away[:, 0])
        np.testing.assert_allclose(np.cos(facing - scene_set.nav_pose[row, :, 2].numpy()), 1.0, atol=1e-4)


@pytest.mark.habitat
@pytest.mark.shared_data
def test_yaw_is_where_the_robots_base_points(facts: list[dict[str, Any]]) -> None:
    for yaw, points, read in facts[0]["looks"]:
        assert abs(math.remainder(points - yaw, math.tau)) < 1e-5
        assert abs(math.remainder(read - yaw, math.tau)) < 1e-3


# -- the comparison itself --------------------------------------------------------------------------------------------


def test_comparing_replays() -> None:
    """A step that differs in one thing, a pose just too far off, and a step that only one has."""
    compare = benchmark("compare_replays")
    one = {"actions": [1, 2, 3], "invalid": [False, True, False], "progress": [0.0, 0.5, 1.0],
           "success": [False, False, True], "valid_before": [[1], [1, 2], [3]],
           "poses": [[0, 0, 0, 3.14], [1, 0, 0, 0], [1, 0, 0, 0]]}  # fmt: skip
    other = {key: values[:2] for key, values in one.items()}
    other["progress"], other["poses"] = [0.0, 0.25], [[0.049, 0, 0, -3.14], [1, 0.06, 0, 0]]
    first, second, third = compare.agreement(one, other)
    assert all(first.values()) and not any(third.values())
    assert {name for name, same in second.items() if not same} == {"progress", "all", "pose"}
    assert not compare.near([0, 0, 0, 0.0], [0, 0, 0, 0.1])
