"""Baselines beside the frozen LLaRP policy: they act as they are trained, train what they say, and can be saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_env import MemoryEnv
from test_learning import best_success
from test_policy import AFTER, NUM_ENVS, TEXTS, Rollout, roll_out
from tiny_llm import make_tiny_llm
from torch import Tensor

from llarp import cli
from llarp import train as training
from llarp.config import load
from llarp.errors import UserError
from llarp.evaluation.agents import PlannerAgent, PolicyAgent
from llarp.evaluation.pictures import with_hearing, with_pictures
from llarp.policy import hub
from llarp.policy.base import NO_ACTION, Policy
from llarp.policy.build import make_policy
from llarp.policy.config import PolicyConfig
from llarp.policy.policy import LLaRPPolicy
from llarp.policy.reader import InstructionReader
from llarp.policy.resampler import CellMLP
from llarp.policy.word_prior import FLOOR, NAMES, PICKS, PLAIN
from llarp.rl import checkpoint
from llarp.rl.update import trainable_parameters
from llarp.tasks.actions import ACTIONS, NOVEL_PICKS
from llarp.train import load_weights

BASELINES = {
    "skill_names": {"head": "skill_names"},
    "lstm": {"kind": "lstm", "lstm_hidden": 24, "lstm_layers": 2},
    "lstm_skill_names": {"kind": "lstm", "lstm_hidden": 24, "head": "skill_names"},
    "encoder_decoder": {"kind": "encoder_decoder", "decoder_width": 32, "decoder_layers": 2, "dropout": 0.1},
    "encoder_decoder_skill_names": {
        "kind": "encoder_decoder", "decoder_width": 32, "head": "skill_names", "word_layers": 1,
    },
    "encoder_decoder_scratch": {"kind": "encoder_decoder", "decoder_width": 32, "llm_weights": "random"},
    "encoder_decoder_lora": {
        "kind": "encoder_decoder", "decoder_width": 32, "lora_rank": 3, "head": "skill_names", "word_layers": 1,
    },
    "scratch": {"llm_weights": "random"},
    "lora": {"lora_rank": 3},
    "lora_skill_names": {"lora_rank": 3, "head": "skill_names", "num_visual_tokens": 2},
    "perceiver": {"resampler": "perceiver", "num_visual_tokens": 3},
    "cells": {"resampler": "cells", "num_visual_tokens": 2, "visual_skip": True, "instruction_skip": True},
    "skip_skill_names": {"head": "skill_names", "visual_skip": True, "instruction_skip": True},
    "prior": {"head": "skill_names", "visual_skip": True, "word_prior": True},
    "prior_mlp_lora": {"lora_rank": 3, "word_prior": True},
    "lstm_cells": {"kind": "lstm", "lstm_hidden": 24, "resampler": "cells"},
    "blank": {"pictures": "blank"},
}
TRAINED_LLM = tuple(name for name in BASELINES if "scratch" in name or "lora" in name)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    llm = make_tiny_llm(tmp_path_factory.mktemp("llm"), tied=True)
    return PolicyConfig(llm=str(llm), vision="test_vit", vision_pool="grid2", image_size=32, precision="float32",
                        projector_hidden=32, action_hidden=32, max_steps=12)  # fmt: skip


def build(config: PolicyConfig, name: str = "", **settings) -> LLaRPPolicy:
    """A policy whose actions depend on everything it knows, as if it had been trained."""
    torch.manual_seed(0)
    policy = make_policy(replace(config, **(BASELINES[name] if name else {}), **settings))
    policy.bind_instructions(TEXTS.__getitem__)
    policy.calibrate(policy.encode(torch.randint(256, (64, 32, 32, 3), dtype=torch.uint8)))
    disturb(policy)
    return policy


@torch.no_grad()
def disturb(policy: Policy, sharpen: float = 5.0) -> None:
    """Move every trained weight a good deal, in place, as an optimiser does; logits become `sharpen` times as large."""
    for parameter in trainable_parameters(policy):
        parameter.add_(0.1 * torch.randn_like(parameter))
    policy.heads.actor.load_state_dict({n: sharpen * p for n, p in policy.heads.actor.state_dict().items()})


def agreement(policy: LLaRPPolicy, rollout: Rollout) -> None:
    """The rollout's log-probabilities and values are those of whole segments, with and without gradient."""
    batch = rollout.batch
    with torch.no_grad():
        without = policy.evaluate_segments(batch)
    for log_prob, entropy, value in (without, policy.evaluate_segments(batch)):
        assert entropy[batch.valid].mean() < 4.2  # of ln 70 = 4.25
        torch.testing.assert_close(log_prob.detach(), rollout.log_prob, atol=1e-4, rtol=0)
        torch.testing.assert_close(value.detach(), rollout.value, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_acts_as_it_is_trained(config, name):
    policy = build(config, name)
    rollout = roll_out(policy)
    assert len(rollout.batch.valid) > NUM_ENVS and rollout.batch.valid.sum(1).unique().numel() > 2
    agreement(policy, rollout)


@pytest.mark.parametrize("settings", [{}, {"kind": "lstm"}])
def test_a_lower_temperature_sharpens_the_same_choice(config, settings):
    plain, sharp = build(config, **settings), build(config, temperature=0.5, **settings)
    rollout = roll_out(sharp)
    agreement(sharp, rollout)
    with torch.no_grad():
        (logits, value), (halved, same) = sharp.action_logits(rollout.batch), plain.action_logits(rollout.batch)
    torch.testing.assert_close(logits, 2 * halved)
    assert torch.equal(value, same)


@pytest.mark.parametrize("name", BASELINES)
def test_gradients_reach_what_is_trained_and_nothing_else(config, name):
    policy = build(config, name)
    batch = roll_out(policy).batch
    log_prob, entropy, value = policy.evaluate_segments(batch)
    policy.zero_grad()
    (log_prob.sum() + entropy.sum() + value.sum()).backward()
    nothing_seen = ("heads.projector.1.weight",) if name == "blank" else ()
    for name_, parameter in policy.named_parameters():
        if name_ in nothing_seen:
            assert parameter.grad.abs().sum() == 0  # a picture like every other is zero when standardised
        elif parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name_
        else:
            assert parameter.grad is None, name_
    of_llm = {n for n, p in policy.llm.named_parameters() if p.requires_grad}
    if name.endswith("scratch"):
        assert of_llm == {n for n, _ in policy.llm.named_parameters()}
    elif name in TRAINED_LLM:
        assert len(of_llm) == 2 * 2 * 2  # layers, query and value, down and up
        assert all(n.endswith(("q_proj.down", "q_proj.up", "v_proj.down", "v_proj.up")) for n in of_llm)
    else:
        assert not of_llm
    assert not any(p.requires_grad for p in policy.vision.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_running_episodes_follow_an_update(config, name):
    """After the weights change, a refreshed state is the one they would have made: the next step agrees."""
    policy = build(config, name)
    rollout = roll_out(policy)
    going = rollout.running
    disturb(policy, sharpen=1.0)  # logits of a thousand would differ by rounding alone
    state = policy.refresh_state(rollout.state)
    features = policy.encode(torch.randint(256, (NUM_ENVS, 32, 32, 3), dtype=torch.uint8))
    ids = rollout.batch.instruction_id[going]
    lengths = rollout.batch.valid.sum(1)[going]
    rows = torch.arange(NUM_ENVS)
    previous = rollout.batch.action[going, lengths - 1]
    action, log_prob, value, _ = policy.act({"features": features, "instruction_id": ids}, state, rows < 0)
    longer = {name: torch.nn.functional.pad(x[going], (0,) * (2 * x.ndim - 3) + (1,))
              for name, x in vars(rollout.batch).items() if x is not None and name != "instruction_id"}  # fmt: skip
    longer["features"][rows, lengths], longer["previous_action"][rows, lengths] = features, previous
    longer["action"][rows, lengths], longer["valid"][rows, lengths] = action, True
    wanted, _, wanted_value = policy.evaluate_segments(type(rollout.batch)(ids, **longer))
    torch.testing.assert_close(log_prob, wanted[rows, lengths].detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(value, wanted_value[rows, lengths].detach(), atol=1e-4, rtol=1e-5)
    agreement(policy, roll_out(policy, seed=2))  # and no instruction is read as it was before


@pytest.mark.parametrize("name", BASELINES)
def test_checkpoints_and_folders(config, name, tmp_path):
    policy = build(config, name)
    batch = roll_out(policy).batch
    wanted = policy.action_logits(batch)
    checkpoint.save(tmp_path / "step_1.pt", policy, {})
    policy.save_pretrained(tmp_path / "folder")
    torch.manual_seed(99)
    again = make_policy(policy.config)
    checkpoint.load(tmp_path / "step_1.pt", again)
    loaded = LLaRPPolicy.from_pretrained(tmp_path / "folder")
    for other in (again, loaded):
        assert type(other) is type(policy)
        other.bind_instructions(TEXTS.__getitem__)
        for ours, theirs in zip(wanted, other.action_logits(batch), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if name != "blank":
        with pytest.raises(UserError, match="configuration"):
            checkpoint.load(tmp_path / "step_1.pt", make_policy(replace(config, num_visual_tokens=4)))


def test_training_may_begin_with_a_policy_that_lacks_parts(config, tmp_path):
    """train.init: what both have is taken over, the rest begins anew; a policy with other parts is refused as ever."""
    lacking, more = build(config, "skip_skill_names"), build(config, "skip_skill_names", word_prior=True)
    disturb(lacking)
    checkpoint.save(tmp_path / "step_1.pt", lacking, {})
    lacking.save_pretrained(tmp_path / "folder")
    before, given = more.trainable_state_dict(), lacking.trainable_state_dict()
    new = before.keys() - given.keys()
    assert new == {f"prior.{part}.{kind}" for part in ("norm", "gate") for kind in ("weight", "bias")}
    for where in ("step_1.pt", "folder"):
        with pytest.raises(UserError, match="configuration"):
            (checkpoint.load if where != "folder" else fill)(tmp_path / where, more)
        load_weights(more, str(tmp_path / where))
        for name, tensor in more.trainable_state_dict().items():
            assert tensor.equal(before[name] if name in new else given[name]), name
        disturb(more)
        before = more.trainable_state_dict()
    with pytest.raises(UserError, match="configuration"):
        load_weights(build(config, "skill_names"), str(tmp_path / "step_1.pt"))


def fill(folder, policy):
    hub.fill(policy, hub.read(folder))


def test_they_learn_to_name_what_they_are_told(config):
    """A few steps of cloning: the instruction decides, and each policy fits it."""
    for name in BASELINES:
        torch.manual_seed(1)
        policy = make_policy(replace(config, **BASELINES[name]))
        policy.bind_instructions(TEXTS.__getitem__)
        batch = roll_out(policy).batch
        batch.action = (7 * batch.instruction_id)[:, None].expand_as(batch.action).contiguous()
        batch.previous_action.fill_(NO_ACTION)
        optimizer = torch.optim.Adam(trainable_parameters(policy), lr=3e-3)
        losses = []
        for _ in range(90):
            logits, _ = policy.action_logits(batch)
            loss = torch.nn.functional.cross_entropy(logits[batch.valid], batch.action[batch.valid])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[0] > 3.0 and losses[-1] < 0.4, (name, losses[0], losses[-1])


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        ({"kind": "lstm", "lstm_hidden": 64}, True),
        ({"llm_weights": "random"}, True),
        ({"lora_rank": 4, "head": "skill_names", "resampler": "perceiver", "num_visual_tokens": 2}, True),
        ({"pictures": "blank"}, False),
    ],
    ids=["lstm", "scratch", "lora_perceiver_skill_names", "blank"],
)
def test_ppo_finds_what_needs_instruction_and_an_earlier_picture(config, settings, learns):
    """As LLaRP's own policy in test_learning.py; without pictures a third is the best there is."""
    settings = settings | {"projector_hidden": 64, "action_hidden": 64, "max_instruction_tokens": 24, "max_steps": 3}
    torch.manual_seed(0)
    policy = make_policy(replace(config, **settings))
    steps = 40_000 if learns else 5_000
    success = best_success(policy, MemoryEnv(32, delay=2, size=32), total_steps=steps, lr=3e-3)
    assert success >= 0.95 if learns else success < 0.5


def test_skill_names_score_words_at_first(config):
    """Before training a hidden state that is a skill's words says that skill; the words themselves are not trained."""
    torch.manual_seed(0)
    policy = make_policy(replace(config, head="skill_names"))
    words = policy.llm.word_embeddings([action.words for action in ACTIONS])
    logits, _ = policy.heads(words - words.mean(0))
    assert (logits.argmax(-1) == torch.arange(len(ACTIONS))).float().mean() > 0.95
    assert "actor.directions" not in policy.trainable_state_dict()
    assert not policy.heads.actor.directions.requires_grad


def test_cells_are_read_alike_but_for_where_they_are():
    torch.manual_seed(0)
    cells = CellMLP(num_tokens=4, dim=6, width=16, out=5)
    shown = torch.randn(2, 3, 4, 6)
    assert cells(shown).shape == (2, 3, 5)
    moved = shown[..., [2, 0, 3, 1], :]
    assert not torch.allclose(cells(shown), cells(moved))
    torch.nn.init.zeros_(cells.place)
    torch.testing.assert_close(cells(shown), cells(moved))


def test_the_heads_look_up_words_of_their_own_instruction():
    torch.manual_seed(0)
    reader = InstructionReader(num_layers=12, value_size=8, hidden=10)
    assert reader.layers.tolist() == [11, 9, 7, 5, 3, 1]
    hidden, values = torch.randn(3, 2, 10), torch.randn(12, 2, 2, 5, 4)  # two instructions in five slots
    length, index = torch.tensor([3, 5, 3]), torch.tensor([0, 1, 0])
    assert torch.equal(reader(hidden, values, length, index), hidden)  # at first nothing is added
    torch.nn.init.normal_(reader.out.weight)
    read = reader(hidden, values, length, index)
    other = values.clone()
    other[:, 0, :, :2] = 7.0  # slots that the first instruction does not fill
    torch.testing.assert_close(reader(hidden, other, length, index), read)
    other[:, 1] = 0.0
    changed = (reader(hidden, other, length, index) - read).abs().amax((1, 2)) > 1e-3
    assert changed.tolist() == [False, True, False]
    reader.hide = 0.999, torch.Generator().manual_seed(0)  # all but the last word, which both then look up alone
    only = values.clone()
    only[:, :, :, :-1] = 7.0
    torch.testing.assert_close(reader(hidden, only, length, index), reader(hidden, values, length, index))
    assert not torch.allclose(reader(hidden, values, length, index), read)


def test_the_prior_is_what_the_language_model_says_next_beside_what_it_usually_says(config):
    policy = build(config, "prior")
    prompts = [text + AFTER for text in TEXTS]
    said = {text: policy.llm.run_uncached(policy.llm.embed(torch.tensor([policy.llm.tokens(text)])))[0, -1]
            for text in (*prompts, *(plain + AFTER for plain in PLAIN))}  # fmt: skip
    first = [policy.llm.tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in NAMES]
    scores = {text: policy.llm.embedding_table()[first] @ hidden for text, hidden in said.items()}
    usual = torch.stack([scores[plain + AFTER] for plain in PLAIN]).mean(0)
    wanted = torch.stack([scores[text] - usual for text in prompts])
    wanted = (wanted - wanted.amax(1, keepdim=True)).clamp_min(FLOOR)
    found = policy.heads.prior.log_ratios(policy.instructions.get(prompts).last)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    hidden, logits = torch.randn(len(prompts), 3, 48), torch.zeros(len(prompts), 3, len(ACTIONS))
    torch.nn.init.zeros_(policy.heads.prior.gate.weight)
    torch.nn.init.ones_(policy.heads.prior.gate.bias)
    added = policy.heads.prior(logits, hidden, policy.instructions.get(prompts).last)
    torch.testing.assert_close(added[..., PICKS], wanted[:, None].expand(-1, 3, -1), atol=1e-4, rtol=1e-4)
    assert added.count_nonzero() <= wanted.numel() * 3


def test_with_the_prior_skills_never_shown_are_like_those_that_were(config):
    """The picture says nothing of categories that training holds out, and their picks are told as the others are."""
    policy = build(config, "prior")
    features = torch.randn(2, 3, policy.vision.num_tokens, policy.vision.dim)
    _, glance = policy.heads.see(features, torch.zeros(2, 3, dtype=torch.int64))
    assert glance[..., NOVEL_PICKS].abs().max() == 0 and glance.count_nonzero() == 6 * (70 - len(NOVEL_PICKS))
    told, words = policy.heads.previous_action, policy.llm.word_embeddings([action.words for action in ACTIONS])
    shown = [index for index in PICKS if index not in NOVEL_PICKS]
    moved = (told.weight[shown] - words[shown]).mean(0)
    torch.testing.assert_close(told(torch.tensor(NOVEL_PICKS)), words[NOVEL_PICKS] + moved)
    others = torch.tensor([*shown, 0, NO_ACTION])
    assert told(others).equal(told.weight[others])


def test_the_prior_needs_the_output_layer(config, tmp_path):
    untied = make_tiny_llm(tmp_path / "llm")
    with pytest.raises(UserError, match="is not its embedding table"):
        make_policy(replace(config, llm=str(untied), word_prior=True))


def test_lora_begins_as_the_frozen_model(config):
    frozen, lora = (make_policy(replace(config, lora_rank=rank)) for rank in (0, 4))
    ids = torch.tensor([frozen.llm.tokens(TEXTS[1])])
    torch.testing.assert_close(lora.llm.run_uncached(lora.llm.embed(ids)).detach(),
                               frozen.llm.run_uncached(frozen.llm.embed(ids)), atol=1e-5, rtol=1e-5)  # fmt: skip
    assert lora.frozen_fingerprint() == frozen.frozen_fingerprint()
    assert "(float32) with LoRA: 1,344 trained" in lora.describe()


def test_from_scratch_has_nothing_of_the_pretrained_weights(config):
    torch.manual_seed(3)
    scratch = make_policy(replace(config, llm_weights="random"))
    torch.manual_seed(4)
    other = make_policy(replace(config, llm_weights="random"))
    pretrained = make_policy(config)
    tables = [p.llm.embedding_table().detach() for p in (scratch, other, pretrained)]
    assert not torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])
    assert scratch.count_parameters()[1] == sum(p.numel() for p in scratch.vision.parameters())
    assert list(scratch.frozen_fingerprint()) == ["vision"] and "with random weights, all" in scratch.describe()


def test_trained_weights_stay_float32_where_it_computes_in_bfloat16(config):
    for name in ("scratch", "lora"):
        policy = build(config, name, precision="bfloat16")
        assert all(p.dtype == torch.float32 for p in trainable_parameters(policy))
        rollout = roll_out(policy)
        assert rollout.state["keys"].dtype == torch.bfloat16
        log_prob, _, _ = policy.evaluate_segments(rollout.batch)
        gap = (log_prob.detach() - rollout.log_prob).abs()[rollout.batch.valid]
        assert gap.mean() < 0.3
        log_prob.sum().backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in policy.llm.trained().values())
        before = policy.evaluate_segments(rollout.batch)[0].detach()
        disturb(policy)
        with torch.no_grad():  # rounded anew
            assert not torch.equal(policy.evaluate_segments(rollout.batch)[0], before)


def test_blank_pictures_are_all_alike(config):
    policy = build(config, "blank")
    rgb = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    features = policy.encode(rgb)
    grey = policy.vision.encode(torch.full((1, 32, 32, 3), 128, dtype=torch.uint8))
    assert torch.equal(features, grey.expand(3, -1, -1))
    seeing = build(config)
    assert not torch.equal(seeing.encode(rgb)[0], seeing.encode(rgb)[1])


def test_an_instruction_too_long_is_told(config):
    for name in ("lstm", "scratch"):
        policy = build(config, name)
        features = policy.encode(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
        obs = {"features": features, "instruction": ["apple " * 80]}
        with pytest.raises(UserError, match="max_instruction_tokens=64"):
            policy.act(obs, policy.initial_state(1), torch.tensor([True]))


def test_text_features_do_not_depend_on_company(config):
    policy = build(config, "lstm")
    together = policy.instructions.get([text + AFTER for text in TEXTS])
    for text, row in zip(TEXTS, together, strict=True):
        other = build(config, "lstm")
        torch.testing.assert_close(other.instructions.get([text + AFTER])[0], row, atol=1e-5, rtol=1e-5)
    policy.instructions.max_bytes = 2 * row.nbytes
    kept: Tensor = policy.instructions.get(["a", "b", "c"])
    assert len(kept) == 3 and len(policy.instructions.get(["d"])) == 1 and len(policy.instructions._kept) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "gru"},
        {"head": "words"},
        {"lora_rank": -1},
        {"llm_weights": "random", "lora_rank": 4},
        {"llm_weights": "random", "head": "skill_names"},
        {"kind": "lstm", "lora_rank": 4},
        {"kind": "lstm", "num_visual_tokens": 2},
        {"lora_rank": 4, "tensor_parallel": 2},
        {"resampler": "perceiver", "vision_pool": "mean"},
        {"kind": "lstm", "visual_skip": True},
        {"kind": "lstm", "word_prior": True},
        {"llm_weights": "random", "word_prior": True},
        {"instruction_skip": True, "tensor_parallel": 2},
        {"resampler": "perceiver", "projector_hidden": 20},
    ],
)
def test_what_cannot_be_is_refused(config, wrong):
    with pytest.raises(UserError, match=r"policy\.\w+=|policy\.\w+ "):
        make_policy(replace(config, **wrong))


def test_the_class_fits_the_settings(config):
    with pytest.raises(UserError, match="make_policy"):
        LLaRPPolicy(replace(config, kind="lstm"))


# -- by the commands of a user -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the commands run in."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(training, "_film", lambda *args: [])
        make_tiny_llm(folder / "llm", tied=True)
        yield folder


def run(*words: str) -> dict[str, Any]:
    """What a command that must succeed puts into its result file."""
    assert cli.main([*words, "out=out.json"]) == 0
    return json.loads(Path("out.json").read_text())


TINY = ["config=smoke", "policy.llm=llm", "policy.vision=test_vit", "policy.vision_pool=grid2", "env.image_size=32",
        "policy.precision=float32", "policy.max_instruction_tokens=192", "task.max_steps=6", "train.eval_episodes=0",
        "train.warm_start=bc", "bc.episodes=8", "bc.epochs=1", "train.critic_warmup_steps=48"]  # fmt: skip
COMMANDS = {
    "lstm": ["policy.kind=lstm", "policy.lstm_hidden=32"],
    "scratch": ["policy.llm_weights=random"],
    "encoder_decoder_scratch": ["policy.kind=encoder_decoder", "policy.decoder_width=32", "policy.llm_weights=random"],
    "lora": ["policy.lora_rank=2", "policy.head=skill_names"],
    "perceiver": ["policy.resampler=perceiver", "policy.num_visual_tokens=2", "policy.pictures=blank"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_training_and_going_on_later(home: Path, name: str) -> None:
    """Cloning, critic and PPO, in one go and in two: the same numbers, so nothing of the running episodes is stale."""
    settings = load("smoke", [*TINY[1:], *COMMANDS[name]]).policy
    words = [*TINY, *COMMANDS[name]]
    run("train", *words, f"run_name={name}", "train.total_steps=96")
    run("train", *words, f"run_name={name}_parts", "train.total_steps=64")
    assert run("train", f"resume=runs/{name}_parts", "train.total_steps=96")["env_steps"] == 96
    rows = [
        [json.loads(line) for line in (Path("runs") / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (name, f"{name}_parts")
    ]
    ppo = [[row for row in part if "policy_loss" in row] for part in rows]
    assert [row["env_steps"] for row in ppo[0]] == [row["env_steps"] for row in ppo[1]] == [32, 64, 96]
    for whole, parts in zip(*ppo, strict=True):
        for key in ("policy_loss", "value_loss", "entropy", "grad_norm", "success_rate"):
            assert parts[key] == pytest.approx(whole[key], abs=1e-4), key
        assert whole["rollout_log_prob_gap_max"] < 1e-4
    assert load(str(Path("runs") / name / "config.yaml")).policy == settings


@pytest.fixture(scope="module")
def shown(home: Path) -> str:
    """A short run."""
    run("train", *TINY, *COMMANDS["lstm"], "run_name=shown", "train.total_steps=32", "train.warm_start=none")
    return "checkpoint=runs/shown"


@pytest.mark.parametrize("pictures", ["shuffled", "blank"])
def test_an_evaluation_with_other_pictures(shown: str, pictures: str) -> None:
    result = run("eval", shown, "episodes=4", f"pictures={pictures}")
    assert result["pictures"] == pictures and result["total"]["episodes"] == 4


def test_other_pictures_need_somebody_who_looks_and_another_world(shown: str, capsys) -> None:
    assert cli.main(["eval", "policy=sweep", "config=smoke", "episodes=2", "pictures=blank"]) == 2
    assert "pictures=blank goes with checkpoint=PATH" in capsys.readouterr().err
    assert cli.main(["eval", shown, "episodes=1", "pictures=shuffled"]) == 2
    assert "pictures=shuffled needs another world" in capsys.readouterr().err


def test_benchmarks_take_the_frozen_model_apart_only(home: Path, capsys) -> None:
    assert cli.main(["bench", "update", "config=smoke", "policy.llm=llm", "policy.kind=lstm"]) == 2
    assert "leave out policy.kind" in capsys.readouterr().err


def test_which_pictures_are_shown() -> None:
    seen: list[Tensor] = []

    class Watching:
        def act(self, observation: dict[str, Tensor], state: Any, start: Tensor, deterministic: bool) -> Any:
            seen.append(observation["rgb"])
            assert observation["instruction_id"].tolist() == [5, 6, 7]
            return start, None, None, state

    observation = {"rgb": torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 2, 2, 3),
                   "instruction_id": torch.tensor([5, 6, 7])}  # fmt: skip
    for pictures in ("camera", "shuffled", "blank"):
        agent = with_pictures(PolicyAgent(Watching()), pictures)
        agent.state = {}
        agent.act(observation, torch.zeros(3, dtype=torch.bool))
    assert [x[:, 0, 0, 0].tolist() for x in seen] == [[0, 1, 2], [1, 2, 0], [128, 128, 128]]
    with pytest.raises(UserError, match="checkpoint"):
        with_pictures(PlannerAgent("sweep"), "blank")


def test_what_a_policy_is_told(config) -> None:
    class Env:
        num_envs = 1

        def instruction_text(self, i: int) -> str:
            return "Put an apple in the sink."

        def upcoming_instructions(self, count: int) -> list[str]:
            return [self.instruction_text(0)]

    agents = [with_hearing(PolicyAgent(build(config, "encoder_decoder")), h) for h in ("named", "unknown", "described")]
    for agent in agents:
        agent.start(Env())
    named, unknown, described = (agent.policy for agent in agents)
    texts = [policy.instruction_text(0) for policy in (named, unknown, described)]
    assert texts == ["Put an apple in the sink."] * 2 + ["Put a thing in the sink."]
    assert named.pretended(torch.zeros(1, dtype=torch.int64)) is None
    assert [int(p.pretended(torch.zeros(1, dtype=torch.int64))[0].sum()) for p in (unknown, described)] == [1, 0]
    for agent in (PlannerAgent("sweep"), PolicyAgent(build(config, "lstm"))):
        with pytest.raises(UserError, match=r"hears=unknown goes with .*encoder_decoder"):
            with_hearing(agent, "unknown")
