"""The decoder for frozen Llamas against transformers' own modules, and the layout of packed sequences."""

from __future__ import annotations

import pytest
import torch
from tiny_llm import make_tiny_llm
from torch import Tensor

from llarp.policy.context import behind, compute_prefixes, pack, run_parallel
from llarp.policy.llama import LlamaDecoder, fits
from llarp.policy.llm import FrozenLLM, load_llm
from llarp.policy.packed import WORTHWHILE, pack_sequences, split_lengths

LENGTHS = [3, 30, 1, 17, 12, 9, 30, 2] + [1, 2, 3] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_llm(tmp_path_factory.mktemp("llm"), layers=3)


def prefixes_for(llm: FrozenLLM, rows: int):
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(200, (n,), generator=generator).tolist() for n in (4, 11, 7)]
    return pack(compute_prefixes(llm, ids), [i % 3 for i in range(rows)])


def both_ways(llm: FrozenLLM) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and gradients of the embeddings, of all tokens: ours, and by transformers' modules with padding."""
    assert llm.decoder is not None
    generator = torch.Generator().manual_seed(1)
    rows, longest = len(LENGTHS), max(LENGTHS)
    there = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    padded = torch.randn(rows, longest, llm.hidden_size, generator=generator).to(llm.dtype).requires_grad_()
    weight = torch.randn(int(there.sum()), llm.hidden_size, generator=generator)
    prefixes = prefixes_for(llm, rows)
    ours = llm.decoder.run(padded[there], behind(llm, prefixes, LENGTHS))
    theirs = run_parallel(llm, prefixes, padded)[0][there]
    (gradient,) = torch.autograd.grad((ours.float() * weight).sum(), padded)
    (wanted,) = torch.autograd.grad((theirs.float() * weight).sum(), padded)
    return ours, theirs, gradient[there], wanted[there]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().float().norm() / b.detach().float().norm())


def test_hidden_states_and_gradients_equal_transformers(folder):
    ours, theirs, gradient, wanted = both_ways(load_llm(str(folder), "float32"))
    assert relative(ours, theirs) < 1e-5 and relative(gradient, wanted) < 1e-5
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_bfloat16_differs_by_rounding_alone(folder):
    """Both paths are as far from float32 as bfloat16 is, not farther from each other."""
    exact, _, exact_gradient, _ = both_ways(load_llm(str(folder), "float32"))
    ours, theirs, gradient, wanted = both_ways(load_llm(str(folder), "bfloat16"))
    assert relative(ours, exact) < 1.3 * relative(theirs, exact) < 0.05
    assert relative(gradient, exact_gradient) < 1.3 * relative(wanted, exact_gradient) < 0.1


def test_no_memory_for_a_second_copy_of_the_weights(folder):
    llm = load_llm(str(folder), "float32")
    block, layer = llm.decoder.blocks[1], llm.backbone.layers[1]
    first, last = layer.self_attn.q_proj.weight, layer.mlp.up_proj.weight
    assert first.data_ptr() == block.query_key_value.weight.data_ptr()
    assert last.data_ptr() == block.gate_up.weight[len(last) :].data_ptr()
    assert block.down.weight is layer.mlp.down_proj.weight


def test_only_frozen_llamas_are_taken(folder):
    backbone = load_llm(str(folder), "float32").backbone
    assert fits(backbone)
    backbone.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert not fits(backbone)
    backbone.requires_grad_(False)
    backbone.config.hidden_act = "gelu"
    assert not fits(backbone)


def test_a_decoder_that_computes_something_else_is_not_used(folder, monkeypatch):
    """Another scale of attention: the check against the model's own forward sees it, and transformers takes over."""
    build = LlamaDecoder.__init__

    def wrong(self, backbone, mesh):
        build(self, backbone, mesh)
        self.scale *= 3

    monkeypatch.setattr(LlamaDecoder, "__init__", wrong)
    assert load_llm(str(folder), "float32").decoder is None


def test_buckets_hold_every_token_once():
    groups = split_lengths(LENGTHS, WORTHWHILE["cpu"])
    assert sorted(i for group in groups for i in group) == list(range(len(LENGTHS))) and len(groups) == 2
    for group in groups:
        lengths = sorted([LENGTHS[i] for i in group], reverse=True)
        spared = [(len(lengths) - i) * (lengths[0] - n) for i, n in enumerate(lengths)]
        assert max(spared) < WORTHWHILE["cpu"]
    assert split_lengths([5, 1, 5], 5) == [[0, 2, 1]]  # too little padding for a second
    packed = pack_sequences(LENGTHS, torch.float32, torch.device("cpu"))
    tokens = torch.cat([bucket.tokens[bucket.there] for bucket in packed.buckets])
    assert tokens.sort().values.tolist() == list(range(sum(LENGTHS)))
    for bucket in packed.buckets:  # padding repeats the first token
        assert torch.equal(bucket.tokens, torch.where(bucket.there, bucket.tokens, bucket.tokens[:, :1]))
    assert packed.positions.tolist() == [t for n in LENGTHS for t in range(n)]
