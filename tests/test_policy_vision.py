"""The frozen vision model: poolings, weights by name and file, plain errors."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from llarp.errors import UserError
from llarp.policy import vit
from llarp.policy.llama import can_reorder
from llarp.policy.vision import FrozenVision


def make_vision(weights="random", pool="mean", name="test_vit", dtype=torch.float32) -> FrozenVision:
    return FrozenVision(name, weights, pool, 64, dtype)


PICTURES = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_poolings():
    """64 pixels in patches of 16: 4 x 4 patches."""
    model = make_vision()
    pixels = (PICTURES.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    tokens = model.backbone.forward_features(pixels)
    patches = tokens[:, 1:].unflatten(1, (4, 4))
    quarters = torch.stack([patches[:, r : r + 2, c : c + 2].mean((1, 2)) for r in (0, 2) for c in (0, 2)], dim=1)
    expected = {"cls": tokens[:, :1], "mean": patches.mean((1, 2))[:, None], "grid2": quarters, "grid4": tokens[:, 1:]}
    for pool, features in expected.items():
        ours = make_vision(pool=pool)
        assert (ours.num_tokens, ours.dim) == features.shape[1:]
        torch.testing.assert_close(ours.encode(PICTURES).float(), features, atol=2e-3, rtol=0)


@pytest.mark.skipif(not can_reorder(torch.zeros(1).bfloat16()), reason="torch has no bfloat16 order on this CPU")
def test_plain_transformer_without_timm():
    """As near to the float32 model as timm's own bfloat16, also after other weights were taken over."""
    name, half = "vit_tiny_patch16_224", torch.bfloat16
    exact, ours = (make_vision(pool="grid4", name=name, dtype=dtype) for dtype in (torch.float32, half))
    assert exact.plain is None and ours.plain is not None
    assert make_vision(name="test_resnet", dtype=half).plain is None
    for factor in (1.0, 1.5):
        weights = {name: tensor * factor for name, tensor in exact.weights_to_keep().items()}
        exact.load_weights(weights)
        ours.load_weights(weights)
        theirs = make_vision(pool="grid4", name=name, dtype=half)
        theirs.load_weights(weights)
        theirs.plain = None
        right = exact.encode(PICTURES).float()
        error, usual = ((model.encode(PICTURES).float() - right).square().mean().sqrt() for model in (ours, theirs))
        assert 0 < error <= 1.3 * usual < 0.05 * right.std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_that_patches_do_not_fill_are_refused(dtype):
    with pytest.raises(UserError, match="env.image_size=70: test_vit cannot read"):
        FrozenVision("test_vit", "random", "grid4", 70, dtype)


def test_a_transformer_that_normalises_more_is_left_to_timm():
    for settings in ({"qk_norm": True}, {"pre_norm": True}, {"fc_norm": True}):
        model = timm.create_model("test_vit", num_classes=0, **settings).eval().requires_grad_(False)
        assert not vit.fits(model.bfloat16())


def test_convolutional_model():
    model = make_vision(name="test_resnet", pool="grid2")
    assert model.encode(PICTURES).shape == (3, 4, model.dim)
    with pytest.raises(UserError, match="no class token"):
        make_vision(name="test_resnet", pool="cls")


def test_random_weights_are_the_same_everywhere():
    torch.manual_seed(1)
    first = make_vision()
    state = torch.random.get_rng_state()
    second = make_vision(dtype=torch.bfloat16)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's random numbers are left alone
    assert first.fingerprint == second.fingerprint
    kept = second.weights_to_keep()
    assert all(torch.equal(kept[n], t) for n, t in first.weights_to_keep().items())
    other = make_vision()
    other.load_weights({n: t + 1 for n, t in kept.items()})
    assert other.fingerprint != first.fingerprint
    other.load_weights(kept)
    assert other.fingerprint == first.fingerprint
    assert "untrained" in first.describe()


def test_weights_from_a_file(tmp_path):
    source = make_vision()
    tensors = {n: 1.5 * t for n, t in source.weights_to_keep().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        model = make_vision(weights=str(tmp_path / name))
        assert all(torch.equal(model.backbone.state_dict()[n], t) for n, t in tensors.items())
        assert model.weights_to_keep() == {} and name in model.describe()


def test_wrong_weights_are_refused(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    cases = {"none.pth": "no such file", "broken.safetensors": "not weights", "other.safetensors": "not weights"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            make_vision(weights=str(tmp_path / name))
    with pytest.raises(UserError, match="timm has no such model; close: vit_"):
        make_vision(name="vit_tinny_patch16_224")
    with pytest.raises(UserError, match="fewer cells"):
        make_vision(pool="grid9")
