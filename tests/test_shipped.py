"""What llarp carries: vision models that are what their cards say, fit other picture sizes, and see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llarp import cli
from llarp.config import load
from llarp.errors import UserError
from llarp.policy import hub
from llarp.policy.vision import build_backbone
from llarp.pretrain.probe import probe

VISION = hub.vision_names()


def folder_of(name: str) -> Path:
    return hub.SHIPPED / f"vision-{name}"


def test_presets_name_one_that_there_is() -> None:
    for preset in ("default", "habitat", "recipe_bc", "recipe_ppo"):
        assert load(preset).policy.vision_weights in VISION


@pytest.mark.parametrize("name", VISION)
def test_the_files_are_those_of_the_card(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((folder_of(name) / hub.CARD).read_text())
    assert hub.digest_of(folder_of(name) / hub.VISION) == card["sha256"]
    model = build_backbone(card["vision"], name, card["image_size"])
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert cli.main(["data", "check", f"manifest={folder_of(name)}", "split=new_scenes", "episodes=20"]) == 0
    assert "disjoint from training" in capsys.readouterr().out


@pytest.mark.parametrize("name", VISION)
def test_other_picture_sizes(name: str) -> None:
    card = json.loads((folder_of(name) / hub.CARD).read_text())
    own, larger = (build_backbone(card["vision"], name, size).eval() for size in (card["image_size"], 224))
    assert own.pos_embed.shape[1] == 65 and larger.pos_embed.shape[1] == 197
    torch.testing.assert_close(own.pos_embed[:, :1], larger.pos_embed[:, :1])  # the class token has no place
    shown = torch.rand(1, 3, 14, 14).repeat_interleave(16, 2).repeat_interleave(16, 3)
    with torch.no_grad():
        seen = larger.forward_features(shown)
    assert seen.isfinite().all() and seen.std() > 0.1
    with pytest.raises(UserError, match='give its own, or "random"'):
        build_backbone("vit_small_patch16_224", name, 128)


@pytest.mark.parametrize("name", VISION)
def test_it_knows_objects_in_other_apartments(name: str) -> None:
    config = load("default", ["pretrain.probe_pictures=400", "env.episodes=400", "device=cpu"])
    found = probe(config, name, "validation")
    assert found["times_random"]["category"] > 2  # with 4,000 pictures 6.2 (its card)
