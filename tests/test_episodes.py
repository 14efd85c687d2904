"""Episode sets: rows, joining, and a file format that refuses whatever does not fit."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes
from safetensors.numpy import load_file, save_file

from llarp.tasks.atoms import truth
from llarp.tasks.episodes import EpisodeFileError, EpisodeSet, PackedStrings, concat, load, save
from llarp.tasks.generator import generate
from llarp.tasks.goals import evaluate

SCENES, CATALOG = fake_scenes(4), fake_catalog()
KEY = "llarp_episodes"


@pytest.fixture(scope="module")
def episodes() -> EpisodeSet:
    return generate(SCENES, CATALOG, "train", 30, seed=3)


@pytest.fixture
def file(episodes, tmp_path):
    path = tmp_path / "set.safetensors"
    save(episodes, path)
    return path


def assert_same(a: EpisodeSet, b: EpisodeSet) -> None:
    for name in ("scene", "joint", "wording", "episode_id"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for i in range(len(a)):  # files keep only the object slots that some episode uses
        one, other = a.episode(i), b.episode(i)
        for name in ("object_model", "object_position", "object_yaw", "object_inside", "object_receptacle"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("instruction", "instruction_type", "goal", "subgoals", "scene_names", "model_names"):
        assert list(getattr(a, name)) == list(getattr(b, name)), name
    assert (a.rules, a.split, a.seed) == (b.rules, b.split, b.seed)
    state = a.start_state(torch.arange(len(a)), SCENES, CATALOG, seed=0)
    for mine, theirs in zip(evaluate(a.circuits, truth(state)), evaluate(b.circuits, truth(state)), strict=True):
        assert torch.equal(mine, theirs)


def rewrite(path, change=None, about=None) -> None:
    """Stores the file again with arrays changed by `change(dict)` and description entries replaced."""
    arrays = load_file(path)
    description = json.loads(_metadata(path)[KEY])
    if change:
        change(arrays)
    save_file(arrays, path, metadata={KEY: json.dumps(description | (about or {}))})


def _metadata(path) -> dict[str, str]:
    head = path.read_bytes()
    length = int.from_bytes(head[:8], "little")
    return json.loads(head[8 : 8 + length])["__metadata__"]


def test_packed_strings_hold_any_text():
    texts = ["", "plain", "Größe, naïve, 日本", 'with "quotes"\nand lines']
    packed = PackedStrings.pack(texts)
    assert list(packed) == texts and packed[-1] == texts[-1]
    with pytest.raises(IndexError):
        packed[4]


def test_saved_and_loaded_sets_are_equal(episodes, file):
    again = load(file, SCENES, CATALOG)
    assert_same(episodes, again)
    save(again, file)  # onto the file it is mapped from
    assert_same(episodes, load(file))
    assert [p.name for p in file.parent.iterdir()] == [file.name]  # nothing temporary is left


def test_an_interrupted_save_keeps_the_old_file(episodes, file, monkeypatch):
    def fail(arrays, path, metadata):
        path_so_far = open(path, "wb")
        path_so_far.write(b"half")
        path_so_far.close()
        raise OSError("disk full")

    before = file.read_bytes()
    monkeypatch.setattr("llarp.tasks.episodes.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(episodes, file)
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1


def test_rows_select_and_concat(episodes):
    row = episodes.episode(4)
    assert row.goal == json.loads(episodes.goal[4]) and row.instruction == episodes.instruction[4]
    assert row.object_position.shape == (56, 3) and np.isnan(row.start_pose).all()
    part = episodes.select([4, 2])
    assert part.instruction[0] == row.instruction and int(part.episode_id[1]) == int(episodes.episode_id[2])
    half = len(episodes) // 2
    assert_same(episodes, concat([episodes.select(range(half)), episodes.select(range(half, len(episodes)))]))
    with pytest.raises(ValueError, match="different split"):
        concat([episodes, replace(episodes, split="other")])


def test_start_state_draws_only_missing_poses_and_the_same_ones_for_an_episode(episodes):
    posed = episodes.select([5, 6, 7])
    posed.start_pose[1] = torch.tensor([1.0, 2.0, 0.5])
    state = posed.start_state(torch.arange(3), SCENES, CATALOG, seed=1)
    assert state.robot[1].tolist() == [1.0, 2.0, 0.5]
    free = SCENES.free_xy[state.scene[0]]
    assert (free == state.robot[0, :2]).all(1).any()
    alone = episodes.start_state(torch.tensor([7]), SCENES, CATALOG, seed=1)
    assert torch.equal(alone.robot[0], state.robot[2])
    assert not torch.equal(alone.robot, episodes.start_state(torch.tensor([7]), SCENES, CATALOG, seed=2).robot)
    empty = state.object_model < 0
    assert (state.object_category[empty] == -1).all() and (state.object_category[~empty] >= 0).all()


def test_indices_follow_names_when_scenes_and_models_have_another_order(episodes, file):
    turned_scenes = SCENES.rows(torch.arange(3, -1, -1))
    turned_scenes.names, turned_scenes.splits = SCENES.names[::-1], SCENES.splits[::-1]
    turned = CATALOG.rows(torch.arange(len(CATALOG) - 1, -1, -1))
    turned.names, turned.splits = CATALOG.names[::-1], CATALOG.splits[::-1]
    again = load(file, turned_scenes, turned)
    everyone = torch.arange(len(episodes))
    a = episodes.start_state(everyone, SCENES, CATALOG, 0)
    b = again.start_state(everyone, turned_scenes, turned, 0)
    assert torch.equal(a.nav_pose, b.nav_pose) and torch.equal(a.object_category, b.object_category)


def _set(name, value):
    return lambda arrays: arrays[name].__setitem__((0,) * arrays[name].ndim, value)


@pytest.mark.parametrize(
    ("change", "about", "message"),
    [
        (None, {"format_version": 99}, "format version 99"),
        (None, {"rules": "folklore"}, "rules 'folklore'"),
        (None, {"scene_names": 7}, "no proper 'scene_names'"),
        (lambda a: a.pop("joint"), None, "'joint' is missing"),
        (lambda a: a.update(object_yaw=a["object_yaw"].astype(np.float64)), None, "'object_yaw' is torch.float64"),
        (lambda a: a.update(object_yaw=a["object_yaw"][:, :5].copy()), None, r"is torch.float32 \(30, 5\)"),
        (lambda a: a.update(wording=a["wording"][:3].copy()), None, "'wording' is"),
        (_set("scene", 4), None, "'scene' has indices outside 0..3"),
        (_set("object_model", 99), None, "'object_model' has indices outside"),
        (_set("object_inside", 11), None, "'object_inside' has indices outside"),
        (_set("circuits.source", 5000), None, "'circuits.source' has indices outside"),
        (_set("circuits.node_end", -1), None, "'circuits.node_end' has indices outside"),
        (_set("goal.offsets", 3), None, "offsets of the strings 'goal'"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(file, change, about, message):
    rewrite(file, change, about)
    with pytest.raises(EpisodeFileError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_files_that_are_no_episode_files_are_refused(file, tmp_path):
    whole = file.read_bytes()
    broken = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\xff" * 64, "text": b"hello"}
    for name, content in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(EpisodeFileError, match="no whole safetensors file"):
            load(path)
    other = tmp_path / "weights"
    save_file({"w": np.zeros(3, np.float32)}, other)
    with pytest.raises(EpisodeFileError, match="not an episode file"):
        load(other)
    with pytest.raises(EpisodeFileError, match="no such episode file"):
        load(tmp_path / "absent")


def test_damaged_files_are_refused(file):
    """Flipped bits anywhere, bytes copied elsewhere, lost ends: one line, and nothing is read from such a file."""
    whole, rng = file.read_bytes(), random.Random(5)
    head = 8 + int.from_bytes(whole[:8], "little")
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged[rng.randrange(head)] ^= 1 << rng.randrange(8)
        elif trial % 3 == 1:
            damaged[rng.randrange(head, len(whole))] ^= 1 << rng.randrange(8)
        elif trial % 2:
            damaged = damaged[: rng.randrange(len(whole))]
        else:
            at = rng.randrange(len(whole) - 100)
            damaged[at : at + rng.randrange(1, 100)] = rng.randbytes(rng.randrange(1, 100))
        file.write_bytes(damaged)
        with pytest.raises(EpisodeFileError) as caught:
            load(file, SCENES, CATALOG)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    assert len(load(file)) == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("object_position", np.nan), "'object_position' holds numbers that are not finite"),
        (_set("start_pose", np.inf), "'start_pose' holds numbers"),
        (_set("object_yaw", 1.25), "does not have the checksums"),
        (lambda a: a.update({"instruction.blob": a["instruction.blob"] | np.uint8(128)}), "'instruction' are no UTF-8"),
        (_set("goal.which", 10_000), "'goal.which' has indices outside"),
        (lambda a: a.update({name: np.zeros((30, 57, *a[name].shape[2:]), a[name].dtype) for name in a
                             if name.startswith("object_")}), r"'object_model' is torch.int16 \(30, 57\)"),
    ],
)  # fmt: skip
def test_content_that_cannot_be_is_named(file, change, message):
    rewrite(file, change)
    with pytest.raises(EpisodeFileError, match=message):
        load(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("goal", "[" * 5000, "episode 7: goal that cannot be read"),
        ("goal", '{"expr_type": "XOR", "sub_exprs": ["not_holding()"]}', "episode 7: goal .* 'XOR' is not one of"),
        ("subgoals", '{"a": 1}', "episode 7: subgoals .* no list of lists"),
        ("subgoals", "[[3]]", "3 is no predicate"),
        ("subgoals", json.dumps([["not_holding()"]] * 13), "there are 13, and at most 12"),
        ("subgoals", "nothing", "Expecting value"),
    ],
)
def test_goals_that_say_nothing_are_refused_by_episode(episodes, tmp_path, name, text, message):
    texts = list(getattr(episodes, name))
    texts[7] = text
    save(replace(episodes, **{name: texts}), tmp_path / "x")
    with pytest.raises(EpisodeFileError, match=message) as caught:
        load(tmp_path / "x")
    assert "\n" not in str(caught.value) and str(tmp_path / "x") in str(caught.value)


def test_a_description_that_was_changed_is_noticed(file):
    rewrite(file, about={"seed": 4})
    with pytest.raises(EpisodeFileError, match="does not have the checksums"):
        load(file)


def test_files_keep_each_text_once_and_no_empty_slots(episodes, tmp_path):
    many = concat([episodes.select([0] * 50), episodes.select(range(5))])
    path = tmp_path / "many"
    save(many.select(range(50)), path)
    arrays = load_file(path)
    assert arrays["goal.blob"].tobytes().decode() == episodes.goal[0] and len(arrays["goal.which"]) == 50
    used = int((episodes.object_model[0] >= 0).sum())
    assert arrays["object_position"].shape == (50, used, 3)
    wide = concat([load(path), episodes])  # sets with different numbers of slots can be joined
    assert_same(wide.select(range(50, 80)), episodes)
    assert_same(wide.select([7]), episodes.select([0]))


def test_unknown_scenes_and_models_are_named(file):
    with pytest.raises(EpisodeFileError, match="scene 'fake_2' is unknown here"):
        load(file, fake_scenes(2))
    fewer = CATALOG.rows(torch.arange(5))
    fewer.names = CATALOG.names[:5]
    with pytest.raises(EpisodeFileError, match=f"object model {CATALOG.names[5]!r} is unknown"):
        load(file, SCENES, fewer)
