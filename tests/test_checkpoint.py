"""Checkpoints: resumed equals uninterrupted, and no bad file gets through."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_env import MemoryEnv, RecurrentPolicy

from llarp.errors import UserError
from llarp.rl import checkpoint
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.trainer import Trainer


class NoisyEnv(MemoryEnv):
    """Uses every global random generator, so that a resumed run needs all of them."""

    def step(self, action: torch.Tensor):
        observation, reward, *rest = super().step(action)
        return observation, reward + random.random() + float(np.random.rand()) + float(torch.rand(())), *rest


def trainer_of(folder: Path, total_steps: int, seed: int, log: list | None = None) -> Trainer:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    ppo = PPOConfig(num_steps=6, num_minibatches=2, lr=3e-3)
    train = TrainConfig(total_steps=total_steps, checkpoint_interval=100)
    log = [] if log is None else log
    return Trainer(NoisyEnv(5, seed), RecurrentPolicy(), ppo, train, seed=seed, log=log.append, checkpoint_dir=folder)


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole_log: list[dict] = []
    whole = trainer_of(tmp_path / "whole", 240, seed=3, log=whole_log)
    whole.run()

    trainer_of(tmp_path / "parts", 120, seed=3).run()
    log: list[dict] = []
    resumed = trainer_of(tmp_path / "parts", 240, seed=99, log=log)  # whatever it begins with must not matter
    resumed.load(checkpoint.latest_in(tmp_path / "parts"))
    resumed.run()

    timing = {"wall_s", "steps_per_s", "memory_mb"}
    for a, b in zip(whole_log[4:], log, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}
    assert same(whole.policy.state_dict(), resumed.policy.state_dict())
    assert same(whole.state_dict() | {"wall_s": 0}, resumed.state_dict() | {"wall_s": 0})
    assert resumed.wall_s > log[0]["wall_s"] > 0


def test_stopped_in_a_rollout_goes_on_with_its_episodes(tmp_path):
    trainer = trainer_of(tmp_path, 10**6, seed=1)
    trainer.run(stop=lambda: len(trainer.collector.buffer) == 3 and trainer.updates == 2)
    assert trainer.env_steps == 5 * (2 * 6 + 3)
    resumed = trainer_of(tmp_path, trainer.env_steps + 60, seed=2)
    resumed.load(checkpoint.latest_in(tmp_path))
    resumed.run()
    assert resumed.updates == 4  # max_log_prob_gap would have complained about lost contexts


def test_files_are_complete_counted_and_few(tmp_path):
    trainer = trainer_of(tmp_path, 60, seed=0)
    trainer.collector.start()
    for steps in (30, 7, 100):
        trainer.env_steps = steps
        trainer.save()
    names = [p.name for p in sorted(tmp_path.iterdir())]
    assert names == [checkpoint.FROZEN_FILE, "step_0000000030.pt", "step_0000000100.pt"]
    assert checkpoint.latest_in(tmp_path).name == "step_0000000100.pt"


def saved(folder: Path) -> Path:
    trainer = trainer_of(folder, 30, seed=0)
    trainer.run()
    return checkpoint.latest_in(folder)


def refuse(path: Path, policy: RecurrentPolicy, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        checkpoint.load(path, policy)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    path = saved(tmp_path)
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
    for content in (data[:-100], data[:middle], b"", b"no checkpoint", flipped, pickle.dumps({"format": 1})):
        path.write_bytes(content)
        refuse(path, RecurrentPolicy(), "damaged or no checkpoint|is no checkpoint")
    refuse(tmp_path / "none.pt", RecurrentPolicy(), "no such checkpoint")
    torch.save({"something": 1}, path)
    refuse(path, RecurrentPolicy(), "is no checkpoint")


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path("malice_was_here"),))


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / checkpoint.file_name(1)
    torch.save({"format": 1, "parameters": Malice(), "frozen": {}, "trainer": {}}, path)
    refuse(path, RecurrentPolicy(), "damaged or no checkpoint")
    assert not Path("malice_was_here").exists()


def test_another_configuration_is_refused(tmp_path):
    path = saved(tmp_path)
    refuse(path, RecurrentPolicy(hidden=16), "does not fit")
    tree = torch.load(path, weights_only=True)
    checkpoint_of_the_future = tree | {"format": 99}
    torch.save(checkpoint_of_the_future, path)
    refuse(path, RecurrentPolicy(), "format 99")


def test_frozen_weights_are_kept_once_and_checked(tmp_path):
    torch.manual_seed(0)
    policy = RecurrentPolicy()
    first, second = (tmp_path / checkpoint.file_name(i) for i in (1, 2))
    checkpoint.save(first, policy, {})
    kept = (tmp_path / checkpoint.FROZEN_FILE).stat().st_mtime_ns
    checkpoint.save(second, policy, {})
    assert (tmp_path / checkpoint.FROZEN_FILE).stat().st_mtime_ns == kept
    other = RecurrentPolicy()
    assert not torch.equal(other.frozen.weight, policy.frozen.weight)
    checkpoint.load(second, other)
    assert same(other.state_dict(), policy.state_dict())
    (tmp_path / checkpoint.FROZEN_FILE).unlink()
    other = RecurrentPolicy()
    refuse(second, other, "other frozen weights of 'vision'")


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(TypeError, match=r"trainer\.env\.age is a ndarray"):
        checkpoint.save(tmp_path / "x.pt", RecurrentPolicy(), {"env": {"age": np.zeros(3)}})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "x.pt", RecurrentPolicy(), {})


def test_latest_of_a_run_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.latest(tmp_path)
