"""Several ranks train as one process with all their worlds would; a run of them stops, dies and goes on as one."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crew import Crew, free_port
from memory_env import MemoryEnv, RecurrentPolicy
from test_checkpoint import NoisyEnv, same
from tiny_llm import make_tiny_llm

from llarp import cli, machine
from llarp import train as training
from llarp.config import load
from llarp.errors import UserError
from llarp.rl import checkpoint
from llarp.rl.collect import Collector
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.distributed import ALONE, Ranks, explained_over, normalize_over
from llarp.rl.ppo import explained_variance, normalize
from llarp.rl.rollout import Piece, Rollout
from llarp.rl.trainer import Trainer
from llarp.rl.update import ppo_update, trainable_parameters
from llarp.runfolder import run_to_continue


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()


# -- the update -------------------------------------------------------------------------------------------------------


def recorded(lost: list[int]) -> tuple[RecurrentPolicy, Callable[[list[int]], Rollout]]:
    """A policy and its rollout of six worlds, as a function that gives the part of some worlds; the same in every
    process. In the worlds `lost` the simulator lost every step."""
    torch.manual_seed(0)
    policy = RecurrentPolicy()
    collector = Collector(MemoryEnv(6), policy)
    collector.start()
    for _ in range(7):
        collector.step()
    collector.finish()
    for _ in range(7):
        collector.step()
    rows, context, border = collector.buffer._rows, collector.buffer._num_context, collector.features
    if lost:
        for row in rows[context:]:
            row["dropped"] = torch.zeros(6, dtype=torch.bool)
            for name in ("dropped", "truncated", "episode_start"):
                row[name][lost] = True
            for name in ("terminated", "success"):
                row[name][lost] = False

    def part(worlds: list[int]) -> Rollout:
        return Rollout([{name: x[worlds] for name, x in row.items()} for row in rows], context, border[worlds])

    return policy, part


class Joined(Rollout):
    """The rollout of all worlds whose k-th mini-batch is the k-th ones of its parts together."""

    parts: list[tuple[list[int], Rollout, torch.Generator]]

    def minibatches(
        self, count: int, generator: Any, max_tokens: int, fill: float, tails: bool = False
    ) -> list[list[Piece]]:
        joined: list[list[Piece]] = []
        for worlds, part, own in self.parts:
            for k, minibatch in enumerate(part.minibatches(count, own, max_tokens, fill)):
                joined += [[]] * (k == len(joined))
                at_home = [dataclasses.replace(p, world=torch.tensor(worlds)[p.world]) for p in minibatch]
                joined[k] = joined[k] + at_home
        assert len(joined[0]) > 1  # so that an update evaluates nothing ahead, and needs no tails
        return joined


def generator_of(rank: int) -> torch.Generator:
    return torch.Generator().manual_seed(10 + rank)


def updated(policy: RecurrentPolicy, rollout: Rollout, config: PPOConfig, ranks: Ranks) -> dict[str, Any]:
    """Weights and last gradients after an update by plain gradient descent, and what the update reported."""
    parameters = trainable_parameters(policy)
    optimizer = torch.optim.SGD(parameters, lr=0.3)
    stats = ppo_update(policy, optimizer, rollout, config, generator_of(ranks.rank), ranks)
    gradients = torch.cat([p.grad.flatten() for p in parameters])
    return {"weights": torch.cat([p.detach().flatten() for p in parameters]), "gradients": gradients, "stats": stats}


def update_part(ranks: Ranks, config: PPOConfig, split: list[list[int]], lost: list[int]) -> dict[str, Any]:
    policy, part = recorded(lost)
    return updated(policy, part(split[ranks.rank]), config, ranks)


@pytest.mark.parametrize(
    ("split", "lost", "num_minibatches"),
    [
        ([[0, 1, 2], [3, 4, 5]], [], 1),
        ([[0, 1, 2], [3, 4, 5]], [], 3),
        ([[0, 1, 2, 3, 4], [5]], [], 1),
        ([[5], [0, 1, 2, 3, 4]], [], 8),  # world 5 has fewer segments than mini-batches are asked for
        ([[0, 1, 2, 3], [4, 5]], [4], 2),
        ([[0, 1, 2, 3], [4, 5]], [4, 5], 2),  # nothing at all of the second rank
        ([[0], [1, 2, 3, 4, 5]], [0], 2),  # nor of the first
    ],
)
def test_two_ranks_learn_what_one_with_all_worlds_learns(
    crew: Crew, split: list[list[int]], lost: list[int], num_minibatches: int
) -> None:
    config = PPOConfig(num_minibatches=num_minibatches, num_epochs=3, max_grad_norm=100.0, normalize_advantage=True,
                       micro_batch_tokens=16, target_kl=10.0)  # fmt: skip
    found = crew.run(update_part, config, split, lost)
    policy, part = recorded(lost)
    before = torch.cat([p.detach().flatten() for p in trainable_parameters(policy)])
    whole = part(list(range(6)))
    whole.__class__ = Joined
    whole.parts = [(worlds, part(worlds), generator_of(rank)) for rank, worlds in enumerate(split)]  # type: ignore[attr-defined]
    expected = updated(policy, whole, config, ALONE)
    assert (expected["weights"] - before).abs().max() > 1e-2
    for one in found:
        torch.testing.assert_close(one["gradients"], expected["gradients"], atol=2e-6, rtol=1e-4)
        torch.testing.assert_close(one["weights"], expected["weights"], atol=2e-6, rtol=0)
        assert one["stats"] == pytest.approx(expected["stats"], abs=1e-5)
    assert torch.equal(found[0]["weights"], found[1]["weights"])


def test_ranks_agree_to_end_the_epochs(crew: Crew) -> None:
    config = PPOConfig(num_epochs=5, target_kl=1e-6, num_minibatches=2)
    found = crew.run(update_part, config, [[0, 1, 2, 3], [4, 5]], [4, 5])  # the second has nothing to tell it by
    assert [one["stats"]["epochs"] for one in found] == [1, 1]


def update_some_steps(ranks: Ranks, config: PPOConfig, steps: list[int]) -> dict[str, Any]:
    """An update on three worlds of which this rank has taken `steps[rank]` steps."""
    policy, part = recorded([])
    whole = part([0, 1, 2] if ranks.rank == 0 else [3, 4, 5])
    rows = [{name: x[i] for name, x in whole.data.items()} for i in range(steps[ranks.rank])]
    history = {name: whole._history[name] for name in ("instruction_id", "action", "episode_start")}
    rows = [{n: x[i] for n, x in history.items()} for i in range(whole.num_context)] + rows
    rows = [row | {"features": whole._features[i]} for i, row in enumerate(rows)]
    return updated(policy, Rollout(rows, whole.num_context, whole._features[len(rows)]), config, ranks)


def test_a_shorter_rollout_counts_by_its_transitions(crew: Crew) -> None:
    config = PPOConfig(num_minibatches=1, num_epochs=1, max_grad_norm=100.0)
    found = crew.run(update_some_steps, config, [7, 3])
    alone = [update_some_steps(Ranks(rank), config, [7, 3])["gradients"] for rank in (0, 1)]
    expected = (7 * 3 * alone[0] + 3 * 3 * alone[1]) / (10 * 3)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    for one in found:
        torch.testing.assert_close(one["gradients"], expected, atol=2e-6, rtol=1e-4)


def statistics(ranks: Ranks, parts: list[torch.Tensor], wanted: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    own = parts[ranks.rank]
    return normalize_over(own, ranks), explained_over(own, wanted[ranks.rank], ranks)


@pytest.mark.parametrize("sizes", [(5, 5), (1, 9), (0, 4)])
def test_statistics_are_of_all_ranks_transitions(crew: Crew, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [3 + 5 * k + torch.randn(size, generator=generator) for k, size in enumerate(sizes)]
    wanted = [part + 0.5 * torch.randn(len(part), generator=generator) for part in parts]
    found = crew.run(statistics, parts, wanted)
    torch.testing.assert_close(torch.cat([scaled for scaled, _ in found]), normalize(torch.cat(parts)))
    for _, explained in found:
        assert explained == pytest.approx(explained_variance(torch.cat(parts), torch.cat(wanted)), abs=1e-6)


# -- the training loop ------------------------------------------------------------------------------------------------


def trainer_of(ranks: Ranks, folder: Path, total_steps: int, seed: int, log: list) -> Trainer:
    """A rank's own worlds (in a team the same): more of them at rank 1. Weights drawn from `seed`, not alike at all."""
    torch.manual_seed(ranks.seed(seed))
    random.seed(ranks.seed(seed))
    np.random.seed(ranks.seed(seed))
    ppo = PPOConfig(num_steps=6, num_minibatches=2, lr=3e-3)
    train = TrainConfig(total_steps=total_steps, checkpoint_interval=100, success_window=10**6)
    env, policy = NoisyEnv(3 + 2 * ranks.team, ranks.seed(seed)), RecurrentPolicy()
    policy.frozen.load_state_dict({"weight": torch.full((16, 3), 0.1), "bias": torch.zeros(16)})
    return Trainer(env, policy, ppo, train, seed=seed, log=log.append, checkpoint_dir=folder, ranks=ranks)


def trained(
    ranks: Ranks, folder: Path, total_steps: int, seed: int, resume: bool, stop_at: int | None = None
) -> dict[str, Any]:
    """A run, or its continuation; `stop_at`: rank 1 is asked to stop after so many of its own steps."""
    log: list[dict[str, float]] = []
    trainer = trainer_of(ranks, folder, total_steps, seed, log)
    continues = trainer.load(checkpoint.latest_in(folder)) if resume else None
    steps, add, started = [0], trainer.collector.buffer.add, []

    def count(**step: Any) -> None:
        if not started:
            started.append({name: p.clone() for name, p in trainer.policy.state_dict().items()})
        steps[0] += 1
        add(**step)

    trainer.collector.buffer.add = count  # type: ignore[method-assign]
    trainer.run(lambda: ranks.rank == 1 and stop_at is not None and steps[0] >= stop_at)
    timeless = [{k: v for k, v in row.items() if k not in ("wall_s", "steps_per_s", "memory_mb")} for row in log]
    return {"log": timeless, "policy": trainer.policy.state_dict(), "started": started, "continues": continues,
            "state": trainer.state_dict() | {"wall_s": 0}, "steps": steps[0], "summary": trainer.summary(),
            "updates": trainer.updates}  # fmt: skip


def test_ranks_begin_and_stay_alike_and_count_together(crew: Crew, tmp_path: Path) -> None:
    first, second = crew.run(trained, tmp_path, 96, 3, False)
    assert same(first["started"], second["started"]) and same(first["policy"], second["policy"])
    assert not same(first["started"][0], first["policy"])
    assert second["log"] == [] and [row["env_steps"] for row in first["log"]] == [48, 96]  # 6 steps of 3 + 5 worlds
    # Episodes of 4 steps, 12 steps a world, worlds i of a rank begun i steps early: 3 each, as in MemoryEnv.
    assert first["summary"]["episodes"] == second["summary"]["episodes"] == 24
    assert first["summary"]["success_rate"] == second["summary"]["success_rate"]
    own = [state["collector"]["parts"][0] for state in (first["state"], *first["state"]["others"])]
    assert [len(part["instruction_id"]) for part in own] == [3, 5] and "others" not in second["state"]


def test_resumed_ranks_equal_uninterrupted_ones_bit_for_bit(crew: Crew, tmp_path: Path) -> None:
    whole = crew.run(trained, tmp_path / "whole", 192, 3, False)
    crew.run(trained, tmp_path / "parts", 96, 3, False)
    parts = crew.run(trained, tmp_path / "parts", 192, 99, True)  # whatever it begins with must not matter
    assert [one["continues"] for one in parts] == [True, True]
    assert len(parts[0]["log"]) == 2 and whole[0]["log"][2:] == parts[0]["log"]
    for one, other in zip(whole, parts, strict=True):
        assert same(one["policy"], other["policy"]) and same(one["state"], other["state"])


def test_a_rank_asked_to_stop_stops_all_at_one_update(crew: Crew, tmp_path: Path) -> None:
    found = crew.run(trained, tmp_path, 10**6, 3, False, 15)  # in the third rollout
    assert [one["updates"] for one in found] == [2, 2] and [one["steps"] for one in found] == [18, 15]
    assert found[0]["summary"]["env_steps"] == 3 * 18 + 5 * 15
    assert checkpoint.latest_in(tmp_path).name == checkpoint.file_name(3 * 18 + 5 * 15)
    found = crew.run(trained, tmp_path, 3 * 18 + 5 * 15 + 48, 9, True)
    assert [one["updates"] for one in found] == [3, 3]  # max_log_prob_gap would have complained about lost contexts


def trained_with_a_slow_one(
    ranks: Ranks, folder: Path, total_steps: int, share: float, waits_at: int, resume: bool
) -> dict[str, Any]:
    """A run in which rank 1, after step `waits_at` of every rollout and not before, sees that rank 0 has finished."""
    log: list[dict[str, float]] = []
    trainer = trainer_of(ranks, folder, total_steps, 3, log)
    trainer.train = dataclasses.replace(trainer.train, preempt_share=share)
    if resume:
        assert trainer.load(checkpoint.latest_in(folder))
    lengths, add, finish = [], trainer.collector.buffer.add, trainer.collector.finish

    def slow_step(**step: Any) -> None:
        add(**step)
        taken, there = len(trainer.collector.buffer), f"{folder} {trainer.updates}"
        if share and ranks.rank == 1 and taken == waits_at:
            ranks._store.add(there, 1)
            while not ranks.arrived():
                time.sleep(0.01)
        while share and ranks.rank == 0 and taken == 6 and not ranks._store.add(there, 0):
            time.sleep(0.01)

    def finish_and_tell() -> Rollout:
        rollout = finish()
        lengths.append(rollout.num_steps)
        return rollout

    trainer.collector.buffer.add = slow_step  # type: ignore[method-assign]
    trainer.collector.finish = finish_and_tell  # type: ignore[method-assign]
    trainer.run()
    return {"lengths": lengths, "log": log, "policy": trainer.policy.state_dict(), "summary": trainer.summary()}


@pytest.mark.parametrize(
    ("waits_at", "share", "taken"),
    [
        (1, 0.5, 2),  # a quarter of six steps is more than one
        (3, 0.5, 3),
        (6, 0.5, 6),
        (3, 0.6, 6),  # rank 0 alone is no 60 %
        (3, 0.0, 6),
    ],
)
def test_a_slow_rank_hands_in_what_it_has(
    crew: Crew, tmp_path: Path, waits_at: int, share: float, taken: int
) -> None:
    each = 3 * 6 + 5 * taken  # rank 0 takes 6 steps in 3 worlds
    first, second = crew.run(trained_with_a_slow_one, tmp_path, 3 * each, share, waits_at, False)
    assert first["lengths"] == [6] * 3 and second["lengths"] == [taken] * 3
    assert same(first["policy"], second["policy"])
    assert [row["env_steps"] for row in first["log"]] == [each, 2 * each, 3 * each]
    assert [row.get("preempted") for row in first["log"]] == [None if share == 0 else float(taken < 6)] * 3
    # Episodes of 4 steps, world i of a rank begun i % 4 steps early, as in MemoryEnv.
    episodes = sum((steps + i % 4) // 4 for worlds, steps in ((3, 18), (5, 3 * taken)) for i in range(worlds))
    assert first["summary"]["episodes"] == second["summary"]["episodes"] == episodes
    more = crew.run(trained_with_a_slow_one, tmp_path, 4 * each, share, waits_at, True)
    assert [one["lengths"] for one in more] == [[6], [taken]] and same(more[0]["policy"], more[1]["policy"])


def test_another_number_of_ranks_goes_on_with_the_weights_in_new_worlds(crew: Crew, tmp_path: Path) -> None:
    left = crew.run(trained, tmp_path, 96, 3, False)[0]
    alone = trained(ALONE, tmp_path, 96 + 18, 9, True)
    assert alone["continues"] is False and same(alone["started"][0], left["policy"])
    assert alone["summary"]["env_steps"] == 96 + 18 and alone["updates"] == 3
    assert alone["summary"]["episodes"] > left["summary"]["episodes"]  # of all its earlier parts
    again = crew.run(trained, tmp_path, 96 + 18 + 48, 4, True)
    assert [one["continues"] for one in again] == [False, False]
    for one in again:
        assert same(one["started"][0], alone["policy"]) and one["updates"] == 4


# -- meetings ---------------------------------------------------------------------------------------------------------


def wander(ranks: Ranks) -> None:
    torch.manual_seed(0)
    policy = RecurrentPolicy()
    ranks.check_weights(policy)
    if ranks.rank == 1:
        with torch.no_grad():
            policy.critic.weight[0, 0] += 1e-7
    ranks.check_weights(policy)


def share_other_vision(ranks: Ranks) -> None:
    torch.manual_seed(ranks.rank)
    ranks.share_weights(RecurrentPolicy())


def refuse_at_rank_0(ranks: Ranks) -> None:
    def make() -> None:
        if ranks.rank:
            raise AssertionError("asked at another rank than 0")
        raise UserError("a line for the user")

    ranks.agree(make)


def test_what_would_go_wrong_silently_is_an_error_at_every_rank(crew: Crew) -> None:
    for _, error in crew.answers(wander):
        assert error == "RuntimeError: the weights of rank 1 are no longer those of rank 0"
    for _, error in crew.answers(share_other_vision):
        assert error.startswith("UserError: rank 1 has other frozen weights of 'vision'")
    assert [e for _, e in crew.answers(refuse_at_rank_0)] == ["UserError: a line for the user", "SystemExit: 2"]


def meet(ranks: Ranks) -> dict[str, Any]:
    order: list[int] = []
    with ranks.in_turn():
        order = [int(x) for x in os.environ.get("LLARP_TEST_ORDER", "").split()]
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.full((2, 2), 1.0 + 3 * ranks.rank)
    counts = ranks.average_gradients([parameter], 1 + 2 * ranks.rank)
    return {"agreed": ranks.agree(lambda: ranks.rank), "any": ranks.any(ranks.rank == 1), "none": ranks.any(False),
            "total": ranks.total({"a": 1 + ranks.rank} | ({"b": 2} if ranks.rank else {})), "order": order,
            "device": ranks.take_device("cpu"), "count": counts, "gradient": parameter.grad.tolist()}  # fmt: skip


def test_meetings(crew: Crew) -> None:
    for one in crew.run(meet):
        assert (one["agreed"], one["any"], one["none"], one["device"]) == (0, True, False, "cpu")
        assert one["total"] == {"a": 3, "b": 2}
        # Means 1 over one transition and 4 over three: (1 + 12) / 4.
        assert one["count"] == 4 and one["gradient"] == [[3.25, 3.25], [3.25, 3.25]]


# -- the machine and the command line ---------------------------------------------------------------------------------


def test_processes_share_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 16)
    monkeypatch.setattr(machine, "free_memory_gib", lambda: 64.0)
    alone = machine.inspect(), load("default", ["device=cpu"])
    for name, value in {"WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    shared = machine.inspect(), load("default", ["device=cpu"])
    assert (alone[0].cores, alone[0].memory_gib) == (16, 64) and (shared[0].cores, shared[0].memory_gib) == (4, 16)
    assert (alone[1].env.num_envs, shared[1].env.num_envs) == (32, 16)
    assert alone[1].train.total_steps == 64_000 and shared[1].train.total_steps == 8 * 16_000
    monkeypatch.setattr(machine, "free_memory_gib", lambda: 8.0)
    with pytest.raises(UserError, match="too little memory"):
        machine.check_room(16, 128, ".")  # enough for one process, not for four
    for name, value in (("WORLD_SIZE", "many"), ("LOCAL_WORLD_SIZE", "0")):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"{name}={value}"):
            machine.from_launcher()
        monkeypatch.setenv(name, "4")


@pytest.mark.parametrize(
    ("told", "ranks", "threads"), [("", 1, 3), ("4", 1, None), ("1", 2, 1), ("1", 1, None), ("5", 2, None)]
)
def test_torch_gets_the_cores_that_a_container_has(
    told: str, ranks: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(machine, "cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    for name, value in {"WORLD_SIZE": ranks, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": ranks}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    machine.share_cores()
    assert set_to == ([] if threads is None else [threads])


def test_stragglers_are_cut_short_in_habitat_unless_settings_say_otherwise() -> None:
    usual, told = load("default", []), load("default", ["train.preempt_share=0.8"])
    for config, shares in ((usual, (0.6, 0.0)), (told, (0.8, 0.8))):
        for backend, share in zip(("habitat", "mujoco"), shares, strict=True):
            env = dataclasses.replace(config.env, backend=backend, dataset="x.pickle", scenes="x")
            assert training._with_preemption(dataclasses.replace(config, env=env)).preempt_share == share


def test_half_an_environment_of_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["train", "config=smoke"]) == 2
    assert "torchrun" in capsys.readouterr().err


def test_resume_auto_begins_or_continues(tmp_path: Path) -> None:
    config = load("smoke", [f"output_dir={tmp_path}", "run_name=a", "device=cpu"])
    with pytest.raises(UserError, match="run_name"):
        run_to_continue(dataclasses.replace(config, run_name=""))
    assert run_to_continue(config) is None
    folder = tmp_path / "a"
    (folder / "checkpoints").mkdir(parents=True)
    assert run_to_continue(config) is None and folder.exists()  # no run of ours: left for the next check to refuse
    (folder / "config.yaml").write_text("seed: 1")
    assert run_to_continue(config) is None  # stopped before its first checkpoint
    assert [p.name for p in tmp_path.iterdir()] == ["a.unfinished1"]
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1")
    (folder / "checkpoints" / checkpoint.file_name(5)).touch()
    assert run_to_continue(config) == folder


JOB = """
import os, signal, sys
from pathlib import Path
import llarp.train
from llarp import cli
from llarp.runfolder import RunFolder
from llarp.rl import checkpoint
from test_distributed import trainer_of

def train(config, resume, ranks):
    folder = Path("runs/two")
    log = []
    trainer = trainer_of(ranks, folder / "checkpoints", config.train.total_steps, 1, log)
    trainer.train = config.train
    if resume:
        assert trainer.load(checkpoint.latest(resume))
        if ranks.leads:
            print("continues at", trainer.env_steps)
    elif ranks.leads:
        RunFolder(folder).create(config)
    steps = []
    def stop():
        steps.append(1)
        if ranks.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and len(steps) > 15:
            os.kill(os.getpid(), signal.SIGKILL)
        return False
    trainer.run(stop)
    return {"env_steps": trainer.env_steps, "rank": ranks.rank}

llarp.train.train = train
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_job_goes_on_after_one_of_its_processes_was_killed(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1",
               f"--master-port={free_port()}", "--monitor-interval=0.1", "job.py", "train", "config=smoke",
               "device=cpu", "train.total_steps=192", "run_name=two", "resume=auto", "out=out.json"]  # fmt: skip
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, stdout=-1, stderr=-1, text=True
    ) as job:
        try:
            output, errors = job.communicate(timeout=200)
        finally:
            job.terminate()
    assert job.returncode == 0, errors
    lost = [line for line in errors.splitlines() if line.startswith("llarp: ")]
    # torchrun may end the other rank before that notices
    assert len(lost) <= 1 and all("rank 0 stops: another process of this job has ended" in line for line in lost)
    assert "Traceback" not in errors
    assert output.count("continues at 96") == 1  # rank 1 died in the third rollout: 6 steps of 3 + 5 worlds each
    assert json.loads((tmp_path / "out.json").read_text()) == {"env_steps": 192, "rank": 0}
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["two"]


def whole_run(ranks: Ranks, folder: Path, words: list[str], resume: str | None) -> dict[str, Any]:
    """`train` in `folder`, without films; the result and the trainable weights at the end."""
    os.chdir(folder)
    training._film = lambda *_: []  # type: ignore[assignment]
    policies, build = [], training.build_policy

    def remember(config: Any) -> Any:
        policies.append(build(config))
        return policies[-1]

    training.build_policy = remember
    try:
        resumed = None if resume is None else Path(resume)
        config = load("smoke" if resumed is None else str(resumed / "config.yaml"), words)
        result = training.train(config, resume=resumed, ranks=ranks)
    finally:
        training.build_policy = build
    return {"result": result, "weights": policies[0].trainable_state_dict()}


def test_a_whole_run_of_two_ranks(crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_llm(tmp_path / "llm")
    tiny = ["policy.llm=llm", "policy.vision=test_vit", "policy.vision_pool=grid2", "policy.precision=float32",
            "policy.max_instruction_tokens=192", "env.image_size=32", "env.num_envs=2", "task.max_steps=6",
            "train.warm_start=bc", "bc.episodes=4", "bc.epochs=1", "train.critic_warmup_steps=16", "device=cpu",
            "train.eval_episodes=2", "train.total_steps=64", "run_name=two", "seed=3",
            "bc.demonstrations=shared", "ppo.bc_coef=0.5"]  # fmt: skip
    first, second = crew.run(whole_run, tmp_path, tiny, None)
    assert same(first["weights"], second["weights"])
    result = first["result"]
    assert result["warm_start"]["demonstrations"] == 4 and set(result["evaluations"]) == {"before PPO", "after PPO"}
    assert result["env_steps"] == 64 and second["result"]["evaluations"] == {}
    run = tmp_path / "runs" / "two"
    assert json.loads((run / "report.json").read_text())["env_steps"] == 64
    steps = [json.loads(line)["env_steps"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [32, 64]  # 8 steps of 2 + 2 worlds
    worlds = checkpoint.load(checkpoint.latest(run), training.build_policy(load(str(run / "config.yaml"))))
    played = [state["collector"]["parts"][0]["env"]["world"] for state in (worlds, *worlds["others"])]
    assert not same(played[0], played[1])  # each rank has worlds of its own
    first, second = crew.run(whole_run, tmp_path, ["train.total_steps=96"], "runs/two")
    assert same(first["weights"], second["weights"]) and first["result"]["env_steps"] == 96
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
