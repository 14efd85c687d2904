"""Simulator processes that die, hang, refuse or outlive their parent, with a fake in the simulator's place."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_worker import DIE, HANG, LENGTH, RAISE
from memory_env import RecurrentPolicy

from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.habitat import pool, worlds
from llarp.habitat.assets import HabitatAssets
from llarp.habitat.messages import STATE_SIZE
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.trainer import Trainer

FAKE = Path(__file__).with_name("fake_worker.py")
MakeEnv = Callable[..., LanguageRearrangementVectorEnv]


@pytest.fixture
def trouble(tmp_path: Path) -> Path:
    """The folder in which files tell the fakes when to fail."""
    (tmp_path / "trouble").mkdir()
    return tmp_path / "trouble"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, trouble: Path) -> Iterator[MakeEnv]:
    """Makes environments whose simulators are fakes."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-S", str(FAKE), str(STATE_SIZE), str(trouble)))
    monkeypatch.setattr(worlds, "check_installed", dict)
    nothing = HabitatAssets(Path("none.json"), Path("none.urdf"), (), ())
    monkeypatch.setattr(worlds, "find_assets", lambda config: nothing)
    made = []

    def make(num_envs: int = 2, **settings: Any) -> LanguageRearrangementVectorEnv:
        usual: dict[str, Any] = {"output": "torch", "autoreset_mode": "same_step", "backend": "habitat"}
        usual |= {"image_size": 16, "episodes": 40, "worker_timeout_s": 20.0}
        made.append(LanguageRearrangementVectorEnv(num_envs, **usual | settings))
        return made[-1]

    yield make
    for env in made:
        env.close()


def processes(env: LanguageRearrangementVectorEnv) -> list[subprocess.Popen]:
    return [worker.process for worker in env.world._pool.workers]


def play(env: LanguageRearrangementVectorEnv, steps: int, last: int = 1) -> tuple:
    """The last of some steps of skill 1, it with another skill in world 0."""
    for _ in range(steps - 1):
        env.step(torch.ones(env.num_envs))
    return env.step(torch.tensor([last] + [1] * (env.num_envs - 1)))


def names(env: LanguageRearrangementVectorEnv, rows: torch.Tensor) -> list[int]:
    return env.episodes.episode_id[rows].tolist()


WHYS = [(DIE, "SIGKILL"), (RAISE, "the fake is broken"), (HANG, "no answer for 1 s")]


@pytest.mark.parametrize(("skill", "why"), WHYS)
def test_a_lost_step_is_dropped_and_the_next_episode_begins(fakes, capsys, skill, why):
    settings = {"worker_timeout_s": 1.0} if skill == HANG else {}
    env = fakes(3, **settings)
    env.reset(seed=1)
    before, upcoming = processes(env), env.sampler.upcoming(1)
    episode = env.world.episode.clone()
    observation, reward, terminated, truncated, info = play(env, 3, skill)
    assert info["dropped"].tolist() == [True, False, False]
    assert reward.tolist() == pytest.approx([0.0, 0.01, 0.01]) and not terminated.any()
    assert truncated.tolist() == [True, False, False] and not info["success"].any()
    assert info["progress"].tolist() == pytest.approx([0.2, 0.3, 0.3])  # as it was before the loss
    assert env.world.episode[0] == upcoming[0] and torch.equal(env.world.episode[1:], episode[1:])
    first = [names(env, env.world.episode)[0] % 251, 0, 0]
    assert observation["rgb"][0, 0, 0].tolist() == first  # the next episode as it begins
    assert observation["rgb"][1, 0, 0, 1:].tolist() == [3, 1]  # another world in its third step
    after = processes(env)
    assert after[0] is not before[0] and before[0].poll() is not None and after[1:] == before[1:]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and why in said[0] and f"episode {names(env, episode)[0]} " in said[0]
    *_, info = play(env, 1)
    assert not info["dropped"].any() and info["progress"].tolist() == pytest.approx([0.1, 0.4, 0.4])


def test_other_worlds_are_undisturbed_by_a_loss(fakes):
    seen = []
    for skill in (1, DIE):
        env = fakes(3)
        env.reset(seed=1)
        seen.append([play(env, 1, skill if step == 2 else 1) for step in range(2 * LENGTH - 3)])
    for step, (whole, lossy) in enumerate(zip(*seen, strict=True)):
        if step < LENGTH - 1:  # from the first end on the worlds share the episodes out otherwise
            assert torch.equal(whole[0]["rgb"][1:], lossy[0]["rgb"][1:])
            assert all(torch.equal(a[1:], b[1:]) for a, b in zip(whole[1:4], lossy[1:4], strict=True))


def test_next_episodes_begin_without_being_waited_for(fakes):
    env = fakes(2)
    env.reset(seed=1)
    play(env, LENGTH - 1)
    ended, upcoming = env.world.episode.clone(), env.sampler.upcoming(2)
    env.step_async(torch.ones(2))
    while pipes := env.world.unanswered():
        assert wait(pipes, 20)
    stopped = processes(env)[0]
    stopped.send_signal(signal.SIGSTOP)
    try:
        waiting = env.unanswered()  # both have ended their episode, and are told to begin another
        assert env.world._pool.workers[0].pipe in waiting
        assert wait([env.world._pool.workers[1].pipe], 20) and env.unanswered() == waiting[:1]
    finally:
        stopped.send_signal(signal.SIGCONT)
    observation, reward, _, truncated, info = env.step_wait()
    assert truncated.all() and not info["dropped"].any()
    assert torch.equal(env.world.episode, upcoming) and not torch.equal(ended, upcoming)
    assert observation["rgb"][:, 0, 0, 0].tolist() == [name % 251 for name in names(env, upcoming)]
    assert env.unanswered() == [] and play(env, 1)[4]["progress"].tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_lost_steps_in_the_other_modes(fakes, mode):
    env = fakes(2, autoreset_mode=mode)
    env.reset(seed=1)
    lost = env.world.episode[0].clone()
    *_, truncated, info = play(env, 2, DIE)
    assert info["dropped"].tolist() == truncated.tolist() == [True, False] and env.world.episode[0] == lost
    if mode == "disabled":
        env.reset(options={"reset_mask": np.array([True, False])})
    else:
        _, reward, terminated, truncated, info = play(env, 1)
        assert reward[0] == 0 and not (terminated | truncated | info["dropped"]).any()
    assert env.world.episode[0] != lost
    *_, info = play(env, 1)
    assert info["progress"][0] == pytest.approx(0.1) and not info["dropped"].any()


def test_a_death_between_steps_is_a_loss_of_the_next(fakes):
    env = fakes(2, output="numpy")
    env.reset(seed=1)
    env.step(np.array([1, 1]))
    processes(env)[1].kill()
    *_, truncated, info = env.step(np.array([1, 1]))
    assert info["dropped"].dtype == bool and info["dropped"].tolist() == truncated.tolist() == [False, True]


def test_a_death_at_the_start_begins_the_same_episode_again(fakes, trouble):
    env = fakes(2)
    env.reset(seed=1)
    due = int(env.sampler.upcoming(1))
    (trouble / f"start-{names(env, torch.tensor([due]))[0]}").write_text("2")
    play(env, 2, DIE)
    assert env.world.episode[0] == due and not env.world.set_aside
    assert [line.split(" in a row")[0][-6:] for line in env.world.log] == ["loss 1", "loss 1", "loss 2"]
    *_, info = play(env, 1)
    assert not info["dropped"].any()


def test_three_deaths_at_the_start_set_an_episode_aside_by_name(fakes, trouble, capsys):
    env = fakes(2)
    env.reset(seed=1)
    due, *later = env.sampler.upcoming(10).tolist()
    name = names(env, torch.tensor([due]))[0]
    (trouble / f"start-{name}").write_text("3")
    play(env, 2, DIE)
    assert env.sampler.set_aside_episodes == [due] and env.world.episode[0] in later
    said = capsys.readouterr().err
    assert f"set aside: episode {name} " in said and "Assertion `mesh` failed" in said
    *_, info = play(env, 1)
    assert not info["dropped"].any()


def test_three_losses_in_the_middle_of_an_episode_set_it_aside(fakes):
    env = fakes(1, episode_set=fakes(1).episodes.select([5, 6]))
    env.reset(seed=1)
    bad, tries = int(env.world.episode[0]), 0
    while env.sampler.set_aside_episodes == [] and tries < 20:
        tries += env.world.episode[0] == bad
        play(env, 1, DIE if env.world.episode[0] == bad else 1)
        if env.world.episode[0] != bad:
            play(env, LENGTH)
    assert tries == 3 and env.sampler.set_aside_episodes == [bad]


def test_an_episode_played_to_its_end_in_between_is_forgiven(fakes):
    env = fakes(1, episode_set=fakes(1).episodes.select([5]))
    env.reset(seed=1)
    for _ in range(3):
        play(env, 2, DIE)
        play(env, 2, DIE)
        *_, truncated, info = play(env, LENGTH)
        assert truncated[0] and not info["dropped"][0]


def test_a_simulator_that_never_starts_is_one_line(fakes, trouble, capsys):
    env = fakes(1)
    due = int(env.sampler.upcoming(1))
    (trouble / f"start-{names(env, torch.tensor([due]))[0]}").write_text("9")
    with pytest.raises(UserError, match=r"cannot begin episode.*SIGABRT.*Assertion.*llarp assets check"):
        env.reset(seed=0)
    assert capsys.readouterr().err == ""


def test_what_a_worker_refuses_reaches_the_user(fakes, trouble):
    env = fakes(1)
    due = int(env.sampler.upcoming(1))
    (trouble / f"refuse-{names(env, torch.tensor([due]))[0]}").write_text("robot.urdf has no gripper")
    with pytest.raises(UserError, match="robot.urdf has no gripper"):
        env.reset(seed=0)


def test_state_is_taken_up_by_other_processes(fakes):
    env, other = fakes(2), fakes(2)
    env.reset(seed=1)
    play(env, 3, 7)
    saved = env.state_dict()
    other.reset(seed=2)
    other.load_state_dict(saved)
    for _ in range(LENGTH):
        a, b = play(env, 1, 9), play(other, 1, 9)
        assert all(torch.equal(x, y) for x, y in zip((*a[0].values(), *a[1:4]), (*b[0].values(), *b[1:4]), strict=True))


def test_closing_is_quick_and_leaves_nothing(fakes):
    env = fakes(4)
    env.reset(seed=1)
    ours, begun = processes(env), time.monotonic()
    os.kill(ours[3].pid, signal.SIGSTOP)  # even one that hangs
    logs = Path(env.world._pool._logs.name)
    env.close()
    assert time.monotonic() - begun < 6
    assert all(p.poll() is not None for p in ours) and not logs.exists()


def test_twenty_replacements_leak_no_descriptor_and_no_zombie(fakes):
    env = fakes(1)
    env.reset(seed=1)
    open_files = None
    for _ in range(20):
        play(env, 1, DIE)
        if open_files is None:
            gc.collect()
            open_files = len(os.listdir("/proc/self/fd"))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= open_files
    tasks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    states = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in tasks]
    assert "Z" not in states and states.count("S") + states.count("R") >= 1


PARENT = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from llarp.habitat import pool, worlds
from llarp.habitat.messages import STATE_SIZE, WorkerSettings
pool.COMMAND = (sys.executable, "-S", {fake!r}, str(STATE_SIZE), "/nonexistent")
settings = WorkerSettings(Path("c"), (), Path("d"), None, 16, False)
found = pool.Pool(settings, 2, lambda i: {{}}, lambda i: [], 20.0)
print(*(w.process.pid for w in found.workers), flush=True)
time.sleep(600)
"""


def test_workers_end_with_their_parent():
    code = PARENT.format(tests=str(FAKE.parent), fake=str(FAKE))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2 and left == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Unlucky:
    """Skill 1, but what ends the simulator in the third step of some episodes."""

    def __init__(self, env: LanguageRearrangementVectorEnv, bad: set[int]) -> None:
        self.env, self.bad = env, bad

    def start(self, env: LanguageRearrangementVectorEnv) -> None: ...

    def act(self, observation: dict[str, torch.Tensor], start: torch.Tensor) -> torch.Tensor:
        third = observation["rgb"][:, 0, 0, 1] == 2
        unlucky = torch.tensor([e in self.bad for e in self.env.world.episode.tolist()])
        return torch.where(third & unlucky, DIE, 1)


def test_an_evaluation_counts_lost_episodes_as_failures(fakes, trouble):
    from llarp.evaluation.evaluate import run_episodes

    episodes = fakes(1).episodes.select(range(8))
    env = fakes(2, episode_set=episodes, quota=True)
    (trouble / f"start-{int(episodes.episode_id[4])}").write_text("3")  # this one cannot even be begun
    results = run_episodes(env, Unlucky(env, {2, 5}))
    assert results.steps.tolist() == [5, 5, 2, 5, 0, 2, 5, 5]
    assert results.progress[2] == pytest.approx(0.2)
    assert [i for i, why in enumerate(results.reason) if why == "simulator_failed"] == [2, 4, 5]
    assert results.full_summary()["dropped"] == 3 and results.summary()["episodes"] == 8


def test_training_goes_on_through_losses(fakes):
    torch.manual_seed(0)
    env = fakes(2, episode_set=fakes(1).episodes.select(range(3)))
    step, died = env.step, []

    def unlucky(action: torch.Tensor) -> tuple:
        died.append(bool(len(died) in (5, 11)))
        return step(torch.tensor([DIE if died[-1] else 1, 1]))

    env.step = unlucky  # type: ignore[method-assign]
    log: list[dict] = []
    ppo = PPOConfig(num_steps=10, num_minibatches=1)
    Trainer(env, RecurrentPolicy(), ppo, TrainConfig(total_steps=60), seed=0, log=log.append).run()
    assert sum(died) == 2 and log[-1]["dropped"] == 2 and log[-1]["env_steps"] >= 60
    assert log[-1]["mean_return"] == pytest.approx(0.05)  # of whole episodes only
