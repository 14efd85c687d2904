"""Episodes scene by scene: each once a pass, few changes of scene, nobody idle for long, nothing that was set aside."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llarp.envs.sampler import SceneSampler
from llarp.errors import UserError

scenes = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


def only(world: int, num_envs: int) -> torch.Tensor:
    return torch.arange(num_envs) == world


def play(sampler: SceneSampler, turns: list[int]) -> list[tuple[int, int, int]]:
    """World, episode and pass of what counts: all worlds begin, then those of `turns` have their next episode."""
    everyone = torch.ones(sampler.num_envs, dtype=torch.bool)
    out = []
    for mask in [everyone] + [only(w, sampler.num_envs) for w in turns]:
        episode, occurrence = (x.tolist() for x in sampler.next(mask))
        worlds = (mask & sampler.active).nonzero().flatten().tolist()
        assert all(0 <= episode[w] < sampler.num_episodes for w in range(sampler.num_envs))
        out += [(w, episode[w], occurrence[w]) for w in worlds]
    return out


def play_out(sampler: SceneSampler, generator: torch.Generator) -> list[tuple[int, int, int]]:
    """A whole quota, worlds finishing in random order, some of them much faster than others."""
    speed = torch.rand(sampler.num_envs, generator=generator) ** 3 + 0.01
    out = play(sampler, [])
    while sampler.active.any():
        world = int(torch.multinomial(speed * sampler.active, 1, generator=generator))
        episode, occurrence = sampler.next(only(world, sampler.num_envs))
        if sampler.active[world]:
            out.append((world, int(episode[world]), int(occurrence[world])))
    return out


def changes(scene: torch.Tensor, played: list[tuple[int, int, int]]) -> int:
    """How often a world had to change its scene, its first one not counted."""
    total = 0
    for world in {w for w, _, _ in played}:
        total += sum(a != b for a, b in pairwise(scene[[e for w, e, _ in played if w == world]].tolist()))
    return total


@settings(max_examples=80, deadline=None)
@given(scene=scenes, num_envs=st.integers(1, 7), block=st.integers(1, 9), seed=st.integers(0, 50))
def test_a_quota_plays_every_episode_once_with_few_changes_of_scene(scene, num_envs, block, seed) -> None:
    sampler = SceneSampler(scene, num_envs, seed, block=block, quota=True)
    played = play_out(sampler, torch.Generator().manual_seed(seed))
    assert sorted(e for _, e, _ in played) == list(range(len(scene)))
    assert {p for _, _, p in played} == {0}
    blocks = sum(-(-n // block) for n in Counter(scene.tolist()).values())
    shared = num_envs * (block.bit_length() + 1)  # the rear half of a rear half of ...
    assert changes(scene, played) < blocks + shared
    if num_envs == 1:
        assert changes(scene, played) < blocks
        again, _ = sampler.next(torch.ones(1, dtype=torch.bool))  # what does not count is played where the world is
        assert scene[again[0]] == scene[played[-1][1]] and not sampler.active.any()


@settings(max_examples=80, deadline=None)
@given(
    scene=scenes,
    num_envs=st.integers(1, 7),
    world_size=st.integers(1, 3),
    turns=st.lists(st.integers(0, 6), max_size=150),
    seed=st.integers(0, 50),
)
def test_passes_are_complete_and_ranks_share_them(scene, num_envs, world_size, turns, seed) -> None:
    played, running = [], []
    for rank in range(world_size):
        sampler = SceneSampler(scene, num_envs, seed, rank, world_size, block=5)
        mine = play(sampler, [w % num_envs for w in turns])
        played += [(e, p) for _, e, p in mine]
        running += [dict((w, p) for w, _, p in mine)[w] for w in range(num_envs)]  # the pass each world is in
    assert max(Counter(played).values()) == 1
    for number in range(min(running)):
        assert {e for e, p in played if p == number} == set(range(len(scene)))


@settings(max_examples=40, deadline=None)
@given(scene=scenes, num_envs=st.integers(1, 4), world_size=st.integers(1, 4), seed=st.integers(0, 50))
def test_ranks_share_a_quota(scene, num_envs, world_size, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    ranks = [SceneSampler(scene, num_envs, seed, r, world_size, block=4, quota=True) for r in range(world_size)]
    played = [e for sampler in ranks for _, e, _ in play_out(sampler, generator)]
    assert sorted(played) == list(range(len(scene)))


@settings(max_examples=60, deadline=None)
@given(scene=scenes, seed=st.integers(0, 50), quota=st.booleans())
def test_the_first_episode_does_not_depend_on_the_number_of_worlds(scene, seed, quota) -> None:
    first = {play(SceneSampler(scene, n, seed, quota=quota), [])[0][1] for n in (1, 2, 5, 9)}
    assert len(first) == 1


@settings(max_examples=60, deadline=None)
@given(
    scene=scenes, turns=st.lists(st.integers(0, 2), max_size=60), aside=st.sets(st.integers(0, 59)), quota=st.booleans()
)
def test_saved_samplers_go_on_as_they_would_have(scene, turns, aside, quota) -> None:
    sampler = SceneSampler(scene, 3, 7, block=4, quota=quota)
    play(sampler, turns)
    for e in sorted(aside)[: len(scene) - 1]:
        sampler.set_aside(e % len(scene))
    sampler.upcoming(30)  # looking ahead changes nothing
    other = SceneSampler(scene, 3, 7, block=4, quota=quota)
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.active, sampler.active) and other.set_aside_episodes == sampler.set_aside_episodes
    assert torch.equal(other.upcoming(20), sampler.upcoming(20))
    assert play(other, turns) == play(sampler, turns)


@settings(max_examples=60, deadline=None)
@given(
    scene=scenes, num_envs=st.integers(1, 5), turns=st.lists(st.integers(0, 4), max_size=40), data=st.data()
)
def test_what_was_set_aside_is_never_handed_out_again(scene, num_envs, turns, data) -> None:
    everything = list(range(len(scene)))
    aside = data.draw(st.sets(st.sampled_from(everything), max_size=len(scene) - 1))
    endless = SceneSampler(scene, num_envs, 3, block=4)
    play(endless, [w % num_envs for w in turns])
    quota = SceneSampler(scene, num_envs, 3, block=4, quota=True)
    for e in aside:
        endless.set_aside(e)
        quota.set_aside(e)
    assert not aside & {e for _, e, _ in play(endless, [w % num_envs for w in turns])}
    assert not aside & set(endless.upcoming(50).tolist())
    played = play_out(quota, torch.Generator().manual_seed(0))
    assert sorted([e for _, e, _ in played] + quota.set_aside_episodes) == everything
    pastime, _ = quota.next(torch.ones(num_envs, dtype=torch.bool))
    assert not aside & set(pastime.tolist())


def test_setting_everything_aside_is_an_error_that_names_the_last() -> None:
    sampler = SceneSampler(torch.tensor([0, 0, 1]), 2, 0)
    sampler.set_aside(2)
    sampler.set_aside(0)
    sampler.set_aside(0)
    with pytest.raises(UserError, match="number 1"):
        sampler.set_aside(1)


def test_a_rank_whose_every_block_was_set_aside_says_so() -> None:
    scene = torch.tensor([0, 0, 1, 1])  # two blocks, so that each of two ranks has one for ever
    sampler = SceneSampler(scene, 1, 0, rank=1, world_size=2)
    for e in sorted(set(sampler.upcoming(4).tolist())):
        sampler.set_aside(e)
    with pytest.raises(UserError, match="process 1"):
        sampler.next(torch.ones(1, dtype=torch.bool))


def test_worlds_without_a_block_share_the_largest_one_left() -> None:
    scene = torch.zeros(16, dtype=torch.int64)
    alone = [e for _, e, _ in play(SceneSampler(scene, 1, 0, quota=True), [0] * 15)]
    pair = play(SceneSampler(scene, 2, 0, quota=True), [0, 1] * 7)
    assert [e for w, e, _ in pair if w == 0] == alone[:8]  # world 1 took over eight of the fifteen left
    assert [e for w, e, _ in pair if w == 1] == alone[8:]
    crowd = play(SceneSampler(scene, 20, 0, quota=True), [])
    assert sorted(e for _, e, _ in crowd) == list(range(16))


def test_upcoming_names_the_episodes_that_come() -> None:
    scene = torch.arange(40) % 3
    for num_envs, quota in ((1, False), (5, False), (5, True)):
        sampler = SceneSampler(scene, num_envs, 1, block=4, quota=quota)
        ahead = sampler.upcoming(20).tolist()
        turns = [w for _ in range(20 // num_envs - 1) for w in range(num_envs)]  # as if all took equally long
        assert [e for _, e, _ in play(sampler, turns)] == ahead
    assert len(sampler.upcoming(100)) == 20  # what a quota has left
    assert len(SceneSampler(scene, 5, 1).upcoming(100)) == 100


def test_blocks_are_scattered_over_scenes_and_a_scenes_episodes_over_its_blocks() -> None:
    scene = torch.arange(960) // 96  # ten scenes one after another, six blocks each
    sampler = SceneSampler(scene, 1, 0)
    played = [e for _, e, _ in play(sampler, [0] * 959)]
    by_block = [played[i : i + 16] for i in range(0, 960, 16)]
    assert all(len(set(scene[block].tolist())) == 1 for block in by_block)
    visited = [int(scene[block[0]]) for block in by_block]
    assert len(set(visited[:10])) >= 8 and all(a != b for a, b in pairwise(visited))
    assert all(max(block) - min(block) > 60 for block in by_block)  # not sixteen neighbours of the file


def test_as_many_episodes_as_were_published_cost_nothing() -> None:
    scene = torch.arange(150_000) * 7919 % 63
    begun, times = time.process_time(), []
    for _ in range(3):
        sampler = SceneSampler(scene, 32, 0)
        times.append(time.process_time() - begun)
        begun = time.process_time()
    assert min(times) < 0.1
    play(sampler, [0] * 200)
    assert time.process_time() - begun < 0.5
