"""Behaviour cloning: demonstrations on the disk, resuming, DAgger, and what the commands do with them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from memory_env import CHOICES, COLOURS, WORDS, MemoryEnv, RecurrentPolicy
from safetensors import safe_open
from safetensors.torch import save
from tiny_llm import make_tiny_llm

from llarp import cli
from llarp import train as training
from llarp.cloning import Cloning, rows_of
from llarp.config import load
from llarp.envs.episode_source import load_episodes
from llarp.errors import UserError
from llarp.policy.lstm import TextFeatures
from llarp.policy.reader import InstructionReader
from llarp.rl import checkpoint
from llarp.rl.bc import Cloner, CloningLoss
from llarp.rl.beside import Beside
from llarp.rl.collect import Collector
from llarp.rl.config import BCConfig, PPOConfig, TrainConfig
from llarp.rl.critic import fit_critic
from llarp.rl.demonstrate import ByPolicy, Noise, collect, play
from llarp.rl.demonstrations import Demonstrations, Played, Store
from llarp.rl.returns import ReturnScale
from llarp.rl.trainer import Trainer
from llarp.rl.update import ppo_update, trainable_parameters
from llarp.tasks.actions import NUM_ACTIONS, pick
from llarp.tasks.entities import CATEGORY_INDEX, NOVEL_KINDS
from llarp.tasks.planners import Explorer

SETTINGS = {"vision": "abc", "noise": 0.25}


class Episodes:
    """The memory environment's task as a fixed list of episodes, each played once; planners see the answer.

    Episode e has colour e % 3 and instruction e // 3 % 3; `lost`: numbers of episodes that the simulator loses."""

    def __init__(self, numbers: list[int], num_envs: int, lost: tuple[int, ...] = ()) -> None:
        self.numbers, self.num_envs, self.lost = numbers, num_envs, lost
        self.delay = MemoryEnv(1).delay
        self._next = 0
        self.active = torch.ones(num_envs, dtype=torch.bool)
        self.world = SimpleNamespace(episode=torch.zeros(num_envs, dtype=torch.int64))
        self._age = torch.zeros(num_envs, dtype=torch.int64)

    def reset(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        for i in range(self.num_envs):
            self._begin(i)
        return self._observe(), {}

    def _begin(self, i: int) -> None:
        self.active[i] = self._next < len(self.numbers)
        self.world.episode[i] = min(self._next, len(self.numbers) - 1)
        self._age[i] = 0
        self._next += 1

    def _facts(self) -> tuple[torch.Tensor, torch.Tensor]:
        number = torch.tensor(self.numbers)[self.world.episode]
        return number % CHOICES, number // CHOICES % CHOICES

    def _observe(self) -> dict[str, torch.Tensor]:
        colour, instruction = self._facts()
        shown = torch.where((self._age == 0)[:, None], COLOURS[colour], torch.full_like(COLOURS[colour], 128))
        return {"rgb": shown[:, None, None].expand(-1, 4, 4, -1), "instruction_id": instruction}

    def step(self, action: torch.Tensor) -> tuple[Any, ...]:
        colour, instruction = self._facts()
        over = self._age == self.delay
        right = over & (action % CHOICES**2 == CHOICES * colour + instruction)
        dropped = torch.tensor([self.numbers[e] in self.lost for e in self.world.episode.tolist()]) & (self._age == 1)
        self._age = self._age + 1
        truncated = (over & ~right) | dropped
        for i in (over | dropped).nonzero().flatten().tolist():
            self._begin(i)
        return self._observe(), right.float(), right, truncated, {"success": right, "dropped": dropped}

    def planner_views(self) -> list[Any]:
        colour, instruction = self._facts()
        return [SimpleNamespace(answer=answer) for answer in (CHOICES * colour + instruction).tolist()]

    def instruction_text(self, instruction_id: int) -> str:
        return WORDS[instruction_id]

    def upcoming_instructions(self, count: int) -> list[str]:
        return list(WORDS)


class Peeking:
    """A planner that reads the answer and remembers what it was told."""

    told: list[int] = []

    def reset(self, view: Any) -> None:
        self.answer = view.answer

    def act(self, view: Any) -> int:
        assert view.answer == self.answer  # it was reset when the episode began
        return self.answer

    def overruled(self, action: int) -> None:
        assert action != self.answer
        Peeking.told.append(action)

    def slip(self, view: Any, draw: float) -> int:
        return (self.answer + 1 + int(draw * (NUM_ACTIONS - 1))) % NUM_ACTIONS


def played(numbers: list[int], noise: float = 0.25, num_envs: int = 5, lost: tuple[int, ...] = ()) -> Iterator[Played]:
    policy = RecurrentPolicy()
    env = Episodes(numbers, min(num_envs, len(numbers)), lost)
    return play(env, policy.encode, Peeking, Noise(noise, 7), numbers)


def store_of(path: Path, count: int, **settings: Any) -> Store:
    store = Store(path, SETTINGS | settings)
    collect(store, range(count), played, minutes=0, log=lambda _: None)
    return store


def demonstrations(path: Path, count: int) -> Demonstrations:
    return Demonstrations(store_of(path, count).read())


def weights(policy: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


# -- demonstrations ---------------------------------------------------------------------------------------------------


def test_labels_are_the_planners_where_another_action_was_done_and_it_is_told() -> None:
    Peeking.told = []
    found = {e.number: e for e in played(list(range(100)))}
    assert sorted(found) == list(range(100))
    assert all(e.label == [CHOICES * (n % 3) + n // 3 % 3] * 4 for n, e in found.items())
    slips = [a for e in found.values() for a, label in zip(e.action, e.label, strict=True) if a != label]
    assert 0.18 < len(slips) / 400 < 0.32 and sorted(slips) == sorted(Peeking.told)
    for n, e in found.items():
        assert e.instruction == WORDS[n // 3 % 3] and e.success == (e.action[3] % 9 == e.label[3])
    assert found[1].features.dtype == torch.float16 and found[1].features.shape == (4, 1, 3)
    torch.testing.assert_close(found[1].features[0, 0].float(), COLOURS[1] / 255, atol=1e-3, rtol=0)


def test_mistakes_do_not_depend_on_which_worlds_play_together() -> None:
    one, many = (sorted(played(list(range(30)), num_envs=n), key=lambda e: e.number) for n in (1, 8))
    assert [e.action for e in one] == [e.action for e in many] and any(e.action != e.label for e in one)


def test_an_interrupted_collection_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[int] = []
    store = Store(tmp_path / "parts", SETTINGS)
    collect(store, range(40), played, minutes=0, log=lambda _: None, stop=lambda: asked.append(1) or len(asked) > 12)
    there = store.numbers()
    assert 0 < len(there) < 40
    again: list[int] = []
    collect(store, range(40), lambda n: again.extend(n) or played(n), minutes=0, log=lambda _: None)
    assert not set(again) & there and len(store.shards()) == 2
    parts, whole = Demonstrations(store.read()), demonstrations(tmp_path / "whole", 40)
    assert parts.number.tolist() == list(range(40)) and parts.texts == whole.texts == sorted(WORDS)
    index = torch.tensor([0, 17, 39])
    for name, part in vars(parts.batch(index)).items():
        same = getattr(whole.batch(index), name)
        assert (part is same is None and name in ("unknown", "expected")) or torch.equal(part, same), name
    collect(store, range(40), lambda n: pytest.fail("all are there"), minutes=0, log=lambda _: None)


def test_a_time_limit_ends_the_collection_with_what_there_is(tmp_path: Path) -> None:
    clock = iter(range(10**6))
    store = Store(tmp_path, SETTINGS)
    collect(store, range(40), played, minutes=0.1, log=lambda _: None, clock=lambda: float(next(clock)))
    assert 1 <= len(store.numbers()) < 40


def test_a_lost_episode_is_no_demonstration_and_is_not_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    collect(store, range(12), lambda n: played(n, lost=(3, 7)), minutes=0, log=lambda _: None)
    demos = Demonstrations(store.read())
    assert store.numbers() == set(range(12)) and demos.number.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert demos.length.tolist() == [4] * 10
    assert [int(demos.label[4 * i]) for i in range(10)] == [3 * (n % 3) + n // 3 % 3 for n in demos.number.tolist()]


def test_a_batch_holds_labels_and_what_was_really_done(tmp_path: Path) -> None:
    demos = demonstrations(tmp_path, 20)
    batch = demos.batch(torch.tensor([3, 5]))
    assert batch.action[0].tolist() == demos.label[12:16].tolist() and batch.valid.all()
    assert batch.previous_action[1].tolist() == [NUM_ACTIONS, *demos.action[20:23].tolist()]
    assert torch.equal(batch.features[1], demos.features(5).float())
    assert [demos.instruction_text(i) for i in batch.instruction_id.tolist()] == [WORDS[1], WORDS[1]]


@pytest.mark.parametrize("pads", [False, True])
def test_batches_hold_every_episode_once_within_the_token_budget(tmp_path: Path, pads: bool) -> None:
    demos = demonstrations(tmp_path, 50)
    demos.length = torch.randint(1, 9, (50,), generator=torch.Generator().manual_seed(0))
    batches = demos.batches(torch.arange(50), 16, torch.Generator().manual_seed(0), pads)
    assert sorted(torch.cat(batches).tolist()) == list(range(50))
    sizes = [len(b) * int(demos.length[b].max()) if pads else int(demos.length[b].sum()) for b in batches]
    assert max(sizes) <= 16 and sum(sizes) / len(sizes) > 10
    (alone,) = demos.batches(torch.tensor([4]), 0, torch.Generator(), pads)
    assert alone.tolist() == [4]


def test_held_out_episodes_stay_held_out_as_more_come(tmp_path: Path) -> None:
    few, many = demonstrations(tmp_path, 60), demonstrations(tmp_path, 200)
    assert torch.equal(few.held_out(0.2, 1), many.held_out(0.2, 1)[:60])
    assert 20 < int(many.held_out(0.2, 1).sum()) < 60 and not many.held_out(0.0, 1).any()


def test_a_folder_of_other_settings_or_with_other_things_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "a", 5)
    with pytest.raises(UserError, match=r"holds demonstrations with noise=0.25, this run wants 0.5"):
        Store(tmp_path / "a", SETTINGS | {"noise": 0.5})
    with pytest.raises(UserError, match="something else"):
        Store(tmp_path, SETTINGS)
    (tmp_path / "a" / "settings.json").write_text("[1")
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "a", SETTINGS)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "file", SETTINGS)


def test_a_damaged_shard_is_refused_in_one_line(tmp_path: Path) -> None:
    store = store_of(tmp_path, 5)
    (file,) = store.shards()
    whole = file.read_bytes()
    renamed = whole.replace(b"instruction", b"instruktion")
    with safe_open(file, framework="pt") as shard:
        tensors, words = {name: shard.get_tensor(name) for name in shard.keys()}, shard.metadata()  # noqa: SIM118
    wrong = [({**tensors, "label": tensors["label"] + NUM_ACTIONS}, words), (tensors, {"instruction": "5"}),
             ({**tensors, "number": tensors["number"].sum()}, words)]  # fmt: skip
    others = [save(*content) for content in wrong]
    for damage in (whole[:-7], whole[: len(whole) // 2], b"", b"\xff" * 64, renamed, *others):
        file.write_bytes(damage)
        with pytest.raises(UserError, match="damaged") as caught:
            store.read()
        assert "\n" not in str(caught.value)


def test_numbers_name_training_episodes_pass_by_pass() -> None:
    rows = rows_of(list(range(25)), 10, 3)
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10)) and rows[:10] != rows[10:20]
    assert rows_of([24, 3], 10, 3) == [rows[24], rows[3]]


def test_an_explorer_that_is_told_goes_on_after_mistakes() -> None:
    """One that took its own choice for done believes that it stands where it never drove, and fails sometimes."""

    class Deaf(Explorer):
        def overruled(self, action: int) -> None:
            pass

    config = load("smoke", ["device=cpu", "env.image_size=64", "env.episodes=48"])
    episodes = load_episodes(config.env, 1)
    steps = {}
    for kind in (Explorer, Deaf):
        env = training.build_env(config, episode_set=episodes, num_envs=12, quota=True, visibility=True)
        found = list(play(env, lambda rgb: torch.zeros(len(rgb), 1, 1), kind, Noise(0.3, 1), list(range(48))))
        assert len(found) == 48 and all(len(e.features) == len(e.action) == len(e.label) <= 32 for e in found)
        steps[kind] = sum(len(e.action) for e in found)
        env.close()
        if kind is Explorer:
            assert sum(e.success for e in found) >= 47  # of pictures this small; one may run out of steps
    assert steps[Explorer] < 0.9 * steps[Deaf]


# -- cloning ----------------------------------------------------------------------------------------------------------


def cloner_of(demos: Demonstrations, policy: RecurrentPolicy | None = None, **settings: Any) -> Cloner:
    torch.manual_seed(0)
    config = BCConfig(**({"epochs": 3, "lr": 1e-2, "batch_tokens": 64, "train_minutes": 0.0} | settings))
    cloner = Cloner(policy or RecurrentPolicy(), config, seed=0)
    cloner.begin(demos)
    return cloner


def test_cloning_then_fitting_the_critic(tmp_path: Path) -> None:
    cloner = cloner_of(demonstrations(tmp_path, 400), epochs=15)
    assert cloner.train(lambda _: None, lambda: False) and cloner.progress == 1
    result = cloner.summary()
    assert result["bc_held_out_accuracy"] > 0.95 and result["bc_tokens"] == 15 * 4 * len(cloner.used)
    # The clone fails sometimes (it samples), but its return after the first picture is nearly known.
    policy = cloner.policy
    before = {name: p.clone() for name, p in policy.named_parameters()}
    env = MemoryEnv(8)
    env._age = torch.zeros_like(env._age)  # every episode has its first picture
    fitted = fit_critic(env, policy, PPOConfig(), steps=800)
    assert fitted["critic_transitions"] == 800  # 100 steps of 8 worlds, whole episodes of 4
    changed = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"critic.weight", "critic.bias"}
    collector = Collector(env, policy)
    collector.start()
    for _ in range(40):
        collector.step()
    assert collector.finish().data["value"].mean().item() == pytest.approx(0.98, abs=0.06)


@pytest.mark.parametrize("settings", [{}, {"window": 20, "window_passes": 2, "feature_noise": 0.3}])
def test_resumed_cloning_is_the_same_as_one_without_a_break(tmp_path: Path, settings: dict[str, Any]) -> None:
    demos = demonstrations(tmp_path, 60)
    settings |= {"batch_tokens": 16}
    whole = cloner_of(demos, **settings)
    whole.train(lambda _: None, lambda: False)
    part, breaks = cloner_of(demos, **settings), 0
    left = iter([4, 1, 9, 2] + [10**6])
    while not part.finished:
        steps = part.steps + next(left)
        if part.train(lambda _: None, lambda: part.steps >= steps):  # noqa: B023
            break
        breaks += 1
        state, policy = copy.deepcopy(part.state_dict()), copy.deepcopy(part.policy)
        part = Cloner(policy, whole.config, seed=0)
        part.load_state_dict(state)
        part.begin(demos)
    assert breaks == 4 and part.steps == whole.steps and part.tokens == whole.tokens
    assert torch.equal(weights(part.policy), weights(whole.policy))


def test_passes_come_together_within_a_window(tmp_path: Path) -> None:
    cloner = cloner_of(demonstrations(tmp_path, 60), epochs=5, window=20, window_passes=2, holdout=0.0, batch_tokens=4)
    order: list[int] = []

    def step(batch: Any, index: torch.Tensor) -> None:
        order.extend(index.tolist())
        cloner.seen, cloner.at = cloner.seen + len(index), cloner.at + 1

    cloner._step = step  # type: ignore[method-assign]
    cloner.train(lambda _: None, lambda: False)
    assert len(order) == 300 and sorted(order[240:]) == list(range(60))  # the fifth pass, by itself
    for first in range(0, 240, 40):  # a window, twice
        once, again = order[first : first + 20], order[first + 20 : first + 40]
        assert len(set(once)) == 20 and set(once) == set(again) and once != again


def test_a_time_budget_ends_the_cloning_and_is_its_schedule(tmp_path: Path) -> None:
    now = [0.0]
    demos = demonstrations(tmp_path, 20)
    cloner = cloner_of(demos, epochs=10**6, train_minutes=1.0)
    cloner.clock = lambda: now[0]
    rates: list[float] = []
    step = cloner._step

    def timed(*batch: Any) -> None:
        step(*batch)
        rates.append(cloner.optimizer.param_groups[0]["lr"])
        now[0] += 1

    cloner._step = timed  # type: ignore[method-assign]
    assert cloner.train(lambda _: None, lambda: False)
    assert 59 <= len(rates) <= 61 and max(rates) > 0.9e-2 and rates[-1] < 1e-4 and cloner.progress == 1


def test_held_out_categories_are_not_unlearned() -> None:
    logits = torch.zeros(1, 2, NUM_ACTIONS, requires_grad=True)
    mug = pick(CATEGORY_INDEX["mug"])
    batch = SimpleNamespace(valid=torch.tensor([[True, True]]), action=torch.tensor([[3, 3]]))
    loss = CloningLoss(SimpleNamespace(action_logits=lambda _: (logits, None), unknown_steps=0), batch)  # type: ignore[arg-type]
    assert float(loss.mean) == pytest.approx(math.log(NUM_ACTIONS - len(NOVEL_KINDS)))
    loss.mean.backward()
    assert logits.grad is not None and not logits.grad[..., mug].any() and bool(logits.grad[..., 4].all())
    batch.action[0, 1] = mug  # a demonstration of one counts
    loss = CloningLoss(SimpleNamespace(action_logits=lambda _: (logits, None), unknown_steps=0), batch)  # type: ignore[arg-type]
    others = NUM_ACTIONS - len(NOVEL_KINDS)
    assert float(loss.mean) == pytest.approx((math.log(others) + math.log(others + 1)) / 2)


def test_words_are_hidden_while_cloning_only_and_the_same_ones_when_resumed(tmp_path: Path) -> None:
    def losses(share: float) -> tuple[list[float], dict[str, float]]:
        torch.manual_seed(0)
        policy = Reading()
        cloner = Cloner(policy, BCConfig(epochs=2, batch_tokens=32, lr=1e-12, word_dropout=share), seed=5)
        cloner.begin(demonstrations(tmp_path, 60))
        logged: list[float] = []
        with policy.bound_to(cloner.demonstrations.instruction_text):
            for index in cloner._batches():
                cloner._step(cloner.demonstrations.batch(index), index)
                logged.append(cloner._metrics()["bc_loss"])
        return logged, cloner.evaluate()

    (hidden, after), (again, _), (plain, wanted) = losses(0.5), losses(0.5), losses(0.0)
    assert hidden == again and hidden != plain and after == wanted
    with pytest.raises(UserError, match=r"policy\.instruction_skip"):
        Cloner(RecurrentPolicy(), BCConfig(word_dropout=0.1), seed=0)


class Reading(RecurrentPolicy):
    """One whose logits are what a reader makes of five words."""

    def __init__(self) -> None:
        super().__init__()
        reader = InstructionReader(6, 4, NUM_ACTIONS)
        torch.nn.init.normal_(reader.out.weight)
        self.heads = SimpleNamespace(reader=reader)
        self.words = torch.randn(6, 1, 1, 5, 4)

    def action_logits(self, batch: Any) -> Any:
        logits, value = super().action_logits(batch)
        rows = torch.zeros(len(logits), dtype=torch.int64)
        return self.heads.reader(logits, self.words, rows + 5, rows), value


def test_too_few_demonstrations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few"):
        cloner_of(demonstrations(tmp_path, 1), holdout=0.9)


def test_dagger_lets_the_policy_act_and_the_planner_label(tmp_path: Path) -> None:
    cloner = cloner_of(demonstrations(tmp_path, 400), epochs=15)
    cloner.train(lambda _: None, lambda: False)

    def shares(policy: RecurrentPolicy, beta: float) -> list[float]:
        env = Episodes(list(range(60)), 6)
        acted = list(play(env, policy.encode, Peeking, ByPolicy(policy, env, beta, seed=3), list(range(60))))
        assert all(e.label == [CHOICES * (e.number % 3) + e.number // 3 % 3] * 4 for e in acted)
        return [sum(a == b for a, b in zip(e.action, e.label, strict=True)) / 4 for e in acted]

    torch.manual_seed(5)
    untrained, trained = shares(RecurrentPolicy(), 0.0), shares(cloner.policy, 0.0)
    assert sum(untrained) / 60 < 0.2 and sum(trained) / 60 > 0.8
    mixed = shares(RecurrentPolicy(), 0.5)
    assert 18 <= mixed.count(1.0) <= 42  # the planner's own episodes


def test_a_round_has_its_own_episodes_whatever_a_shared_folder_holds(tmp_path: Path) -> None:
    """The planner's demonstrations of the episodes that DAgger's round plays lie there too, from a longer run."""
    own = Store(tmp_path / "round_1", SETTINGS | {"round": 1})
    collect(own, range(20, 30), lambda numbers: played(numbers, noise=0.9), minutes=0, log=lambda _: None)
    stores = [store_of(tmp_path / "planner", 30), own]
    cloning = object.__new__(Cloning)
    cloning.config = SimpleNamespace(bc=BCConfig(episodes=20, dagger_rounds=1, dagger_episodes=10))
    cloning.cloner, cloning.base, cloning._store = SimpleNamespace(numbers=None), tmp_path, stores.__getitem__
    found = cloning.demonstrations(1)
    assert found.number.tolist() == list(range(30))
    wanted = [Demonstrations(stores[0].read(), range(20)).action, Demonstrations(own.read()).action]
    assert torch.equal(found.action, torch.cat(wanted))
    assert len(cloning.demonstrations(0)) == 20


# -- beside PPO -------------------------------------------------------------------------------------------------------


def a_rollout(policy: RecurrentPolicy) -> Any:
    collector = Collector(MemoryEnv(6), policy)
    collector.start()
    collector.run(9)
    return collector.finish()


def test_the_combined_gradient_is_the_sum_of_both(tmp_path: Path) -> None:
    """One step of plain gradient descent at rate 1, not clipped: what the weights moved by."""
    torch.manual_seed(0)
    policy, demos = RecurrentPolicy(), demonstrations(tmp_path, 40)
    rollout = a_rollout(policy)
    index = Beside(policy, demos, BCConfig(), 1.0, 1000, seed=3).draw(rollout.num_transitions)
    assert rollout.num_transitions - 4 < int(demos.length[index].sum()) <= rollout.num_transitions

    def moved(coef: float, max_tokens: int = 1000) -> tuple[torch.Tensor, dict[str, float]]:
        learner = copy.deepcopy(policy)
        optimizer = torch.optim.SGD(trainable_parameters(learner), lr=1.0)
        config = PPOConfig(num_minibatches=1, num_epochs=1, max_grad_norm=1e9)
        beside = Beside(learner, demos, BCConfig(), coef, max_tokens, seed=3) if coef else None
        stats = ppo_update(learner, optimizer, rollout, config, torch.Generator().manual_seed(0), beside=beside)
        return weights(policy) - weights(learner), stats

    alone, stats = moved(0.0)
    assert "bc_loss" not in stats
    learner = copy.deepcopy(policy)
    loss = CloningLoss(learner, demos.batch(index))
    loss.mean.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()]
    cloning = torch.cat([gradient.flatten() for gradient in gradients])
    for tokens in (1000, 8):
        both, stats = moved(0.7, tokens)
        torch.testing.assert_close(both, alone + 0.7 * cloning, atol=1e-5, rtol=1e-4)
        assert stats["bc_loss"] == pytest.approx(float(loss.mean.detach()), rel=1e-4) and 0 <= stats["bc_accuracy"] <= 1
    assert cloning.abs().max() > 1e-3


def test_demonstrations_beside_ppo_come_in_passes_and_go_on(tmp_path: Path) -> None:
    demos = demonstrations(tmp_path, 10)
    beside, drawn = Beside(RecurrentPolicy(), demos, BCConfig(), 1.0, 100, seed=1), []
    for _ in range(5):
        drawn += beside.draw(17).tolist()  # four episodes of four steps
    assert len(drawn) == 20 and sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10] != drawn[10:]
    later = Beside(RecurrentPolicy(), demos, BCConfig(), 1.0, 100, seed=1, drawn=12)
    assert later.draw(20).tolist() == drawn[12:17] and later.draw(1).tolist() == drawn[17:18]


def trainer_of(policy: RecurrentPolicy, log: list[dict[str, float]], total: int = 400, **ppo: Any) -> Trainer:
    settings = PPOConfig(**({"num_steps": 10, "num_minibatches": 2, "lr": 3e-3} | ppo))
    return Trainer(MemoryEnv(4), policy, settings, TrainConfig(total_steps=total), seed=0, log=log.append)


def test_ppo_with_demonstrations_learns_what_they_show_and_resumes(tmp_path: Path) -> None:
    demos, log = demonstrations(tmp_path, 60), []
    torch.manual_seed(0)
    trainer = trainer_of(RecurrentPolicy(), log, bc_coef=1.0, lr=1e-2)
    trainer.learn_beside(demos, BCConfig())
    trainer.run()
    assert log[-1]["bc_accuracy"] > log[0]["bc_accuracy"] + 0.3 and log[-1]["bc_loss"] < log[0]["bc_loss"] - 1
    again = trainer_of(RecurrentPolicy(), [], bc_coef=1.0)
    checkpoint.save(tmp_path / "step_1.pt", trainer.policy, trainer.state_dict())
    again.load(tmp_path / "step_1.pt")
    assert again.shown == demos.number.tolist()  # and no others that the folder may hold by then
    again.learn_beside(demos, BCConfig())
    assert again.beside.drawn == trainer.beside.drawn > 60


@pytest.mark.parametrize(("schedule", "shares"), [("constant", [1, 1]), ("linear", [1, 0.6]), ("cosine", [1, 0.6545])])
def test_the_learning_rate_falls_as_asked(schedule: str, shares: list[float]) -> None:
    log: list[dict[str, float]] = []
    torch.manual_seed(0)
    trainer_of(RecurrentPolicy(), log, total=400, lr_schedule=schedule).run()
    assert [log[0]["lr"], log[4]["lr"]] == pytest.approx([3e-3 * share for share in shares], rel=1e-3)
    assert len(log) == 10


def test_normalised_returns_have_deviation_one_and_keep_their_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    scale, gamma = ReturnScale(5, 0.9), 0.9
    seen, running = [], [0.0] * 5
    for _ in range(4):
        reward = 30 * torch.rand(8, 5, generator=generator)
        done = torch.rand(8, 5, generator=generator) < 0.2
        data = {"reward": reward.clone(), "terminated": done, "truncated": torch.zeros_like(done)}
        rollout = SimpleNamespace(data=data, kept=torch.ones_like(done))
        scale.normalize(rollout)
        for t in range(8):
            for i in range(5):
                running[i] = gamma * running[i] + float(reward[t, i])
                seen.append(running[i])
                running[i] = 0.0 if done[t, i] else running[i]
        deviation = torch.tensor(seen, dtype=torch.float64).std(correction=0)
        assert scale.deviation == pytest.approx(float(deviation), rel=1e-5)
        torch.testing.assert_close(rollout.data["reward"], reward / scale.deviation)
    other = ReturnScale(5, 0.9)
    assert other.deviation == 1
    other.load_state_dict(scale.state_dict())
    assert other.deviation == scale.deviation


def test_the_critic_is_fitted_to_normalised_returns_and_ppo_goes_on_with_the_scale() -> None:
    torch.manual_seed(0)
    log: list[dict[str, float]] = []
    trainer = trainer_of(RecurrentPolicy(), log, normalize_returns=True)
    fitted = fit_critic(trainer.collector.env, trainer.policy, trainer.ppo, 200, scale=trainer.scale)
    assert fitted["critic_transitions"] > 100
    counted = trainer.scale.sums["count"]
    trainer.run()
    assert counted == 200 and trainer.scale.sums["count"] == 200 + trainer.env_steps
    assert log[-1]["return_deviation"] == trainer.scale.deviation != 1


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A folder to run in, and settings under which everything is small."""
    home = tmp_path_factory.mktemp("home")
    make_tiny_llm(home / "llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        yield ["config=smoke", "policy.llm=llm", "policy.vision=test_vit", "policy.vision_pool=grid2", "bc.epochs=3",
               "policy.precision=float32", "policy.max_instruction_tokens=192", "env.image_size=32", "task.max_steps=6",
               "bc.episodes=10", "bc.batch_tokens=24", "bc.train_minutes=0", "train.eval_episodes=2",
               "bc.dagger_rounds=1", "bc.dagger_episodes=4"]  # fmt: skip


def run(*words: str, out: str = "out.json") -> Any:
    assert cli.main([*words, f"out={out}"]) == 0
    return json.loads(Path(out).read_text())


@pytest.fixture(scope="module")
def cloned(tiny: list[str]) -> dict[str, Any]:
    """A whole run of behaviour cloning."""
    return run("train", *tiny, "algorithm=bc", "bc.demonstrations=shared", "run_name=a")


def test_cloning_as_an_algorithm_ends_with_an_evaluation_and_a_report(cloned: dict[str, Any]) -> None:
    folder = Path("runs/a")
    assert {"run_dir", "env_steps", "wall_s", "steps_per_s", "success_rate"} <= cloned.keys()
    assert list(cloned["evaluations"]) == ["after cloning"] and cloned["evaluations"]["after cloning"]["episodes"] == 2
    assert cloned["cloning"]["demonstrations"] == 14 and not cloned["interrupted"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1] and rows[-1]["env_steps"] == cloned["env_steps"]
    assert all({"wall_s", "steps_per_s", "loss", "accuracy", "percent"} <= row.keys() for row in rows)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [stage["stage"] for stage in manifest["stages"]] == ["bc"]
    assert (folder / "report.html").exists() and (folder / "videos" / "held_out.mp4").exists()
    assert not (folder / "demonstrations" / "planner").exists() and (folder / "demonstrations" / "round_1").exists()


def test_a_stopped_cloning_goes_on_to_the_same_weights(cloned: dict[str, Any], tiny: list[str], monkeypatch) -> None:
    """Stopped while collecting, while cloning and between: the same but for rounding, as pictures and instructions
    are then read in other batches."""
    words, stops = ["train", *tiny, "algorithm=bc", "bc.demonstrations=shared2", "run_name=b"], 0
    for limit in (1, 2, 9, 5):
        asked: list[int] = []
        monkeypatch.setattr(training, "within", lambda *_: lambda: asked.append(1) or len(asked) > limit)  # noqa: B023
        result = run(*words)
        assert result["interrupted"] and not result["evaluations"]
        words, stops = ["train", "resume=runs/b"], stops + 1
    monkeypatch.undo()
    result = run(*words)
    newest = [checkpoint.latest(Path("runs") / name) for name in "ab"]
    one, two = (torch.load(path, weights_only=True)["parameters"] for path in newest)
    assert newest[0].name == newest[1].name
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-4)
    assert result["cloning"]["bc_tokens"] == cloned["cloning"]["bc_tokens"] and stops == 4
    again = run("train", "resume=runs/b")  # nothing is left to do: it only measures again
    assert again["cloning"]["bc_steps"] == result["cloning"]["bc_steps"]


def test_instructions_are_read_once_for_all_runs_on_the_same_demonstrations(tiny: list[str], monkeypatch) -> None:
    words = ["train", *tiny, "policy.kind=lstm", "bc.demonstrations=once", "bc.dagger_rounds=0",
             "train.eval_episodes=0"]  # fmt: skip
    read: list[set[tuple[int, ...]]] = []
    own = TextFeatures.read
    monkeypatch.setattr(TextFeatures, "read", lambda self, ids: read[-1].update(map(tuple, ids)) or own(self, ids))
    other_seed = ["algorithm=bc", "seed=2", "train.data_seed=1"]
    runs = ("a", ["algorithm=bc"]), ("b", ["algorithm=bc"]), ("c", ["train.warm_start=none"]), ("d", other_seed)
    for name, more in runs:
        read.append(set())
        run(*words, *more, f"run_name=once_{name}")
    shown = {text for shard in Store.read(SimpleNamespace(shards=lambda: Path("once").glob("*.safetensors")))
             for text in shard["instruction"]}  # fmt: skip
    assert len(list(Path("once/readings").rglob("*.safetensors"))) == 1
    assert len(read[0] - read[1]) == len(shown) > 5 and read[1] < read[0]
    assert not (read[0] - read[1]) & read[2] and read[2] - read[0]  # PPO reads what was not demonstrated
    assert read[3] <= read[1]  # and another seed on the same data nothing
    first, other = (checkpoint.latest(Path(f"runs/once_{name}")) for name in "ad")
    weights = [torch.load(path, weights_only=True)["parameters"]["actor.weight"] for path in (first, other)]
    assert not torch.equal(*weights)


def test_ppo_starts_from_a_clone_with_a_fitted_critic(cloned: dict[str, Any], tiny: list[str]) -> None:
    words = ["train.init=runs/a", "train.critic_warmup_steps=48", "ppo.normalize_returns=true", "ppo.bc_coef=0.5",
             "bc.demonstrations=shared"]  # fmt: skip
    result = run("train", *tiny, *words, "run_name=c")
    assert result["warm_start"]["critic_transitions"] > 0 and "demonstrations" not in result["warm_start"]
    assert set(result["evaluations"]) == {"before PPO", "after PPO"}
    rows = [json.loads(line) for line in Path("runs/c/metrics.jsonl").read_text().splitlines()]
    assert all({"bc_loss", "bc_accuracy", "return_deviation"} <= row.keys() for row in rows)
    again = run("train", "resume=runs/c")  # nothing is left to do; the demonstrations are those it has learned from
    saved = torch.load(checkpoint.latest(Path("runs/c")), weights_only=True)["trainer"]
    assert again["env_steps"] == result["env_steps"] and saved["shown"].tolist() == list(range(10))
    manifest = json.loads(Path("runs/c/manifest.json").read_text())
    assert [stage["stage"] for stage in manifest["stages"]] == ["bc", "ppo"]
    config = load("runs/c/config.yaml")
    policy = training.build_policy(config)
    training.load_weights(policy, "runs/a")
    clone = torch.load(checkpoint.latest(Path("runs/a")), weights_only=True)["parameters"]
    assert all(torch.equal(tensor, clone[name]) for name, tensor in policy.trainable_state_dict().items())
    evaluated = run("eval", "checkpoint=runs/a", "episodes=2", "split=train_validation")
    assert evaluated["splits"]["train_validation"]["episodes"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bc.demonstrations=shared", "bc.noise=0.3"], "shared: holds demonstrations with noise=0.12"),
        (["bc.demonstrations=shared", "seed=2"], "shared: holds demonstrations with"),
        (["bc.demonstrations=shared", "train.data_seed=-1"], "train.data_seed=-1 is out of range"),
        (["train.init=runs/none"], "train.init=runs/none: there is no such run"),
        (["train.init=runs/a", "policy.action_hidden=32"], "does not fit this policy"),
        (["bc.demonstrations=llm"], "llm: holds no demonstrations but something else"),
        (["bc.dagger_beta=2"], "bc.dagger_beta=2"),
    ],
)
def test_what_cannot_be_is_refused(cloned, tiny: list[str], words: list[str], says: str, capsys) -> None:
    assert cli.main(["train", *tiny, "algorithm=bc", "run_name=refused", *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
