"""The loop as a GPU runs it: the same results as on a CPU, and nothing in it for which the host would have to wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from host_waits import HostWaits
from tiny_llm import make_tiny_llm

from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.policy.config import PolicyConfig
from llarp.policy.instruction_cache import InstructionCache
from llarp.policy.policy import LLaRPPolicy
from llarp.rl import lookahead
from llarp.rl.collect import Collector
from llarp.rl.config import PPOConfig
from llarp.rl.lookahead import LateNumber
from llarp.rl.update import recompute
from llarp.tasks.actions import OPEN_FRIDGE, PICK_BASE, PLACE_BASE

NUM_ENVS = 6


def make_env(whole: bool, num_envs: int = NUM_ENVS, **settings) -> LanguageRearrangementVectorEnv:
    """Small pictures; `whole`: as on a GPU."""
    same = LanguageRearrangementVectorEnv(
        num_envs, output="torch", autoreset_mode="same_step", image_size=32, episodes=40, seed=0, **settings
    )
    same.world.whole = whole
    return same


def tensors(tree: dict, path: str = "") -> dict[str, torch.Tensor]:
    """A nested dict's tensors by their paths."""
    found: dict[str, torch.Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= tensors(value, f"{path}{key}.")
        elif isinstance(value, torch.Tensor):
            found[f"{path}{key}"] = value
    return found


@pytest.mark.parametrize("rules", ["clean", "published"])
def test_computing_every_skill_for_every_world_changes_nothing(rules):
    """States, pictures, rewards and ends over episodes with every kind of skill and with resets are the same."""
    ours, plain = (make_env(whole, rules=rules, render_threads=1) for whole in (True, False))
    for env in (ours, plain):
        env.reset()
        env.world.tracker.steps[:] = 2 * torch.arange(NUM_ENVS)
    generator = torch.Generator().manual_seed(1)
    kinds, ended = set(), 0
    for _ in range(40):
        valid = ours.valid_actions()
        weight = torch.where(valid, 1.0, 0.02)
        weight[:, PICK_BASE:] *= 6  # beside the many that only drive
        action = torch.multinomial(weight, 1, generator=generator)[:, 0]
        took = valid.gather(1, action[:, None])[:, 0]
        kinds |= {sum(a >= first for first in (PICK_BASE, PLACE_BASE, OPEN_FRIDGE)) for a in action[took].tolist()}
        (seen, *rest, info), (seen_plain, *rest_plain, info_plain) = ours.step(action), plain.step(action)
        assert torch.equal(seen["rgb"], seen_plain["rgb"])
        assert torch.equal(seen["instruction_id"], seen_plain["instruction_id"])
        for a, b in zip(rest, rest_plain, strict=True):
            assert torch.equal(a, b)
        for name in info:
            assert torch.equal(info[name], info_plain[name]), name
        now, now_plain = tensors(ours.state_dict()), tensors(plain.state_dict())
        assert now.keys() == now_plain.keys()
        for name in now:
            assert torch.equal(now[name], now_plain[name]), name
        ended += int((rest[1] | rest[2]).sum())
    assert kinds == {0, 1, 2, 3} and ended > NUM_ENVS


def test_the_environment_asks_the_device_nothing():
    env = make_env(whole=True)
    env.reset()
    env.world.tracker.steps[:] = 30 - torch.arange(NUM_ENVS)
    action = torch.randint(70, (8, NUM_ENVS))
    env.step(action[0])
    ended = torch.zeros(NUM_ENVS, dtype=torch.bool)
    with HostWaits() as waits:
        for own in action[1:]:
            _, _, terminated, truncated, _ = env.step(own)
            ended = ended | terminated | truncated
            env.final_observation()
    assert not waits.places
    assert ended.any()


# -- the policy and the collector --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = make_tiny_llm(tmp_path_factory.mktemp("llm"), tied=True)
    return PolicyConfig(llm=str(folder), vision="test_vit", vision_pool="grid2", image_size=32, precision="float32",
                        projector_hidden=32, action_hidden=32, resampler="cells", visual_skip=True,
                        instruction_skip=True, word_prior=True)  # fmt: skip


def make_collector(
    config: PolicyConfig, as_on_gpu: bool, *, packed: bool = True, cache_bytes: int = 0, device="cpu", **settings: Any
) -> Collector:
    """A collector whose worlds have come to different steps of their episodes."""
    torch.manual_seed(0)
    policy = LLaRPPolicy(config, device)
    policy.reads_ahead = as_on_gpu
    if not packed:
        policy.llm.decoder = None
    if cache_bytes:
        policy.instructions = InstructionCache(policy.llm, config.max_instruction_tokens, cache_bytes)
    collector = Collector(make_env(as_on_gpu, device=device), policy, **settings)
    collector.parts[0]._encode = policy.encode  # all pictures: else rounding differs
    collector.start()
    collector.env.world.tracker.steps.copy_(31 - 4 * torch.arange(NUM_ENVS))
    with torch.no_grad():
        policy.heads.actor.weight.normal_(std=0.5)  # log-probabilities then depend on everything
    return collector


def collect(collector: Collector, rollouts: int = 3, steps: int = 12) -> list[dict[str, torch.Tensor]]:
    """What rollouts hold, each followed by a refresh, as an update is."""
    torch.manual_seed(1)
    found = []
    for _ in range(rollouts):
        collector.run(steps)
        found.append(collector.finish().data)
        collector.env.world.tracker.steps.add_(15 * (torch.arange(NUM_ENVS) % 2)).clamp_(max=31)
        collector.refresh()
    return found


def assert_same(ours: list[dict[str, torch.Tensor]], plain: list[dict[str, torch.Tensor]]) -> None:
    assert sum(int(r["episode_start"].sum()) for r in plain) > 2 * NUM_ENVS
    for a, b in zip(ours, plain, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-5 if a[name].is_floating_point() else 0, rtol=0)


@pytest.fixture(scope="module")
def plain(config):
    return collect(make_collector(config, as_on_gpu=False))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_reading_ahead_changes_nothing(config, plain, packed):
    """Rows that start by index into what was read ahead, and fixed shapes, give the same actions and values."""
    collector = make_collector(config, as_on_gpu=True, packed=packed)
    assert_same(collect(collector), plain)
    assert collector.parts[0].lookahead.times_read == 1 + 3  # at the start and after each rollout


def test_reading_ahead_works_with_next_to_no_memory(config, plain, monkeypatch):
    """Where what is to come does not fit, less is read at once and more often, with the same result."""
    monkeypatch.setattr(LateNumber, "_has_arrived", lambda self: False)
    collector = make_collector(config, as_on_gpu=True, cache_bytes=1)
    assert_same(collect(collector), plain)
    assert collector.parts[0].lookahead.times_read > 2 * (1 + 3)
    assert len(collector.policy.instructions.pages) < 200


def test_reading_ahead_is_safe_when_the_count_comes_late(config, plain, monkeypatch):
    """The count of episodes begun is known on the host only now and then: more is read, nothing is missed."""
    calls = iter(range(10**6))
    monkeypatch.setattr(LateNumber, "_has_arrived", lambda self: next(calls) % 5 == 4)
    collector = make_collector(config, as_on_gpu=True)
    assert_same(collect(collector), plain)
    assert 4 <= collector.parts[0].lookahead.times_read < 20


def test_what_was_read_ahead_is_read_again_once_its_room_is_gone(config):
    collector = make_collector(config, as_on_gpu=True)
    collector.run(2)
    lookahead, instructions = collector.parts[0].lookahead, collector.policy.instructions
    ready = lookahead.ready(collector.parts[0].instruction_id)
    assert ready.intact
    instructions.forget()
    assert not ready.intact
    times = lookahead.times_read
    collector.run(1)
    assert lookahead.times_read == times + 1


def test_reading_ahead_begins_anew_when_all_worlds_do(config, monkeypatch):
    """As when a critic is fitted in the worlds between a run's checkpoint and its going on."""
    monkeypatch.setattr(lookahead, "MARGIN", 0)
    ours, plain = (make_collector(config, as_on_gpu) for as_on_gpu in (True, False))
    for collector in (ours, plain):
        torch.manual_seed(2)
        collector.run(3)
        collector.finish()
        for _ in range(3):
            collector.env.reset()
        collector.start()
    assert_same(collect(ours), collect(plain))


def test_an_instruction_that_is_not_ready_is_noticed(config):
    policy = LLaRPPolicy(config)
    policy.bind_instructions(["go to the sink", "open the fridge"].__getitem__)
    state = policy.initial_state(2)
    ready = policy.read_ahead([1], need=1)
    features = torch.zeros(2, policy.vision.num_tokens, policy.vision.dim)
    obs = {"features": features, "instruction_id": torch.tensor([1, 0]), "ready": ready}
    with pytest.raises(RuntimeError, match="never started"):
        policy.act(obs, state, torch.tensor([True, True]))
    obs["instruction_id"] = torch.tensor([1, 1])
    policy.act(obs, state, torch.tensor([True, True]))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_rollout_asks_the_device_nothing(config, packed):
    """Drawing, encoding, acting, stepping, resetting, storing: no step in which the host would wait."""
    collector = make_collector(config, as_on_gpu=True, packed=packed, final_observations=True)
    collector.run(1)
    with HostWaits() as waits:
        collector.run(10)
    assert not waits.places
    assert collector.finish().data["episode_start"][1:].any(1).sum() > 2  # episodes began in several of the steps


@pytest.mark.parametrize(
    ("device", "graph"),
    [("cpu", False), *(pytest.param("cuda", graph, marks=pytest.mark.gpu) for graph in (False, True))],
)
def test_the_update_finds_what_the_rollout_said(config, device, graph):
    """Log-probabilities of whole segments equal those of the steps, which on a GPU are made without waiting for it."""
    collector = make_collector(replace(config, cuda_graph=graph), as_on_gpu=True, device=device)
    collector.run(12)  # compiles, records, allocates
    collector.finish()
    collector.refresh()
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        collector.run(12)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    rollout = collector.finish()
    assert rollout.num_context > 0 and int(rollout.data["episode_start"].sum()) > 2
    log_prob, value, _ = recompute(collector.policy, rollout, PPOConfig())
    torch.testing.assert_close(log_prob, rollout.data["log_prob"], atol=1e-4, rtol=0)
    torch.testing.assert_close(value, rollout.data["value"], atol=1e-4, rtol=0)


# -- the detector ------------------------------------------------------------------------------------------------------


def test_waits_are_noticed():
    """The detector sees each way in which a host waits for a device, and passes what needs no waiting."""
    x, mask, index = torch.zeros(4), torch.tensor([True, False, True, False]), torch.arange(2)

    def assign(where, value):
        x.clone()[where] = value

    def assign_number():
        torch.zeros(2, 2)[index, index] = 1.0

    asking = [
        lambda: bool(mask.any()), lambda: int(index[0]), lambda: x.tolist(), lambda: mask.nonzero(), lambda: x[mask],
        lambda: assign(mask, x[:2]), lambda: x.cpu(), lambda: x.numpy(), lambda: torch.tensor([1, 2]),
        lambda: x[[0, 1]], assign_number, lambda: index.unique(), lambda: torch.multinomial(x + 1, 1),
        lambda: x[0].item(), lambda: torch.equal(x, x), lambda: x.repeat_interleave(torch.tensor([1, 2, 1, 0])),
    ]  # fmt: skip
    for ask in asking:
        with HostWaits() as waits:
            ask()
        assert waits.places
        assert all("test_no_sync.py" in place for place in waits.places)
    with HostWaits() as waits:
        torch.where(mask, 0.0, x).cumsum(0)[index].argmax()
        assign(index, x[:2])
        x.masked_fill(mask, 1.0).clone()
    assert not waits.places
