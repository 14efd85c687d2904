"""A frozen language model too large for one device, cut among the ranks of a team (Megatron-LM, arXiv 1909.08053).

Every rank of the team runs the same inputs through some of the attention heads and a slice of each MLP and gets the
whole output: both end with a sum over the team, and so does the gradient of what enters them. A key-value cache holds
the rank's own heads. What is cut says the model itself (`base_model_tp_plan` of its configuration in transformers);
embeddings and norms stay whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from llarp.errors import UserError

WHOLE = ("replicated_with_grad_allreduce",)
"""Parts of a plan that every rank has whole; frozen, they need no gradients."""


def check_plan(name: str, folder: Path, size: int) -> None:
    """UserError unless the model in `folder`, called `name`, can be cut among `size` ranks."""
    from transformers import AutoConfig

    if size == 1:
        return
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"policy.llm={name}: {folder} can not be loaded ({reason})") from error
    asked = f"policy.tensor_parallel={size} does not go with policy.llm={name}"
    styles = plan_of(config)
    unknown = sorted({style for style in styles.values() if style not in STYLES})
    if not styles or unknown:
        kind = f"layers cut as {unknown[0]!r}" if unknown else "no plan for cutting its layers"
        raise UserError(f"{asked}: it has {kind}; choose a Llama-like model, or policy.tensor_parallel=1")
    heads = getattr(config, "num_attention_heads", 0)
    counts = {
        "attention heads": heads,
        "key-value heads": getattr(config, "num_key_value_heads", None) or heads,
        "units in its MLPs": getattr(config, "intermediate_size", 0),
    }
    for what, count in counts.items():
        if not isinstance(count, int) or count % size:
            raise UserError(f"{asked}: its {count} {what} can not be divided by {size}")


def plan_of(config: Any) -> dict[str, str]:
    """Which linear layers of a model are cut, and how, by name (`*`: any layer); empty where nobody has said it."""
    plan = getattr(config, "base_model_tp_plan", None) or {}
    return {name: style for name, style in plan.items() if name.startswith("layers.") and style not in WHOLE}


def cut(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Leaves of `model` (checked by `check_plan`) only what this rank of the team computes, on the mesh's device."""
    entrance = Entrance(mesh)
    made = {"colwise": Columns(entrance), "rowwise": Rows()}
    return parallelize_module(model, mesh, {name: made[style] for name, style in plan_of(model.config).items()})


class Entrance:
    """Where a whole tensor goes into layers that are cut: its gradient is the sum of theirs, over the team too.

    Layers that read the same tensor (queries, keys and values; both branches of an MLP) share one sum.
    """

    def __init__(self, mesh: DeviceMesh):
        self.group = mesh.get_group()
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """A forward pre-hook."""
        x = inputs[0]
        if not (torch.is_grad_enabled() and x.requires_grad):
            self._last = None
            return None
        if self._last is None or self._last[0] is not x:
            self._last = (x, _SumGradient.apply(x, self.group))
        return self._last[1], *inputs[1:]


class Columns(ParallelStyle):
    """A linear layer of which each rank has some outputs."""

    def __init__(self, entrance: Entrance):
        super().__init__()
        self.entrance = entrance

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.Linear)
        module.weight = _part(module.weight, 0, device_mesh)
        if module.bias is not None:
            module.bias = _part(module.bias, 0, device_mesh)
        module.out_features = len(module.weight)
        module.register_forward_pre_hook(self.entrance)
        return module


class Rows(ParallelStyle):
    """A linear layer of which each rank has some inputs; the outputs are summed."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.Linear)
        group = device_mesh.get_group()
        module.weight = _part(module.weight, 1, device_mesh)
        module.in_features = module.weight.shape[1]
        if device_mesh.get_local_rank():
            module.bias = None  # added once
        module.register_forward_hook(lambda module, inputs, output: _Sum.apply(output, group))
        return module


STYLES = {"colwise": Columns, "rowwise": Rows}


def _part(weight: Tensor, dim: int, mesh: DeviceMesh) -> nn.Parameter:
    """This rank's share of a weight, as a copy, so that the whole can be forgotten."""
    own = weight.detach().chunk(mesh.size(), dim)[mesh.get_local_rank()]
    return nn.Parameter(own.to(mesh.device_type, copy=True).contiguous(), requires_grad=False)


class _Sum(torch.autograd.Function):
    """Sum over the team; the gradient, the same at all, goes back to each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        x = x.contiguous().clone() if x.requires_grad else x.contiguous()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class _SumGradient(torch.autograd.Function):
    """The tensor itself; the gradient is summed over the team."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None
