"""Action files, and stepping a world through them."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import pytest
import torch

from llarp.config import RunConfig
from llarp.config import load as load_config
from llarp.errors import UserError
from llarp.evaluation.replay import Outcome, Pose, Sequence, Step, action_index, read_sequences, replay
from llarp.evaluation.replay_world import EmbeddedReplayWorlds, EpisodeRows, open_worlds
from llarp.tasks.actions import ACTION_NAMES, nav_to_receptacle, pick, place
from llarp.tasks.entities import NUM_RECEPTACLES, RECEPTACLE_INDEX


def written(tmp_path: Path, *values: Any, name: str = "a.json") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values))
    return path


def test_a_list_of_indices_and_names(tmp_path: Path) -> None:
    path = written(tmp_path, [3, "pick(apple)", "nav(fridge_push_point)", "open_cab(cab_push_point_7)"])
    sequences, many = read_sequences(path, "17")
    assert not many
    assert sequences == [Sequence((3, ACTION_NAMES.index("pick(apple)"), 4, 62), "17")]


def test_objects_one_a_line(tmp_path: Path) -> None:
    full = {"episode_id": 5, "actions": [1, 2], "start_pose": [1, 0, 2, 0.5], "placed": [None, ["cup", 1, 2, 3]],
            "poses": [[0, 0, 0, 0], [1, 1, 1, 1]]}  # fmt: skip
    sequences, many = read_sequences(written(tmp_path, full, "", {"actions": []}))
    assert many and len(sequences) == 2
    assert sequences[0].episode_id == "5" and sequences[0].start_pose == (1.0, 0.0, 2.0, 0.5)
    assert sequences[0].placed == (None, ("cup", 1.0, 2.0, 3.0))
    assert read_sequences(written(tmp_path, full, name="a.jsonl"))[1]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "no actions"),
        ("{", "line 1: no JSON"),
        ("3", "expected a list"),
        ({"episode_id": "1"}, "expected a list"),
        ([70], "70 is no action"),
        ([-1], "is no action"),
        ([True], "is no action"),
        (["nav(moon)"], "'nav(moon)' is no action"),
        ({"actions": [1], "pose": []}, "unknown key 'pose'"),
        ({"actions": [1], "poses": []}, "one entry for each of the 1 actions"),
        ({"actions": [1], "poses": [[1, 2, 3]]}, "a pose must be"),
        ({"actions": [1], "start_pose": [1, 2, 3, "x"]}, "a pose must be"),
        ('{"actions": [1], "start_pose": [1, 2, 3, NaN]}', "a pose must be"),
        ({"actions": [1], "placed": [["cup", 1, 2]]}, "an entry of `placed`"),
        ({"actions": [1], "placed": [[1, 1, 2, 3]]}, "an entry of `placed`"),
        ({"actions": [1], "episode_id": [1]}, "episode_id must be"),
    ],
)
def test_bad_files_are_refused_with_words(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_sequences(written(tmp_path, value))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path, tmp_path / "b"):
        with pytest.raises(UserError, match="cannot be read"):
            read_sequences(path)


class Counter:
    """Two worlds in which episodes end after two steps; even actions are valid."""

    num_worlds = 2

    def __init__(self) -> None:
        self.log: list[Any] = []

    def order(self, sequences: Rows[Sequence]) -> list[int]:
        return sorted(range(len(sequences)), key=lambda i: sequences[i].episode_id or "z")

    def start(self, sequences: Rows[Sequence]) -> None:
        self.log.append([(s.episode_id, s.start_pose) for s in sequences])
        self.steps = 0

    def valid_actions(self) -> list[list[int]]:
        return [[0, 2], [1]]

    def step(self, steps: Rows[Step | None]) -> list[Outcome]:
        self.steps += 1
        self.log.append(steps)
        done = self.steps == 2
        return [Outcome(s is not None and s.action % 2 == 1, 0.5 * self.steps, self.steps / 2, done, done)
                for s in steps]  # fmt: skip

    def poses(self) -> list[Pose]:
        return [(float(self.steps), 0.0, float(i), 0.0) for i in range(self.num_worlds)]

    def close(self) -> None:
        pass


def test_replay_ends_with_the_episode() -> None:
    worlds, start, cup = Counter(), (1.0, 0.0, 2.0, 0.0), ("cup", 1.0, 2.0, 3.0)
    result, short = replay(worlds, [Sequence((2, 1, 0), "e", start, (None, cup, None)), Sequence((4,))])
    assert worlds.log == [[("e", start), (None, None)], [Step(2), Step(4)], [Step(1, cup), None]]
    assert short["valid_before"] == [[1]] and short["poses"] == [[1.0, 0.0, 1.0, 0.0]] and short["done_step"] is None
    assert result == {
        "episode_id": "e",
        "actions": [2, 1],
        "action_names": [ACTION_NAMES[2], ACTION_NAMES[1]],
        "invalid": [False, True],
        "rewards": [0.5, 1.0],
        "progress": [0.5, 1.0],
        "success": [False, True],
        "valid_before": [[0, 2], [0, 2]],
        "poses": [[1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]],
        "done_step": 2,
    }


def test_more_sequences_than_worlds() -> None:
    worlds = Counter()
    results = replay(worlds, [Sequence((0, 0, 0), "c"), Sequence((), "a"), Sequence((), "b")])
    assert [len(r["actions"]) for r in results] == [2, 0, 0] and [r["episode_id"] for r in results] == ["c", "a", "b"]
    assert worlds.log == [[("a", None), ("b", None)], [("c", None)], [Step(0)], [Step(0)]]
    assert replay(worlds, []) == []


@pytest.mark.shared_data
def test_the_originals_names_and_recordings_are_understood(shared: Path, tmp_path: Path) -> None:
    for action in json.loads((shared / "traces" / "actions.json").read_text()):
        assert action_index(action["str"], "test") == action["index"]
    with gzip.open(shared / "traces" / "traces_new_scenes.jsonl.gz", "rt") as file:
        traces = [json.loads(line) for line in file]
    keys = ("episode_id", "actions", "start_pose", "placed")
    asked = [{k: t[k] for k in keys} | {"poses": t["pose"]} for t in traces]
    sequences, many = read_sequences(written(tmp_path, *asked))
    assert many and [list(s.actions) for s in sequences] == [t["actions"] for t in traces]


# -- the embedded simulator -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config("smoke", ["env.split=new_scenes", "env.episodes=8"])


def test_what_is_told_happens(config: RunConfig) -> None:
    """Start pose, poses and put-down places of the input replace what the simulator would do."""
    sofa, put = nav_to_receptacle(RECEPTACLE_INDEX["sofa"]), place(RECEPTACLE_INDEX["sofa"])
    worlds = EmbeddedReplayWorlds(config, 3)
    category = int(worlds.episodes.start_state(torch.tensor([0]), worlds.world.scenes, worlds.world.catalog, 0)
                   .object_category[0, 0])  # fmt: skip
    spot = worlds.episodes.object_position[0, 0].tolist()
    beside = (spot[0] - 0.6, 0.0, -spot[1], 0.0)
    actions = (pick(category), sofa, put)
    told = Sequence(actions, None, beside, (None, None, ("it", 9.0, 8.0, 7.0)))
    posed = Sequence((sofa,), None, None, None, ((1.0, 0.5, -2.0, 0.25),))
    free, led, placed = replay(worlds, [Sequence(actions, None, beside), posed, told])
    assert not any(free["invalid"] + placed["invalid"])
    assert free["poses"][0] == placed["poses"][0] == pytest.approx(beside)
    x, y, yaw = worlds.world.state.nav_pose[0, sofa].tolist()
    assert free["poses"][1] == pytest.approx([x, 0.0, -y, yaw])
    assert led["poses"] == [pytest.approx([1.0, 0.5, -2.0, 0.25])]
    assert put in free["valid_before"][2] and pick(category) not in free["valid_before"][2]
    position = worlds.world.state.object_position[:, 0]
    assert position[2].tolist() == [9.0, -7.0, 8.0]
    on_the_sofa = worlds.world.state.receptacle_center[0, RECEPTACLE_INDEX["sofa"], :2]
    assert float((position[0, :2] - on_the_sofa).norm()) < 1.5


def test_a_place_is_not_consulted_where_nothing_is_put_down(config: RunConfig) -> None:
    worlds = EmbeddedReplayWorlds(config, 1)
    start = worlds.episodes.object_position[0].clone()
    actions = tuple(place(r) for r in range(NUM_RECEPTACLES))
    result = replay(worlds, [Sequence(actions, None, None, (("it", 9.0, 8.0, 7.0),) * len(actions))])[0]
    assert all(result["invalid"]) and torch.equal(worlds.world.state.object_position[0, : len(start)], start)


def test_episodes_are_found_by_their_id(config: RunConfig) -> None:
    worlds = EmbeddedReplayWorlds(config, 1)
    with pytest.raises(UserError, match="episode_id=nobody is not in the dataset, which holds 8 episodes"):
        replay(worlds, [Sequence((0,), "nobody")])
    twice = EpisodeRows(dataclasses.replace(worlds.episodes, episode_id=torch.tensor([7] * 2 + list(range(1, 7)))))
    assert twice.find(None) == 0 and twice.find("1") == 2
    with pytest.raises(UserError, match="episode_id=7 occurs 2 times in the dataset, which holds 8 episodes"):
        twice.find("7")


@pytest.mark.shared_data
@pytest.mark.parametrize("told", ["places", "places and poses"])
def test_published_episodes_go_as_they_were_recorded(shared: Path, told: str) -> None:
    with gzip.open(shared / "traces" / "traces_new_scenes.jsonl.gz", "rt") as file:
        traces = [json.loads(line) for line in file][::4]
    dataset = shared / "language_rearrangement" / "new_scenes.pickle"
    chosen = load_config("smoke", [f"env.dataset={dataset}", f"env.scenes={shared / 'replica_cad'}"])
    assert chosen.env.rule_set == "published"
    sequences = [
        Sequence(tuple(t["actions"]), t["episode_id"], tuple(t["start_pose"]),
                 tuple(p and tuple(p) for p in t["placed"]),
                 tuple(map(tuple, t["pose"])) if told == "places and poses" else None)
        for t in traces
    ]  # fmt: skip
    results = replay(open_worlds(chosen, sequences), sequences)
    steps, same, same_valid, near, navs = 0, 0, 0, 0, 0
    for t, r in zip(traces, results, strict=True):
        for i in range(len(r["actions"])):
            steps += 1
            agrees = abs(t["progress"][i] - r["progress"][i]) < 1e-3 and t["success"][i] == r["success"][i]
            same += agrees and t["invalid"][i] == r["invalid"][i]
            same_valid += sorted(t["valid_before"][i]) == r["valid_before"][i]
            if t["actions"][i] < 16:
                navs += 1
                (x, _, z, _), (u, _, w, _) = t["pose"][i], r["poses"][i]
                near += math.dist((x, z), (u, w)) < 0.05
    assert steps > 1000 and [len(r["actions"]) for r in results] == [len(t["invalid"]) for t in traces]
    assert same >= 0.995 * steps and same_valid >= 0.99 * steps and near >= 0.97 * navs
