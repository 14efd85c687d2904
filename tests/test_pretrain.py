"""Pretraining of the vision model: what is drawn, what is learned, resuming, the weights, their card and the probe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_llm import make_tiny_llm

from llarp import cli
from llarp.config import RunConfig, load
from llarp.disjoint import read
from llarp.errors import UserError
from llarp.policy.config import PolicyConfig
from llarp.policy.policy import LLaRPPolicy
from llarp.policy.vision import FrozenVision, build_backbone
from llarp.pretrain import probe as probing
from llarp.pretrain.linear import average_precision, fit_classes, fit_positions, layout_weights, ratio_interval
from llarp.pretrain.methods import METHODS, MaskedAutoencoder, cell_counts, new_backbone
from llarp.pretrain.pictures import CLASSES, FIRST_CATEGORY, PictureSource, kept_layouts, training_rooms
from llarp.pretrain.trainer import STAGE, Pretrainer, pretrain, schedule
from llarp.rl import checkpoint
from llarp.sim.world import load_assets
from llarp.tasks.entities import CATEGORIES
from llarp.tasks.state import MAX_OBJECTS

SMALL = ["policy.vision=test_vit", "env.image_size=64", "env.episodes=40", "pretrain.batch=4", "device=cpu", "seed=3",
         "policy.precision=float32", "pretrain.validation_layouts=20", "pretrain.log_interval=2"]  # fmt: skip


def small(*more: str) -> RunConfig:
    return load("smoke", [*SMALL, *more])


@pytest.fixture(scope="module")
def rooms():
    return training_rooms(small())


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_only_shown_training_apartments_are_drawn(rooms) -> None:
    scenes = load_assets().scenes
    kept = kept_layouts(scenes, 20)
    names = {scenes.names[i] for i in rooms.scene.tolist()}
    assert {scenes.splits[i] for i in rooms.scene.tolist()} == {"train"}
    assert names.isdisjoint(scenes.names[i] for i in kept) and len(kept) == 20
    validation = training_rooms(small(), validation=True)
    assert set(validation.scene.tolist()) <= set(kept)
    assert len(rooms) + len(validation) == 40


@pytest.mark.parametrize("setting", ["env.split=new_scenes", "backend=habitat", "env.dataset=x.safetensors",
                                     "pretrain.validation_layouts=72"])  # fmt: skip
def test_other_rooms_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[0].rpartition(".")[2]):
        training_rooms(small(setting))


def test_a_picture_depends_on_its_number_alone(rooms) -> None:
    six = PictureSource(rooms, 6, 64, seed=1, labels=True)
    two = PictureSource(rooms, 2, 64, seed=1)
    whole = six.draw(10)
    assert torch.equal(whole.rgb[2:4], two.draw(12).rgb)
    assert not torch.equal(whole.rgb[0], whole.rgb[1])
    assert not torch.equal(two.draw(12).rgb, PictureSource(rooms, 2, 64, seed=2).draw(12).rgb)


def test_labels_say_what_pixels_show(rooms) -> None:
    source = PictureSource(rooms, 8, 64, seed=1, labels=True)
    shown = source.draw(0)
    assert shown.slot is not None and shown.label is not None
    objects = (shown.slot >= 0) & (shown.slot < MAX_OBJECTS)
    slot = shown.slot.clamp(0, MAX_OBJECTS - 1).flatten(1)
    category = shown.state.object_category.gather(1, slot).view_as(shown.slot)
    assert objects.any() and torch.equal(shown.label[objects], category[objects] + FIRST_CATEGORY)
    assert torch.equal(shown.label == CLASSES.index("robot"), shown.slot == MAX_OBJECTS)
    furniture = {CLASSES[i] for i in shown.label[shown.slot < 0].unique().tolist()}
    assert {"floor", "walls"} <= furniture and furniture.isdisjoint(CATEGORIES)


def test_rooms_vary(rooms) -> None:
    """Hands hold things where the gripper is, drawers stand open with what is in them, robots stand on free ground."""
    source = PictureSource(rooms, 1, 64, seed=1)
    state = source.room(torch.arange(400))
    held = state.held >= 0
    assert 0.2 < held.float().mean() < 0.4
    in_hand = state.object_position[held, state.held[held]]
    reach = (in_hand[:, :2] - state.robot[held, :2]).norm(dim=1)
    assert torch.allclose(reach, reach[:1].expand_as(reach), atol=1e-4)
    opened = (state.joint > 0.1).float().mean(0)
    assert (opened > 0.15).all() and (opened < 0.6).all()
    at_nav = (state.robot[:, None] - state.nav_pose).abs().sum(-1).amin(1) < 1e-6
    assert 0.35 < at_nav.float().mean() < 0.55
    for i in (state.object_inside >= 9).any(1).nonzero()[:, 0].tolist():  # drawers
        for slot in (state.object_inside[i] >= 9).nonzero()[:, 0].tolist():
            drawer = state.object_inside[i, slot]
            off = state.object_position[i, slot, :2] - state.receptacle_center_now()[i, drawer, :2]
            assert off.norm() < state.receptacle_half[i, drawer, :2].norm()


# -- methods -----------------------------------------------------------------------------------------------------------


def test_cell_counts() -> None:
    label = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 1], [2, 2, 0, 1], [2, 2, 1, 0]]])
    counts = cell_counts(label, 2, 3)
    assert counts[0].tolist() == [[[3, 0, 1], [0, 4, 0]], [[0, 0, 4], [2, 2, 0]]]


def test_hidden_patches_are_not_encoded(rooms) -> None:
    """Other pixels there change no token; other pixels in a visible patch do."""
    model = MaskedAutoencoder("test_vit", 64, small().pretrain, seed=0)
    pixels = torch.randn(1, 3, 64, 64)
    seen = torch.tensor([[0, 5, 10, 15]])
    tokens = model.encode(pixels, seen)
    assert tokens.shape == (1, model.backbone.num_prefix_tokens + 4, model.backbone.embed_dim)
    changed = pixels.clone()
    changed[:, :, :16, 16:32] += 1.0  # patch 1
    assert torch.equal(model.encode(changed, seen), tokens)
    changed[:, :, 16:32, 16:32] += 1.0  # patch 5
    assert not torch.equal(model.encode(changed, seen), tokens)


def test_all_visible_is_what_the_policy_computes() -> None:
    model = MaskedAutoencoder("test_vit", 64, small().pretrain, seed=0)
    pixels = torch.randn(2, 3, 64, 64)
    tokens = model.encode(pixels, torch.arange(16).expand(2, -1))
    torch.testing.assert_close(tokens, model.backbone.forward_features(pixels))


def test_patches_are_whole_squares() -> None:
    model = MaskedAutoencoder("test_vit", 64, small().pretrain, seed=0)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.patches(pixels)[0, 6], pixels[0, :, 16:32, 32:48].flatten())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(method: str) -> None:
    """On the same few pictures, far below where it began."""
    run = Pretrainer(small(f"pretrain.method={method}", "pretrain.pictures=100000", "pretrain.warmup=0",
                           "pretrain.lr=2e-3"))  # fmt: skip
    losses = []
    for _ in range(60):
        losses.append(float(run.step()["loss"]))
        run.pictures = 0
    assert losses[-1] < {"mae": 0.9, "labels": 0.6}[method] * losses[0]


@pytest.mark.parametrize("name, size, said", [
    ("test_resnet", 64, "only plain timm ViTs"), ("test_vit", 72, "whole patches of 16 x 16"),
    ("test_vit9", 64, "no such model"),
])  # fmt: skip
def test_impossible_models_are_refused(name: str, size: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        new_backbone(name, size, 0)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_schedule() -> None:
    assert schedule(0.0, 0.1, first=True) == 0.01 and schedule(0.05, 0.1) == pytest.approx(0.5)
    assert schedule(0.1, 0.1) == 1.0 and schedule(0.55, 0.1) == pytest.approx(0.5) and schedule(1.0, 0.1) < 1e-9


def test_the_clock_ends_a_run() -> None:
    now = [0.0]
    run = Pretrainer(small("pretrain.minutes=1", "pretrain.pictures=1000000"), clock=lambda: now[0])
    assert run.share == 0
    now[0] = 45.0
    assert run.share == pytest.approx(0.75)
    now[0] = 61.0
    assert run.share == 1


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_continued_equals_uninterrupted(method: str, tmp_path: Path) -> None:
    config = small(f"pretrain.method={method}", "pretrain.pictures=32", "pretrain.probe_pictures=0",
                   f"output_dir={tmp_path}")  # fmt: skip
    whole = pretrain(replace(config, run_name="whole"), None, lambda: False)
    steps = iter([False] * 3)
    part = pretrain(replace(config, run_name="part"), None, lambda: next(steps, True))
    assert part["interrupted"] and part["pictures"] == 12 and "weights" not in part
    rest = pretrain(replace(config, run_name="part"), tmp_path / "part", lambda: False)
    assert not rest["interrupted"] and rest["pictures"] == whole["pictures"] == 32
    for name, tensor in load_file(whole["weights"]).items():
        assert torch.equal(load_file(rest["weights"])[name], tensor)
    rows = [json.loads(line) for line in (tmp_path / "part" / "metrics.jsonl").read_text().splitlines()]
    assert [row["pictures"] for row in rows] == sorted({row["pictures"] for row in rows}) and rows[-1]["pictures"] == 32


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 16 pictures, with a probe."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["pretrain", "vision", "config=smoke", *SMALL, "pretrain.method=labels", "pretrain.pictures=16",
             "pretrain.probe_pictures=50", f"output_dir={folder}", "run_name=done", f"out={folder}/r.json"]  # fmt: skip
    assert cli.main(words) == 0
    return folder / "done"


def test_weights_load_exactly_and_are_what_the_policy_uses(done: Path) -> None:
    path = done / "vision.safetensors"
    saved = load_file(path)
    assert all(t.dtype == torch.float16 for t in saved.values())
    model = FrozenVision("test_vit", str(path), "grid4", 64, torch.float32)
    assert all(torch.equal(t, saved[name].float()) for name, t in model.backbone.state_dict().items())
    trained = checkpoint.read_tree(checkpoint.latest(done))["method"]
    for name, tensor in saved.items():
        assert torch.equal(tensor, trained[f"backbone.{name}"].half())
    untrained = build_backbone("test_vit", "random", 64, seed=3).state_dict()
    assert any(not torch.equal(t.float(), untrained[name]) for name, t in saved.items())
    card = json.loads((done / "card.json").read_text())
    assert card["fingerprint"] == model.fingerprint and card["supervised"] is True
    assert card["pictures"] == 16 and len(card["layouts_left_out"]) == 20
    assert card["probe"]["validation"]["pretrained"]["category_accuracy"] >= 0
    text = (done / "card.md").read_text()
    assert "supervised by simulator labels" in text and card["sha256"] in text and "Apache-2.0" in text


def test_a_policy_acts_with_the_weights(done: Path, tmp_path: Path) -> None:
    config = PolicyConfig(llm=str(make_tiny_llm(tmp_path)), vision="test_vit", image_size=64, precision="float32",
                          vision_weights=str(done / "vision.safetensors"), max_steps=4)  # fmt: skip
    policy = LLaRPPolicy(config)
    policy.bind_instructions(lambda number: "go to the sink")
    rgb = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    obs = {"rgb": rgb, "instruction_id": torch.zeros(2, dtype=torch.int64)}
    _, log_prob, value, _ = policy.act(obs, policy.initial_state(2), torch.ones(2, dtype=torch.bool))
    assert log_prob.isfinite().all() and value.isfinite().all()
    assert not torch.equal(policy.encode(rgb), LLaRPPolicy(replace(config, vision_weights="random")).encode(rgb))
    assert "vision.safetensors" in policy.describe()


def test_a_run_may_begin_from_weights(done: Path, tmp_path: Path) -> None:
    weights = done / "vision.safetensors"
    run = Pretrainer(small("pretrain.method=labels", f"pretrain.init={weights}"))
    run.begin()
    backbone = run.method.backbone.state_dict()
    assert all(torch.equal(backbone[name], t.float()) for name, t in load_file(weights).items())
    words = ["pretrain", "vision", "config=smoke", *SMALL, "seed=4", "pretrain.method=labels", "pretrain.pictures=8",
             "pretrain.probe_pictures=0", f"output_dir={tmp_path}", "run_name=on", f"pretrain.init={weights}"]
    assert cli.main(words) == 0
    assert [stage for stage, _ in read(tmp_path / "on").stages] == [STAGE, STAGE]
    assert f"begun from `{weights}`" in (tmp_path / "on/card.md").read_text()
    nowhere = tmp_path / "copied.safetensors"  # without a manifest nobody knows what it was shown
    nowhere.write_bytes(weights.read_bytes())
    assert cli.main([*words[:-3], f"pretrain.init={nowhere}", f"output_dir={tmp_path}", "run_name=unknown"]) == 0
    assert not (tmp_path / "unknown/manifest.json").exists()
    nowhere.unlink()  # a run that goes on has its weights already
    assert cli.main(["pretrain", "vision", f"resume={tmp_path / 'unknown'}"]) == 0


def test_the_manifest_says_what_was_shown(done: Path) -> None:
    manifest = read(done)
    assert [stage for stage, _ in manifest.stages] == [STAGE]
    shown = manifest.shown[0]
    kept = {load_assets().scenes.names[i] for i in kept_layouts(load_assets().scenes, 20)}
    assert shown.split == "train" and kept.isdisjoint(shown.layouts)
    assert cli.main(["data", "check", f"manifest={done}", "split=new_scenes", "episodes=10"]) == 0


def test_a_probe_is_entered_in_the_card(done: Path, tmp_path: Path) -> None:
    weights = done / "vision.safetensors"
    words = ["pretrain", "probe", "config=smoke", *SMALL, "pretrain.probe_pictures=50", f"vision_weights={weights}"]
    assert cli.main([*words, "split=new_scenes", "card=true", f"out={tmp_path}/p.json"]) == 0
    report = json.loads((tmp_path / "p.json").read_text())
    assert report["split"] == "new_scenes" and report["pictures"] == 50 and report["layouts"] > 1
    for who in ("pretrained", "random"):
        low, high = report[who]["category_ci95"]
        assert 0 <= low <= report[who]["category_accuracy"] <= high <= 1
    card = json.loads((done / "card.json").read_text())
    assert set(card["probe"]) == {"validation", "new_scenes"}
    assert cli.main([*words[:-1], f"vision_weights={tmp_path}/none.safetensors", "card=true"]) == 2


def test_resuming_what_cannot_be_resumed(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file()}
    assert cli.main(["pretrain", "vision", f"resume={done}", "pretrain.lr=0.5"]) == 2
    assert "was made with pretrain.lr=0.001, not 0.5" in capsys.readouterr().err
    newest = checkpoint.latest(done)
    data = newest.read_bytes()
    for broken in (data[: len(data) // 2], b"nonsense"):
        newest.write_bytes(broken)
        assert cli.main(["pretrain", "vision", f"resume={done}"]) == 2
        error = capsys.readouterr().err
        assert "is damaged" in error and error.count("\n") == 1
    torch.save({"format": "another"}, newest)
    assert cli.main(["pretrain", "vision", f"resume={done}"]) == 2
    assert "no checkpoint of llarp pretrain vision" in capsys.readouterr().err
    newest.write_bytes(data)
    assert {p: p.read_bytes() for p in done.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("words, said", [
    (["vision", "pretrain.method=maes"], "did you mean 'mae'"),
    (["vision", "env.image_size=72"], "whole patches"),
    (["vision", "policy.vision=test_resnet"], "only plain timm ViTs"),
    (["vision", "pretrain.mask=0.99"], "pretrain.mask"),
    (["vision", "pretrain.init=nowhere.safetensors"], "pretrain.init=nowhere.safetensors: no such file"),
    (["vision", "env.split=new_scenes"], "env.split"),
    (["vision", "resume=nowhere"], "nowhere"),
    (["vision", "vision_weights=random"], "llarp pretrain probe"),
    (["probe", "resume=auto"], "llarp pretrain vision"),
    (["probe", "split=train"], "held-out apartments"),
    (["probe", "vision_weights=nowhere.safetensors"], "no such file"),
    (["probe", "pretrain.probe_pictures=0"], "at least 50"),
])  # fmt: skip
def test_bad_input_writes_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [s for s in SMALL if s.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    assert cli.main(["pretrain", *words, "config=smoke", *settings]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# -- the probe ---------------------------------------------------------------------------------------------------------


def test_the_probe_measures_what_features_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that say a cell's category and place exactly are read off; noise does no better than guessing."""
    drawn: dict[str, probing.Seen] = {}
    look = probing.look

    def told(config, rooms, models, count, seed):
        seen = look(config, rooms, models, count, seed)
        onehot = torch.nn.functional.one_hot(seen.category.clamp(min=0), 33).float()
        seen.features["told"] = torch.cat([onehot, seen.position], dim=-1).half()
        generator = torch.Generator().manual_seed(0)
        seen.features["random"] = torch.randn(*seen.category.shape, 8, generator=generator).half()
        drawn[str(seed)] = seen
        return seen

    monkeypatch.setattr(probing, "look", told)
    monkeypatch.setattr(probing, "_model", lambda config, name: FrozenVision("test_vit", "random", "grid4", 64,
                                                                             torch.float32))  # fmt: skip
    report = probing.probe(small("pretrain.probe_pictures=300"), "told", "new_scenes")
    good, bad, guess = report["pretrained"], report["random"], report["guessing"]
    assert good["category_accuracy"] > 0.9 and good["position_error_m"] < 0.05
    assert bad["category_accuracy"] < 0.2 and bad["position_error_m"] > 0.8 * guess["position_error_m"]
    times = report["times_random"]
    assert times["ci95"][0] > 1 and times["ci95"][0] <= times["category"] <= times["ci95"][1]
    train, test = drawn.values()
    assert set(train.layout.tolist()).isdisjoint(test.layout.tolist())


def test_positions_are_as_the_robot_sees_them(rooms) -> None:
    """Objects in the middle columns of the picture are ahead, those in the left half more to the left."""
    config = small()
    model = FrozenVision("test_vit", "random", "grid4", 64, torch.float32)
    seen = probing.look(config, rooms, [model], 200, 5)
    there = seen.category >= 0
    assert (seen.position[there][:, 0] > 0).all()
    left, right = there.clone(), there.clone()
    left[:, [2, 3, 6, 7, 10, 11, 14, 15]] = False
    right[:, [0, 1, 4, 5, 8, 9, 12, 13]] = False
    assert seen.position[left][:, 1].mean() > 0.1 and seen.position[right][:, 1].mean() < -0.1
    assert seen.features["random"].shape == (200, 16, model.dim)


def test_linear_models() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 5, generator=generator)
    group = torch.arange(600) // 60
    w = torch.randn(5, 3, generator=generator)
    y = (x @ w).argmax(1)
    assert (fit_classes(x, y, group, 3)(x).argmax(1) == y).float().mean() > 0.95
    place = fit_positions(x, x @ w[:, :2] + 1.5, group)
    torch.testing.assert_close(place(x), x @ w[:, :2] + 1.5, atol=1e-2, rtol=0)


def test_average_precision_by_hand() -> None:
    """Ranked: hit, miss, hit: (1 + 2/3) / 2. With the first picture left out: (0/1 miss, then 1/2) = 1/2."""
    scores = torch.tensor([[3.0], [2.0], [1.0]])
    wanted = torch.tensor([[True], [False], [True]])
    weights = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert average_precision(scores, wanted, weights).tolist() == pytest.approx([5 / 6, 0.5])


def test_intervals_are_over_layouts() -> None:
    """One layout all right and one all wrong: from 0 to 1, however many pictures each has."""
    layout = torch.tensor([4] * 50 + [9] * 50)
    draws = layout_weights(layout)
    assert draws.shape == (1000, 100) and set(draws.unique().tolist()) == {0.0, 1.0, 2.0}
    assert ratio_interval((layout == 4).float(), torch.ones(100), draws) == [0.0, 1.0]
