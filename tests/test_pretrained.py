"""Policies as folders: shipping a run, loading by path, name and hub id, and every file that must be refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import make_tiny_llm

import llarp
from llarp import cli
from llarp.config import RunConfig, load
from llarp.disjoint import merge, record
from llarp.envs.episode_source import load_episodes
from llarp.errors import UserError
from llarp.policy import hub
from llarp.policy.vision import build_backbone
from llarp.pretrain.card import write_weights
from llarp.rl import checkpoint
from llarp.runfolder import RunFolder, to_json
from llarp.train import build_policy, load_weights

SETTINGS = ["policy.llm=llm", "policy.vision=test_vit", "policy.vision_pool=grid2", "policy.precision=float32",
            "policy.max_instruction_tokens=192", "env.image_size=32", "task.max_steps=3", "env.episodes=8",
            "env.num_envs=4", "device=cpu"]  # fmt: skip
VISION = "vision/vision.safetensors"


def make_run(config: RunConfig, stage: str) -> Path:
    """A run folder as training leaves it, but for the training: a checkpoint of random weights."""
    folder = RunFolder.planned(config).create(config)
    record(folder.path, stage, load_episodes(config.env, config.seed), config.env)
    policy = build_policy(config)
    policy.calibrate(policy.encode(torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8)))
    checkpoint.save(folder.checkpoints / checkpoint.file_name(7), policy, {})
    (folder.path / "report.json").write_text('{"wall_s": 120.0, "env_steps": 7}')
    return folder.path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two runs, a vision model's weights in a file, and an empty place for package data."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(hub, "SHIPPED", folder / "package")
        patch.setattr(hub, "_SMALL", 1000)  # the tiny model's matrices count as large
        make_tiny_llm(folder / "llm")
        (folder / "vision").mkdir()
        backbone = build_backbone("test_vit", "random", 32, seed=5)
        write_weights(folder / "vision", backbone)
        digest = hub.digest_of(folder / VISION)
        card = {"sha256": digest, "probe": {}, "how": "made up", "supervised": False, "pictures": 10}
        (folder / "vision" / "card.json").write_text(to_json(card))
        config = load("smoke", [*SETTINGS, "seed=3"])
        record(folder / "vision", "vision pretraining", load_episodes(config.env, 9), config.env)
        make_run(load("smoke", [*SETTINGS, "run_name=a"]), "bc")
        make_run(load("smoke", [*SETTINGS, "run_name=b", "seed=2", f"policy.vision_weights={VISION}",
                                "train.init=runs/a"]), "ppo")  # fmt: skip
        yield folder


@pytest.fixture(scope="module")
def shipped(home: Path) -> Path:
    """Run b as package data called `robot`."""
    out = home / "package" / "robot"
    words = ["ship", "checkpoint=runs/b", "name=robot", f"out={out}", "selected_on=train_validation"]
    assert cli.main(words) == 0
    return out


@pytest.fixture
def copy(shipped: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(shipped, tmp_path / "copy"))


def recorded(folder: Path, name: str) -> None:
    """Enter a changed file's sha256 in the card, as somebody would who means harm."""
    card = json.loads((folder / hub.CARD).read_text())
    card["files"][name] = hub.digest_of(folder / name)
    (folder / hub.CARD).write_text(json.dumps(card))


def test_a_shipped_run_says_what_it_is(shipped: Path) -> None:
    card = json.loads((shipped / hub.CARD).read_text())
    assert {p.name for p in shipped.iterdir()} == set(hub.FILES)
    assert card["selected_on"] == "train_validation" and card["results"] == []
    assert [stage["run"] for stage in card["stages"]] == ["a", "b"]
    assert card["stages"][1] | {"commands": 0, "commits": 0} == {
        "run": "b", "commands": 0, "commits": 0, "seed": 2, "minutes": 2.0, "env_steps": 7
    }  # fmt: skip
    assert card["shown"] == ["vision pretraining", "bc", "ppo"]
    assert len(merge([shipped]).shown) == 3  # vision pretraining saw other rooms, and each run has its own seed
    assert card["frozen"]["llm"] == hub.digest_of(Path("llm/model.safetensors"))
    words = (shipped / hub.README).read_text()
    assert "None entered yet" in words and "made up (self-supervised" in words and "seed 2, 2.0 minutes" in words
    settings = json.loads((shipped / hub.CONFIG).read_text())
    assert settings["policy"]["vision_weights"] == hub.VISION and settings["task"]["max_steps"] == 3
    assert all(str(Path.cwd()) not in p.read_text() for p in (shipped / hub.CARD, shipped / hub.CONFIG))


def test_a_mean_of_runs(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run and the one it began with: the mean of their weights, and the history of both."""
    make_run(load("smoke", [*SETTINGS, "run_name=on", "seed=4", "train.init=runs/a"]), "bc")
    out = tmp_path / "mean"
    assert cli.main(["ship", "checkpoint=runs/on", "average=runs/a", "name=mean", f"out={out}"]) == 0
    card = json.loads((out / hub.CARD).read_text())
    assert card["averaged"] == ["a", "on"] and [stage["run"] for stage in card["stages"]] == ["a", "on"]
    assert "the mean of those of the runs a, on" in (out / hub.README).read_text()
    weights = []
    for run in ("a", "on"):
        policy = build_policy(load(f"runs/{run}/config.yaml"))
        checkpoint.load(checkpoint.latest(Path(f"runs/{run}")), policy)
        weights.append(policy.trainable_state_dict())
    found = llarp.LLaRPPolicy.from_pretrained(out).trainable_state_dict()
    for name, value in found.items():
        middle = (weights[0][name].double() + weights[1][name]) / 2
        torch.testing.assert_close(value.double(), middle, atol=1e-3, rtol=0)
    wider = load("smoke", [*SETTINGS, "run_name=wide", "policy.projector_hidden=24"])
    make_run(wider, "bc")
    words = ["ship", "checkpoint=runs/on", "average=runs/wide", "name=x", f"out={tmp_path / 'x'}"]
    assert cli.main(words) == 2
    assert "use the config.yaml" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_it_acts_as_the_run_does(shipped: Path) -> None:
    ours = build_policy(load("runs/b/config.yaml"))
    checkpoint.load(checkpoint.latest(Path("runs/b")), ours)
    theirs = llarp.LLaRPPolicy.from_pretrained("robot")
    assert theirs.frozen_fingerprint() == ours.frozen_fingerprint()
    rgb = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    said = {"rgb": rgb, "instruction": ["pick up the apple", "go to the sink"]}
    logits = []
    for policy in (ours, theirs):
        first = torch.ones(2, dtype=torch.bool)
        _, log_prob, value, _ = policy.act(said, policy.initial_state(2), first, deterministic=True)
        logits.append(torch.stack([log_prob, value]))
    torch.testing.assert_close(*logits, atol=0.02, rtol=0.01)  # matrices are rounded to float16
    half = {name for name, t in load_file(shipped / hub.WEIGHTS).items() if t.dtype == torch.float16}
    assert half and not any("bias" in name for name in half)


def test_saving_what_was_loaded_is_exact(shipped: Path, tmp_path: Path) -> None:
    policy = llarp.LLaRPPolicy.from_pretrained(shipped)
    policy.save_pretrained(tmp_path / "again")
    again = llarp.LLaRPPolicy.from_pretrained(tmp_path / "again")
    for name, tensor in policy.trainable_state_dict().items():
        assert torch.equal(tensor, again.trainable_state_dict()[name])


def test_training_goes_on_from_a_shipped_policy(shipped: Path, tmp_path: Path) -> None:
    """Its weights, what it was shown, and its history go with the run and what is shipped of that."""
    words = [*SETTINGS, f"policy.vision_weights={VISION}"]
    policy = build_policy(load("smoke", words))
    load_weights(policy, "robot")
    theirs = llarp.LLaRPPolicy.from_pretrained("robot").trainable_state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in policy.trainable_state_dict().items())
    more = ["train.init=robot", "run_name=c", "train.total_steps=32", "train.eval_episodes=0"]
    assert cli.main(["train", "config=smoke", *words, *more]) == 0
    assert cli.main(["ship", "checkpoint=runs/c", "name=more", f"out={tmp_path / 'more'}"]) == 0
    card = hub.read(tmp_path / "more").card
    assert [stage["run"] for stage in card["stages"]] == ["a", "b", "c"]
    assert card["shown"] == ["vision pretraining", "bc", "ppo", "ppo"]


def test_random_vision_weights_travel_too(home: Path, tmp_path: Path) -> None:
    """And stay called untrained."""
    assert cli.main(["ship", "checkpoint=runs/a", "name=plain", f"out={tmp_path / 'plain'}"]) == 0
    assert not (tmp_path / "plain" / hub.VISION).exists()
    policy = llarp.LLaRPPolicy.from_pretrained(tmp_path / "plain")
    assert "untrained" in policy.describe()
    assert "untrained" in (tmp_path / "plain" / hub.README).read_text()


def test_a_prompt_of_any_words_travels(home: Path, tmp_path: Path) -> None:
    policy = build_policy(load("smoke", [*SETTINGS, "policy.prompt=\N{ROBOT FACE} {instruction}"]))
    policy.save_pretrained(tmp_path)
    assert load(str(tmp_path / hub.CONFIG)).policy.prompt == "\N{ROBOT FACE} {instruction}"


def test_results_are_entered_if_they_are_of_these_weights(
    home: Path, copy: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "r.json"
    monkeypatch.chdir(copy)
    words = [f"policy.llm={home / 'llm'}", "episodes=2", "split=new_scenes", f"out={out}", "seed=5"]
    assert cli.main(["eval", "checkpoint=.", *words]) == 0
    assert cli.main(["ship", f"checkpoint={copy}", f"results={out}"]) == 0
    card = hub.read(copy).card
    assert card["results"][0]["weights"] == "these weights" and card["results"][0]["total"]["episodes"] == 2
    assert "| new_scenes |" in (copy / hub.README).read_text()
    good = json.loads(out.read_text())
    bad = [({"weights_sha256": "0"}, "other weights"), ({"pictures": "blank"}, "pictures=blank"),
           ({"hears": "unknown"}, "hears=unknown"),
           ({"total": good["total"] | {"ci95": 1}}, "no result file")]  # fmt: skip
    for change, said in bad:
        capsys.readouterr()
        out.write_text(json.dumps(good | change))
        assert cli.main(["ship", f"checkpoint={copy}", f"results={out}"]) == 2
        assert said in capsys.readouterr().err
    assert len(hub.read(copy).card["results"]) == 1


@pytest.mark.parametrize("setting", ["policy.kind=lstm", "policy.llm_weights=random"])
def test_baselines_can_be_shipped(setting: str, home: Path, tmp_path: Path) -> None:
    """Commands load them, and `from_pretrained` gives what they are."""
    name = setting.rpartition("=")[2]
    make_run(load("smoke", [*SETTINGS, setting, f"run_name={name}"]), "ppo")
    out = tmp_path / name
    assert cli.main(["ship", f"checkpoint=runs/{name}", f"name={name}", f"out={out}"]) == 0
    assert cli.main(["eval", f"checkpoint={out}", "episodes=2", "split=new_scenes", f"out={tmp_path / 'r.json'}"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["weights_sha256"] == hub.read(out).card["weights_sha256"]
    policy = llarp.LLaRPPolicy.from_pretrained(out)
    assert type(policy).__name__ == hub.read(out).card["policy_class"] != "LLaRPPolicy"


def test_a_name_films_free_text(shipped: Path, tmp_path: Path) -> None:
    film = tmp_path / "x.mp4"
    assert cli.main(["video", "checkpoint=robot", "instruction=bring me something to drink", f"out={film}"]) == 0
    assert film.stat().st_size > 1000


REFUSED: dict[str, tuple[Any, str]] = {
    "a file is missing": (lambda f: (f / hub.WEIGHTS).unlink(), "policy.safetensors is missing"),
    "the card is missing": (lambda f: (f / hub.CARD).unlink(), "card.json is missing"),
    "a flipped bit": (lambda f: flip(f / hub.WEIGHTS), "damaged or was changed"),
    "no vision weights": (lambda f: (f / hub.VISION).unlink(), "vision.safetensors is missing"),
    "another version": (lambda f: edit(f / hub.CARD, format="llarp policy 9"), "llarp policy 9"),
    "a card of something": (lambda f: (f / hub.CARD).write_text("[" * 100_000), "not a policy folder"),
    "another backbone": (lambda f: edit(f / hub.CARD, frozen={"llm": "0" * 64}), "other weights of the frozen llm"),
    "other skills": (lambda f: edit(f / hub.CARD, own_skills=["fly()"]), "LLARP_EXTENSIONS"),
    "a path in the card": (lambda f: edit(f / hub.CARD, files={"../x": "", **card_files(f)}), "no file of a policy"),
    "a setting of the machine": (lambda f: config(f, env={"dataset": "/etc/passwd"}), "env.dataset is nothing"),
    "a group of settings": (lambda f: config(f, train={"total_steps": 1}), "'train' is nothing"),
    "weights elsewhere": (lambda f: config(f, policy={"vision_weights": "/x/y.pth"}), "outside the folder"),
    "a variable of the machine": (lambda f: config(f, policy={"llm": "${oc.env:HOME}"}), "reads other settings"),
    "foreign frozen tensors": (lambda f: tensors(f, {"frozen.vision.x": torch.zeros(1)}), "x"),
    "a size that cannot be": (lambda f: config(f, policy=own(f) | {"action_hidden": 10**13}), "10000000000000"),
    "an unknown setting": (lambda f: config(f, policy={"wings": 2, "vision_weights": "random"}), "policy.wings"),
    "a pickle": (lambda f: pickled(f / hub.WEIGHTS), "not weights that can be read"),
    "other tensors": (lambda f: tensors(f, {"heads.x": torch.zeros(1)}), "belongs to no part"),
    "other shapes": (lambda f: tensors(f, {"trainable.heads.x": torch.zeros(1)}), "does not fit"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def card_files(folder: Path) -> dict[str, str]:
    return json.loads((folder / hub.CARD).read_text())["files"]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def config(folder: Path, **groups: Any) -> None:
    edit(folder / hub.CONFIG, **groups)
    recorded(folder, hub.CONFIG)


def own(folder: Path) -> dict[str, Any]:
    return json.loads((folder / hub.CONFIG).read_text())["policy"]


def pickled(path: Path) -> None:
    torch.save({"trainable.x": torch.zeros(1)}, path)
    recorded(path.parent, path.name)


def tensors(folder: Path, content: dict[str, torch.Tensor]) -> None:
    save_file(content, folder / hub.WEIGHTS)
    recorded(folder, hub.WEIGHTS)


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, said = REFUSED[what]
    spoil(copy)
    with pytest.raises(UserError, match=said.replace(".", r"\.").replace("[", r"\[")):
        llarp.LLaRPPolicy.from_pretrained(copy)
    assert cli.main(["eval", f"checkpoint={copy}", "episodes=1"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_unknown_names_say_what_there_is(shipped: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match=r"shipped with llarp: robot\); give a run folder"):
        llarp.LLaRPPolicy.from_pretrained("rowboat")
    assert cli.main(["eval"]) == 2
    assert "ships, for checkpoint=: robot" in capsys.readouterr().err
    monkeypatch.setattr(hub, "SHIPPED", tmp_path)
    with pytest.raises(UserError, match="shipped with llarp: none in this version"):
        llarp.LLaRPPolicy.from_pretrained("robot")
    assert cli.main(["train", "config=smoke", *SETTINGS, "policy.vision_weights=llarp"]) == 2
    assert "a name that llarp ships (none in this version)" in capsys.readouterr().err


def test_a_shipped_vision_model_goes_by_name(home: Path, shipped: Path, tmp_path: Path) -> None:
    out = home / "package" / "vision-eyes"
    assert cli.main(["ship", f"vision_weights={VISION}", "name=eyes", f"out={out}"]) == 0
    config = load("smoke", [*SETTINGS, "policy.vision_weights=eyes", "run_name=eyed"])
    assert build_policy(config).frozen_fingerprint() == llarp.LLaRPPolicy.from_pretrained("robot").frozen_fingerprint()
    make_run(config, "ppo")
    assert cli.main(["ship", "checkpoint=runs/eyed", "name=c", f"out={tmp_path / 'c'}"]) == 0
    assert not (tmp_path / "c" / hub.VISION).exists()  # the installation has them
    assert [stage for stage, _ in merge([tmp_path / "c"]).stages] == ["vision pretraining", "ppo"]
    assert "weights from eyes" in llarp.LLaRPPolicy.from_pretrained(tmp_path / "c").describe()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["name=x", "out=y"], "give either"),
        (["checkpoint=runs/a", "name=x"], "out=FOLDER"),
        (["checkpoint=runs/a", "name=../x", "out=y"], "plain name"),
        (["checkpoint=runs/a", "name=x", "out=llm/config.json/y"], "cannot be made: Not a directory"),
        (["checkpoint=" + "x" * 999, "name=x", "out=y"], "File name too long"),
        ([f"vision_weights={VISION}", "name=random", "out=y"], "means something else"),
        (["checkpoint=runs/a", "name=x", "out=y", "results=none.json"], "no result file"),
        (["checkpoint=runs/a", "name=x", "out=runs/a"], "exists already"),
        (["checkpoint=runs/none", "name=x", "out=y"], "no such run"),
        (["checkpoint=package/robot", "name=x"], "is a policy folder already"),
        (["checkpoint=package/robot", "average=runs/a", "results=r.json"], "is a policy folder already"),
        (["checkpoint=runs/a", "name=x", "out=y", "stages=runs/none"], "no such run"),
        (["checkpoint=runs/a", "name=x", "out=y", "average=runs/none"], "no such run"),
        (["vision_weights=llm/model.safetensors", "name=x", "out=y"], "give the vision.safetensors"),
    ],
)
def test_bad_ships(words: list[str], said: str, shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ship", *words]) == 2
    assert said in capsys.readouterr().err and not Path("y").exists()


def test_a_run_that_nobody_knows_the_data_of_is_not_shipped(home: Path, tmp_path: Path) -> None:
    shutil.copytree("runs/a", "runs/old", dirs_exist_ok=True)
    os.remove("runs/old/manifest.json")
    assert cli.main(["ship", "checkpoint=runs/old", "name=x", f"out={tmp_path / 'x'}"]) == 2
    assert not (tmp_path / "x").exists()


class FakeHub:
    """The part of the hub's client that is used, keeping what it was given."""

    store: Path
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **settings: Any) -> str:
        self.calls.append(("create", {"repo_id": repo_id, **settings}))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: Any) -> None:
        for file in Path(folder_path).iterdir():
            if file.name in allow_patterns:
                target = self.store / repo_id / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)

    def upload_file(self, *, repo_id: str, path_or_fileobj: bytes, path_in_repo: str) -> None:
        (self.store / repo_id / path_in_repo).write_bytes(path_or_fileobj)


def test_to_the_hub_and_back(copy: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import huggingface_hub

    FakeHub.store = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(there(name)))

    def there(name: str) -> Path:
        if not (FakeHub.store / name).is_dir():
            raise OSError("404\nnothing there")
        return FakeHub.store / name

    (copy / "secret.txt").write_text("x")
    assert cli.main(["ship", f"checkpoint={copy}", "hub=me/robot", "private=true"]) == 0
    assert FakeHub.calls[-1] == ("create", {"repo_id": "me/robot", "private": True, "exist_ok": True})
    assert {p.name for p in (FakeHub.store / "me/robot").iterdir()} == {*hub.FILES, "README.md"}
    assert (FakeHub.store / "me/robot/README.md").read_text().startswith("---\nlicense: apache-2.0\n")
    policy = llarp.LLaRPPolicy.from_pretrained("me/robot")
    assert policy.push_to_hub("me/again") == "https://hub/me/again"
    again = llarp.LLaRPPolicy.from_pretrained("me/again")
    assert torch.equal(again.heads.actor.weight, policy.heads.actor.weight)
    with pytest.raises(UserError, match=r"me/none: the hub does not give us such a policy \(404\)"):
        llarp.LLaRPPolicy.from_pretrained("me/none")
    assert cli.main(["ship", f"checkpoint={copy}", "hub=nobody"]) == 2
    assert "user/name" in capsys.readouterr().err
