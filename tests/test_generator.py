"""Generated episodes: solvable, of the promised shares, in real rooms, and never the same twice."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes

from llarp.tasks.atoms import truth
from llarp.tasks.entities import CATEGORIES, FRIDGE, NUM_TRAIN_CATEGORIES, RECEPTACLES, TASK_RECEPTACLES
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.generator import SPLITS, GeneratorError, generate
from llarp.tasks.goals import evaluate
from llarp.tasks.instructions import TRAINING_TYPES, wording_ids
from llarp.tasks.rules import inside_box
from llarp.tasks.state import WorldState

SCENES, CATALOG = fake_scenes(4), fake_catalog()
COUNT = 300


@pytest.fixture(scope="module")
def sets() -> dict[str, EpisodeSet]:
    return {split: generate(SCENES, CATALOG, split, COUNT, seed=1) for split in SPLITS}


def start(episodes: EpisodeSet) -> WorldState:
    return episodes.start_state(torch.arange(len(episodes)), SCENES, CATALOG, seed=0)


def test_shares_are_exact(sets):
    for split, spec in SPLITS.items():
        assert sum(spec.shares.values()) == pytest.approx(1.0)
        found = Counter(sets[split].instruction_type)
        for kind, share in spec.shares.items():
            assert abs(found[kind] - share * COUNT) < 1
        assert sets[split].episode_id.tolist() == list(range(COUNT))
    assert set(SPLITS["train"].shares) == set(TRAINING_TYPES)


def test_scenes_models_and_wordings_are_those_of_the_split(sets):
    for split, spec in SPLITS.items():
        episodes = sets[split]
        assert {SCENES.splits[i] for i in episodes.scene.tolist()} == {spec.scenes}
        models = episodes.object_model[episodes.object_model >= 0].long()
        assert {CATALOG.splits[i] for i in models.tolist()} == {spec.models}
        assert int(CATALOG.category[models].max()) < NUM_TRAIN_CATEGORIES
        for kind, wording in zip(episodes.instruction_type, episodes.wording.tolist(), strict=True):
            assert wording in wording_ids(kind, spec.wordings)


def test_rooms_are_full_and_objects_lie_apart_where_they_should(sets):
    episodes = sets["train"]
    state = start(episodes)
    present = state.object_model >= 0
    number = present.sum(1)
    assert set(number.tolist()) <= {34, 35, 36} and (number == 35).float().mean() > 0.6
    inside = inside_box(state.object_position, state.receptacle_center, state.receptacle_half, state.receptacle_yaw)
    own = inside.gather(2, episodes.object_receptacle.long().clamp(min=0)[..., None])[..., 0]
    assert own[present].all()
    half = CATALOG.half_size[state.object_model.clamp(min=0)]
    surface = state.surface_z.gather(1, episodes.object_receptacle.long().clamp(min=0))
    bottom = state.object_position[..., 2] - half[..., 2]
    assert torch.allclose(bottom[present], surface[present], atol=1e-5)
    # no two overlap: their upright boxes, seen along the axes of either, are apart
    for i in range(0, COUNT, 10):
        slots = present[i].nonzero()[:, 0]
        a, b = (slots[k] for k in torch.combinations(torch.arange(len(slots))).T)
        assert not overlap(state, half, i, a, b).any()
    spread = torch.bincount(episodes.object_receptacle[present].long(), minlength=len(RECEPTACLES)) / COUNT
    assert (spread[list(TASK_RECEPTACLES)] > 1.5).all() and (spread > 0.05).all()


def overlap(state: WorldState, half: torch.Tensor, world: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Whether objects a and b of a world overlap (separating axes of two turned boxes)."""
    yaw, position = state.object_yaw[world], state.object_position[world]
    apart = (position[a, 2] - position[b, 2]).abs() >= half[world, a, 2] + half[world, b, 2]
    for frame in (a, b):
        offset = position[b, :2] - position[a, :2]
        for axis in (0, 1):
            angle = yaw[frame] + axis * np.pi / 2
            direction = torch.stack([angle.cos(), angle.sin()], dim=1)
            reach = sum(
                half[world, o, 0] * (yaw[o] - angle).cos().abs() + half[world, o, 1] * (yaw[o] - angle).sin().abs()
                for o in (a, b)
            )
            apart |= (offset * direction).sum(1).abs() >= reach
    return ~apart


def test_objects_are_in_reach_from_where_nav_leads(sets):
    episodes = sets["new_scenes"]
    state = start(episodes)
    at = episodes.object_receptacle.long()
    rows = torch.arange(COUNT)[:, None]
    stand = state.nav_pose[rows, 5 + at.clamp(min=0)]
    offset = state.object_position[..., :2] - stand[..., :2]
    angle = torch.atan2(offset[..., 1], offset[..., 0]) - stand[..., 2]
    angle = torch.atan2(angle.sin(), angle.cos()).abs()
    open_air = (at >= 0) & (at < FRIDGE)  # drawers come nearer when they open
    assert (offset.norm(dim=-1)[open_air] <= 1.4 + 1e-4).all() and (angle[open_air] <= 0.9 + 1e-4).all()


def test_no_goal_that_moves_things_holds_at_the_start_and_targets_are_named_in_the_room(sets):
    for episodes in sets.values():
        state = start(episodes)
        holds = evaluate(episodes.circuits, truth(state))[0].tolist()
        for i, kind in enumerate(episodes.instruction_type):
            assert not holds[i] or kind in ("go_to_receptacle", "find_object")
            row = episodes.episode(i)
            for variable in row.goal.get("inputs", []):
                category = CATEGORIES.index(variable["expr_type"])
                assert 1 <= int((state.object_category[i] == category).sum()) <= 2
            assert float(row.joint[4]) == pytest.approx(1.22 if kind == "close_fridge" else 0.0)


def test_subgoals_follow_the_solution(sets):
    wanted = {"place_one": 4, "place_from": 4, "place_two": 8, "place_two_apart": 8, "swap": 8, "open_fridge": 2,
              "close_fridge": 2, "go_to_receptacle": 1, "find_object": 1}
    for kind, text in zip(sets["train"].instruction_type, sets["train"].subgoals, strict=True):
        number = len(json.loads(text))
        assert number == wanted[kind] if kind in wanted else number in (2, 3)  # clear: one or two objects to take away


def test_instructions_say_what_the_goal_says(sets):
    for episodes in sets.values():
        for i, kind in enumerate(episodes.instruction_type):
            row = episodes.episode(i)
            for variable in row.goal.get("inputs", []):
                assert variable["expr_type"].removesuffix("fe").rstrip("yx") in row.instruction.lower()  # knives, boxes
            if kind in ("place_one", "place_from", "go_to_receptacle"):
                target = json.dumps(row.goal).split("on_top(X, ")[-1].split("robot_at(")[-1].split(")")[0]
                assert target in row.instruction
            if kind == "place_from":
                source = row.subgoals[0][0].removeprefix("robot_at(").removesuffix(")")
                assert source in row.instruction


def test_the_same_seed_gives_the_same_episodes_and_no_two_are_alike(sets):
    again = generate(SCENES, CATALOG, "train", COUNT, seed=1)
    assert torch.equal(again.object_position, sets["train"].object_position)
    assert list(again.instruction) == list(sets["train"].instruction)
    other = generate(SCENES, CATALOG, "train", 40, seed=2)
    keys = [
        (s, p.numpy().tobytes(), g)
        for e in (*sets.values(), other)
        for s, p, g in zip(e.scene.tolist(), e.object_position, e.goal, strict=True)
    ]
    assert len(set(keys)) == len(keys)


def test_progress_is_reported():
    calls: list[tuple[int, int]] = []
    episodes = generate(SCENES, CATALOG, "train", 20, 5, progress=lambda done, rejected: calls.append((done, rejected)))
    assert calls[-1] == (20, episodes.rejected)


def test_requests_that_cannot_be_met_are_refused():
    with pytest.raises(GeneratorError, match="unknown split 'tests'"):
        generate(SCENES, CATALOG, "tests", 5, 0)
    with pytest.raises(GeneratorError, match="at least 1, not 0"):
        generate(SCENES, CATALOG, "train", 0, 0)
    with pytest.raises(GeneratorError, match="needs heldout scenes"):
        generate(fake_scenes(1), CATALOG, "new_scenes", 5, 0)
    with pytest.raises(GeneratorError, match="needs heldout models of 'ball'"):
        generate(SCENES, replace(CATALOG, splits=["train"] * len(CATALOG)), "new_scenes", 5, 0)
    far = replace(SCENES, nav_pose=SCENES.nav_pose + 100.0)
    with pytest.raises(GeneratorError, match="nothing fits or is in reach"):
        generate(far, CATALOG, "train", 5, 0)
