"""Generated episodes: solvable, of the promised shares, in real rooms, and never the same twice."""

import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes

from llarp.tasks import generator
from llarp.tasks.atoms import truth
from llarp.tasks.drafts import draw, slots
from llarp.tasks.drafts import goal as goal_of
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
        category = CATALOG.category[models]
        assert bool((category >= NUM_TRAIN_CATEGORIES).any()) == spec.novel  # held-out ones lie in no other rooms
        for kind, wording in zip(episodes.instruction_type, episodes.wording.tolist(), strict=True):
            assert wording in wording_ids(kind, spec.wordings)


@pytest.mark.parametrize(("split", "usual"), [("train", 35), ("novel_objects", 35), ("multiple_rearrangements", 52)])
def test_rooms_are_full_and_objects_lie_apart_where_they_should(sets, split, usual):
    episodes = sets[split]
    state = start(episodes)
    present = state.object_model >= 0
    number = present.sum(1)
    assert set(number.tolist()) <= {usual - 1, usual, usual + 1} and (number == usual).float().mean() > 0.6
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
    for split, episodes in sets.items():
        state = start(episodes)
        holds = evaluate(episodes.circuits, truth(state))[0].tolist()
        for i, kind in enumerate(episodes.instruction_type):
            assert not holds[i] or kind in ("go_to_receptacle", "find_object")
            row = episodes.episode(i)
            for category in categories_of(row.goal):
                number = int((state.object_category[i] == category).sum())
                assert number in ((2, 3) if kind == "place_all" else (1, 2))
                assert category in SPLITS[split].categories
            opened = kind == "close_fridge" or "opened_fridge" in episodes.goal[i] and kind == "if_fridge"
            assert float(row.joint[4]) == pytest.approx(1.22 if opened else 0.0)


def categories_of(goal: dict) -> list[int]:
    """Categories of the variables of a goal, nested ones included."""
    inner = [c for part in goal["sub_exprs"] if isinstance(part, dict) for c in categories_of(part)]
    return [CATEGORIES.index(v["expr_type"]) for v in goal.get("inputs", [])] + inner


def test_subgoals_follow_the_solution(sets):
    wanted = {"place_two": {8}, "place_two_apart": {8}, "swap": {8}, "open_fridge": {2}, "close_fridge": {2},
              "go_to_receptacle": {1}, "find_object": {1}, "clear": {2, 3}, "place_all": {8, 12}, "place_three": {12}}
    for episodes in sets.values():
        for kind, text in zip(episodes.instruction_type, episodes.subgoals, strict=True):
            assert len(json.loads(text)) in wanted.get(kind, {4})


def test_instructions_say_what_the_goal_says(sets):
    for episodes in sets.values():
        for i, kind in enumerate(episodes.instruction_type):
            row = episodes.episode(i)
            text = row.instruction.lower()
            for category in categories_of(row.goal):
                if kind in ("refer", "purpose"):
                    assert not re.search(rf"\b{CATEGORIES[category]}\b", text)
                else:
                    assert CATEGORIES[category].removesuffix("fe").rstrip("yx") in text  # knives, boxes
            targets = [RECEPTACLES.index(r) for r in RECEPTACLES if f"on_top(X, {r.name})" in episodes.goal[i]]
            if kind.startswith(("place", "refer", "purpose", "distracted")):
                assert all(RECEPTACLES[t].name.lower() in text for t in targets)
            if kind == "place_from":
                source = row.subgoals[0][0].removeprefix("robot_at(").removesuffix(")")
                assert source.lower() in text


def test_all_of_a_category_have_to_be_moved(sets):
    episodes = sets["multiple_rearrangements"]
    state = start(episodes)
    for i in range(COUNT):
        row = episodes.episode(i)
        (category,) = categories_of(row.goal)
        slots = (state.object_category[i] == category).nonzero()[:, 0].tolist()
        picked = {int(p[0].removeprefix("holding(object_").removesuffix(")")) for p in row.subgoals[1::4]}
        assert picked == set(slots) and row.goal["quantifier"] == "FORALL"


def test_conditional_tasks_follow_the_branch_whose_condition_holds():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        draft = draw(rng, "if_fridge", range(NUM_TRAIN_CATEGORIES), list)
        words, goal = slots(draft), goal_of(draft)
        holds = words["state"] == ("open" if draft.fridge_open else "closed")
        moved, left = ("object", "object2") if holds else ("object2", "object")
        state, both = goal["sub_exprs"]
        assert state == ("opened" if draft.fridge_open else "closed") + "_fridge(fridge_push_point)"
        assert [v["expr_type"] for v in both["inputs"]] == [words[moved], words[left]]
        target = words[moved.replace("object", "target")]
        source = words[left.replace("object", "source")]
        assert both["sub_exprs"] == [f"on_top(X, {target})", f"on_top(Y, {source})", "not_holding()"]
        assert source != words[left.replace("object", "target")]
        seen.add((draft.fridge_open, holds))
    assert len(seen) == 4


def test_spatial_instructions_name_the_one_place_they_are_true_of(sets):
    episodes = sets["spatial_relationships"]
    where = {"left": +1, "right": -1}
    seen = set()
    for i in range(COUNT):
        row = episodes.episode(i)
        text = row.instruction.lower()
        target = next(k for k, r in enumerate(RECEPTACLES) if f"on_top(X, {r.name})" in episodes.goal[i])
        named = [re.search(rf"(of|to|beside) the {r.name.lower()}\b", text) for r in RECEPTACLES]
        (anchor,) = (k for k, found in enumerate(named) if found)
        assert target != anchor
        side = re.search(r"\b(left|right)(-hand side)? of", text)
        if side:
            stand, center = SCENES.nav_pose[row.scene, 5 + anchor], SCENES.receptacle_center[row.scene]
            offset = (center[[target, anchor], :2] - stand[:2]).tolist()
            bearing = [math.atan2(y, x) for x, y in offset]
            turn = math.remainder(bearing[0] - bearing[1], 2 * math.pi)
            assert turn * where[side[1]] > 0.1, text
        seen.add(side[1] if side else "beside")
    assert seen == {"left", "right", "beside"}


def test_any_number_of_processes_makes_the_same_episodes(monkeypatch):
    monkeypatch.setattr("llarp.tasks.generator._CHUNK", 16)
    one = generate(SCENES, CATALOG, "train", 40, seed=4)
    two = generate(SCENES, CATALOG, "train", 40, seed=4, processes=2)
    assert torch.equal(one.object_position, two.object_position) and torch.equal(one.episode_id, two.episode_id)
    for name in ("instruction", "goal", "subgoals", "instruction_type"):
        assert list(getattr(one, name)) == list(getattr(two, name))
    assert one.rejected == two.rejected


def test_episodes_that_two_chunks_made_alike_are_replaced(monkeypatch):
    def made_alike(scenes, catalog, split, seed, work):
        ids, kinds, turn = work
        made = chunk(scenes, catalog, split, seed, (np.arange(len(ids)) if turn == 0 else ids, kinds, turn))
        made.episode_id = torch.from_numpy(ids)
        return made

    chunk = generator._chunk
    monkeypatch.setattr(generator, "_CHUNK", 8)
    monkeypatch.setattr(generator, "_chunk", made_alike)
    episodes = generate(SCENES, CATALOG, "irrelevant_text", 20, seed=2)
    assert episodes.episode_id.tolist() == list(range(20)) and episodes.rejected >= 8
    assert len(set(generator.room_keys(episodes))) == 20


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
