"""`llarp data`: files made, checked and looked into, from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from llarp import cli
from llarp.data_view import goal_text
from llarp.sim.world import load_assets
from llarp.tasks.episodes import load, save
from llarp.tasks.generator import generate
from llarp.tasks.splits import SPLITS

KEYS = {"episodes", "scenes", "instruction_types", "unique_instructions", "solvable", "unique_goals",
        "unique_arrangements", "rejection_rate"}


def run(folder: Path, *words: str) -> dict:
    out = folder / "out.json"
    assert cli.main(["data", *words, f"out={out}"]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Eight episodes of the built-in apartments."""
    assets = load_assets()
    path = tmp_path_factory.mktemp("data") / "set.safetensors"
    save(generate(assets.scenes, assets.catalog, "train_validation", 8, seed=0), path)
    return path


def test_every_split_can_be_made_at_once(tmp_path):
    made = run(tmp_path, "generate", "split=all", f"dataset={tmp_path}", "episodes=3")["files"]
    assert list(made) == list(SPLITS)
    for name, report in made.items():
        episodes = load(tmp_path / f"{name}.safetensors")
        assert report.keys() >= KEYS and report["episodes"] == len(episodes) == report["solvable"] == 3
        assert (episodes.split, report["bytes"]) == (name, (tmp_path / f"{name}.safetensors").stat().st_size)


def test_validate_plays_by_the_semantics_and_in_the_rendering_environment(file, tmp_path):
    report = run(tmp_path, "validate", f"dataset={file}", "render=3", "env.image_size=32", "env.num_envs=2")
    assert report.keys() >= KEYS and report["solvable"] == 8 and report["rendered"] == 3
    assert 1 <= report["oracle_steps"] <= 8


def test_inspect_lists_episodes_and_draws_a_start(file, tmp_path, capsys):
    report = run(tmp_path, "inspect", f"dataset={file}", "rows=2", "episode=5", "env.image_size=32")
    printed = capsys.readouterr().out
    words = load(file).instruction
    assert all(word in printed for word in words[0].split() + words[1].split())
    assert report["picture"] == str(tmp_path / "out.png")
    with Image.open(report["picture"]) as picture:
        assert picture.format == "PNG" and min(picture.size) > 500
        assert len(picture.getcolors(1 << 24) or ()) > 50


def refused(capfd, *words: str) -> str:
    assert cli.main(["data", *words]) == 2
    text = capfd.readouterr().err
    assert text.startswith("llarp: error: ") and text.count("\n") == 1
    return text


def test_files_that_do_not_hold_what_they_promise_are_refused(file, tmp_path, capfd):
    assets = load_assets()
    episodes = load(file, assets.scenes, assets.catalog)
    path = tmp_path / "bad.safetensors"
    save(episodes.select([0, 1, 1]), path)
    assert "1 episodes repeat" in refused(capfd, "validate", f"dataset={path}")
    circuits = episodes.circuits.rows(torch.tensor([0, 1, 3, 2, 4, 5, 6, 7]))
    save(replace(episodes, circuits=circuits), path)
    assert "episode 2 stores another goal" in refused(capfd, "validate", f"dataset={path}")
    kinds = list(episodes.instruction_type)
    moved = kinds.index("place_one")
    position = episodes.object_position.clone()
    position[moved, :, :2] += 50.0
    save(replace(episodes, object_position=position), path)
    assert f"episode {moved} is the first" in refused(capfd, "validate", f"dataset={path}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "split=all", "dataset=x.safetensors"], "must be a folder"),
        (["generate", "dataset=."], "is a folder"),
        (["generate", "dataset=x.safetensors", "episodes=-1"], "episodes=-1"),
        (["generate", "dataset=x.safetensors", "processes=-1"], "processes=-1"),
        (["generate", "dataset=x.pickle", "scenes=."], "another ending"),
        (["validate", "dataset={file}", "render=-1"], "render=-1"),
        (["inspect", "dataset={file}", "rows=-1"], "rows=-1"),
        (["inspect", "dataset={file}", "episode=99"], "episode=99"),
        (["inspect", "dataset={file}", "picture=none/x.png"], "picture=none/x.png"),
    ],
)
def test_bad_requests_are_refused_and_write_nothing(file, tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capfd, *(word.format(file=file) for word in words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        ({"expr_type": "AND", "quantifier": "EXISTS", "inputs": [{"name": "X", "expr_type": "ball"}],
          "sub_exprs": ["on_top(X, receptacle_aabb_Sofa_frl_apartment_sofa)", "not_holding()"]},
         "some X: ball, on_top(X, sofa) and not_holding()"),
        ({"expr_type": "AND", "sub_exprs": ["not_holding()", {"expr_type": "NAND", "quantifier": "EXISTS",
          "inputs": [{"name": "X", "expr_type": "cup"}], "sub_exprs": ["on_top(X, sink)"]}]},
         "not_holding() and not (some X: cup, on_top(X, sink))"),
        ({"expr_type": "AND", "sub_exprs": ["not_holding()", {"expr_type": "OR", "sub_exprs": ["a()", "b()"]}]},
         "not_holding() and (a() or b())"),
    ],
)  # fmt: skip
def test_goals_are_shown_as_a_line(goal, text):
    assert goal_text(goal) == text


def test_file_ids_are_kept(file):
    assert torch.equal(load(file).episode_id, torch.arange(8))
