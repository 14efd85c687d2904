"""Published episode files: read as written, refused with file and episode named, and turned into worlds of ours."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes

from llarp.sim.renderer import _turned
from llarp.tasks.atoms import truth
from llarp.tasks.entities import CATEGORIES, FRIDGE, RECEPTACLES
from llarp.tasks.goals import evaluate, parse
from llarp.tasks.published import PublishedFileError, read_published
from llarp.tasks.published_episodes import kind_of, published_episodes, turns
from llarp.tasks.semantics import refresh

SOFA, SINK, FRIDGE_NAME = (RECEPTACLES[i].published_name for i in (7, 4, FRIDGE))
PLACE_ONE = {"expr_type": "AND", "quantifier": "EXISTS", "inputs": [{"name": "X", "expr_type": "plum"}],
             "sub_exprs": [f"on_top(X, {SOFA})", "not_holding()"]}  # fmt: skip
NAMES = {
    0: "plum_1.object_config.json", 1: "apple_0.object_config.json", 2: "plum_1_:0000", 3: "plum_1_:0001",
    4: "apple_0_:0000", 5: SOFA, 6: SINK, 7: FRIDGE_NAME, 8: "fridge_:0000", 9: "kitchen_counter_:0000",
    10: "unknown_thing.object_config.json", 11: "../plum_1.object_config.json", 12: "receptacle_of_nobody",
    13: "plum_1",
}  # fmt: skip


def turned(angle: float, axis: str = "y") -> np.ndarray:
    """A transform that turns about an axis of Habitat's frame."""
    matrix = np.eye(4)
    c, s = math.cos(angle), math.sin(angle)
    rows = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix[np.ix_(rows, rows)] = [[c, -s], [s, c]]
    return matrix


def at(x: float, y: float, z: float, turn: np.ndarray | None = None) -> np.ndarray:
    matrix = np.eye(4) if turn is None else turn.copy()
    matrix[:3, 3] = x, y, z
    return matrix


def record(**changes: Any) -> dict[str, Any]:
    """An episode as published: two plums and an apple."""
    return {
        "episode_id": "7",
        "scene_id": "data/replica_cad/configs/scenes/fake_3.scene_instance.json",
        "instruction": "Bring a plum to the sofa.",
        "instruct_id": "ab12",
        "rigid_objs": np.array([[0, 0], [1, 1], [0, 2]]),
        "name_to_receptacle": np.array([[4, 7], [3, 6], [2, 5]]),
        "ao_states": {8: {2: 0.0}, 9: {k: 0.0 for k in range(1, 8)}},
        "markers": [],
        "start_preds": [],
        "start_position": [0, 0, 0],
        "goal_preds": PLACE_ONE,
        "subgoals": [["robot_at(plum_1_:0001)"], [f"on_top(plum_1_:0001,{SOFA})", "not_holding()"]],
    } | changes  # fmt: skip


def content(*records: dict[str, Any]) -> dict[str, Any]:
    transforms = np.stack([at(1, 0.5, 2), at(3, 0.25, -4, turned(math.pi / 2)), at(0, 1, 0, turned(math.pi))])
    return {"all_transforms": transforms.astype(np.float32), "idx_to_name": dict(NAMES), "all_eps": list(records)}


def written(folder: Path, value: Any) -> Path:
    path = folder / "some_split.pickle"
    path.write_bytes(pickle.dumps(value, 4))
    return path


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    file = read_published(written(tmp_path, content(record(), record(episode_id="8"))))
    assert [e.episode_id for e in file.episodes] == ["7", "8"]
    assert file.scenes == ["fake_3"] and file.models == ["apple_0", "plum_1"]
    episode = file.episodes[0]
    assert [o.name for o in episode.objects] == ["apple_0_:0000", "plum_1_:0000", "plum_1_:0001"]
    assert [o.model for o in episode.objects] == ["apple_0", "plum_1", "plum_1"]
    assert [o.receptacle for o in episode.objects] == [FRIDGE_NAME, SOFA, SINK]
    assert [o.transform[:3, 3].tolist() for o in episode.objects] == [[3, 0.25, -4], [1, 0.5, 2], [0, 1, 0]]
    assert episode.joints["kitchen_counter_:0000", 7] == 0.0 and len(episode.joints) == 8
    assert episode.start is None and episode.goal == PLACE_ONE
    assert episode.instruction == "Bring a plum to the sofa." and episode.instruct_id == "ab12"


def test_episodes_in_our_frame_with_our_indices(tmp_path: Path) -> None:
    file = read_published(written(tmp_path, content(record())))
    scenes, catalog = fake_scenes(4), fake_catalog()
    episodes = published_episodes(file, scenes, catalog, "published")
    one = episodes.episode(0)
    assert (episodes.split, episodes.rules, one.episode_id, one.scene) == ("some_split", "published", 7, 3)
    assert [catalog.names[m] for m in one.object_model[:3]] == ["apple_0", "plum_1", "plum_1"]
    assert (one.object_model[3:] == -1).all()
    assert one.object_position[:3].tolist() == [[3, 4, 0.25], [1, -2, 0.5], [0, 0, 1]]
    assert one.object_yaw[:2] == pytest.approx([math.pi / 2, 0], abs=1e-6)
    assert abs(one.object_yaw[2]) == pytest.approx(math.pi, abs=1e-6)
    assert one.object_inside[:3].tolist() == [FRIDGE, -1, -1]
    assert one.object_receptacle[:3].tolist() == [FRIDGE, 7, 4]
    assert np.isnan(one.start_pose).all() and (one.joint == 0).all()
    assert one.instruction_type == "place_one"
    assert one.subgoals[0] == ["robot_at(object_2)"]
    start = episodes.start_state(torch.tensor([0]), scenes, catalog, seed=0)
    assert [CATEGORIES[c] for c in start.object_category[0, :3].tolist()] == ["apple", "plum", "plum"]
    start.object_position[0, 1] = scenes.receptacle_center[3, 7]
    goal, subgoals, number = evaluate(episodes.circuits, truth(start, "published"))
    assert bool(goal[0]) and int(number[0]) == 2
    assert not bool(subgoals[0, 1])  # the other plum is the one that the subgoal names


@pytest.mark.parametrize("axis", ["x", "z"])
def test_objects_keep_yaw_and_tilt_until_they_are_picked(tmp_path: Path, axis: str) -> None:
    value = content(record())
    value["all_transforms"][0] = at(0, 0, 0, turned(0.7) @ turned(0.4, axis))
    scenes, catalog = fake_scenes(4), fake_catalog()
    episodes = published_episodes(read_published(written(tmp_path, value)), scenes, catalog, "clean").select([0])
    expected = {"x": [math.sin(0.2), 0.0], "z": [0.0, -math.sin(0.2)]}[axis]  # Habitat's z is our -y
    state = episodes.start_state(torch.tensor([0]), scenes, catalog, seed=0)
    assert float(state.object_yaw[0, 1]) == pytest.approx(0.7, abs=1e-5)
    assert state.object_tilt[0, :2].tolist() == [[0.0, 0.0], pytest.approx(expected, abs=1e-5)]
    state.held[0] = 1
    refresh(state)
    assert (state.object_tilt[0, 1] == 0).all()


def test_turns_are_those_of_the_matrices() -> None:
    """Yaw and tilt, put together by the renderer, give the rotation in our frame, upside down and half turns too."""
    angles = [-3.0, -1.2, 0.0, 0.3, math.pi / 2, math.pi]
    turns_of = [turned(a) @ turned(b, "x") @ turned(c, "z") for a in angles for b in angles for c in angles]
    rotation = np.stack([t[:3, :3] for t in turns_of])
    yaw, tilt = turns(rotation)
    cos, sin, tilts = (torch.from_numpy(v)[None] for v in (np.cos(yaw), np.sin(yaw), tilt))
    ours = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    np.testing.assert_allclose(_turned(cos, sin, tilts)[0].numpy(), ours @ rotation @ ours.T, atol=1e-6)


def test_furniture_starts_as_saved_then_as_asked(tmp_path: Path) -> None:
    states = {8: {2: 0.3}, 9: {2: 0.1, 5: 0.2, 7: 0.25, 6: 0.3, 1: 0.4}}
    opened = record(ao_states=states, start_preds=["opened_fridge(fridge_push_point)", "closed_cab(cab_push_point_6)",
                                                   "not_holding()"])
    file = read_published(written(tmp_path, content(record(ao_states=states), opened)))
    joint = published_episodes(file, fake_scenes(4), fake_catalog(), "clean").joint
    assert joint[0].tolist() == pytest.approx([0.1, 0.2, 0.25, 0.3, 0.3])
    assert joint[1].tolist() == pytest.approx([0.1, 0.0, 0.25, 0.3, 1.22])


def test_a_start_pose_is_kept(tmp_path: Path) -> None:
    turn = [0.0, math.sin(0.4), 0.0, math.cos(0.4)]
    records = record(start_position=[1.0, 0.1, 2.0]), record(start_position=np.array([1.0, 0, 0]), start_rotation=turn)
    file = read_published(written(tmp_path, content(*records)))
    episodes = published_episodes(file, fake_scenes(4), fake_catalog(), "clean")
    assert episodes.start_pose[0].tolist() == [1.0, -2.0, 0.0]
    assert episodes.start_pose[1].tolist() == pytest.approx([1.0, 0.0, 0.8])


def goal(**changes: Any) -> dict[str, Any]:
    return {"goal_preds": PLACE_ONE | changes}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"instruction": 3}, "instruction"),
    "control characters": ({"instruction": "a\0b"}, "instruction"),
    "no id": ({"episode_id": None}, "number 0"),
    "an id that is no number": ({"episode_id": "first"}, "no whole number"),
    "traversal": ({"scene_id": "data/../../etc/fake_3.scene_instance.json"}, "no safe path"),
    "traversal at the end": ({"scene_id": "..scene_instance.json"}, "scene"),
    "another ending": ({"scene_id": "a/fake_3.json"}, "NAME.scene_instance.json"),
    "unknown scene": ({"scene_id": "a/fake_9.scene_instance.json"}, "fake_9"),
    "unknown object": ({"rigid_objs": [[10, 0]], "name_to_receptacle": []}, "unknown_thing"),
    "object path": ({"rigid_objs": [[11, 0]], "name_to_receptacle": []}, "NAME.object_config.json"),
    "object without ending": ({"rigid_objs": [[13, 0]]}, "NAME.object_config.json"),
    "no such name": ({"rigid_objs": [[99, 0]]}, "name 99"),
    "no such transform": ({"rigid_objs": [[0, 3]]}, "plum_1_:0000 has no transform 3"),
    "negative transform": ({"rigid_objs": [[0, -1]]}, "no transform -1"),
    "no pairs": ({"rigid_objs": [[0, 1, 2]]}, "no list of pairs"),
    "too many objects": ({"rigid_objs": [[0, 0]] * 57, "name_to_receptacle": []}, "57 objects"),
    "receptacle of an absent object": ({"rigid_objs": [[0, 0]]}, "'apple_0_:0000'"),
    "unknown receptacle": ({"name_to_receptacle": [[4, 12]]}, "receptacle_of_nobody"),
    "joint not a number": ({"ao_states": {8: {2: float("nan")}}}, "fridge_:0000"),
    "joints no dict": ({"ao_states": [1]}, "ao_states"),
    "start position": ({"start_position": [0, 1]}, "start_position"),
    "start rotation": ({"start_rotation": [0, 0, math.nan, 1]}, "start_rotation"),
    "start predicate": ({"start_preds": ["holding(plum_1_:0000)"]}, "holding(plum_1_:0000)"),
    "start predicate for the wrong thing": ({"start_preds": ["opened_fridge(cab_push_point_4)"]}, "opened_fridge"),
    "unknown start predicate": ({"start_preds": ["melted(plum)"]}, "melted"),
    "unknown predicate": (goal(sub_exprs=["under(X, sofa)"]), "under"),
    "unknown operator": (goal(expr_type="XOR"), "XOR"),
    "unknown quantifier": (goal(quantifier="MOST"), "MOST"),
    "unknown category": (goal(inputs=[{"name": "X", "expr_type": "elephant"}]), "elephant"),
    "absent category": (goal(inputs=[{"name": "X", "expr_type": "mug"}]), "speaks of a mug"),
    "absent receptacle in the goal": (goal(sub_exprs=["on_top(X, moon)"]), "'moon'"),
    "absent object in a subgoal": ({"subgoals": [["holding(mug_:0000)"]]}, "'mug_:0000'"),
    "object for receptacle": ({"subgoals": [["on_top(plum_1_:0000, apple_0_:0000)"]]}, "on_top"),
    "subgoals no lists": ({"subgoals": ["holding(plum_1_:0000)"]}, "subgoal 1"),
    "subgoals missing": ({"subgoals": None}, "subgoals"),
    "thirteen subgoals": ({"subgoals": [["not_holding()"]] * 13}, "13 subgoals"),
    "goal missing": ({"goal_preds": None}, "goal_preds"),
    "a deep goal": ({"goal_preds": json.loads('{"expr_type":"OR","sub_exprs":[' * 30 + '"not_holding()"' + "]}" * 30)
                     | {"expr_type": "XOR"}}, "XOR"),
}  # fmt: skip


def load(path: Path) -> Any:
    return published_episodes(read_published(path), fake_scenes(4), fake_catalog(), "published")


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_episode_is_named(tmp_path: Path, what: str) -> None:
    changes, said = WRONG[what]
    path = written(tmp_path, content(record(**changes)))
    with pytest.raises(PublishedFileError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: episode ") and said in message and "\n" not in message
    if "episode_id" not in changes:
        assert "episode '7'" in message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.__setitem__((3, 0), 1.0),
        lambda m: m.__setitem__((0, 3), math.nan),
        lambda m: m.__setitem__((0, 3), 1e6),
        lambda m: m.__setitem__((0, 0), 2.0),
        lambda m: m.__setitem__((slice(0, 3), 0), -m[:3, 0]),
    ],
    ids=["last row", "nan", "far away", "scaled", "mirrored"],
)
def test_a_transform_that_is_none_is_named(tmp_path: Path, spoil: Callable[[np.ndarray], None]) -> None:
    value = content(record())
    spoil(value["all_transforms"][1])
    with pytest.raises(PublishedFileError, match=r"episode '7': the transform of object apple_0_:0000"):
        read_published(written(tmp_path, value))


@pytest.mark.parametrize("value", [
    [], {}, {"all_eps": []}, content() | {"all_transforms": [[1]]}, content(),
    content(record()) | {"idx_to_name": ["a"]}, content(record()) | {"all_eps": {"0": record()}},
    content(record()) | {"all_transforms": np.zeros((3, 4, 4), int)}, {**content(record()), "idx_to_name": {0: 1}},
])  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, value: Any) -> None:
    path = written(tmp_path, value)
    with pytest.raises(PublishedFileError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_files_that_are_not_there_or_no_pickles(tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(b"no pickle")
    (tmp_path / "b.pickle").write_bytes(pickle.dumps(Path("x")))
    for path, said in ((tmp_path / "none.pickle", "no such file"), (tmp_path, "no such file"),
                       (tmp_path / "a.pickle", "no pickle"), (tmp_path / "b.pickle", "is refused")):  # fmt: skip
        with pytest.raises(PublishedFileError, match=said):
            read_published(path)


def spoilt(value: Any, draw: random.Random) -> Any:
    """`value` with one part somewhere inside replaced by something else."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        changed = value.copy()
        changed[key] = spoilt(value[key], draw)
        return changed
    others: list[Any] = [None, True, -1, 3, 2**40, math.nan, 1e30, "", "X", b"x", [], [[]], [None], (1, 2), {},
                         {0: {0: 0}}, np.zeros((2, 2)), np.zeros((0, 2), int), np.array([[10**12, 0]])]  # fmt: skip
    return draw.choice(others)


def test_spoilt_files_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(11)
    whole = content(record(), record(episode_id="8", start_preds=["opened_fridge(fridge_push_point)"]))
    refused = 0
    for _ in range(600):
        path = written(tmp_path, spoilt(whole, draw))
        try:
            load(path)
        except PublishedFileError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 600
            refused += 1
    assert refused > 300


def test_goals_by_their_shape() -> None:
    def conjunction(*terms: Any) -> dict[str, Any]:
        return {"expr_type": "AND", "sub_exprs": list(terms)}

    def some(*terms: str, quantifier: str = "EXISTS") -> dict[str, Any]:
        names = sorted({t[t.index("(") + 1] for t in terms})
        return conjunction(*terms) | {
            "quantifier": quantifier, "inputs": [{"name": n, "expr_type": "plum"} for n in names]
        }  # fmt: skip

    fridge = "closed_fridge(fridge_push_point)"
    kinds = {
        "place_two": some("on_top(X, sofa)", "on_top(Y, sofa)"),
        "place_two_apart": some("on_top(X, sofa)", "on_top(Y, sink)"),
        "place_three": some("on_top(X, sofa)", "on_top(Y, sink)", "on_top(Z, sink)"),
        "place_all": some("on_top(X, sofa)", quantifier="FORALL"),
        "find_object": some("robot_at(X)"),
        "go_to_receptacle": conjunction("robot_at(sofa)"),
        "close_fridge": conjunction(fridge),
        "clear": conjunction("not_holding()", some("on_top(X, sofa)") | {"expr_type": "NAND"}),
        "if_fridge": conjunction(conjunction(fridge), some("on_top(X, sofa)", "on_top(Y, sink)")),
        "other": {"expr_type": "OR", "sub_exprs": [some("robot_at(X)"), some("robot_at(X)")]},
    }
    assert {kind: kind_of(parse(goal)) for kind, goal in kinds.items()} == {kind: kind for kind in kinds}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["train_validation", "new_scenes", "rephrasing"])
def test_the_published_files_are_whole(shared: Path, name: str) -> None:
    file = read_published(shared / "language_rearrangement" / f"{name}.pickle")
    assert len(file.episodes) == 100
    for episode in file.episodes:
        assert 30 < len(episode.objects) < 40 and all(o.receptacle for o in episode.objects)
        named = {a for s in episode.subgoals for p in s for a in p.partition("(")[2].rstrip(")").split(",")}
        assert {n for n in named if "_:" in n} <= {o.name for o in episode.objects}
