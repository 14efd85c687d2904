"""Language models that are trained, for comparison with the frozen one: from random weights, or by LoRA.

Whatever the frozen policy computes once and keeps, the keys and values of instructions, holds here until the next
update only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from llarp.errors import UserError

from .base import State, check_same_shapes
from .config import PolicyConfig, Variant
from .context import Prefixes, entries_together, pack, start_rows, tokens_of
from .instruction_cache import InstructionCache
from .llm import FrozenLLM, checked, choose_dtype, find_model, read_model
from .policy import LLaRPPolicy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

LORA_SCALE = 2.0
"""What the low-rank product is multiplied with (alpha / rank)."""
LORA_MAPS = ("q_proj", "v_proj")
"""Which maps are added to, as in LoRA's own experiments."""


class LoRALinear(nn.Module):
    """A frozen linear map plus a trained one of low rank, which begins at zero (LoRA, arXiv 2106.09685)."""

    def __init__(self, frozen: nn.Linear, rank: int):
        super().__init__()
        self.frozen = frozen
        device = frozen.weight.device
        self.down = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, frozen.in_features), a=5**0.5).to(device))
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + LORA_SCALE * F.linear(F.linear(x, self.down), self.up)


def add_lora(backbone: nn.Module, rank: int) -> None:
    """Put a `LoRALinear` in place of every query and value map; UserError where the model has none."""
    found = [(module, name) for module in backbone.modules() for name in LORA_MAPS
             if isinstance(getattr(module, name, None), nn.Linear)]  # fmt: skip
    if not found:
        raise UserError(f"policy.lora_rank={rank}: the language model has no {' and '.join(LORA_MAPS)} to add to")
    for module, name in found:
        setattr(module, name, LoRALinear(getattr(module, name), rank))


class TrainedLLM(FrozenLLM):
    """A language model with trained weights, kept in float32; it computes in `dtype`, through transformers' modules."""

    def __init__(self, backbone: nn.Module, tokenizer: Any, name: str, folder: Path, dtype: torch.dtype):
        super().__init__(backbone, tokenizer, name, folder)
        self._dtype = dtype
        self._rounded: tuple[int, dict[str, Tensor]] = (-1, {})

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained weights, by name."""
        return {name: p for name, p in self.backbone.named_parameters() if p.requires_grad}

    def describe(self) -> str:
        trained, count = self.trained(), sum(p.numel() for p in self.backbone.parameters())
        if len(trained) == sum(1 for _ in self.backbone.parameters()):
            return f"of the shape of {super().describe()} with random weights, all {count:,} trained"
        return f"{super().describe()} with LoRA: {sum(p.numel() for p in trained.values()):,} trained"

    def version(self) -> int:
        """A number that changes whenever a trained weight does."""
        return sum(p._version for p in self.backbone.parameters() if p.requires_grad)

    def call_backbone(self, **inputs: Any) -> Any:
        """transformers' own forward on the trained weights, rounded to `dtype`; without gradient they are kept so."""
        if self._dtype == torch.float32:
            return self.backbone(**inputs)
        if torch.is_grad_enabled():
            rounded = {name: p.to(self._dtype) for name, p in self.trained().items()}
        else:
            if self._rounded[0] != self.version():
                self._rounded = self.version(), {name: p.to(self._dtype) for name, p in self.trained().items()}
            rounded = self._rounded[1]
        return functional_call(self.backbone, rounded, (), inputs)


def load_trained_llm(config: PolicyConfig, device: torch.device) -> TrainedLLM:
    """The model that `config` describes, with its trained weights drawn from torch's generator; errors: `load_llm`."""
    folder, dtype = find_model(config.llm), choose_dtype(config.precision, device)
    scratch = config.llm_weights == "random"
    backbone, tokenizer = read_model(config.llm, folder, torch.float32 if scratch else dtype, device, draw=scratch)
    if scratch:
        backbone.requires_grad_(True)
    else:
        add_lora(backbone, config.lora_rank)
    return checked(TrainedLLM(backbone, tokenizer, config.llm, folder, dtype))


class PresentInstructions(InstructionCache):
    """Keys and values of instructions as the present weights make them: with gradient read anew, else kept until the
    weights change."""

    llm: TrainedLLM
    _version = -1

    def get(self, texts: list[str]) -> Prefixes:
        if torch.is_grad_enabled():
            row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            return self.read([tokens_of(self.llm, text, self.max_tokens) for text in row], [row[t] for t in texts])
        self._forget_old()
        return super().get(texts)

    def prepare(self, texts: list[str]) -> None:
        with torch.no_grad():
            self._forget_old()
            super().prepare(texts)

    def read(self, ids: list[list[int]], index: list[int]) -> Prefixes:
        """Prefixes for rows that have the `index`-th of some prompts, given as token ids; nothing is kept."""
        return pack(entries_together(self.llm, ids), index)

    def _forget_old(self) -> None:
        if self._version != self.llm.version():
            self.forget()
            self._version = self.llm.version()


class TrainsLanguageModel(LLaRPPolicy):
    """What is the same for every policy with a language model that is trained.

    The state also holds the prompts' tokens (N, max_instruction_tokens), -1 where there is none: after an update
    what the language model makes of them is made anew as well.
    """

    llm: TrainedLLM

    def _load_llm(self, device: torch.device, mesh: DeviceMesh | None) -> FrozenLLM:
        return load_trained_llm(self.config, device)

    @torch.no_grad()
    def initial_state(self, num_envs: int) -> State:
        state = super().initial_state(num_envs)
        state["prompt"] = torch.full((num_envs, self.config.max_instruction_tokens), -1, device=self.device)
        return state

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, Any],
        state: State,
        episode_start: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        starting = torch.as_tensor(episode_start, device=self.device).nonzero().flatten()
        acted = super().act(obs, state, episode_start, deterministic, generator)
        if len(starting):
            state["prompt"][starting] = -1
            for row, text in zip(starting.tolist(), self._texts(obs, starting), strict=True):
                ids = self.llm.tokens(text)
                state["prompt"][row, : len(ids)] = torch.tensor(ids, device=self.device)
        return acted

    @torch.no_grad()
    def refresh_state(self, state: State) -> State:
        started = (state["prompt"][:, 0] >= 0).nonzero().flatten()
        if len(started):
            ids = [[token for token in row if token >= 0] for row in state["prompt"][started].tolist()]
            self._read_anew(state, started, ids)
        return super().refresh_state(state)

    def _read_anew(self, state: State, rows: Tensor, ids: list[list[int]]) -> None:
        """Put what the present weights make of the prompts `ids` into running episodes' rows (R,)."""
        raise NotImplementedError

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Those of the heads, and the language model's trained weights under "llm."."""
        own = {f"llm.{name}": p.detach().clone() for name, p in self.llm.trained().items()}
        return super().trainable_state_dict() | own

    @torch.no_grad()
    def load_trainable_state_dict(self, tensors: dict[str, Tensor]) -> None:
        own = {f"llm.{name}": p for name, p in self.llm.trained().items()}
        check_same_shapes(self.heads.state_dict() | own, tensors)
        super().load_trainable_state_dict({name: t for name, t in tensors.items() if name not in own})
        for name, parameter in own.items():
            parameter.copy_(tensors[name])

    def frozen_fingerprint(self) -> dict[str, str]:
        frozen = super().frozen_fingerprint()
        if self.config.llm_weights == "random":
            del frozen["llm"]
        return frozen


class TrainedLLaRPPolicy(TrainsLanguageModel):
    """The LLaRP policy with a language model that is trained."""

    variant: Variant = "trained"

    def _make_cache(self, max_bytes: int) -> PresentInstructions:
        return PresentInstructions(self.llm, self.config.max_instruction_tokens, max_bytes)

    def _read_anew(self, state: State, rows: Tensor, ids: list[list[int]]) -> None:
        steps = state["step"].clone()
        start_rows(state, rows, self.instructions.read(ids, list(range(len(ids)))), self._prefix_slots)
        state["step"].copy_(steps)
