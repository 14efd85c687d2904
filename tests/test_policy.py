"""The LLaRP policy on a tiny random LLM: the ratio test, caches, refresh, frozen weights, saving."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_llm import make_tiny_llm
from torch import Tensor, nn

from llarp.errors import UserError
from llarp.policy.base import NO_ACTION, SegmentBatch, sample
from llarp.policy.config import PolicyConfig
from llarp.policy.context import start_rows
from llarp.policy.heads import VISUAL_SHARE, begin_as_word_scores
from llarp.policy.instruction_cache import InstructionCache
from llarp.policy.policy import LLaRPPolicy
from llarp.rl.config import PPOConfig
from llarp.rl.critic import _critic_inputs, critic_of
from llarp.rl.rollout import Piece

TEXTS = [
    "go to the sink",
    "Move an apple from the sofa to the black table, please.",
    "open the fridge",
    "Put the plum and the ball away: TV stand.",
    "pick up the lego",
]
AFTER = "\nThe robot picks up the"  # the default prompt's end
NUM_ENVS = 4


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory):
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def config(llm_folder):
    return PolicyConfig(llm=str(llm_folder), vision="test_vit", vision_pool="grid2", image_size=32, precision="float32",
                        projector_hidden=32, action_hidden=32, max_steps=12)  # fmt: skip


def make_policy(config: PolicyConfig) -> LLaRPPolicy:
    torch.manual_seed(0)
    policy = LLaRPPolicy(config)
    policy.bind_instructions(TEXTS.__getitem__)
    policy.calibrate(policy.encode(torch.randint(256, (64, 32, 32, 3), dtype=torch.uint8)))
    with torch.no_grad():
        policy.heads.actor.weight.normal_(std=0.5)  # far from uniform: log-probabilities then depend on everything
        if policy.heads.previous_action is not None:
            policy.heads.previous_action.weight[NO_ACTION].normal_()
    return policy


@pytest.fixture(
    params=[(1, True, True), (2, False, True), (1, True, False), (2, False, False)],
    ids=["one_token", "two_tokens_blind_to_actions", "one_token_padded", "two_tokens_padded"],
)
def policy(request, config):
    tokens, observe, packed = request.param
    policy = make_policy(replace(config, num_visual_tokens=tokens, observe_previous_action=observe))
    assert policy.llm.decoder is not None
    if not packed:
        by_transformers(policy)
    return policy


def by_transformers(policy: LLaRPPolicy) -> None:
    """Let transformers' modules compute, as those of a model that is not a frozen Llama do."""
    policy.llm.decoder = None
    assert policy.pads


@dataclass
class Rollout:
    """What `act` said, step by step, cut into episodes."""

    batch: SegmentBatch
    log_prob: Tensor  # (B, T) as `act` gave them
    value: Tensor  # (B, T)
    state: dict[str, Tensor]
    running: list[int]  # the episode each world is in at the end


def roll_out(policy: LLaRPPolicy, steps: int = 14, seed: int = 1) -> Rollout:
    """Random pictures; rows reset at different times, some in the middle, all episodes of different length."""
    generator = torch.Generator().manual_seed(seed)
    state = policy.initial_state(NUM_ENVS)
    episodes: list[list] = []
    running = [-1] * NUM_ENVS
    previous = torch.full((NUM_ENVS,), NO_ACTION)
    instruction = torch.zeros(NUM_ENVS, dtype=torch.int64)
    for t in range(steps):
        start = torch.rand(NUM_ENVS, generator=generator) < 0.2
        start |= torch.tensor([t == 0 or len(episodes[e]) == policy.config.max_steps for e in running])
        for row in start.nonzero().flatten().tolist():
            running[row] = len(episodes)
            episodes.append([])
            instruction[row] = torch.randint(len(TEXTS), (1,), generator=generator)
            previous[row] = NO_ACTION
        rgb = torch.randint(256, (NUM_ENVS, 32, 32, 3), generator=generator, dtype=torch.uint8)
        features = policy.encode(rgb)
        obs = {"features": features, "instruction_id": instruction}
        action, log_prob, value, state = policy.act(obs, state, start, generator=generator)
        for row, episode in enumerate(running):
            episodes[episode].append(
                (instruction[row].clone(), features[row], previous[row].clone(), action[row], log_prob[row], value[row])
            )
        previous = action.clone()
    columns = [[torch.stack(column) for column in zip(*episode, strict=True)] for episode in episodes]
    padded = [torch.nn.utils.rnn.pad_sequence([c[i] for c in columns], batch_first=True) for i in range(1, 6)]
    valid = torch.nn.utils.rnn.pad_sequence([torch.ones(len(e), dtype=torch.bool) for e in episodes], batch_first=True)
    instructions = torch.stack([c[0][0] for c in columns])
    batch = SegmentBatch(instructions, padded[0], padded[1], padded[2], valid)
    return Rollout(batch, padded[3], padded[4], state, running)


def evaluate_by_hand(policy: LLaRPPolicy, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
    """Logits and values (B, T, ...) by transformers' own forward: one episode at a time, no cache, mask or padding."""
    logits = torch.zeros(*batch.action.shape, 70)
    values = torch.zeros(batch.action.shape)
    count = policy.config.num_visual_tokens
    for i, text_id in enumerate(batch.instruction_id.tolist()):
        steps = int(batch.valid[i].sum())
        visual = policy.heads.visual_tokens(batch.features[i, :steps], batch.previous_action[i, :steps])
        words = policy.llm.backbone.embed_tokens(torch.tensor(policy.llm.tokens(TEXTS[text_id] + AFTER)))
        sequence = torch.cat([words, visual.reshape(steps * count, -1)])
        hidden = policy.llm.backbone(inputs_embeds=sequence[None]).last_hidden_state[0]
        row_logits, row_values = policy.heads(hidden[len(words) + count - 1 :: count])
        logits[i, :steps], values[i, :steps] = row_logits, row_values
    return logits, values


def log_prob_by_hand(policy: LLaRPPolicy, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
    logits, values = evaluate_by_hand(policy, batch)
    log_prob = logits.log_softmax(-1).gather(-1, batch.action[..., None])[..., 0]
    return log_prob.masked_fill(~batch.valid, 0.0), values


def test_ratio(policy):
    """Rollout, update and transformers' own uncached forward agree on log-probabilities and values."""
    rollout = roll_out(policy)
    batch = rollout.batch
    lengths = batch.valid.sum(1)
    assert len(lengths) > NUM_ENVS and lengths.unique().numel() > 2  # resets at different times
    log_prob, entropy, value = policy.evaluate_segments(batch)
    assert entropy[batch.valid].mean() < 3.5  # of ln 70 = 4.25: the policy is not uniform
    torch.testing.assert_close(log_prob, rollout.log_prob, atol=1e-4, rtol=0)
    torch.testing.assert_close(value, rollout.value, atol=1e-4, rtol=0)
    by_hand, value_by_hand = log_prob_by_hand(policy, batch)
    torch.testing.assert_close(log_prob, by_hand, atol=1e-4, rtol=0)
    torch.testing.assert_close(value, value_by_hand, atol=1e-4, rtol=0)


def test_gradients_equal_those_of_an_uncached_forward(policy):
    batch = roll_out(policy).batch
    weight = torch.randn(batch.action.shape, generator=torch.Generator().manual_seed(3)) * batch.valid
    parameters = {n: p for n, p in policy.named_parameters() if p.requires_grad}

    def gradients(log_prob, value):
        loss = (weight * log_prob).sum() + (weight * value).sum()
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    log_prob, _, value = policy.evaluate_segments(batch)
    ours, by_hand = gradients(log_prob, value), gradients(*log_prob_by_hand(policy, batch))
    for name in parameters:
        size = by_hand[name].norm()
        assert size > 0, name
        assert (ours[name] - by_hand[name]).norm() <= 1e-4 * size, name


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("fault", ["positions", "neighbour"])
def test_ratio_test_notices(config, monkeypatch, fault, packed):
    """Positions shifted by one, or a neighbour's prefix, are far outside what the ratio test allows."""
    policy = make_policy(config)
    if not packed:
        by_transformers(policy)
    rollout = roll_out(policy)
    if fault == "positions" and policy.llm.decoder is not None:
        turn = policy.llm.decoder._turn
        monkeypatch.setattr(policy.llm.decoder, "_turn", lambda positions: turn(positions + 1))
    elif fault == "positions":  # of the visual tokens alone: the prefixes are in the cache already
        run = policy.llm.run
        monkeypatch.setattr(policy.llm, "run", lambda embeds, positions, *rest: run(embeds, positions + 1, *rest))
    else:
        get = policy.instructions.get
        monkeypatch.setattr(policy.instructions, "get", lambda texts: get(texts[1:] + texts[:1]))
    log_prob, _, _ = policy.evaluate_segments(rollout.batch)
    assert (log_prob - rollout.log_prob).abs().max() > 1e-2


def test_padding_does_not_leak(config):
    policy = make_policy(config)
    batch = roll_out(policy).batch
    before = policy.evaluate_segments(batch)
    features = torch.where(batch.valid[..., None, None], batch.features, torch.tensor(7.0, dtype=torch.float16))
    after = policy.evaluate_segments(replace(batch, features=features))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        assert not a[~batch.valid].any()


def test_refresh_rebuilds_the_visual_part(policy):
    """After an update, decoding goes on as if the new projector had seen the whole episode."""
    rollout = roll_out(policy)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.heads.projector.parameters():
            parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    stale = {name: tensor.clone() for name, tensor in rollout.state.items()}
    features = policy.encode(torch.randint(256, (NUM_ENVS, 32, 32, 3), generator=generator, dtype=torch.uint8))
    batch = rollout.batch
    ids = batch.instruction_id[rollout.running]
    obs, on = {"features": features, "instruction_id": ids}, torch.zeros(NUM_ENVS, dtype=torch.bool)
    previous = stale["previous_action"][torch.arange(NUM_ENVS), stale["step"]]
    wanted = []
    for row, episode in enumerate(rollout.running):
        steps = int(batch.valid[episode].sum())
        assert steps < policy.config.max_steps
        one = SegmentBatch(
            ids[row : row + 1],
            torch.cat([batch.features[episode, :steps], features[row : row + 1]])[None],
            torch.cat([batch.previous_action[episode, :steps], previous[row : row + 1]])[None],
            torch.zeros(1, steps + 1, dtype=torch.int64),
            torch.ones(1, steps + 1, dtype=torch.bool),
        )
        wanted.append(evaluate_by_hand(policy, one)[1][0, -1])
    value = policy.act(obs, policy.refresh_state(rollout.state), on)[2]
    torch.testing.assert_close(value, torch.stack(wanted), atol=1e-4, rtol=0)
    value_without = policy.act(obs, stale, on)[2]
    assert (value_without - value).abs().max() > 1e-2


def test_reset_touches_one_row(config):
    policy = make_policy(config)
    state = roll_out(policy).state
    before = {name: tensor.clone() for name, tensor in state.items()}
    text = "close the fridge"
    start_rows(state, torch.tensor([2]), policy.instructions.get([text]), config.max_instruction_tokens)
    others = [0, 1, 3]
    assert torch.equal(state["keys"][:, others], before["keys"][:, others])
    assert torch.equal(state["values"][:, others], before["values"][:, others])
    assert torch.equal(state["step"][others], before["step"][others])
    assert state["step"][2] == 0 and state["prefix_length"][2] == len(policy.llm.tokens(text))
    assert not torch.equal(state["keys"][:, 2], before["keys"][:, 2])


def test_frozen_weights_do_not_move(config):
    policy = make_policy(config)
    batch = roll_out(policy).batch
    policy.train()
    frozen = {n: p for n, p in policy.named_parameters() if n.startswith(("llm.", "vision."))}
    assert not any(p.requires_grad for p in frozen.values())
    assert not policy.llm.training and not policy.vision.backbone.training
    before = {n: p.clone() for n, p in frozen.items()}
    trained = [p for p in policy.parameters() if p.requires_grad]
    heads_before = [p.detach().clone() for p in trained]
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    log_prob, entropy, value = policy.evaluate_segments(batch)
    (log_prob.sum() + entropy.sum() + value.sum()).backward()
    optimizer.step()
    assert all(torch.equal(before[n], p) for n, p in frozen.items())
    assert all(p.grad is None for p in frozen.values())
    assert all(not torch.equal(a, b) for a, b in zip(heads_before, trained, strict=True))
    trainable, held = policy.count_parameters()
    assert trainable == sum(p.numel() for p in trained) and held == sum(p.numel() for p in frozen.values())


def test_save_and_load(config, tmp_path):
    policy = make_policy(config)
    batch = roll_out(policy).batch
    policy.save_pretrained(tmp_path / "policy")
    loaded = LLaRPPolicy.from_pretrained(tmp_path / "policy")
    loaded.bind_instructions(TEXTS.__getitem__)
    for ours, theirs in zip(policy.evaluate_segments(batch), loaded.evaluate_segments(batch), strict=True):
        # The instructions were computed in other company: the same up to rounding.
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert loaded.frozen_fingerprint() == policy.frozen_fingerprint()
    with pytest.raises(UserError, match="not a policy folder"):
        LLaRPPolicy.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit"):
        make_policy(replace(config, action_hidden=16)).load_trainable_state_dict(policy.trainable_state_dict())


def test_other_frozen_weights_are_refused(config, tmp_path):
    folder = make_tiny_llm(tmp_path / "llm")
    make_policy(replace(config, llm=str(folder))).save_pretrained(tmp_path / "policy")
    make_tiny_llm(folder, seed=1)
    with pytest.raises(UserError, match="other weights of the frozen llm"):
        LLaRPPolicy.from_pretrained(tmp_path / "policy")


def test_act_takes_pictures_and_strings(config):
    """As a Gymnasium environment with numpy output gives them; ids and strings give the same."""
    policy = make_policy(config)
    rgb = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    start = torch.tensor([True, True])
    named = {"rgb": rgb.numpy(), "instruction": (TEXTS[1], TEXTS[3])}
    by_id = {"rgb": rgb, "instruction_id": torch.tensor([1, 3])}
    values = [policy.act(obs, policy.initial_state(2), start, deterministic=True)[2] for obs in (named, by_id)]
    assert torch.equal(*values)
    assert values[0][0] != values[0][1]


def test_misuse_is_told(config):
    policy = make_policy(replace(config, max_steps=2))
    features = torch.zeros(1, policy.vision.num_tokens, policy.vision.dim)
    obs = {"features": features, "instruction_id": torch.tensor([0])}
    state = policy.initial_state(1)
    with pytest.raises(ValueError, match="never started"):
        policy.act(obs, state, torch.tensor([False]))
    for start in (True, False):
        policy.act(obs, state, torch.tensor([start]))
    with pytest.raises(ValueError, match="max_steps"):
        policy.act(obs, state, torch.tensor([False]))
    with pytest.raises(UserError, match="max_instruction_tokens=64"):
        policy.act({"features": features, "instruction": ["apple " * 80]}, state, torch.tensor([True]))
    with pytest.raises(UserError, match="pictures are"):
        policy.encode(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "change", [{"image_size": 0}, {"precision": "float8"}, {"vision_pool": "grid"}, {"temperature": 0.0}]
)
def test_config_is_validated(change):
    with pytest.raises(UserError, match=f"policy.{next(iter(change))}="):
        PolicyConfig(**change).validate()


def test_instruction_cache_computes_once_and_stays_small(config):
    policy = make_policy(config)
    cache = InstructionCache(policy.llm, 64, 1 << 20)
    one = cache.get([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert cache.num_computed == 2 and one.index.tolist() == [0, 1, 0]
    cache.get(TEXTS)
    assert cache.num_computed == len(TEXTS)


def test_instruction_cache_keeps_the_latest_in_the_memory_it_has(config):
    policy = make_policy(config)
    texts = [f"bring the apple to table number {i}" for i in range(40)]
    whole = InstructionCache(policy.llm, 64, 1 << 24)
    small = InstructionCache(policy.llm, 64, 1)
    small.get(texts[:4])  # what is asked for is there, whatever the budget
    before = small._pages.shape
    for i in range(4, 40):
        # A text computed alone is the same up to rounding.
        torch.testing.assert_close(small.get(texts[i - 1 : i + 1]).keys, whole.get(texts[i - 1 : i + 1]).keys,
                                   atol=1e-5, rtol=0)  # fmt: skip
    assert small.num_computed == 40  # of every two the first was still there
    assert small._pages.shape == before
    small.get(texts[38:])
    assert small.num_computed == 40
    small.get(texts[:1])
    assert small.num_computed == 41  # had been forgotten
    small.prepare(texts)  # more than there is room for
    small.prepare(texts[:2])
    assert small._pages.shape == before and small.num_computed == 42
    assert whole.num_computed == 37


def test_prefixes_computed_together_equal_single_ones(config):
    policy = make_policy(config)
    texts = ["go to the sink", "put the red ball on the sofa, please", "open the fridge", "pick up the ball"]
    together = InstructionCache(policy.llm, 64, 1 << 20).get(texts)
    for i, text in enumerate(texts):
        alone = InstructionCache(policy.llm, 64, 1 << 20).get([text])
        slots = alone.keys.shape[3]
        assert together.length[i] == alone.length[0]
        torch.testing.assert_close(together.keys[:, i, :, -slots:], alone.keys[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.values[:, i, :, -slots:], alone.values[:, 0], atol=1e-5, rtol=0)


def test_calibration_is_fitted_once(config):
    policy = LLaRPPolicy(config)
    shape = (400, policy.vision.num_tokens, policy.vision.dim)
    features = 3.0 + 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    policy.calibrate(features)
    standardized = policy.heads.standardize(features)
    assert standardized.mean().abs() < 1e-3 and (standardized.std() - 1).abs() < 1e-2
    policy.calibrate(features * 5)
    assert torch.equal(policy.heads.standardize(features), standardized)


def test_visual_tokens_begin_as_a_word_plus_what_the_picture_says(config):
    policy = make_policy(replace(config, observe_previous_action=False))
    features = torch.randn(20, policy.vision.num_tokens, policy.vision.dim)
    tokens = policy.heads.visual_tokens(features, torch.zeros(20, dtype=torch.int64))[:, 0]
    cue = policy.llm.word_embeddings([" the"])[0]
    length = (tokens - cue).norm(dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, VISUAL_SHARE * policy.llm.token_norm), rtol=0.01, atol=0)


def test_the_action_mlp_begins_as_a_score_of_the_skills_words():
    """A hidden state that is one skill's words, as seen from the mean skill, makes that skill the likeliest."""
    torch.manual_seed(0)
    words = torch.randn(70, 64)
    trunk = nn.Sequential(nn.LayerNorm(64))
    for width in (64, 128):
        trunk += nn.Sequential(nn.Linear(width, 128), nn.LayerNorm(128), nn.ReLU())
    actor = nn.Linear(128, 70)
    begin_as_word_scores(trunk, actor, words)
    hidden = words - words.mean(0)
    logits = actor(trunk(hidden))
    assert (logits.argmax(-1) == torch.arange(70)).all()
    fit = torch.nn.functional.normalize(hidden, dim=-1)
    expected = fit @ torch.nn.functional.layer_norm(hidden, (64,)).T  # 64 pairs of units: nothing is cut away
    assert torch.corrcoef(torch.stack([logits.T.flatten(), expected.flatten()]))[0, 1] > 0.999


def test_sample_draws_from_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 3.0]]).expand(4000, 3)
    action, log_prob = sample(logits, deterministic=False, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(action, minlength=3) / 4000
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.02, rtol=0)
    torch.testing.assert_close(log_prob, logits[0].log_softmax(0)[action])
    assert (sample(logits, deterministic=True)[0] == 2).all()


@torch.no_grad()
def test_the_critic_is_fitted_to_the_same_numbers_with_and_without_padding(config):
    policy = make_policy(config)
    batch = roll_out(policy).batch
    shape, rows = batch.valid.shape, torch.arange(len(batch.valid))
    mask = batch.valid.clone()
    mask[::2, 0] = False  # context
    step, world = torch.arange(shape[1]).expand(shape), rows[:, None].expand(shape)
    piece = Piece(batch, mask, step, world, int(mask.sum()), rows)
    rollout: Any = SimpleNamespace(pieces=lambda tokens, fill: [piece])
    returns = torch.randn(shape[::-1])
    whole = torch.rand(returns.shape) < 0.7
    found = []
    for _ in range(2):
        found.append(_critic_inputs(policy, critic_of(policy), rollout, PPOConfig(), returns, whole))
        by_transformers(policy)
    assert 0 < len(found[0][0]) == int(piece.take(whole).sum()) < piece.size
    for without, padded in zip(*found, strict=True):
        torch.testing.assert_close(without, padded, atol=1e-4, rtol=1e-4)
