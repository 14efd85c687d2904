"""Loading settings: presets, overrides, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llarp import config, machine
from llarp.config import RunConfig
from llarp.errors import UserError


def leaf(settings: RunConfig, key: str) -> object:
    value: object = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("preset", config.preset_names())
def test_every_preset_loads(preset: str) -> None:
    loaded = config.load(preset)
    assert isinstance(loaded.env.num_envs, int) and loaded.device in ("cpu", "cuda")


def test_the_paper_preset_has_the_papers_ppo() -> None:
    ppo = config.load("paper").ppo
    assert (ppo.num_steps, ppo.num_epochs, ppo.num_minibatches) == (32, 2, 8)
    assert (ppo.lr, ppo.clip, ppo.entropy_coef, ppo.value_coef) == (3e-4, 0.2, 0.01, 0.5)
    assert (ppo.gamma, ppo.gae_lambda, ppo.max_grad_norm) == (0.99, 0.95, 0.2)
    assert config.load("paper").train.total_steps == 200_000_000


def test_overrides_win_and_take_the_settings_type() -> None:
    loaded = config.load("smoke", ["ppo.lr=1e-4", "train.total_steps=2e3", "run_name=007", "env.num_envs=3"])
    assert loaded.ppo.lr == 1e-4
    assert loaded.train.total_steps == 2000 and isinstance(loaded.train.total_steps, int)
    assert loaded.run_name == "007"
    assert loaded.env.num_envs == 3


def test_text_settings_are_taken_literally() -> None:
    assert config.load("smoke", ["output_dir=a: [b"]).output_dir == "a: [b"


def test_the_resolved_config_survives_its_file(tmp_path: Path) -> None:
    loaded = config.load("default", ["ppo.lr=1e-4", "run_name=null"])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(loaded))
    assert "auto" not in [str(leaf(loaded, k)) for k in ("env.num_envs", "train.total_steps", "device")]
    assert config.load_file(path) == loaded


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("ppo.lrr=1", "did you mean 'ppo.lr'?"),
        ("num_envs=4", "did you mean 'env.num_envs'?"),
        ("env.num_env=4", "did you mean 'env.num_envs'?"),
        ("ppo=1", "ppo is a group of settings"),
        ("ppo.lr=fast", "expected a number"),
        ("ppo.lr=nan", "expected a number"),
        ("ppo.num_steps=2.5", "expected a whole number"),
        ("ppo.num_steps=true", "expected a whole number"),
        ("ppo.normalize_advantage=maybe", "expected true or false"),
        ("ppo.num_epochs=auto", "expected a whole number"),
        ("ppo.num_steps=[1,", "ppo.num_steps=[1,"),
        ("backend=mujuco", "did you mean 'mujoco'?"),
        ("ppo.lr=${nowhere}", "nowhere"),
        ("policy.image_size=64", "set only env.image_size"),
        ("seed=-1", "must not be negative"),
        ("device=tpu", "device=tpu is unknown"),
        ("ppo.lr", "not of the form key=value"),
    ],
)
def test_bad_overrides_are_refused_with_words(override: str, said: str) -> None:
    with pytest.raises(UserError, match=".") as caught:
        config.load("smoke", [override])
    assert said in str(caught.value)


SIZES = [
    "env.num_envs", "env.image_size", "env.episodes", "task.max_steps", "ppo.num_steps", "ppo.num_epochs",
    "ppo.num_minibatches", "ppo.micro_batch_tokens", "policy.projector_hidden", "policy.num_visual_tokens",
    "policy.action_hidden", "policy.action_layers", "train.total_steps", "bc.epochs", "bc.batch_tokens",
]  # fmt: skip


@pytest.mark.parametrize("value", [0, -3])
@pytest.mark.parametrize("key", SIZES)
def test_zero_and_negative_sizes_are_refused(key: str, value: int) -> None:
    with pytest.raises(UserError, match=key.rpartition(".")[2]):
        config.load("smoke", [f"{key}={value}"])


def test_an_unknown_key_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("env:\n  num_evns: 4\n")
    with pytest.raises(UserError, match=r"env\.num_evns.*env\.num_envs"):
        config.load(str(path))


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "env: 3\n", "\x00"])
def test_files_that_are_no_settings_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(str(path))
    assert "\n" not in str(caught.value)


def test_unknown_presets_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'default'"):
        config.load("defualt")
    with pytest.raises(UserError, match="no such file"):
        config.load(str(tmp_path / "none.yaml"))


def test_policy_follows_the_environment() -> None:
    loaded = config.load("smoke", ["env.image_size=64", "task.max_steps=8"])
    assert (loaded.policy.image_size, loaded.policy.max_steps) == (64, 8)


def test_nothing_can_edit_a_loaded_config() -> None:
    loaded = config.load("smoke")
    for part in (loaded, *(getattr(loaded, f.name) for f in dataclasses.fields(loaded))):
        if dataclasses.is_dataclass(part):
            name = dataclasses.fields(part)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, name, getattr(part, name))


@dataclasses.dataclass(frozen=True)
class Shapes:
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[int, ...] = (1,)
    either: int | str = "auto"


def test_lists_and_unions_are_converted() -> None:
    built = config.build(Shapes, {"pair": [3, 4], "many": [5, 6, 7], "either": 8})
    assert built == Shapes((3, 4.0), (5, 6, 7), 8)
    assert isinstance(built.pair[1], float)
    assert config.build(Shapes, {"either": "x"}).either == "x"
    for bad in ({"pair": [1]}, {"many": [1.5]}, {"either": [1]}):
        with pytest.raises(UserError):
            config.build(Shapes, bad)


def test_sizing_touches_worlds_steps_and_micro_batch_only() -> None:
    sizes = {"env.num_envs", "train.total_steps", "ppo.micro_batch_tokens"}
    small = machine.Machine(cores=2, memory_gib=16, disk_gib=50)
    for device, found in (("cpu", small), ("cuda", machine.Machine(16, 100, 50, "gpu", 80))):
        assert set(machine.size_run(found, device)) == sizes
    assert machine.size_run(small, "cpu")["env.num_envs"] == 16
    poor = dataclasses.replace(small, memory_gib=4)
    assert machine.size_run(poor, "cpu")["env.num_envs"] < 16


def test_only_auto_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "inspect", lambda folder: machine.Machine(2, 16, 50))
    tree = machine.fill_in_auto({"device": "cpu", "env": {"num_envs": "auto"}, "train": {"total_steps": 5}})
    assert tree == {"device": "cpu", "env": {"num_envs": 16}, "train": {"total_steps": 5}}


def test_too_little_memory_or_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.check_room(1, 32, tmp_path)
    with pytest.raises(UserError, match=r"too little memory.*env\.num_envs"):
        machine.check_room(10**6, 128, tmp_path)
    monkeypatch.setattr(machine, "free_disk_gib", lambda folder: 0.1)
    with pytest.raises(UserError, match="too little disk space"):
        machine.check_room(1, 32, tmp_path)
