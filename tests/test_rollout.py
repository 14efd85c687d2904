"""Segments: every transition once with loss, in the context of its own episode."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llarp.policy.base import NO_ACTION
from llarp.rl.rollout import Piece, Rollout, RolloutBuffer


class Tape:
    """Worlds in which everything tells where it is from: feature = 1000 episode + step of the episode, per world."""

    def __init__(self, num_envs: int, final_observations: bool = False) -> None:
        self.num_envs, self.final_observations = num_envs, final_observations
        self.episode, self.age = torch.zeros(num_envs), torch.zeros(num_envs)
        self.start = torch.ones(num_envs, dtype=torch.bool)
        self.clock = 0
        self.buffer = RolloutBuffer()

    def features(self) -> torch.Tensor:
        return (1000 * self.episode + self.age)[:, None, None]

    def action(self) -> torch.Tensor:
        return ((7 * self.episode + 3 * self.age + torch.arange(self.num_envs)) % 70).long()

    def add(self, done: list[bool], truncated: bool = False) -> None:
        ended = torch.tensor(done)
        extra = {}
        if self.final_observations:
            extra["final_features"] = (1000 * self.episode + self.age + 1)[:, None, None]
        self.buffer.add(
            features=self.features(),
            instruction_id=self.episode.long(),
            episode_start=self.start,
            action=self.action(),
            log_prob=torch.zeros(self.num_envs),
            value=torch.zeros(self.num_envs),
            reward=self.clock * 100 + torch.arange(self.num_envs).float(),
            terminated=ended & (not truncated),
            truncated=ended & truncated,
            success=ended,
            invalid_action=torch.zeros(self.num_envs, dtype=torch.bool),
            **extra,
        )
        self.clock += 1
        self.start = ended
        self.episode = self.episode + ended
        self.age = torch.where(ended, 0, self.age + 1)

    def finish(self) -> Rollout:
        return self.buffer.finish(self.features())


def check_contexts(piece: Piece) -> None:
    """Every row is one episode from its first step: features count up from 0, the previous actions fit."""
    batch = piece.batch
    for b in range(len(batch.valid)):
        steps = int(batch.valid[b].sum())
        assert batch.valid[b, :steps].all()  # padding on the right only
        episode = int(batch.instruction_id[b])
        expected = 1000 * episode + torch.arange(steps)
        assert torch.equal(batch.features[b, :steps, 0, 0], expected.float())
        world = piece.world[b, 0]
        actions = (7 * episode + 3 * torch.arange(steps) + world) % 70
        assert torch.equal(batch.previous_action[b, :steps], torch.cat([torch.tensor([NO_ACTION]), actions[:-1]]))
        with_loss = piece.loss_mask[b, :steps]
        assert torch.equal(batch.action[b, :steps][with_loss], actions[with_loss])
    assert not (piece.loss_mask & ~batch.valid).any()


dones = st.integers(1, 4).flatmap(
    lambda num_envs: st.lists(
        st.lists(st.lists(st.booleans(), min_size=num_envs, max_size=num_envs), min_size=1, max_size=9),
        min_size=1,
        max_size=4,
    )
)


@settings(max_examples=60, deadline=None)
@given(rollouts=dones, max_tokens=st.integers(1, 40), fill=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 9))
def test_every_transition_has_loss_exactly_once_in_its_own_context(rollouts, max_tokens, fill, seed):
    tape = Tape(len(rollouts[0][0]))
    generator = torch.Generator().manual_seed(seed)
    for steps in rollouts:
        begun = tape.clock
        for done in steps:
            tape.add(done)
        rollout = tape.finish()
        for _ in range(2):  # two epochs
            minibatches = rollout.minibatches(3, generator, max_tokens, fill)
            count, copy = torch.zeros(2, len(steps), tape.num_envs)
            for minibatch in minibatches:
                for piece in minibatch:
                    check_contexts(piece)
                    mask = piece.loss_mask
                    at = (piece.step[mask], piece.world[mask])
                    count.index_put_(at, torch.ones(piece.size), accumulate=True)
                    reward = piece.take(rollout.data["reward"])
                    assert torch.equal(reward, (begun + at[0]) * 100.0 + at[1])
                    piece.put(copy, torch.zeros(mask.shape).masked_scatter(mask, reward))
                    longest = piece.loss_mask.shape[1]
                    assert piece.loss_mask.numel() <= max(max_tokens, longest)
            assert torch.equal(count, torch.ones_like(count))
            assert torch.equal(copy, rollout.data["reward"])
            sizes = [sum(piece.size for piece in minibatch) for minibatch in minibatches]
            assert max(sizes) - min(sizes) <= int((rollout.end - rollout.first).max())


def test_fill_limits_the_padding():
    tape = Tape(4)
    for t in range(8):
        tape.add([True, t % 2 == 1, t % 4 == 3, False])
    for piece in tape.finish().pieces(1000, 0.5):
        lengths = piece.batch.valid.sum(1)
        assert lengths.min() >= 0.5 * lengths.max()
    assert len(tape.buffer) == 0


def test_a_border_shows_the_next_observation_and_success_shows_nothing():
    tape = Tape(2)
    tape.add([False, False])
    tape.add([False, True])
    rollout = tape.finish()
    (piece,) = rollout.pieces(100, 0.0, tails=True)
    by_world = {int(w[0]): b for b, w in enumerate(piece.world)}
    border, ended = by_world[0], by_world[1]
    assert piece.batch.valid[border].tolist() == [True, True, True]
    assert piece.loss_mask[border].tolist() == [True, True, False]
    assert piece.batch.features[border, :, 0, 0].tolist() == [0, 1, 2]
    assert piece.batch.previous_action[border].tolist() == [NO_ACTION, 0, 3]
    assert piece.batch.valid[ended].tolist() == [True, True, False]


@pytest.mark.parametrize("final_observations", [False, True])
def test_a_truncation_shows_the_final_observation_where_it_was_stored(final_observations):
    tape = Tape(1, final_observations)
    tape.add([False])
    tape.add([True], truncated=True)
    tape.add([False])
    rollout = tape.finish()
    pieces = {int(p.batch.instruction_id[0]): p for p in rollout.pieces(1, 0.0, tails=True)}
    assert pieces[0].batch.features[0, :, 0, 0].tolist() == ([0, 1, 2] if final_observations else [0, 1])
    assert pieces[0].loss_mask[0].tolist() == [True, True] + [False] * final_observations
    assert pieces[1].batch.features[0, :, 0, 0].tolist() == [1000, 1001]


def test_context_survives_saving():
    tape = Tape(2)
    for done in ([False, True], [False, False], [False, False]):
        tape.add(done)
    tape.finish()
    saved = tape.buffer.state_dict()
    assert saved["features"].shape[0] == 3
    tape.buffer = RolloutBuffer()
    tape.buffer.load_state_dict(saved)
    tape.add([True, True])
    for piece in tape.finish().pieces(100, 0.0):
        check_contexts(piece)


def test_saving_in_the_middle_of_a_rollout_is_refused():
    tape = Tape(1)
    tape.add([False])
    with pytest.raises(RuntimeError, match="between rollouts"):
        tape.buffer.state_dict()


def test_an_episode_without_a_beginning_is_refused():
    tape = Tape(1)
    tape.start = torch.zeros(1, dtype=torch.bool)
    tape.add([False])
    with pytest.raises(RuntimeError, match="episode_start"):
        tape.finish()
