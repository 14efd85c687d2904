"""Llama-type models that stay frozen, without transformers' modules: what has to be computed, and no more.

Tokens of all sequences lie behind one another, (M, hidden), so that no product works on padding. Query, key and value
are one product, gate and up another. Gradients reach the inputs only, by a backward pass written out here: nothing is
kept or computed for weights that never change. The results are those of transformers' modules up to rounding.

With a mesh the model is cut (`tensor_parallel`): this process has some heads and a slice of each MLP, and sums over
the mesh what attention and MLP give, and the gradients of what they read.

Letters in shapes: M tokens, B sequences of a bucket, L its longest, S slots they see, N rows that decode, K new tokens
of each, Q query heads, G key-value heads, D head size, I width of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from .packed import Packed, Places

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

PACK_BYTES = 1 << 30
"""Weights up to this size are also kept in the CPU's own order, once for each way: products of 16 rows then take about
half the time, of 64 four fifths, of 256 nine tenths."""


class Matrix:
    """A frozen linear map without bias."""

    def __init__(self, weight: Tensor, reorder: bool, sum_outputs: Any = None, sum_gradients: Any = None):
        """`weight` (out, in); `reorder` keeps copies in the order that the CPU's bfloat16 products read, for each way.

        `sum_outputs`, `sum_gradients`: a group of processes whose results are summed, each having a part of the map.
        """
        self.weight, self.sum_outputs, self.sum_gradients = weight, sum_outputs, sum_gradients
        self.reordered = self.reordered_back = None
        if reorder:
            self.reordered = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            self.reordered_back = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), None)

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight) if self.reordered is None else product(x, self.reordered)
        if self.sum_outputs is not None:
            dist.all_reduce(y, group=self.sum_outputs)
        return y

    def back(self, grad: Tensor) -> Tensor:
        """Gradient of the input from that of the output."""
        grad = grad @ self.weight if self.reordered_back is None else product(grad, self.reordered_back)
        if self.sum_gradients is not None:
            dist.all_reduce(grad, group=self.sum_gradients)
        return grad


@dataclass
class Block:
    """Weights of one layer."""

    norm_attention: Tensor  # (hidden,)
    query_key_value: Matrix  # ((Q + 2 G) * D, hidden)
    out: Matrix  # (hidden, Q * D)
    norm_mlp: Tensor  # (hidden,)
    gate_up: Matrix  # (2 * I, hidden)
    down: Matrix  # (hidden, I)


class LlamaDecoder:
    """The layers and the last norm of a Llama. Its weights are the module's own: no second copy of them is made."""

    def __init__(self, backbone: nn.Module, mesh: DeviceMesh | None = None):
        """Of a `LlamaModel` that `fits`. Its query, key and value, and gate and up, become views of joint matrices."""
        self.mesh, group = mesh, None if mesh is None else mesh.get_group()
        config: Any = backbone.config
        first = backbone.layers[0].self_attn
        self.head_size: int = first.head_dim
        self.groups: int = first.k_proj.out_features // self.head_size  # of this process
        self.heads: int = first.q_proj.out_features // self.head_size
        self.scale: float = first.scaling
        self.eps: float = config.rms_norm_eps
        self.rotary = backbone.rotary_emb
        self.norm: Tensor = backbone.norm.weight
        size = sum(p.nbytes for p in backbone.layers.parameters())
        reorder = size <= PACK_BYTES and can_reorder(self.norm)
        self.blocks = []
        for layer in backbone.layers:
            attention, mlp = layer.self_attn, layer.mlp
            block = Block(
                norm_attention=layer.input_layernorm.weight,
                query_key_value=Matrix(
                    join([attention.q_proj, attention.k_proj, attention.v_proj]), reorder, sum_gradients=group
                ),
                out=Matrix(attention.o_proj.weight, reorder, sum_outputs=group),
                norm_mlp=layer.post_attention_layernorm.weight,
                gate_up=Matrix(join([mlp.gate_proj, mlp.up_proj]), reorder, sum_gradients=group),
                down=Matrix(mlp.down_proj.weight, reorder, sum_outputs=group),
            )
            self.blocks.append(block)
        width = self.head_size // 2
        self.sign = torch.cat([-self.norm.new_ones(width), self.norm.new_ones(width)])

    def run(self, x: Tensor, packed: Packed) -> Tensor:
        """Last hidden states (M, hidden) of embeddings (M, hidden), with gradient where these have one."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _Run.apply(x, self, packed)
        return self.forward(x, packed)

    def forward(self, x: Tensor, packed: Packed, saved: list | None = None, entries: list | None = None) -> Tensor:
        """Last hidden states; `saved` takes what `backward` needs, `entries` each layer's new keys and values."""
        turn = self._turn(packed.positions)
        for i, block in enumerate(self.blocks):
            y, r1 = rms_norm(x, block.norm_attention, self.eps)
            qkv = self._rotated(block.query_key_value(y), turn)
            kept: list = []
            middle = block.out(self._attend(qkv, i, packed, kept)).add_(x)
            if entries is not None:
                entries.append(qkv[:, self.heads * self.head_size :])
            y, r2 = rms_norm(middle, block.norm_mlp, self.eps)
            gate_up = block.gate_up(y)
            inner, opened = swiglu(gate_up, keep=saved is not None)
            after = block.down(inner).add_(middle)
            if saved is not None:
                saved.append((x, r1, kept, middle, r2, gate_up, opened))
            x = after
        y, r1 = rms_norm(x, self.norm, self.eps)
        if saved is not None:
            saved.append((x, r1, turn))
        return y

    def backward(self, grad: Tensor, packed: Packed, saved: list) -> Tensor:
        """Gradient of the embeddings from that of the last hidden states, both (M, hidden)."""
        x, r, turn = saved[-1]
        grad = rms_norm_back(grad, x, r, self.norm)
        for i in reversed(range(len(self.blocks))):
            block = self.blocks[i]
            x, r1, kept, middle, r2, gate_up, opened = saved[i]
            inner = block.gate_up.back(swiglu_back(block.down.back(grad), gate_up, opened))
            grad = rms_norm_back(inner, middle, r2, block.norm_mlp).add_(grad)
            inner = self._attend_back(block.out.back(grad), packed, kept)
            inner = block.query_key_value.back(self._rotated(inner, turn, back=True))
            grad = rms_norm_back(inner, x, r1, block.norm_attention).add_(grad)
        return grad

    def decode(
        self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, slots: Tensor, visible: slice, mask: Tensor
    ) -> Tensor:
        """Last hidden states (N, K, hidden) of the next tokens (N, K, hidden) of N rows; writes their keys and values.

        `keys`, `values` (layers, N, G, slots, D), contiguous; `slots`, `positions` (N, K); `mask` additive (N, 1, K,
        visible slots).
        """
        if self.mesh is not None:  # processes that would act apart would wait for ever
            x = as_first_has_it(x, self.mesh)
        rows, new, hidden = x.shape
        groups, size, heads = self.groups, self.head_size, self.heads
        turn = self._turn(positions.flatten())
        row = torch.arange(rows * groups, device=x.device).view(rows, groups, 1)
        flat = (row * keys.shape[3] + slots[:, None]).flatten()  # of (N * G * slots)
        mask = mask[:, :, None].expand(-1, groups, heads // groups, -1, -1).reshape(rows * groups, -1, mask.shape[3])
        x = x.reshape(rows * new, hidden)
        for block, own_keys, own_values in zip(self.blocks, keys, values, strict=True):
            qkv = self._rotated(block.query_key_value(rms_norm(x, block.norm_attention, self.eps)[0]), turn)
            q, k, v = qkv.view(rows, new, -1, size).transpose(1, 2).split([heads, groups, groups], 1)
            own_keys.view(-1, size).index_copy_(0, flat, k.reshape(-1, size))
            own_values.view(-1, size).index_copy_(0, flat, v.reshape(-1, size))
            # Strided products take twice as long as copies and plain ones.
            k = own_keys[:, :, visible].contiguous().view(rows * groups, -1, size)
            v = own_values[:, :, visible].contiguous().view(rows * groups, -1, size)
            q = q.reshape(rows * groups, -1, size)
            weights = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=self.scale).softmax(-1)
            mixed = torch.bmm(weights, v).view(rows, heads, new, size).transpose(1, 2).reshape(rows * new, -1)
            x = block.out(mixed).add_(x)
            x = block.down(swiglu(block.gate_up(rms_norm(x, block.norm_mlp, self.eps)[0]))[0]).add_(x)
        return rms_norm(x, self.norm, self.eps)[0].view(rows, new, hidden)

    # -- rotary positions -----------------------------------------------------------------------------------------

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (M, 1, D) of the positions (M,), the first half of the sine negative."""
        cos, sin = self.rotary(self.norm, positions[None])
        return cos[0, :, None], (sin[0] * self.sign)[:, None]

    def _rotated(self, qkv: Tensor, turn: tuple[Tensor, Tensor], back: bool = False) -> Tensor:
        """Turns the queries and keys of (M, (Q + 2 G) * D), in place; `back`: gradients, the opposite way."""
        cos, sin = turn
        turned = qkv.view(len(qkv), -1, self.head_size)[:, : self.heads + self.groups]
        swap = swapped(turned)
        turned.mul_(cos).addcmul_(swap, sin, value=-1 if back else 1)
        return qkv

    # -- attention ------------------------------------------------------------------------------------------------

    def _attend(self, qkv: Tensor, layer: int, packed: Packed, kept: list) -> Tensor:
        """(M, Q * D) from (M, (Q + 2 G) * D); `kept` takes queries, keys, values and weights of each bucket."""
        size, places = self.head_size, self._places(packed)
        vectors = qkv.view(-1, size)
        if places.prefix is not None:
            vectors = torch.cat([places.prefix[layer], vectors])
        vectors = vectors.index_select(0, places.take)
        out = qkv.new_empty(len(places.take_back), size)
        at = done = 0
        for mask in places.masks:
            pairs, queries, slots = mask.shape  # B * G, Q / G * L, S
            ends = (at, at + pairs * queries, at + pairs * (queries + slots), at + pairs * (queries + 2 * slots))
            q, k, v = (vectors[a:b].view(pairs, -1, size) for a, b in pairwise(ends))
            weights = softmax(torch.baddbmm(mask, q, k.transpose(1, 2), alpha=self.scale))
            scaled_bmm(weights, v, 1, out=out[done : done + pairs * queries])
            kept.append((q, k, v, weights))
            at, done = ends[-1], done + pairs * queries
        return out.index_select(0, places.give).view(len(qkv), -1)

    def _attend_back(self, grad: Tensor, packed: Packed, kept: list) -> Tensor:
        """Gradient of queries, keys and values (M, (Q + 2 G) * D) from that of `_attend`'s output (M, Q * D)."""
        groups, size, places = self.groups, self.head_size, self._places(packed)
        padded = torch.cat([grad.view(-1, size), grad.new_zeros(1, size)]).index_select(0, places.take_back)
        queries = len(padded)
        new = queries // self.heads * groups
        of = grad.new_empty(queries + 2 * new, size)
        at = 0  # tokens of the buckets before, with padding
        for bucket, (q, k, v, weights) in zip(packed.buckets, kept, strict=True):
            pairs, longest, end = len(q), bucket.longest, at + bucket.rows * bucket.longest
            of_query = slice(at * self.heads, end * self.heads)
            of_key = slice(queries + at * groups, queries + end * groups)
            of_value = slice(of_key.start + new, of_key.stop + new)
            through = padded[of_query].view(pairs, -1, size)
            scores = torch.bmm(through, v.transpose(1, 2))
            scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, weights.dtype)
            own = slice(-longest, None)  # of the slots
            scaled_bmm(scores, k, self.scale, out=of[of_query])
            scaled_bmm(scores[:, :, own].transpose(1, 2), q, self.scale, out=of[of_key])
            scaled_bmm(weights[:, :, own].transpose(1, 2), through, 1, out=of[of_value])
            at = end
        return of.index_select(0, places.give_back).view(len(grad), -1)

    def _places(self, packed: Packed) -> Places:
        if packed.places is None:
            packed.places = Places.of(packed, self.heads, self.groups)
        return packed.places


class _Run(torch.autograd.Function):
    """`LlamaDecoder.forward` with `LlamaDecoder.backward`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decoder: LlamaDecoder, packed: Packed) -> Tensor:
        ctx.decoder, ctx.packed, ctx.saved = decoder, packed, []
        return decoder.forward(x, packed, ctx.saved)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.decoder.backward(grad, ctx.packed, ctx.saved), None, None


def fits(backbone: nn.Module) -> bool:
    """Whether the model is a frozen Llama as `LlamaDecoder` computes it."""
    config: Any = backbone.config
    return (
        type(backbone).__name__ == "LlamaModel"
        and config.hidden_act == "silu"
        and not any(p.requires_grad for p in backbone.parameters())
        and not any(name.endswith(".bias") for name, _ in backbone.layers.named_parameters())
        and len({(type(p), p.dtype, p.device) for p in backbone.layers.parameters()}) == 1
    )


def as_first_has_it(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """The tensor that the first process of a mesh has, of the same shape, at all of them."""
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    dist.broadcast(tensor, group=mesh.get_group(), group_src=0)
    return tensor


def can_reorder(example: Tensor) -> bool:
    """Whether torch has the CPU's own order of bfloat16 weights and reads it as it should."""
    if example.device.type != "cpu" or example.dtype != torch.bfloat16:
        return False
    weight, x = torch.eye(64, dtype=torch.bfloat16), torch.arange(256).view(4, 64).bfloat16()
    try:
        return torch.equal(Matrix(weight, reorder=True)(x), x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def product(x: Tensor, reordered: Tensor) -> Tensor:
    """x (M, in) times a matrix in the CPU's own order."""
    return torch.ops.mkldnn._linear_pointwise(x, reordered, None, "none", [], "")


def join(layers: list[nn.Linear]) -> Tensor:
    """One matrix of several layers that read the same; their weights become views of it."""
    joint = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(layers, joint.split([len(layer.weight) for layer in layers]), strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    return joint


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) * weight, rounded as transformers does, and 1 / rms (M, 1) float32."""
    wide = x.to(torch.float32, copy=True)
    r = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return wide.mul_(r).to(x.dtype).mul_(weight), r


def rms_norm_back(grad: Tensor, x: Tensor, r: Tensor, weight: Tensor) -> Tensor:
    """Gradient of `rms_norm`'s x."""
    inner, wide = grad.float() * weight.float(), x.float()  # one dtype: mixed ones are slower
    share = (inner * wide).sum(-1, keepdim=True).mul_(r * r).mul_(1 / x.shape[-1])
    return inner.addcmul_(wide, share, value=-1).mul_(r).to(x.dtype)


def scaled_bmm(left: Tensor, right: Tensor, scale: float, out: Tensor) -> None:
    """Writes scale * left @ right, (pairs, A, B) and (pairs, B, D), to `out` (pairs * A, D)."""
    out = out.view(len(left), -1, right.shape[2])
    torch.baddbmm(out, left, right, beta=0, alpha=scale, out=out)


def softmax(scores: Tensor) -> Tensor:
    """Over the last dimension; a CPU's float32 kernel and two conversions take half as long as its bfloat16 one."""
    return scores.float().softmax(-1).to(scores.dtype) if scores.device.type == "cpu" else scores.softmax(-1)


def swiglu(gate_up: Tensor, keep: bool = False) -> tuple[Tensor, Tensor]:
    """silu(gate) * up, (M, I), of (M, 2 I), and silu(gate), which is that product itself unless it is to be kept."""
    gate, up = gate_up.chunk(2, -1)
    opened = F.silu(gate)
    return opened * up if keep else opened.mul_(up), opened


def swiglu_back(grad: Tensor, gate_up: Tensor, opened: Tensor) -> Tensor:
    """Gradient of `swiglu`'s gate and up; `opened`: silu(gate), as `swiglu` kept it."""
    gate, up = gate_up.chunk(2, -1)
    out = torch.empty_like(gate_up)
    of_gate, of_up = out.chunk(2, -1)
    torch.mul(grad, opened, out=of_up)
    torch.mul(grad, up, out=of_gate)
    torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
    return out


def swapped(x: Tensor) -> Tensor:
    """The two halves of the last dimension, exchanged."""
    first, second = x.chunk(2, -1)
    return torch.cat([second, first], -1)
