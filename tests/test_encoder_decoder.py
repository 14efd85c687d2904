"""The trained decoder over what the frozen language model reads: what it looks at; demonstrations of the unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_baselines import agreement, build, config  # noqa: F401 (a fixture)
from test_bc import RecurrentPolicy
from test_policy import TEXTS, roll_out
from torch import Tensor
from torch.nn import functional as F

from llarp.config import load
from llarp.errors import UserError
from llarp.policy.base import NO_ACTION, SegmentBatch
from llarp.policy.encoder_decoder import KINDS, Block, EncoderDecoderPolicy, SkillFeatures
from llarp.policy.word_prior import PICKS
from llarp.policy.words import Told, WordReader
from llarp.rl.bc import Cloner
from llarp.rl.beside import Beside
from llarp.rl.config import BCConfig, PPOConfig
from llarp.rl.unknown import Heard, Hearing, as_described, as_unknown, described
from llarp.tasks.actions import ACTION_INDEX, NOVEL_PICKS

NAME = "encoder_decoder_skill_names"
STEPS = 6


def some_steps(policy: EncoderDecoderPolicy, rows: int = 3) -> SegmentBatch:
    generator = torch.Generator().manual_seed(3)
    shape = rows, STEPS, policy.vision.num_tokens, policy.vision.dim
    action = torch.randint(70, (rows, STEPS), generator=generator)
    previous = F.pad(action, (1, -1), value=NO_ACTION)
    features = policy.heads.standardize.mean + torch.randn(shape, generator=generator)
    return SegmentBatch(torch.arange(rows), features, previous, action, torch.ones(rows, STEPS, dtype=torch.bool))


def test_cells_are_attended_to_as_by_maps_of_every_cell():
    """The question carried over to the cells gives what keys and values of all cells would."""
    torch.manual_seed(0)
    block = Block(16, 24, 0.0)
    x, words, cells = torch.randn(2, 3, 16), torch.randn(2, 4, 16), torch.randn(2, 3, 5, 24)
    seen = torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        block.out_words.weight.zero_()
        block.out_steps.weight.zero_()
        block.mlp[2].weight.zero_()
    asked = block.ask_cells(block.norm_cells(x)).unflatten(-1, (8, -1))
    keys, values = block.cells(cells).unflatten(-1, (2, 8, -1)).unbind(-3)  # (B, T, C, heads, size)
    mixed = F.scaled_dot_product_attention(
        asked[:, :, :, None], keys.transpose(2, 3), values.transpose(2, 3)
    )  # (B, T, heads, 1, size)
    wanted = x + block.out_cells(mixed.flatten(2))
    torch.testing.assert_close(block(x, words, seen, cells)[0], wanted)


def test_what_was_done_before_and_what_came_of_it_is_told_of_every_skill():
    skills = SkillFeatures(8)
    here, there, take, put = (ACTION_INDEX[n] for n in ("nav(sink)", "nav(sofa)", "pick(apple)", "place(sink)"))
    previous = torch.tensor([[NO_ACTION, here, there, take, here, take, put, take]])
    changed = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 0]], dtype=torch.bool)

    def of(part: Tensor, step: int) -> set[int]:
        return set(part[step].nonzero().flatten().tolist())

    done, vain, tried, ever, often, latest, held = skills.history(previous, changed)[0].unbind(-1)  # (T, 70) each
    assert not any(part[0].any() for part in (done, vain, tried, ever, often, latest, held))
    assert of(done, 4) == {here} and of(vain, 4) == set()
    assert of(done, 5) == set() and of(vain, 5) == of(tried, 5) == {take}
    assert of(tried, 6) == set() and of(tried, 7) == {take}
    assert of(ever, 4) == {here, there, take}
    torch.testing.assert_close(often[4, here].exp(), torch.tensor(3.0))  # log (1 + twice)
    assert of(latest, 3) == {there, take} and of(latest, 4) == {here, take} and of(latest, 6) == {here, take, put}
    assert of(held, 3) == of(held, 5) == {take} and of(held, 2) == of(held, 6) == of(held, 7) == set()


def test_a_picture_that_stays_tells_that_nothing_was_done(config):  # noqa: F811
    """In whole segments and step by step."""
    policy = build(config, NAME)
    batch = some_steps(policy)
    batch.features[:, 3] = batch.features[:, 2]
    batch.features[0, 5] = batch.features[0, 4] + 1e-4
    told: list[Tensor] = []
    policy.heads.skills.register_forward_hook(lambda module, given, out: told.append(given[1].detach()))
    policy.action_logits(batch)
    vain = told[0][..., 5].sum(-1)  # (B, T)
    assert vain.tolist() == [[0, 0, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0]]
    state, start = policy.initial_state(3), torch.ones(3, dtype=torch.bool)
    policy.bind_instructions(lambda i: "Find an apple.")
    for t in range(STEPS):
        seen = {"features": batch.features[:, t], "instruction_id": batch.instruction_id}
        state = policy.act(seen, state, start & (t == 0))[3]
        state["previous_action"][:, t + 1] = batch.action[:, t]
        torch.testing.assert_close(told[-1][:, 0, :, 4:], told[0][:, t, :, 4:])


def test_hidden_words_are_other_each_time_and_never_the_last():
    torch.manual_seed(0)
    words = WordReader(4, 8)
    told = Told(torch.randn(50, 6, 4).half(), torch.tensor([6, 3] * 25), torch.randn(50, 5))
    plain = words(told)[1]
    assert plain.sum(1).tolist() == told.length.tolist()
    words.hide = 0.5, torch.Generator().manual_seed(1)
    seen = words(told)[1]
    assert not (seen & ~plain).any() and seen.sum() < 0.75 * plain.sum()
    assert seen[torch.arange(50), told.length - 1].all()


def test_words_tell_what_stands_around_them_but_nothing_of_hidden_ones_or_padding():
    torch.manual_seed(0)
    words, plain = WordReader(4, 16, layers=1), WordReader(4, 16)
    plain.load_state_dict(words.state_dict(), strict=False)
    told = Told(torch.randn(2, 5, 4).half(), torch.tensor([5, 3]), torch.randn(2, 5))
    assert torch.equal(words(told)[0], plain(told)[0])  # to begin with
    for parameter in words.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    before = words(told)[0]
    other = told._replace(words=told.words.clone())
    other.words[0, 1] = other.words[1, 3:] = 9.0
    after = words(other)[0]
    assert (before[0] - after[0]).abs().amax(-1).min() > 1e-4  # all know of the second one
    torch.testing.assert_close(before[1, :3], after[1, :3])  # not of the padding
    torch.testing.assert_close(before[1:, :3], words(Told(told.words[1:, :3], told.length[1:], told.last[1:]))[0])
    words.hide = 1.0, torch.Generator()
    torch.testing.assert_close(words(told)[0][0, 2:], words(other)[0][0, 2:])


def test_looks_of_what_training_never_shows_are_not_asked(config):  # noqa: F811
    """Beside the actor's, the logits of held-out picks have nothing of the picture; `unknown` does so for others."""
    policy = build(config, NAME)
    assert isinstance(policy, EncoderDecoderPolicy)
    batch = some_steps(policy)
    seen: list[Tensor] = []
    policy.heads.skills.register_forward_hook(lambda module, given, out: seen.append(given[1].detach()))
    hammer, apple = ACTION_INDEX["pick(hammer)"], ACTION_INDEX["pick(apple)"]
    unknown = torch.zeros(3, 70, dtype=torch.bool)
    unknown[1, hammer] = True
    plain = policy.action_logits(batch)[0]
    marked = policy.action_logits(replace(batch, unknown=unknown))[0]
    in_picture = [known[..., 0] for known in seen]
    assert all(not looks[..., NOVEL_PICKS].any() for looks in in_picture)
    assert in_picture[0][..., [hammer, apple]].all()
    assert not in_picture[1][1, :, hammer].any() and in_picture[1][1, :, apple].all()
    torch.testing.assert_close(plain[[0, 2]], marked[[0, 2]])
    assert (plain[1] - marked[1]).abs().max() > 1e-3


def test_only_cloning_drops_units(config):  # noqa: F811
    policy = build(config, "encoder_decoder")
    batch = some_steps(policy)
    policy.train()
    assert policy.heads.training and not any(m.training for part in (policy.llm, policy.vision) for m in part.modules())
    policy.eval()
    assert not policy.training and torch.equal(policy.action_logits(batch)[0], policy.action_logits(batch)[0])
    policy.train()
    assert not torch.equal(policy.action_logits(batch)[0], policy.action_logits(batch)[0])


def test_readings_make_room_for_the_latest(config):  # noqa: F811
    policy = build(config, NAME)
    readings = policy.instructions
    readings.max_bytes = 1
    before = readings.get(["one apple", "two pears", "a ball"])
    assert len(before.length) == 3 and len(readings._kept) == 3  # all that are asked for together
    again = readings.get(["a ball", "one apple"])
    assert list(readings._kept) == ["a ball", "one apple"]
    assert readings._bytes == sum(part.nbytes for parts in readings._kept.values() for part in parts)
    torch.testing.assert_close(again.last, before.last[[2, 0]])
    with pytest.raises(UserError, match="max_instruction_tokens"):
        readings.get(["word " * 100])


@pytest.mark.parametrize(
    "wrong",
    [
        {"decoder_width": 20},
        {"dropout": 1.0},
        {"decoder_layers": 0},
        {"llm_weights": "random", "head": "skill_names"},
        {"word_prior": True},
        {"resampler": "cells"},
        {"tensor_parallel": 2},
    ],
)
def test_what_cannot_be_is_refused(config, wrong):  # noqa: F811
    with pytest.raises(UserError, match=r"policy\.\w+"):
        build(replace(config, kind="encoder_decoder", **wrong))


# -- demonstrations of the unknown -------------------------------------------------------------------------------------


def played(*names: str, done: dict[int, str] | None = None) -> SegmentBatch:
    """One episode whose labels are `names`; `done`: what was done instead, by step."""
    label = torch.tensor([[ACTION_INDEX[name] for name in names]])
    action = label.clone()
    for step, name in (done or {}).items():
        action[0, step] = ACTION_INDEX[name]
    features = torch.arange(len(names)).float().view(1, -1, 1, 1)
    valid = torch.ones_like(label, dtype=torch.bool)
    return SegmentBatch(torch.zeros(1, dtype=torch.int64), features, F.pad(action, (1, -1), value=70), label, valid)


SEARCH = ("nav(sink)", "nav(sofa)", "pick(apple)", "nav(sink)", "place(sink)")
ALL = torch.ones(1, dtype=torch.bool)


def test_the_unknown_is_reached_for_where_it_might_be():
    unknown = as_unknown(played(*SEARCH), ALL, 32)
    labels = [ACTION_INDEX[n] for n in ("nav(sink)", "pick(apple)", *SEARCH[1:])]
    assert unknown.action[0].tolist() == labels and unknown.valid.all()
    assert unknown.previous_action[0].tolist() == [70, *labels[:-1]]
    assert unknown.features.flatten().tolist() == [0, 1, 1, 2, 3, 4]  # the reach changed nothing
    assert unknown.unknown is not None
    assert unknown.unknown[0].nonzero().flatten().tolist() == [ACTION_INDEX["pick(apple)"]]


def test_no_reach_after_a_mistake_that_moved_nothing_or_with_a_full_hand():
    slipped = played("nav(sink)", "nav(sofa)", "nav(sofa)", *SEARCH[2:], done={1: "pick(ball)"})
    unknown = as_unknown(slipped, ALL, 32)
    assert [int(a) for a in unknown.action[0]].count(ACTION_INDEX["pick(apple)"]) == 2  # at the sink once, at the sofa
    assert unknown.previous_action[0, 3] == ACTION_INDEX["pick(ball)"]  # what was really done stays told


def test_other_rows_and_what_gets_too_long_stay():
    batch = played(*SEARCH)
    for same in (as_unknown(batch, ~ALL, 32), as_unknown(batch, ALL, 5)):
        assert same.unknown is not None and not same.unknown.any()
        for name in ("action", "previous_action", "features", "valid"):
            assert torch.equal(getattr(same, name), getattr(batch, name))


def test_what_is_described_is_not_named():
    assert described("Bring an apple to the sofa.") == "Bring a thing to the sofa."
    assert described("Lego bricks go on the sofa, a pair of scissors in the sink.") == (
        "things go on the sofa, a thing in the sink."
    )
    assert described("A canopy for the cupboard.") == "A canopy for the cupboard."


def test_one_thing_is_described_with_a_vague_expectation():
    batch, texts = played(*SEARCH), ["Put an apple in the sink.", "Put a ball in the sink.", "An apple, a ball."]
    picked = ACTION_INDEX["pick(apple)"] - ACTION_INDEX["pick(ball)"]
    first = []
    for i in range(200):
        told = as_described(batch, ALL, texts, torch.Generator().manual_seed(i))
        assert told.expected is not None and told.instruction_id.tolist() == [3] and told.expected.max() == 0
        first.append(int(told.expected.argmax()) == picked)
    assert 0.25 < sum(first) / 200 < 0.5
    for text, rows in ((0, ~ALL), (1, ALL), (2, ALL)):  # not asked for; another is named; two are
        same = replace(batch, instruction_id=torch.tensor([text]))
        told = as_described(same, rows, texts, torch.Generator())
        assert told.expected is not None and told.expected.isnan().all() and told.instruction_id.tolist() == [text]
    unknown = as_described(as_unknown(batch, ALL, 32), ALL, texts, torch.Generator())
    assert unknown.expected is not None and unknown.expected.isnan().all()


def test_what_is_described_is_chosen_by_what_can_be_expected_alone(config, monkeypatch):  # noqa: F811
    policy = build(config, NAME)
    monkeypatch.setattr("llarp.policy.encoder_decoder.VAGUE", 9.0)  # else a random model's doubt would do so as well
    assert isinstance(policy, EncoderDecoderPolicy)
    batch = some_steps(policy)
    torch.nn.init.normal_(policy.heads.actor.project.weight)
    expected = torch.full((3, 33), torch.nan)
    expected[1] = -torch.arange(33.0).clamp(max=8)
    picks = policy.heads.skills.kinds == KINDS.index("pick")
    seen: list[Tensor] = []
    policy.heads.skills.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    logits = policy.action_logits(replace(batch, expected=expected))[0]
    torch.testing.assert_close(logits[1][:, picks], seen[0][1][:, picks])
    assert (logits[0] - seen[0][0])[:, picks].abs().max() > 1e-3


class OneEpisode:
    """Demonstrations of one episode."""

    texts = ("Put an apple in the sink.",)
    length = torch.tensor([len(SEARCH)])

    def __len__(self) -> int:
        return 1

    def batches(self, index: Tensor, *_: object) -> list[Tensor]:
        return [index[:1]]

    def batch(self, index: Tensor) -> SegmentBatch:
        return played(*SEARCH)


@pytest.mark.parametrize("name", ["unknown_share", "described_share"])
def test_beside_ppo_demonstrations_are_shown_as_in_cloning(name):
    policy = RecurrentPolicy()
    policy.unknown_steps = 32
    shown: list[tuple[int, str, bool]] = []

    def logits(batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        unknown = batch.unknown is not None and bool(batch.unknown.any())
        shown.append((int(batch.valid.sum()), policy.instruction_text(int(batch.instruction_id)), unknown))
        return policy.critic.weight.sum() + torch.zeros(*batch.valid.shape, 70), torch.zeros(batch.valid.shape)

    policy.action_logits = logits
    beside = Beside(policy, OneEpisode(), BCConfig(**{name: 0.5}), 1.0, 1000, seed=1)
    for _ in range(40):
        beside(8)
    plain = (len(SEARCH), "Put an apple in the sink.", False)
    other = set(shown) - {plain}
    if name == "unknown_share":
        assert other == {(len(as_unknown(played(*SEARCH), ALL, 32).valid[0]), plain[1], True)}
    else:
        assert other == {(plain[0], "Put a thing in the sink.", False)}
    assert 10 < shown.count(plain) < 30


@pytest.mark.parametrize("name", ["unknown_share", "described_share"])
def test_demonstrations_of_the_unknown_need_a_policy_that_knows_of_it(name):
    with pytest.raises(UserError, match=f"{name}.*encoder_decoder"):
        Cloner(RecurrentPolicy(), BCConfig(**{name: 0.1}), seed=0)


# -- PPO with the unknown ----------------------------------------------------------------------------------------------


def test_shares_of_the_instructions_are_heard_as_if():
    texts = ["Put an apple in the sink.", "An apple and a ball on the sofa.", "Close the fridge."]
    heard = Heard(lambda i: texts[i % 3], 0.2, 0.3, seed=4)
    ids = torch.arange(900)
    unknown, expected = heard.pretended(ids)
    again = heard.pretended(ids.flip(0))
    assert torch.equal(unknown, again[0].flip(0))
    assert torch.equal(expected.nan_to_num(9), again[1].flip(0).nan_to_num(9))
    one, two, none = (ids % 3 == k for k in range(3))
    vague = ~expected.isnan().any(1)
    assert 0.15 < unknown[one].any(1).float().mean() < 0.25 and 0.24 < vague[one].float().mean() < 0.36
    assert not vague[~one].any() and not unknown[none].any() and not (vague & unknown.any(1)).any()
    assert set(unknown[two].sum(1).tolist()) == {0, 2}
    assert unknown[one].nonzero()[:, 1].unique().tolist() == [ACTION_INDEX["pick(apple)"]]
    first = expected[vague].argmax(1) == PICKS.index(ACTION_INDEX["pick(apple)"])
    assert 0.2 < first.float().mean() < 0.6 and torch.equal(expected[vague].amax(1), torch.zeros(int(vague.sum())))
    for i in ids[one].tolist():
        assert heard(i) == ("Put a thing in the sink." if vague[i] else texts[0])
    assert heard(1) == texts[1]
    other = Heard(lambda i: texts[i % 3], 0.2, 0.3, seed=5).pretended(ids)
    assert not torch.equal(other[0], unknown)


@pytest.mark.parametrize("name", [NAME, "encoder_decoder_scratch"])
def test_a_policy_acts_on_what_it_pretends_as_it_is_trained(config, name):  # noqa: F811
    policy = build(config, name)
    plain = roll_out(policy)
    named = ["Put an apple in the sink.", "Bring me a ball.", "Open the fridge.", *TEXTS[3:]]
    policy.bind_instructions(lambda i: named[i])
    without = policy.action_logits(plain.batch)[0]
    heard = Heard(lambda i: named[i], 0.5, 0.5, seed=2)
    unknown, expected = heard.pretended(torch.arange(len(TEXTS)))
    assert unknown.any() and not expected.isnan().all()
    policy.bind_instructions(heard)
    assert (policy.action_logits(plain.batch)[0] - without).abs().amax() > 1e-3
    rollout = roll_out(policy, seed=3)
    agreement(policy, rollout)
    policy.bind_instructions(lambda i: named[i])  # another environment, such as an evaluation's
    after = roll_out(policy)
    assert not after.state["unknown"].any() and after.state["expected"].isnan().all()
    agreement(policy, after)


def test_an_environment_is_its_own_but_for_what_is_heard():
    class Env:
        num_envs = 3

        def instruction_text(self, i: int) -> str:
            return "Put an apple in the sink."

    env = Hearing(Env(), PPOConfig(described_share=1.0), seed=0)
    assert env.num_envs == 3 and env.instruction_text(7) == "Put a thing in the sink."
    with pytest.raises(UserError, match=r"ppo.unknown_share.*encoder_decoder"):
        load("smoke", ["ppo.unknown_share=0.1"])
    with pytest.raises(UserError, match=r"out of range"):
        load("smoke", ["policy.kind=encoder_decoder", "ppo.unknown_share=0.6", "ppo.described_share=0.6"])
