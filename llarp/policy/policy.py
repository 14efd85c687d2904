"""The LLaRP policy: instruction tokens, then one step after another, through a frozen language model (2310.17722)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from llarp.errors import UserError
from llarp.tasks.actions import ACTIONS

from . import hub
from .base import NO_ACTION, Policy, SegmentBatch, State, check_same_shapes, sample
from .config import BLANK, PolicyConfig, Variant
from .context import behind, compute_prefixes, new_rows, rewrite, run_parallel, start_rows, tokens_of
from .heads import Heads
from .instruction_cache import PAGE, InstructionCache, default_cache_mb
from .llm import FrozenLLM, choose_dtype, load_llm
from .ready import DecodeGraph, ReadyInstructions
from .vision import FrozenVision
from .word_prior import PLAIN, first_words

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class LLaRPPolicy(Policy):
    """Frozen language model and vision model with trainable projector, action MLP and critic.

    State (N worlds; see `context.py` for the cache's layout): keys, values, prefix_length, step, and, to rebuild the
    visual part after an update, the running episode's features (N, max_steps, num_tokens, dim) and previous actions
    (N, max_steps + 1), the entry after the last step being the action just taken.
    """

    variant: Variant = "frozen"
    """The settings this class is for; `build.make_policy` chooses."""

    def __init__(self, config: PolicyConfig, device: torch.device | str = "cpu", mesh: DeviceMesh | None = None):
        """Loads the frozen models (errors: `load_llm`, `FrozenVision`); trainable parts from torch's generator.

        The language model is cut among the ranks of a `mesh`; without, it is whole, whatever the config says.
        """
        super().__init__()
        config.validate()
        if config.variant != self.variant:
            raise UserError(f"{type(self).__name__} is for other settings; llarp.policy.build.make_policy chooses")
        self.config = config
        device = torch.device(device)
        dtype = choose_dtype(config.precision, device)
        self.llm = self._load_llm(device, mesh)
        vision = FrozenVision(config.vision, config.vision_weights, config.vision_pool, config.image_size, dtype)
        self.vision = vision
        words = self.llm.word_embeddings([action.words for action in ACTIONS]).cpu()
        self.heads = self._make_heads(words)
        self.to(device).eval()
        self.instructions = self._make_cache((config.instruction_cache_mb or default_cache_mb(device)) << 20)
        # Processes that hold a model together must compute instructions at the same time: they read none ahead.
        self.reads_ahead = device.type == "cuda" and mesh is None and self.variant == "frozen"
        self._longest = 0  # bound of the tokens of the instructions read ahead
        self._decode = DecodeGraph(config.cuda_graph)

    def _load_llm(self, device: torch.device, mesh: DeviceMesh | None) -> FrozenLLM:
        return load_llm(self.config.llm, self.config.precision, device, mesh)

    def _make_heads(self, words: Tensor) -> Any:
        """What is trained around the frozen models; `words` (70, hidden): mean embeddings of the skills' words."""
        llm, vision = self.llm, self.vision
        cue = llm.word_embeddings([" the"])[0].cpu()
        kept = llm.num_layers, self._value_size()
        sizes = vision.num_tokens, vision.dim, llm.hidden_size
        named = self._named() if self.config.word_prior else None
        return Heads(self.config, *sizes, llm.token_norm, cue, words, kept, named)

    def _value_size(self) -> int:
        """Numbers of a token's values in one layer of the language model, all heads together."""
        config: Any = self.llm.backbone.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return size * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)

    @torch.no_grad()
    def _named(self) -> tuple[Tensor, Tensor]:
        """What `Expected` is built from."""
        words = first_words(self.llm)
        prompts = [tokens_of(self.llm, self._prompt(text), self.config.max_instruction_tokens) for text in PLAIN]
        plain = torch.stack([entry.last for entry in compute_prefixes(self.llm, prompts)])
        return words.cpu(), plain.float().cpu()

    def _make_cache(self, max_bytes: int) -> Any:
        """What keeps what the language model makes of instructions."""
        return InstructionCache(self.llm, self.config.max_instruction_tokens, max_bytes)

    @property
    def pads(self) -> bool:  # type: ignore[override]
        """Only transformers' own modules compute what stands in the padding."""
        return self.llm.decoder is None

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return self.llm.device

    def train(self, mode: bool = True) -> Self:
        """Only what is around the two models ever drops units."""
        super().train(mode)
        self.llm.eval()
        self.vision.eval()
        return self

    def encode(self, rgb: Tensor) -> Tensor:
        """Frozen features float16 (N, num_tokens, dim) of pictures uint8 (N, H, W, 3)."""
        if self.config.pictures == "blank":  # what is shown is not looked at
            return self.vision.encode(torch.full_like(rgb[:1], BLANK)).expand(len(rgb), -1, -1)
        return self.vision.encode(rgb)

    def calibrate(self, features: Tensor) -> None:
        """Fit the fixed standardisation of features (..., num_tokens, dim); only the first call does anything."""
        self.heads.standardize.fit(features)

    def prepare_instructions(self, texts: list[str]) -> None:
        """Compute the prefixes of instructions that will come up soon, many in one pass."""
        self.instructions.prepare([self._prompt(text) for text in texts])

    def expect_instructions(self, count: int) -> None:
        """See `Policy.expect_instructions`; a GPU's memory is taken at once, and a budget that is set stays."""
        if self.device.type == "cpu" and not self.config.instruction_cache_mb:
            self.instructions.limit(count)

    def read_ahead(self, instruction_ids: list[int], need: int) -> ReadyInstructions:
        """See `Policy.read_ahead`."""
        texts = [self._prompt(self.instruction_text(i)) for i in instruction_ids]
        count = self.instructions.prepare_first(texts, need)
        ready = ReadyInstructions(self.instructions, dict(zip(instruction_ids[:count], texts, strict=False)), count)
        self._longest = max(self._longest, min(ready.num_pages * PAGE, self._prefix_slots))
        return ready

    def initial_state(self, num_envs: int) -> State:
        """State of N worlds, none of them started."""
        config, device = self.config, self.device
        visual_slots = config.max_steps * config.num_visual_tokens
        example = self.instructions.get(["go"])
        state = new_rows(example, num_envs, config.max_instruction_tokens, visual_slots)
        shape = (num_envs, config.max_steps, self.vision.num_tokens, self.vision.dim)
        state["features"] = torch.zeros(shape, dtype=torch.float16, device=device)
        state["previous_action"] = torch.full((num_envs, config.max_steps + 1), NO_ACTION, device=device)
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
        """One step, see `Policy.act`; `state` changes in place."""
        features = obs["features"] if "features" in obs else self.encode(torch.as_tensor(obs["rgb"]))
        ready: ReadyInstructions | None = obs.get("ready")
        if ready is not None:
            ready.start(state, episode_start, obs["instruction_id"], self._prefix_slots)
            state["previous_action"][:, 0].masked_fill_(episode_start, NO_ACTION)
        elif len(starting := torch.as_tensor(episode_start, device=self.device).nonzero().flatten()):
            start_rows(state, starting, self.instructions.get(self._texts(obs, starting)), self._prefix_slots)
            state["previous_action"][starting, 0] = NO_ACTION
        rows, step = torch.arange(len(features), device=self.device), state["step"].clone()
        previous_action = state["previous_action"][rows, step]
        tokens, glance = self.heads.see(features, previous_action)
        longest = None if ready is None else self._longest
        hidden = self._decode(self.llm, state, tokens, self._prefix_slots, longest)
        state["features"][rows, step] = features.to(state["features"].dtype)
        told = (state["values"][:, :, :, : self._prefix_slots], state["prefix_length"], rows, state["last"])
        logits, value = self.heads(hidden[:, -1:], None if glance is None else glance[:, None], told)
        logits, value = logits[:, 0], value[:, 0]
        action, log_prob = sample(logits, deterministic, generator)
        state["previous_action"][rows, step + 1] = action
        return action, log_prob, value, state

    def action_logits(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        """Logits (B, T, 70) and values (B, T) of whole segments, all steps at once."""
        count = batch.valid.sum(1)
        ids, steps = torch.stack([batch.instruction_id, count]).tolist()
        prefixes = self.instructions.get([self._prompt(self.instruction_text(i)) for i in ids])
        told = prefixes.values, prefixes.length, prefixes.index, prefixes.last
        if self.llm.decoder is None:
            tokens, glance = self.heads.see(batch.features, batch.previous_action)  # (B, T, K, hidden)
            hidden, _, _ = run_parallel(self.llm, prefixes, tokens.flatten(1, 2))
            return self.heads(hidden.unflatten(1, tokens.shape[1:3])[:, :, -1], glance, told)
        rows, longest = batch.valid.shape
        where = torch.cat([torch.arange(n) + i * longest for i, n in enumerate(steps)]).to(self.device)
        tokens, glance = self.heads.see(
            batch.features.flatten(0, 1)[where], batch.previous_action.flatten()[where]
        )  # (steps of all, K, hidden)
        per_step = tokens.shape[1]
        packed = behind(self.llm, prefixes, [n * per_step for n in steps])
        hidden = self.llm.decoder.run(tokens.flatten(0, 1).to(self.llm.dtype), packed)
        last = hidden.unflatten(0, (-1, per_step))[:, -1]

        def padded(packed: Tensor) -> Tensor:
            empty = packed.new_zeros(rows * longest, *packed.shape[1:])
            return empty.index_copy(0, where, packed).unflatten(0, (rows, longest))

        if self.heads.looks_back:
            return self.heads(padded(last), None if glance is None else padded(glance), told)
        logits, value = self.heads(last, glance)
        return padded(logits), padded(value)

    @torch.no_grad()
    def refresh_state(self, state: State) -> State:
        """Rebuild the visual keys and values of running episodes from stored features, in place."""
        steps = int(state["step"].max())
        if steps:
            tokens = self.heads.visual_tokens(state["features"][:, :steps], state["previous_action"][:, :steps])
            rewrite(self.llm, state, tokens.flatten(1, 2), self._prefix_slots)
        return state

    @property
    def _prefix_slots(self) -> int:
        return self.config.max_instruction_tokens

    def _texts(self, obs: dict[str, Any], rows: Tensor) -> list[str]:
        if "instruction" in obs:
            return [self._prompt(obs["instruction"][i]) for i in rows.tolist()]
        return [self._prompt(self.instruction_text(i)) for i in obs["instruction_id"][rows].tolist()]

    def _prompt(self, instruction: str) -> str:
        """What the language model reads of an instruction."""
        return self.config.prompt.replace("{instruction}", instruction)

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Trainable parameters and the standardisation, by name."""
        return {name: tensor.detach().clone() for name, tensor in self.heads.state_dict().items()}

    def load_trainable_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `trainable_state_dict` gave; UserError where it is another configuration's."""
        check_same_shapes(self.heads.state_dict(), tensors)
        self.heads.load_state_dict(tensors)

    def frozen_fingerprint(self) -> dict[str, str]:
        """sha256 of the frozen weights: "llm" (its files), "vision" (its float32 values)."""
        return {"llm": self.llm.fingerprint(), "vision": self.vision.fingerprint}

    def unfetchable_weights(self) -> dict[str, Tensor]:
        """The vision model's weights where they are random, else nothing."""
        return self.vision.weights_to_keep()

    def load_unfetchable_weights(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `unfetchable_weights` gave."""
        super().load_unfetchable_weights(tensors)
        if tensors:
            self.vision.load_weights(tensors)

    def describe(self) -> str:
        """One line for logs: frozen models, their weights, precision, parameter counts."""
        config = self.config
        parts = [f"llm {self.llm.describe()}", f"vision {self.vision.describe()}"]
        if config.pictures == "blank":
            parts.append("pictures: all blank")
        if config.resampler == "perceiver":
            parts.append(f"{config.num_visual_tokens} visual tokens a step by a Perceiver resampler")
        if config.head == "skill_names":
            parts.append("head: scores of the skills' words")
        return " | ".join([*parts, super().describe()])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a policy folder (see `hub`) that loads as exactly this policy; `llarp ship` adds where it is from."""
        hub.write(Path(folder), self)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload the policy to the Hugging Face hub as user/name; its address. A card with results: `llarp ship`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.push(Path(folder), repo_id, private)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: torch.device | str = "cpu") -> LLaRPPolicy:
        """The policy of a folder that `save_pretrained` or `llarp ship` wrote, of a name that llarp ships
        (`hub.names()`), or of a hub id; UserError where files are missing, damaged, or the frozen models differ."""
        from .build import make_policy

        folder = hub.read(hub.find(name))
        config = hub.config_of(folder)
        policy = make_policy(config, device) if cls is LLaRPPolicy else cls(config, device)
        kind = type(policy).__name__
        if folder.card.get("policy_class", kind) != kind:
            raise UserError(f"{name} is a {folder.card['policy_class']}, no {kind}")
        hub.fill(policy, folder)
        return policy
