"""The command line: exit codes, one line for bad input, nothing written by it, results in files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llarp
from llarp import __version__, cli, commands, options
from llarp.errors import UserError
from llarp.summary import summary_lines


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD = {
    "no command": ([], "no command given"),
    "unknown command": (["trian"], "did you mean 'train'"),
    "unknown key": (["train", "ppo.lrr=1"], "did you mean 'ppo.lr'"),
    "unknown option": (["eval", "episods=3"], "did you mean 'episodes'"),
    "flag": (["train", "--seed"], "key=value"),
    "no value": (["train", "seed"], "key=value"),
    "bad type": (["train", "seed=x"], "whole number"),
    "zero worlds": (["train", "env.num_envs=0"], "env.num_envs"),
    "negative steps": (["train", "train.total_steps=-5"], "train.total_steps"),
    "bad preset": (["train", "config=smok"], "did you mean 'smoke'"),
    "missing preset file": (["train", "config=none.yaml"], "no such file"),
    "run name with a slash": (["train", "config=smoke", "run_name=a/b"], "plain folder name"),
    "too many worlds": (["train", "config=smoke", "env.num_envs=10000000"], "too little memory"),
    "nobody acts": (["eval"], "checkpoint=PATH or policy=NAME"),
    "two act": (["eval", "policy=random", "checkpoint=x"], "either"),
    "unknown policy": (["eval", "policy=randm"], "did you mean 'random'"),
    "no episodes": (["eval", "policy=random", "episodes=0"], "at least 1"),
    "missing checkpoint": (["eval", "checkpoint=runs/none"], "no such run or checkpoint"),
    "missing run": (["train", "resume=runs/none"], "no such run"),
    "out in no folder": (["eval", "policy=random", "out=none/x.json"], "cannot be written"),
    "out is a folder": (["doctor", "out=."], "cannot be written"),
    "film of another kind": (["video", "policy=random", "out=x.avi"], ".mp4"),
    "film in no folder": (["video", "policy=random", "out=none/x.mp4"], "cannot be written"),
    "empty instruction": (["video", "policy=random", "instruction= "], "instruction"),
    "bench what": (["bench", "speed"], "choose what: sim"),
    "bench nothing": (["bench"], "choose what: sim"),
    "no repeats": (["bench", "sim", "repeats=0"], "at least 1"),
    "replay nothing": (["replay"], "actions=FILE.json"),
    "replay missing file": (["replay", "actions=none.json"], "cannot be read"),
    "data without file": (["data", "inspect"], "dataset=FILE"),
    "data missing file": (["data", "inspect", "dataset=none.safetensors"], "none.safetensors"),
    "config of a run": (["eval", "checkpoint=.", "config=smoke"], "."),
    "no such device": (["train", "device=cuda:99"], "device=cuda:99"),
    "not calibrated": (["eval", "policy=random", "calibrated=true"], "goes with policy=zero_shot"),
    "compared with nothing": (["eval", "policy=random", "compare=x.json"], "add report=FILE.html"),
}
COMPLETE = (["train"], ["eval", "policy=random"], ["video", "policy=random"],
            ["bench", "sim"], ["data", "generate"], ["data", "validate"], ["doctor"])  # fmt: skip
UNUSABLE = ("rules=folklore", "scenes=some/folder", "objects=some/folder", "dataset=some.pickle")
BAD |= {
    f"{setting} for {' '.join(words)}": ([*words, setting], setting)
    for setting in UNUSABLE
    for words in COMPLETE
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_2_and_one_line(name: str, capfd: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    words, said = BAD[name]
    assert cli.main(words) == 2
    output = capfd.readouterr()
    assert output.err.startswith("llarp: error: ") and output.err.count("\n") == 1
    assert said in output.err
    assert "Traceback" not in output.out + output.err
    assert list(empty_folder.iterdir()) == []


def test_the_module_runs_as_a_program() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(llarp.__file__).parent.parent)}  # where it is not installed
    command = [sys.executable, "-m", "llarp", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert re.fullmatch(r"llarp: error: unknown command 'trian'.*\n", done.stderr)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in commands.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_command_help_lists_options_and_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "ppo.lr=0.0003" in text and "out=" in text and "default" in text


def with_command(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setitem(commands.COMMANDS, "doctor", commands.Command("test", options.DoctorOptions, run))


def test_results_go_to_the_file_and_in_words_to_people(monkeypatch, capsys, empty_folder: Path) -> None:
    rates = {"episodes": 4, "success_rate": 0.5, "ci95": [0.15, 0.85], "mean_progress": 0.6, "mean_steps": 9.5,
             "invalid_rate": 0.25}  # fmt: skip
    with_command(monkeypatch, lambda request: {"splits": {"train": rates}, "seed": 3, "loss": float("nan")})
    assert cli.main(["doctor", "out=r.json"]) == 0
    assert json.loads((empty_folder / "r.json").read_text()) == {"splits": {"train": rates}, "seed": 3, "loss": None}
    assert "train: success 50.0% (95 %: 15.0% to 85.0%) in 4 episodes" in capsys.readouterr().out
    assert [p.name for p in empty_folder.iterdir()] == ["r.json"]


def test_a_training_result_in_words() -> None:
    rates = {"episodes": 4, "success_rate": 0.5, "ci95": [0.15, 0.85], "mean_progress": 0.6, "mean_steps": 9.5,
             "invalid_rate": 0.25}  # fmt: skip
    result = {"run_dir": "runs/a", "warm_start": {}, "videos": [{"steps": 3}],
              "evaluations": {"before PPO": rates | {"pick_and_place": rates | {"success_rate": 0.25}}}}  # fmt: skip
    lines = list(summary_lines(result))
    assert lines[0] == "run_dir: runs/a" and len(lines) == 3
    assert lines[1].startswith("held-out episodes before PPO: success 50.0% (95 %: 15.0% to 85.0%) in 4 episodes")
    assert lines[2].startswith("held-out episodes before PPO, pick and place only: success 25.0%")


def test_many_results_go_to_lines(monkeypatch, empty_folder: Path) -> None:
    with_command(monkeypatch, lambda request: [{"success": [True]}, {"success": [False]}])
    assert cli.main(["doctor", "out=r.jsonl"]) == 0
    assert [json.loads(x) for x in (empty_folder / "r.jsonl").read_text().splitlines()][1] == {"success": [False]}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("two\nlines"), 2, "llarp: error: two lines\n"),
        (OSError(28, "No space left on device"), 2, "llarp: error: the disk is full"),
        (MemoryError(), 2, "llarp: error: too little memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("broken"), 1, "RuntimeError: broken"),
        (OSError(5, "Input/output error"), 1, "Traceback"),
    ],
)
def test_errors_have_exit_codes(monkeypatch, capsys, empty_folder: Path, error, code: int, said: str) -> None:
    def fail(request: commands.Request) -> None:
        raise error

    with_command(monkeypatch, fail)
    assert cli.main(["doctor", "out=r.json"]) == code
    assert said in capsys.readouterr().err
    assert list(empty_folder.iterdir()) == []


def test_options_and_settings_are_told_apart(monkeypatch) -> None:
    request = cli.parse(
        commands.COMMANDS["eval"],
        ["policy=oracle", "policy.action_hidden=32", "dataset=x.safetensors", "sample=false", "seed=4", "config=smoke"],
    )
    assert request.options.policy == "oracle" and request.options.sample is False
    assert request.preset == "smoke"
    config = request.config()
    assert (config.policy.action_hidden, config.env.dataset, config.seed) == (32, "x.safetensors", 4)


def test_settings_of_a_run_come_with_its_checkpoint(empty_folder: Path) -> None:
    from llarp.config import load, to_yaml

    run = empty_folder / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step_1.pt").write_bytes(b"")
    (run / "config.yaml").write_text(to_yaml(load("smoke", ["policy.action_hidden=48"])))
    for path in ("runs/a", "runs/a/checkpoints", "runs/a/checkpoints/step_1.pt"):
        request = cli.parse(commands.COMMANDS["eval"], [f"checkpoint={path}", "env.num_envs=2"])
        config, checkpoint = commands._actor(request)
        assert (config.policy.action_hidden, config.env.num_envs, checkpoint) == (48, 2, Path(path))


def test_doctor_finds_what_is_there(empty_folder: Path) -> None:
    assert cli.main(["doctor", "out=d.json"]) == 0
    checks = {check["name"]: check for check in json.loads((empty_folder / "d.json").read_text())["checks"]}
    for name in ("python", "torch", "render", "transformers", "timm", "video encoder"):
        assert checks[name]["ok"], checks[name]
    assert "with labels" in checks["vision weights"]["detail"]
    assert cli.main(["doctor", "policy.vision_weights=random", "out=d.json"]) == 0
    assert "RANDOM" in (empty_folder / "d.json").read_text()
    for check in checks.values():
        assert set(check) == {"name", "ok", "detail", "fix"}
        assert bool(check["fix"]) != check["ok"]
