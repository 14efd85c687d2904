"""Training and evaluation are disjoint, and a leak of any kind, planted in the training episodes, is found."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes

from llarp import disjoint
from llarp.cli import main
from llarp.envs.config import EnvConfig
from llarp.errors import UserError
from llarp.sim.world import Assets
from llarp.tasks.entities import CATEGORY_INDEX
from llarp.tasks.episodes import EpisodeSet, concat
from llarp.tasks.exposure import Wording, episode_keys, expose, layout_of
from llarp.tasks.generator import SPLITS, generate
from llarp.tasks.instructions import INSTRUCTION_TYPES, TEST_TYPES, TRAINING_TYPES, render, wording, wording_ids
from llarp.tasks.manifest import DISJOINT, Manifest, ManifestError, check, shares_more_than_half
from llarp.tasks.phrases import purposes, referring, spatial_phrases

SCENES, CATALOG = fake_scenes(8), fake_catalog()


@pytest.fixture(scope="module")
def sets() -> dict[str, EpisodeSet]:
    return {split: generate(SCENES, CATALOG, split, 200 if split == "train" else 40, seed=1) for split in SPLITS}


@pytest.fixture
def train(sets) -> EpisodeSet:
    """A copy to plant something in."""
    return replace(sets["train"], **{name: getattr(sets["train"], name).clone() for name in ("object_model", "scene")})


def leaks(train: EpisodeSet, sets: dict[str, EpisodeSet], split: str) -> list[str]:
    manifest = Manifest()
    manifest.add("bc", expose(train, SCENES, CATALOG))
    manifest = Manifest.from_json(manifest.to_json())  # as it is read from a run
    return [str(leak) for leak in check(manifest, expose(sets[split], SCENES, CATALOG), split)]


def said(episodes: EpisodeSet, row: int, **texts: str | int) -> EpisodeSet:
    """The episodes with other texts (instruction, instruction_type, goal) or another wording in one row."""
    changed = {}
    for name, value in texts.items():
        column = episodes.wording.tolist() if name == "wording" else list(getattr(episodes, name))
        column[row] = value
        changed[name] = torch.tensor(column, dtype=torch.int16) if name == "wording" else column
    return replace(episodes, **changed)


# -- nothing leaks from the built-in splits ----------------------------------------------------------------------------


def test_built_in_splits_are_disjoint_from_training(sets):
    assert set(DISJOINT) == set(SPLITS) - {"train"}
    for split in DISJOINT:
        assert leaks(sets["train"], sets, split) == []


def test_each_split_is_asked_for_what_it_tests(sets):
    held_out = set(DISJOINT) - {"train_validation"}
    assert all({"layout", "model", "episode"} <= set(DISJOINT[split]) for split in held_out)
    kinds = {split: set(expose(sets[split], SCENES, CATALOG).types) for split in held_out}
    for split in held_out:
        assert ("type" in DISJOINT[split]) == bool(kinds[split] & set(TEST_TYPES))
        phrased = kinds[split] & {"refer", "purpose", "spatial"}
        assert ("phrase" in DISJOINT[split]) == bool(phrased)


def test_what_episodes_show(sets):
    shown = expose(sets["referring_expressions"], SCENES, CATALOG)
    assert shown.types == ("refer",) and shown.episodes == 40
    assert all(w.kind == "refer" and w.text == wording("refer", w.id) for w in shown.wordings)
    texts = [text.lower() for text in sets["referring_expressions"].instruction]
    known = {phrase for category in CATEGORY_INDEX for phrase in referring(category)}
    assert set(shown.phrases) == {phrase for phrase in known if any(phrase.lower() in text for text in texts)}
    assert all(any(phrase.lower() in text for phrase in shown.phrases) for text in texts)
    used = {CATALOG.names[i] for i in sets["referring_expressions"].object_model.unique().tolist() if i >= 0}
    assert set(shown.models) == used
    assert expose(sets["novel_objects"], SCENES, CATALOG).targets == tuple(
        sorted(("mug", "orange", "lid", "toy airplane", "wrench"))
    )


# -- planted leaks -----------------------------------------------------------------------------------------------------


def test_an_evaluation_wording_in_training_is_found(sets, train):
    used = expose(sets["rephrasing"], SCENES, CATALOG).wordings
    kind, held_out = next((w.kind, w.id) for w in used if w.kind == "place_one")
    text = render(kind, held_out, {"object": "apple", "target": "sofa"})
    planted = said(train, 3, instruction_type=kind, wording=held_out, instruction=text)
    found = leaks(planted, sets, "rephrasing")
    assert found and all(leak.startswith("rephrasing: wording: ") for leak in found)
    assert any(wording(kind, held_out) in leak and "stage bc" in leak for leak in found)


def test_an_evaluation_wording_is_found_under_another_wordings_number(sets, train):
    text = render("clear", wording_ids("clear", "eval")[0], {"object": "apple", "source": "sofa"})
    planted = said(train, 3, instruction_type="clear", wording=0, instruction=text)
    assert any(": wording: " in leak and "Banish" in leak for leak in leaks(planted, sets, "rephrasing"))


@pytest.mark.parametrize(
    ("split", "phrase"),
    [
        ("referring_expressions", referring), ("context", purposes),
        ("spatial_relationships", lambda _: spatial_phrases(4, 6, "right_of")),
    ],
)  # fmt: skip
def test_a_phrase_in_training_is_found(sets, train, split, phrase: Callable[[str], tuple[str, ...]]):
    shown = expose(sets[split], SCENES, CATALOG).phrases
    planted_phrase = next((p for c in CATEGORY_INDEX for p in phrase(c) if p in shown), shown[0])
    planted = said(train, 0, instruction=f"I once saw {planted_phrase} in a shop, put an apple on the sofa.")
    found = [leak for leak in leaks(planted, sets, split) if ": phrase: " in leak]
    assert len(found) == 1 and planted_phrase in found[0]


def test_a_novel_category_that_was_wanted_in_training_is_found(sets, train):
    goal = json.loads(train.goal[0]) | {"inputs": [{"name": "X", "expr_type": "toy_airplane"}]}
    found = leaks(said(train, 0, goal=json.dumps(goal)), sets, "novel_objects")
    assert len(found) == 1 and "category: 'toy airplane' was wanted" in found[0]


def test_a_goal_about_an_object_by_name_wants_its_category(sets, train):
    mug = next(i for i, c in enumerate(CATALOG.category.tolist()) if c == CATEGORY_INDEX["mug"])
    train.object_model[0, 5] = mug
    planted = said(train, 0, goal=json.dumps({"expr_type": "AND", "sub_exprs": ["on_top(object_5, sofa)"]}))
    assert any("category: 'mug' was wanted" in leak for leak in leaks(planted, sets, "novel_objects"))


def test_a_novel_object_that_lay_about_in_training_is_found(sets, train):
    mug = next(i for i, c in enumerate(CATALOG.category.tolist()) if c == CATEGORY_INDEX["mug"])
    train.object_model[7, 0] = mug
    assert any("category: 'mug' lay about" in leak for leak in leaks(train, sets, "novel_objects"))


def test_a_held_out_layout_in_training_is_found(sets, train):
    held_out = int(sets["new_scenes"].scene[0])
    train.scene[5] = held_out
    found = leaks(train, sets, "new_scenes")
    assert len(found) == 1 and f"layout: {SCENES.names[held_out]!r}" in found[0]


def test_a_held_out_layout_under_another_name_is_found(sets):
    renamed = replace(SCENES, names=[f"copy of {name}" for name in SCENES.names])
    manifest = Manifest()
    manifest.add("ppo", expose(sets["new_scenes"], renamed, CATALOG))
    found = [str(leak) for leak in check(manifest, expose(sets["context"], SCENES, CATALOG), "context")]
    assert any("layout: the furniture of 2" in leak for leak in found)


def test_variants_of_one_macro_layout_are_one_layout():
    assert layout_of("v3_sc3_staging_00") == layout_of("v3_sc3_staging_17") != layout_of("v3_sc0_staging_00")
    assert layout_of("heldout_03") == "heldout_03"


def test_a_held_out_model_in_training_is_found(sets, train):
    held_out = int(sets["new_scenes"].object_model[0, 0])
    train.object_model[9, 0] = held_out
    found = leaks(train, sets, "new_scenes")
    assert len(found) == 1 and f"model: {CATALOG.names[held_out]!r}" in found[0]


def test_a_type_that_is_kept_for_evaluation_is_found(sets, train):
    planted = said(train, 0, instruction_type="if_fridge")
    found = leaks(planted, sets, "conditional_instructions")
    assert any(": type: " in leak and "'if_fridge'" in leak for leak in found)


def test_an_evaluation_episode_in_training_is_found_whatever_the_order_of_its_objects(sets, train):
    validation = sets["train_validation"]
    order = torch.randperm(validation.object_model.shape[1], generator=torch.Generator().manual_seed(0))
    names = ("object_model", "object_position", "object_yaw", "object_inside", "object_receptacle")
    shuffled = replace(validation, **{name: getattr(validation, name)[:, order] for name in names})
    copied = replace(shuffled.select([4, 11]), split="train", seed=train.seed, rejected=0)
    found = leaks(concat([train, copied]), sets, "train_validation")
    ids = validation.episode_id[[4, 11]].tolist()
    assert [leak.split(" of episode ")[1].split(" ")[0] for leak in found] == list(map(str, ids))
    assert all(leak.startswith("train_validation: episode: ") for leak in found)


# -- keys, wordings, files ---------------------------------------------------------------------------------------------


def test_keys_tell_scene_arrangement_and_goal_apart(sets):
    train = sets["train"].select(list(range(20)))
    keys = episode_keys(train)
    assert len(set(keys.tolist())) == 20
    moved = train.object_position.clone()
    moved[:, 0, 1] += 0.01
    other = [
        replace(train, object_position=moved),
        replace(train, goal=[train.goal[19 - i] for i in range(20)]),
        replace(train, scene=torch.where(train.scene == 0, 1, 0).to(torch.int32)),
        replace(train, object_model=torch.where(train.object_model > 0, train.object_model - 1, train.object_model)),
    ]
    for changed in other:
        assert not np.isin(episode_keys(changed), keys).any()
    renumbered = replace(train, episode_id=train.episode_id + 50, instruction=["Do it."] * 20)
    assert np.array_equal(episode_keys(renumbered), keys)


def test_every_evaluation_wording_passes_against_every_training_wording_and_fails_against_itself():
    training = [Wording(k, i, wording(k, i)) for k in INSTRUCTION_TYPES for i in wording_ids(k, "train")]
    held_out = [Wording(k, i, wording(k, i)) for k in INSTRUCTION_TYPES for i in wording_ids(k, "eval")]
    for w in held_out:
        assert shares_more_than_half(w, w)
        assert not [t.text for t in training if shares_more_than_half(w, t)], w.text


def test_published_sets_are_compared_by_their_sentences(sets, train):
    kind = "place_one"
    sentence = render(kind, 0, {"object": "scissors", "target": "sink"})
    published = said(sets["rephrasing"], 0, instruction_type=kind, wording=-1, instruction=sentence)
    shown = expose(published, SCENES, CATALOG, "rephrasing.pickle", published=True)
    assert any(w.id == -1 and w.text == "Put a {} in the {}." for w in shown.wordings)
    manifest = Manifest()
    manifest.add("bc", expose(said(train, 0, instruction_type=kind, wording=0,
                                   instruction=render(kind, 0, {"object": "ball", "target": "sofa"})),
                              SCENES, CATALOG))  # fmt: skip
    found = [leak for leak in check(manifest, shown, "rephrasing") if leak.kind == "wording"]
    assert len(found) == 1 and "'Put a {} in the {}.'" in str(found[0])
    assert not [leak for leak in check(manifest, shown, "rephrasing") if leak.kind in ("model", "type")]


@pytest.mark.parametrize(
    ("sentence", "outline"),
    [
        ("Can you close the fridge?", "Can you close the {}?"),
        ("Put a can and a lego brick on the TV stand.", "Put a {} and a {} on the {}."),
        ("Bring the pair of scissors and all strawberries.", "Bring the {} and all {}."),
    ],
)
def test_sentences_that_are_not_ours_are_kept_without_their_things(sets, sentence, outline):
    planted = said(sets["rephrasing"], 0, wording=-1, instruction=sentence)
    assert outline in [w.text for w in expose(planted, SCENES, CATALOG).wordings if w.id == -1]


def test_a_stage_entered_twice_is_kept_once_and_other_data_is_kept_beside_it(sets):
    one, other = (expose(sets[split], SCENES, CATALOG) for split in ("train", "train_validation"))
    manifest = Manifest()
    for stage, shown in (("bc", one), ("ppo", one), ("ppo", one), ("ppo", other)):
        manifest.add(stage, shown)
    assert manifest.stages == [("bc", 0), ("ppo", 0), ("ppo", 1)] and len(manifest.shown) == 2
    again = Manifest.from_json(manifest.to_json())
    assert again.stages == manifest.stages and all(map(lambda a, b: a.same_as(b), again.shown, manifest.shown))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format version"),
        (lambda m: m.update(stages=[]), "no training stage"),
        (lambda m: m["stages"][0].update(shown=7), "no training stage"),
        (lambda m: m["shown"].append(m["shown"][0]), "no stage was shown"),
        (lambda m: m["shown"][0].update(keys="?"), "base64"),
        (lambda m: m["shown"][0].update(keys="QUJD"), "base64"),
        (lambda m: m["shown"][0].update(models="cup_0"), "'models'"),
        (lambda m: m["shown"][0].update(episodes="many"), "'episodes'"),
        (lambda m: m["shown"][0].update(wordings=[["clear", "0", ""]]), "'wordings'"),
        (lambda m: m.update(shown=[3]), "mapping"),
    ],
)
def test_damaged_manifests_are_refused(sets, change, message):
    manifest = Manifest()
    manifest.add("bc", expose(sets["train"], SCENES, CATALOG))
    plain = json.loads(manifest.to_json())
    change(plain)
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(plain))
    for text in ("", "[]", "null", "[" * 100_000, manifest.to_json()[:-9]):
        with pytest.raises(ManifestError):
            Manifest.from_json(text)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def built_in(monkeypatch, sets):
    """The command sees these episodes instead of making its own."""
    assets = Assets(scenes=SCENES, catalog=CATALOG, layouts=None, object_meshes=[], object_material=None)  # type: ignore[arg-type]
    monkeypatch.setattr(disjoint, "load_assets_for", lambda env: assets)
    monkeypatch.setattr(disjoint, "load_episodes", lambda env, seed: sets[env.split])


def test_the_command_passes_a_clean_run_and_fails_on_a_leak(built_in, sets, train, tmp_path, capfd):
    out = tmp_path / "check.json"
    disjoint.record(tmp_path, "bc", sets["train"], EnvConfig())
    disjoint.record(tmp_path, "ppo", sets["train"], EnvConfig())
    assert main(["data", "check", f"manifest={tmp_path}", "split=all", f"out={out}"]) == 0
    report = json.loads(out.read_text())
    assert set(report["disjoint"]) == set(DISJOINT) and report["leaks"] == []
    assert report["stages"] == ["bc: 200 episodes of train", "ppo: 200 episodes of train"]
    capfd.readouterr()
    train.scene[5] = int(sets["new_scenes"].scene[0])
    disjoint.record(tmp_path, "pretraining", train, EnvConfig())
    assert main(["data", "check", f"manifest={tmp_path}", "split=new_scenes", f"out={out}"]) == 1
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("leak: ")]
    assert lines == [f"leak: {leak}" for leak in json.loads(out.read_text())["leaks"]]
    assert len(lines) == 1 and "pretraining" in lines[0]


def test_the_command_refuses_what_it_cannot_check(built_in, sets, tmp_path, capfd):
    for words, message in (
        ([], "manifest=PATH is missing"),
        ([f"manifest={tmp_path}"], "there is no manifest.json"),
        ([f"manifest={tmp_path / 'nowhere'}"], "there is no"),
    ):
        assert main(["data", "check", *words]) == 2
        assert message in capfd.readouterr().err
    disjoint.record(tmp_path, "bc", sets["train"], EnvConfig())
    assert main(["data", "check", f"manifest={tmp_path}", "split=train"]) == 2
    assert "split=train is no evaluation split" in capfd.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="manifest.json: no manifest"):
        disjoint.read(tmp_path)


def test_training_types_are_those_of_the_training_split():
    assert set(SPLITS["train"].shares) == set(TRAINING_TYPES)


def test_a_resumed_run_without_a_manifest_gets_none(built_in, sets, tmp_path):
    disjoint.record(tmp_path, "ppo", sets["train"], EnvConfig(), resumed=True)
    assert not (tmp_path / "manifest.json").exists()
    disjoint.record(tmp_path, "bc", sets["train"], EnvConfig())
    disjoint.record(tmp_path, "ppo", sets["train"], EnvConfig(), resumed=True)
    assert [stage for stage, _ in disjoint.read(tmp_path).stages] == ["bc", "ppo"]
