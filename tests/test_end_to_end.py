"""Every command as a user gives it, on a tiny random language model: what it writes, says and refuses.

`bench` is in test_bench.py, `doctor` in test_cli.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from tiny_llm import make_tiny_llm

import llarp
from llarp import cli
from llarp import train as training
from llarp.config import load
from llarp.envs.episode_source import load_episodes
from llarp.evaluation import rollout_video
from llarp.evaluation.agents import PlannerAgent, open_worlds
from llarp.rl import checkpoint
from llarp.tasks.actions import ACTION_NAMES, NUM_ACTIONS
from llarp.tasks.splits import SPLITS

RATES = {"episodes", "success_rate", "ci95", "mean_progress", "mean_steps", "invalid_rate"}
METRICS = {"env_steps", "wall_s", "steps_per_s", "episodes", "success_rate", "mean_return", "policy_loss", "value_loss",
           "entropy", "approx_kl", "clip_fraction"}  # fmt: skip
TIMES = {"wall_s", "steps_per_s", "memory_mb"}
WARM = ["train.warm_start=bc", "bc.episodes=8", "bc.epochs=1", "train.critic_warmup_steps=48"]
SHORT = ["task.max_steps=6"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the commands of this file run in."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def tiny(home: Path) -> list[str]:
    """Settings under which everything is small (but instructions: the tiny tokenizer cuts words into many tokens)."""
    make_tiny_llm(home / "llm")
    return ["config=smoke", "policy.llm=llm", "policy.vision=test_vit", "policy.vision_pool=grid2",
            "policy.precision=float32", "policy.max_instruction_tokens=192", "env.image_size=32"]  # fmt: skip


def run(*words: str, out: str = "out.json") -> Any:
    """What a command that must succeed puts into its result file."""
    assert cli.main([*words, f"out={out}"]) == 0
    return json.loads(Path(out).read_text())


@pytest.fixture(scope="module")
def trained(home: Path, tiny: list[str]) -> tuple[Path, dict[str, Any], Any]:
    """A run with a warm start: its folder, its result, and the policy as it was in the end."""
    policies: list[Any] = []
    build = training.build_policy

    def remember(config: Any) -> Any:
        policies.append(build(config))
        return policies[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_policy", remember)
        result = run("train", *tiny, *WARM, *SHORT, "run_name=a")
    return Path("runs/a"), result, policies[0]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in TIMES}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- train ------------------------------------------------------------------------------------------------------------


def test_train_reports_and_leaves_a_run_folder(trained) -> None:
    folder, result, _ = trained
    assert {"run_dir", "env_steps", "wall_s", "steps_per_s", "success_rate"} <= result.keys()
    assert (result["run_dir"], result["env_steps"]) == ("runs/a", 64)
    assert result["warm_start"]["demonstrations"] == 8
    for when in ("before PPO", "after PPO"):
        assert RATES <= result["evaluations"][when].keys() and result["evaluations"][when]["episodes"] == 4
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "manifest.json", "starts.jsonl", "metrics.jsonl", "tb", "checkpoints", "videos", "report.html",
        "report.json",
    }  # fmt: skip
    assert json.loads((folder / "report.json").read_text()) == result
    assert [row["env_steps"] for row in rows(folder)] == [32, 64] and all(METRICS <= row.keys() for row in rows(folder))
    assert list((folder / "tb").glob("events.*"))
    names = {p.name for p in (folder / "checkpoints").iterdir()}
    cloned = {name for name in names if name.startswith(checkpoint.CLONE)}
    assert cloned and names - cloned == {checkpoint.file_name(32), checkpoint.file_name(64), checkpoint.FROZEN_FILE}
    assert next(imageio_ffmpeg.read_frames(str(folder / "videos" / "held_out.mp4")))["codec"] == "h264"
    config = load(str(folder / "config.yaml"))
    assert (config.run_name, config.policy.llm, config.bc.episodes) == ("a", "llm", 8)


def test_the_run_says_what_it_was_shown_and_that_is_disjoint_from_the_tests(trained) -> None:
    folder, _, _ = trained
    report = run("data", "check", f"manifest={folder}", "split=referring_expressions", "episodes=4", out="check.json")
    assert [stage.split(":")[0] for stage in report["stages"]] == ["bc", "ppo"] and report["leaks"] == []
    assert report["disjoint"]["referring_expressions"]["episodes"] == 4


def test_frozen_weights_are_the_same_bits_after_a_whole_run(trained) -> None:
    folder, _, policy = trained
    fresh = training.build_policy(load(str(folder / "config.yaml")))
    assert policy.frozen_fingerprint() == fresh.frozen_fingerprint()
    after, moved = dict(policy.named_parameters()), []
    for name, before in fresh.named_parameters():
        same = torch.equal(before, after[name])
        assert same or before.requires_grad, name
        moved.append(before.requires_grad and not same)
    assert any(moved)
    stored = checkpoint.load(checkpoint.latest(folder), fresh)
    assert stored["env_steps"] == 64  # and loading has compared the fingerprints in the file


def test_the_same_seed_gives_the_same_run(trained, tiny: list[str]) -> None:
    folder, result, _ = trained
    again = run("train", *tiny, *WARM, *SHORT, "run_name=again")
    assert [without_times(r) for r in rows(Path("runs/again"))] == [without_times(r) for r in rows(folder)]
    assert again["evaluations"] == result["evaluations"] and again["videos"] == result["videos"]
    run("train", *tiny, *SHORT, "run_name=other", "seed=2", "train.eval_episodes=0", "train.total_steps=32")
    assert rows(Path("runs/other"))[0]["policy_loss"] != rows(folder)[0]["policy_loss"]


def test_a_resumed_run_equals_an_uninterrupted_one(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*tiny, *SHORT, "train.eval_episodes=0"]
    run("train", *words, "run_name=whole", "train.total_steps=96")
    run("train", *words, "run_name=parts", "train.total_steps=64")
    capsys.readouterr()
    result = run("train", "resume=runs/parts", "train.total_steps=96")
    assert result["env_steps"] == 96
    changed = [line for line in capsys.readouterr().out.splitlines() if "not as it began" in line]
    assert len(changed) == 1 and changed[0].endswith("train.total_steps=96, before 64")
    whole, parts = rows(Path("runs/whole")), rows(Path("runs/parts"))
    assert [row["env_steps"] for row in parts] == [32, 64, 96]
    for a, b in zip(whole, parts, strict=True):
        assert without_times(b) == pytest.approx(without_times(a), abs=1e-4)


def test_interrupting_ends_with_a_checkpoint_that_resumes(home: Path, tiny: list[str]) -> None:
    words = [*tiny, *SHORT, "run_name=stopped", "train.eval_episodes=0", "train.total_steps=1000000"]
    environment = os.environ | {"PYTHONPATH": str(Path(llarp.__file__).parent.parent)}  # where it is not installed
    with subprocess.Popen(
        [sys.executable, "-m", "llarp", "train", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        metrics, patience = home / "runs" / "stopped" / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    assert "resume=runs/stopped" in output
    report = json.loads(Path("runs/stopped/report.json").read_text())
    assert report["interrupted"] and report["env_steps"] >= 64
    more = report["env_steps"] + 32
    assert run("train", "resume=runs/stopped", f"train.total_steps={more}")["env_steps"] >= more


# -- eval -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["checkpoint=runs/a/checkpoints", "policy=random", "policy=explorer", "policy=sweep"])
def test_eval_reports_every_split_with_an_interval(trained, who: str) -> None:
    settings = [] if who.startswith("checkpoint") else ["config=smoke", "env.image_size=32", *SHORT]
    result = run("eval", who, *settings, "split=all", "episodes=5")
    assert set(result) >= {"splits", "total", "backend", "dataset", "seed"}
    assert set(result["splits"]) == set(SPLITS) - {"train"} and len(result["splits"]) == 11
    for row in result["splits"].values():
        low, high = row["ci95"]
        assert row.keys() >= RATES and row["episodes"] == 5 and 0 <= low <= row["success_rate"] <= high <= 1
        assert 1 <= row["mean_steps"] <= 6
    assert result["total"]["episodes"] == 50  # of the ten splits with unseen tasks: not of train_validation


def test_the_oracle_solves_every_episode_of_a_generated_file(home: Path) -> None:
    made = run("data", "generate", "dataset=made.safetensors", "split=new_scenes", "episodes=10")
    assert made["episodes"] == made["solvable"] == 10
    for what in ("validate", "inspect"):
        found = run("data", what, "dataset=made.safetensors")
        keys = {"episodes", "scenes", "instruction_types", "unique_instructions"}
        assert {k: found[k] for k in keys} == {k: made[k] for k in keys}
        assert sum(found["instruction_types"].values()) == 10
    for worlds in (4, 10):  # with more episodes than worlds, and with as many
        result = run("eval", "policy=oracle", "config=smoke", "env.image_size=32", f"env.num_envs={worlds}",
                     "dataset=made.safetensors")  # fmt: skip
        row = result["splits"]["made"]
        assert row["success_rate"] == 1 and row["episodes"] == 10 and row["invalid_rate"] == 0


# -- video ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was drawn into each frame of the films that a test makes."""
    frames: list[dict[str, Any]] = []
    draw = rollout_video.draw_frame

    def remember(head: Any, outside: Any, instruction: str, step: int, action: str, **rest: Any) -> Any:
        frames.append({"instruction": instruction, "step": step, "action": action, **rest})
        return draw(head, outside, instruction, step, action, **rest)

    monkeypatch.setattr(rollout_video, "draw_frame", remember)
    return frames


def test_video_of_an_episode(home: Path, drawn: list[dict[str, Any]]) -> None:
    assert cli.main(["video", "policy=oracle", "config=smoke", "env.image_size=32", "episode=1", "out=o.mp4"]) == 0
    assert next(imageio_ffmpeg.read_frames("o.mp4"))["codec"] == "h264"
    assert drawn[0]["step"] == 0 and drawn[-1]["outcome"] is True and drawn[-1]["reward"] >= 10
    assert all(frame["action"] in ACTION_NAMES for frame in drawn[1:])


def test_video_of_free_words_judges_nothing(trained, drawn: list[dict[str, Any]]) -> None:
    words = "bring me something to eat, perhaps"
    assert cli.main(["video", "checkpoint=runs/a", f"instruction={words}", "out=free.mp4"]) == 0
    assert Path("free.mp4").stat().st_size > 1000
    assert len(drawn) == 7  # six steps
    for frame in drawn:
        assert frame["instruction"] == words
        assert frame["progress"] is frame["reward"] is frame["outcome"] is None


# -- replay -----------------------------------------------------------------------------------------------------------


def test_replay_repeats_what_the_environment_did(home: Path) -> None:
    config = load("smoke", ["env.image_size=32"])
    episodes = load_episodes(replace(config.env, episodes=100), config.seed)
    agent = PlannerAgent("oracle")
    env = open_worlds(agent, episodes.select([3]), 1, config.env, config.task, config.seed, "cpu", "disabled")
    observation, _ = env.reset()
    agent.start(env)
    start, done, actions, rewards = torch.ones(1, dtype=torch.bool), False, [], []
    while not done:
        action = agent.act(observation, start)
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(int(action))
        rewards.append(float(reward))
        start, done = torch.zeros_like(start), bool(terminated | truncated)
    episode_id = str(int(episodes.episode_id[3]))
    Path("actions.json").write_text(json.dumps({"episode_id": episode_id, "actions": actions}))
    result = run("replay", "config=smoke", "actions=actions.json")
    keys = "actions action_names invalid rewards progress success valid_before poses"
    assert all(len(result[key]) == len(actions) for key in keys.split())
    assert result["done_step"] == len(actions) and result["success"][-1] and not any(result["success"][:-1])
    assert (result["actions"], result["rewards"]) == (actions, rewards)
    assert not any(result["invalid"]) and all(a in v for a, v in zip(actions, result["valid_before"], strict=True))

    lines = [json.dumps({"episode_id": episode_id, "actions": [ACTION_NAMES[a] for a in some]})
             for some in (actions, actions[:1], list(range(NUM_ACTIONS)))]  # fmt: skip
    Path("many.jsonl").write_text("\n".join(lines))
    assert cli.main(["replay", "config=smoke", "actions=many.jsonl", "out=many_out.jsonl"]) == 0
    many = [json.loads(line) for line in Path("many_out.jsonl").read_text().splitlines()]
    assert many[0] == result and len(many[1]["actions"]) == 1 and many[1]["done_step"] is None
    assert len(many[2]["actions"]) == many[2]["done_step"] == 32


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(trained) -> Iterator[Path]:
    """A copy of the run whose newest checkpoint is cut off."""
    folder = Path("runs/spoilt")
    shutil.copytree("runs/a", folder)
    newest = checkpoint.latest(folder)
    newest.write_bytes(newest.read_bytes()[:-2000])
    yield folder
    shutil.rmtree(folder)



REFUSED: dict[str, tuple[list[str], str]] = {
    "cut checkpoint": (["eval", "checkpoint=runs/spoilt"], "damaged"),
    "cut checkpoint resumed": (["train", "resume=runs/spoilt"], "damaged"),
    "other sizes": (["eval", "checkpoint=runs/a", "policy.action_hidden=32"], "does not fit"),
    "other vision": (["eval", "checkpoint=runs/a", "policy.vision=test_vit2"], "config.yaml"),
    "other worlds": (["train", "resume=runs/a", "env.num_envs=3", "train.total_steps=96"], "env.num_envs"),
    "other episodes": (["train", "resume=runs/a", "seed=5", "train.total_steps=96"], "other episodes"),
    "run of that name": (["train", "run_name=a"], "exists already"),
    "unknown llm": (["train", "policy.llm=./nowhere"], "nowhere"),
    "llm without weights": (["train", "policy.llm=runs"], "runs"),
    "unknown vision": (["train", "policy.vision=vit_of_nobody"], "vit_of_nobody"),
    "unknown weights": (["train", "policy.vision_weights=none.pth"], "none.pth"),
    "unknown evaluation split": (["train", "train.eval_split=nowhere"], "nowhere"),
    "no episode file": (["eval", "policy=oracle", "dataset=noise.bin"], "noise.bin"),
    "no episode file to train": (["train", "dataset=noise.bin"], "noise.bin"),
    "no episode file to inspect": (["data", "inspect", "dataset=noise.bin"], "noise.bin"),
    "generate into nowhere": (["data", "generate", "dataset=none/x.safetensors"], "does not exist"),
    "generate of nothing": (["data", "generate", "dataset=x.safetensors", "split=nowhere"], "nowhere"),
    "unknown split": (["eval", "policy=oracle", "split=nowhere"], "nowhere"),
    "episode past the end": (["replay", "actions=one.json", "episode=none"], "episode_id=none"),
    "no published file": (["replay", "actions=one.json", "dataset=noise.pickle", "scenes=."], "no pickle"),
    "a scene folder that is none": (["replay", "actions=one.json", "dataset=noise.bin", "scenes=."], "scenes=."),
    "planner with free words": (["video", "policy=oracle", "instruction=hello", "out=x.mp4"], "policy=oracle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_leaves_everything_as_it_was(name: str, spoilt: Path, home: Path, tiny: list[str], capfd) -> None:
    words, said = REFUSED[name]
    for name in ("noise.bin", "noise.pickle"):
        (home / name).write_bytes(bytes(range(256)) * 8)
    (home / "one.json").write_text("[1, 2]")
    own = not any(word.startswith(("checkpoint=", "resume=")) for word in words)
    chosen = [t for t in tiny if own and t.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    before = tree(home)
    capfd.readouterr()
    assert cli.main([*words, *chosen]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("llarp: error: ") and errors.count("\n") == 1 and said in errors
    assert tree(home) == before
