"""Relations between furniture: true from where the robot looks, and about one place only."""

from dataclasses import replace

import pytest
import torch
from factories import fake_scenes

from llarp.tasks.entities import NUM_HANDLES, RECEPTACLE_INDEX
from llarp.tasks.spatial import relations
from llarp.tasks.state import SceneSet

BLACK, BROWN, TV, SOFA = (RECEPTACLE_INDEX[n] for n in ("black table", "brown table", "TV stand", "sofa"))


def row_of_tables(heading: float, more: dict[int, tuple[float, float]] | None = None) -> SceneSet:
    """Black table, brown table and TV stand at x = -1, 0 and 1, each 0.6 m wide; all else far away from anything.

    The robot looks along `heading` wherever it goes."""
    scenes = fake_scenes(1)
    center = torch.zeros_like(scenes.receptacle_center)
    center[0, :, 1] = -20.0 - 10 * torch.arange(center.shape[1])
    places = {BLACK: (-1.0, 0.0), BROWN: (0.0, 0.0), TV: (1.0, 0.0), **(more or {})}
    for r, (x, y) in places.items():
        center[0, r, :2] = torch.tensor([x, y])
    nav = scenes.nav_pose.clone()
    nav[0, NUM_HANDLES:, 2] = heading
    half = torch.full_like(center, 0.3)
    return replace(scenes, receptacle_center=center, receptacle_half=half, nav_pose=nav,
                   receptacle_yaw=torch.zeros_like(scenes.receptacle_yaw), receptacle_span=None)  # fmt: skip


def found(scenes: SceneSet) -> set[tuple[str, int, int]]:
    return {(r.name, r.target, r.anchor) for r in relations(scenes, 0)}


@pytest.mark.parametrize(("heading", "left", "right"), [(torch.pi / 2, "left_of", "right_of"),
                                                        (-torch.pi / 2, "right_of", "left_of")])  # fmt: skip
def test_left_and_right_are_those_of_a_robot_that_faces_the_anchor(heading, left, right):
    assert found(row_of_tables(heading)) == {
        (left, BLACK, BROWN), (right, TV, BROWN),  # the brown table stands between two: neither is the one beside it
        (right, BROWN, BLACK), ("beside", BROWN, BLACK), (left, BROWN, TV), ("beside", BROWN, TV),
    }  # fmt: skip


def test_what_stands_behind_is_neither_left_nor_right():
    assert found(row_of_tables(0.0)) == {("beside", BROWN, BLACK), ("beside", BROWN, TV)}


def test_a_second_piece_that_might_be_meant_takes_a_relation_away():
    twin = found(row_of_tables(torch.pi / 2, {SOFA: (-1.0, 0.7)}))
    assert ("left_of", BLACK, BROWN) not in twin and ("right_of", TV, BROWN) in twin
    far = found(row_of_tables(torch.pi / 2, {SOFA: (-2.0, 0.0)}))
    assert ("left_of", BLACK, BROWN) in far and ("left_of", SOFA, BLACK) in far


def test_the_chair_is_no_target_but_may_be_meant():
    chair = RECEPTACLE_INDEX["chair"]
    near = found(row_of_tables(torch.pi / 2, {chair: (1.7, 0.0), SOFA: (2.5, 0.0)}))
    assert chair not in {target for _, target, _ in near}
    assert ("right_of", SOFA, TV) not in near and ("right_of", SOFA, chair) in near
