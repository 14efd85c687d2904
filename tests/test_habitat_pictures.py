"""Both simulators show the same from the same pose (benchmarks/habitat_pictures.py measures it at greater length)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import shared_folder
from test_habitat_replay import benchmark

from llarp.envs.config import EnvConfig
from llarp.tasks.state import MAX_OBJECTS

pictures = benchmark("habitat_pictures")


def seen(*patches: tuple[int, slice, slice]) -> np.ndarray:
    """What is seen at each of 40 x 40 pixels: slots in patches, nothing elsewhere."""
    slots = np.full((40, 40), -1)
    for slot, rows, columns in patches:
        slots[rows, columns] = slot
    return slots


def pair(one: np.ndarray, other: np.ndarray) -> Any:
    blank = np.zeros((40, 40, 3), np.uint8)
    return pictures.Pair("here", (blank, blank), (one, other))


def test_what_counts_as_agreement() -> None:
    """Three pixels off is near enough, four is not; 30 pixels are too few to count; seen by one alone is not agreed."""
    one = seen((3, slice(0, 6), slice(0, 6)), (4, slice(10, 16), slice(0, 6)), (5, slice(20, 26), slice(0, 6)),
               (6, slice(30, 35), slice(0, 6)))  # fmt: skip
    other = seen((3, slice(0, 6), slice(3, 9)), (4, slice(10, 16), slice(4, 10)))
    found = {sight.slot: sight.verdict for sight in pictures.sights(pair(one, other))}
    assert found == {3: "agrees", 4: "centre off", 5: "only embedded shows it"}
    assert {s.verdict for s in pictures.sights(pair(other, one)) if s.slot == 5} == {"only Habitat shows it"}


def test_what_an_arm_hides_is_left_out_beside_the_arms() -> None:
    """An object of which one picture shows only half, the rest being behind that robot's arm."""
    whole = seen((3, slice(0, 8), slice(0, 16)))
    half = seen((3, slice(0, 8), slice(0, 8)), (MAX_OBJECTS, slice(0, 8), slice(8, 16)))
    assert [s.verdict for s in pictures.sights(pair(half, whole))] == ["centre off"]
    beside = pictures.sights(pair(half, whole).beside_arms())
    assert [(s.verdict, s.pixels) for s in beside] == [("agrees", (64, 64))]


@pytest.mark.habitat
@pytest.mark.parametrize("world", ["built-in", pytest.param("published", marks=pytest.mark.shared_data)])
def test_both_simulators_show_the_same(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The robot is the stand-in, so that its arm hides the same in both."""
    monkeypatch.setenv("LLARP_DATA", "none")
    given: dict[str, Any] = {"split": "new_scenes", "episodes": 20}
    if world == "published":
        given = {"dataset": str(shared_folder() / "language_rearrangement" / "new_scenes.pickle"),
                 "scenes": str(shared_folder() / "replica_cad")}  # fmt: skip
    made = list(pictures.pairs(EnvConfig(backend="habitat", image_size=128, **given), 20))
    sights = [sight for p in made for sight in pictures.sights(p)]
    assert len(made) == 20 and len(sights) > 25
    assert sum(sight.verdict == "agrees" for sight in sights) >= 0.9 * len(sights)
    assert any((p.slots[1] == MAX_OBJECTS).any() for p in made)
    assert np.mean([p.slots[0] == p.slots[1] for p in made]) > 0.97
