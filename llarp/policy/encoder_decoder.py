"""The frozen language model as encoder of the instruction, a small trained transformer as decoder of the steps.

Where `LLaRPPolicy` sends every step through the language model, here that reads the instruction once; a transformer
over the episode's steps looks up its words, its pictures' cells and what was done before. Of the language model's
size nothing is left in a step, so that the same minutes teach from many times the steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llarp.tasks.actions import ACTIONS, NOVEL_PICKS, NUM_ACTIONS

from .base import SegmentBatch, State
from .config import PolicyConfig, Variant
from .heads import Standardize, action_mlp
from .read_once import ReadOncePolicy
from .skill_names import SkillNames
from .word_prior import ActionEmbedding, Expected
from .words import Told, WordReader, Words, read_layers

HEADS = 8
EMBEDDING_SCALE = 4.0
"""Word embeddings are shorter than what else is added up to a step."""
KINDS = sorted({action.kind for action in ACTIONS})
PICK, PLACE = KINDS.index("pick"), KINDS.index("place")
VAGUE = 1.75
"""With more doubt (entropy, nats) about what will be named, an instruction describes it rather than names it. What is
picked up then goes by what is expected, not by words that training has not shown (docs/log.md)."""
SAME = 0.05
"""Pictures whose standardised features differ by no more show the same: what was done in between had no effect."""


class Memory(NamedTuple):
    """Keys and values of a row's earlier steps in every layer, (N, layers, heads, max_steps, size) each."""

    keys: Tensor
    values: Tensor
    step: Tensor  # (N,) int64: how many there are


class Block(nn.Module):
    """Steps (B, T, width) look at earlier steps, at the instruction's words, at their picture's cells; then an MLP."""

    def __init__(self, width: int, cell: int, dropout: float):
        super().__init__()
        self.norm_steps, self.norm_words, self.norm_cells, self.norm_mlp = (nn.LayerNorm(width) for _ in range(4))
        self.steps, self.out_steps = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ask_words, self.words, self.out_words = (nn.Linear(width, k * width) for k in (1, 2, 1))
        self.ask_cells, self.out_cells = (nn.Linear(width, width) for _ in range(2))
        self.cells = nn.Linear(cell, 2 * width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)
        for last in (self.out_steps, self.out_words, self.out_cells, self.mlp[2]):
            nn.init.zeros_(last.bias)
            with torch.no_grad():
                last.weight.mul_(0.5)

    def forward(
        self, x: Tensor, words: Tensor, seen: Tensor, cells: Tensor, past: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`words` (B, P, width), `seen` (B, P) bool, `cells` (B, T, C, cell); `past`: keys, values and mask (B, S) of
        the steps before, where x is one step (T = 1). Also this call's keys and values (B, heads, T, size)."""
        query, key, value = _heads(self.steps(self.norm_steps(x)), 3)
        if past is None:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            keys, values, mask = past
            keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)[:, None, None]
            mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        x = x + self.drop(self.out_steps(_joined(mixed)))
        (asked,) = _heads(self.ask_words(self.norm_words(x)), 1)
        mixed = F.scaled_dot_product_attention(asked, *_heads(self.words(words), 2), attn_mask=seen[:, None, None])
        x = x + self.drop(self.out_words(_joined(mixed)))
        asked = self.ask_cells(self.norm_cells(x)).unflatten(-1, (HEADS, -1))  # (B, T, heads, size)
        key_map, value_map = self.cells.weight.unflatten(0, (2, HEADS, -1)).unbind(0)  # (heads, size, cell)
        # a step's question is carried over to its cells, and their mixture back: cheaper than maps of every cell
        wanted = torch.einsum("bthd,hdc->bthc", asked, key_map) * asked.shape[-1] ** -0.5
        share = (wanted @ cells.transpose(-1, -2)).softmax(-1)  # (B, T, heads, C)
        told = torch.einsum("bthc,hdc->bthd", share @ cells, value_map)
        x = x + self.drop(self.out_cells(told.flatten(2)))
        return x + self.drop(self.mlp(self.norm_mlp(x))), key, value


def _heads(joined: Tensor, parts: int) -> tuple[Tensor, ...]:
    """(B, T, parts * width) as `parts` of (B, heads, T, size)."""
    return joined.unflatten(-1, (parts, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _joined(mixed: Tensor) -> Tensor:
    return mixed.transpose(1, 2).flatten(2)


class SkillFeatures(nn.Module):
    """Adds to every skill's logit what is known of this very skill, times weights that depend on the step and the
    skill's kind only: so what is learned of one object or place holds for all, also for those never shown, of which
    nothing else is known."""

    kinds: Tensor
    FEATURES = 11
    """In the picture, expected by the language model, never shown in training, in the picture and expected; and what
    `history` gives."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.gates = nn.LayerNorm(width), nn.Linear(width, len(KINDS) * self.FEATURES)
        nn.init.zeros_(self.gates.weight)
        bias = torch.zeros(len(KINDS), self.FEATURES)
        bias[:, :2] = 1.0
        self.gates.bias.data.copy_(bias.flatten())
        kinds = torch.tensor([KINDS.index(action.kind) for action in ACTIONS])
        self.register_buffer("kinds", kinds, persistent=False)

    def history(self, previous: Tensor, changed: Tensor) -> Tensor:
        """Seven features (B, T, 70, 7) from previous actions (B, T), and whether each changed the picture, bool (B, T):
        done just before; the same, in vain; in vain since anything changed; done before; how often; the last one done
        of its kind; in the hand."""
        steps = previous.shape[1]
        tried = F.one_hot(previous, NUM_ACTIONS + 1)[..., :NUM_ACTIONS].float()
        done = tried * changed[..., None]
        vain = tried - done
        when = torch.arange(1, steps + 1, device=previous.device)[:, None]
        latest = (when * done).cummax(1).values  # (B, T, 70): step of the last time, 0: never
        of_kind = torch.stack([latest[..., self.kinds == kind].amax(-1) for kind in range(len(KINDS))], -1)
        tried_now = (when * vain).cummax(1).values > latest.amax(-1, keepdim=True)
        count = done.cumsum(1)
        last_of_kind = (latest == of_kind[..., self.kinds]) & (latest > 0)
        full = of_kind[..., PICK, None] > of_kind[..., PLACE, None]
        held = last_of_kind & (self.kinds == PICK) & full
        parts = [done, vain, tried_now, count.clamp(max=1), count.log1p(), last_of_kind, held]
        return torch.stack([part.float() for part in parts], -1)

    def forward(self, hidden: Tensor, known: Tensor) -> Tensor:
        """(B, T, 70) from steps (B, T, width) and `known` (B, T, 70, FEATURES)."""
        gates = self.gates(self.norm(hidden)).unflatten(-1, (len(KINDS), self.FEATURES))
        return (gates[..., self.kinds, :] * known).sum(-1)


class StepDecoder(nn.Module):
    """All that is trained, float32."""

    def __init__(
        self, config: PolicyConfig, num_tokens: int, dim: int, value_size: int, words: Tensor,
        named: tuple[Tensor, Tensor],
    ):  # fmt: skip
        """`value_size`: of `Told.words`; `words` (70, hidden): mean embeddings of the skills' words; `named`: what
        `Expected` asks for."""
        super().__init__()
        width, hidden, self.temperature = config.decoder_width, words.shape[1], config.temperature
        self.standardize = Standardize(num_tokens, dim)
        self.read_cells = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, config.projector_hidden))
        self.place = nn.Parameter(0.02 * torch.randn(num_tokens, config.projector_hidden))
        self.tell = nn.Sequential(nn.GELU(), nn.Linear(config.projector_hidden, config.projector_hidden), nn.GELU())
        self.picture = nn.Linear(config.projector_hidden, width)
        self.reader = WordReader(value_size, width, config.word_layers)
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width))
        self.previous_action = ActionEmbedding(words) if config.observe_previous_action else None
        self.act_before = nn.Linear(hidden, width)
        self.came_of_it = nn.Linear(2, width)
        self.when = nn.Parameter(0.02 * torch.randn(config.max_steps, width))
        self.prior = Expected(*named)
        self.guess, self.sure = nn.Linear(hidden, width), nn.Linear(3, width)
        sizes = width, config.projector_hidden, config.dropout
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.decoder_layers))
        self.glance = SkillNames(config.projector_hidden, words)
        nn.init.zeros_(self.glance.project.weight)
        nn.init.zeros_(self.glance.project.bias)
        self.skills = SkillFeatures(width)
        self.trunk = action_mlp(config, width)
        by_name = config.head == "skill_names"
        self.actor = SkillNames(width, words) if by_name else nn.Linear(config.action_hidden, NUM_ACTIONS)
        last: Any = self.actor.project if isinstance(self.actor, SkillNames) else self.actor
        nn.init.orthogonal_(last.weight, 0.1)
        nn.init.zeros_(last.bias)
        self.critic = nn.Linear(config.action_hidden, 1)
        nn.init.zeros_(self.critic.bias)

    def forward(
        self,
        told: Told,
        features: Tensor,
        previous: Tensor,
        unknown: Tensor | None = None,
        vague: Tensor | None = None,
        memory: Memory | None = None,
        history: Tensor | None = None,
        words: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits (B, T, 70), values (B, T) and each layer's keys and values of these steps.

        `features` (B, T, num_tokens, dim), `previous` (B, T) actions; `unknown` (B, 70) bool: picks to be treated as
        those that training never shows; `vague` (B, categories): as `SegmentBatch.expected`. One step of rows with a
        `memory` comes with its `history` (B, 1, 70, 7) and with what the reader made of the `words` before.
        """
        telling = self.tell(self.read_cells(self.standardize(features.float())) + self.place)  # (B, T, C, hidden)
        strongest = telling.amax(-2)
        novel = self.novel(len(previous), unknown)
        glance = self.glance(strongest).masked_fill(novel[:, None], 0.0)
        ratios = self.prior.log_ratios(told.last)  # (B, categories)
        if vague is not None:
            ratios = torch.where(vague.isnan(), ratios, vague)
        share = ratios.softmax(-1)
        expected = torch.zeros_like(novel, dtype=torch.float32).index_copy(1, self.prior.picks, ratios)
        doubt = -(share * share.clamp_min(1e-9).log()).sum(-1)
        described = doubt > VAGUE
        if vague is not None:
            described = described | ~vague.isnan().any(-1)
        never = (share * novel[:, self.prior.picks]).sum(-1)
        sure = self.sure(torch.stack([never, doubt, share.amax(-1)], -1))
        guess = self.guess(F.normalize(share @ self.prior.words, dim=-1) * self.prior.words.shape[1] ** 0.5)
        x = self.picture(strongest) + (self.last(told.last) + sure + guess)[:, None]
        if self.previous_action is not None:
            x = x + self.act_before(EMBEDDING_SCALE * self.previous_action(previous))
        if history is None:
            changed = F.pad(self.differ(features[:, 1:], features[:, :-1]), (1, 0))
            history = self.skills.history(previous, changed)
        x = x + self.came_of_it(history[..., [0, 6]].amax(-2))  # whether it took effect, whether the hand is full
        at = torch.arange(x.shape[1], device=x.device)[None] if memory is None else memory.step[:, None]
        x = x + self.when[at.clamp(max=len(self.when) - 1)]  # only padding lies farther out
        words, seen = self.reader(told) if words is None else words
        made: list[tuple[Tensor, Tensor]] = []
        for layer, block in enumerate(self.blocks):
            past = None
            if memory is not None:
                before = torch.arange(memory.keys.shape[3], device=x.device) < memory.step[:, None]
                past = memory.keys[:, layer], memory.values[:, layer], before
            x, key, value = block(x, words, seen, telling, past)
            made.append((key, value))
        told_now = torch.stack([part[:, None].expand_as(glance) for part in (expected, novel.float())], -1)
        both = (glance.sigmoid() * expected.exp()[:, None])[..., None]
        trunk = self.trunk(x)
        silent = novel | (described[:, None] & (self.skills.kinds == PICK))
        logits = self.actor(x if isinstance(self.actor, SkillNames) else trunk).masked_fill(silent[:, None], 0.0)
        logits = logits + self.skills(x, torch.cat([glance[..., None], told_now, both, history], -1))
        return logits / self.temperature, self.critic(trunk)[..., 0], made

    def differ(self, features: Tensor, before: Tensor) -> Tensor:
        """Whether two pictures' features (..., num_tokens, dim) show different things, bool (...)."""
        step = features.half().float() - before.half().float()  # a state holds them in half precision
        return (step.abs() * self.standardize.scale).flatten(-2).amax(-1) > SAME

    def novel(self, rows: int, unknown: Tensor | None) -> Tensor:
        """Which skills pick up what training never shows, bool (B, 70)."""
        never = torch.zeros(NUM_ACTIONS, dtype=torch.bool, device=self.place.device)
        never[NOVEL_PICKS] = True
        return never.expand(rows, -1) if unknown is None else never | unknown


class EncoderDecoderPolicy(ReadOncePolicy):
    """The LLaRP policy with the language model as encoder of the instruction and a trained transformer for the steps.

    State (N worlds), beside what `ReadOncePolicy` has: keys, values (N, layers, heads, max_steps, size) of earlier
    steps; changed (N, max_steps) bool, whether what was done before a step changed the picture; words, length, last as
    in `Told`; read (N, P, width), what the reader makes of the words.
    """

    variant: Variant = "encoder_decoder"

    @property
    def unknown_steps(self) -> int:  # type: ignore[override]
        return self.config.max_steps

    def _make_heads(self, words: Tensor) -> StepDecoder:
        sizes = self.vision.num_tokens, self.vision.dim, self._words_size
        return StepDecoder(self.config, *sizes, words, self._named())

    @property
    def _words_size(self) -> int:
        """Numbers that are kept of a token: its values in the layers that are read."""
        return len(read_layers(self.llm)) * self._value_size()

    def _make_cache(self, max_bytes: int) -> Words:
        return Words(self.llm, self.config.max_instruction_tokens, max_bytes)

    def initial_state(self, num_envs: int) -> State:
        config, device = self.config, self.device
        size = config.decoder_width // HEADS
        keys = torch.zeros(num_envs, config.decoder_layers, HEADS, config.max_steps, size, device=device)
        words = torch.zeros(num_envs, config.max_instruction_tokens, self._words_size, device=device)
        return super().initial_state(num_envs) | {
            "keys": keys,
            "values": keys.clone(),
            "changed": torch.zeros(num_envs, config.max_steps, dtype=torch.bool, device=device),
            "words": words.to(self.instructions.dtype),
            "length": torch.ones(num_envs, dtype=torch.int64, device=device),
            "last": torch.zeros(num_envs, self.llm.hidden_size, device=device),
            "read": torch.zeros(num_envs, config.max_instruction_tokens, config.decoder_width, device=device),
            "unknown": torch.zeros(num_envs, NUM_ACTIONS, dtype=torch.bool, device=device),
            "expected": torch.full((num_envs, len(self.heads.prior.picks)), torch.nan, device=device),
        }

    def _start(self, state: State, rows: Tensor, read: Told) -> None:
        state["words"][rows, : read.words.shape[1]] = read.words
        state["length"][rows], state["last"][rows] = read.length, read.last
        state["read"][rows, : read.words.shape[1]] = self.heads.reader(read)[0]

    def _pretend(self, state: State, rows: Tensor, instruction_id: Tensor) -> None:
        state["unknown"][rows], state["expected"][rows] = self.pretended(instruction_id) or (False, torch.nan)

    def _step(self, state: State, step: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(step), device=self.device)
        previous = state["previous_action"][:, : int(step.max()) + 1]
        before = state["features"][rows, (step - 1).clamp(min=0)]
        state["changed"][rows, step] = self.heads.differ(features, before) & (step > 0)
        changed = state["changed"][:, : previous.shape[1]]
        # what stands behind a row's own step is not in it
        history = self.heads.skills.history(previous, changed)[rows, step]
        told, words = self._told(state), state["read"][:, : int(state["length"].max())]
        seen = torch.arange(words.shape[1], device=self.device) < told.length[:, None]
        memory = Memory(state["keys"], state["values"], step)
        now = features[:, None], previous[rows, step][:, None]
        as_if = state["unknown"], state["expected"]
        past = {"memory": memory, "history": history[:, None], "words": (words, seen)}
        logits, value, made = self.heads(told, *now, *as_if, **past)
        for layer, (key, new) in enumerate(made):
            state["keys"][rows, layer, :, step] = key[:, :, 0]
            state["values"][rows, layer, :, step] = new[:, :, 0]
        return logits[:, 0], value[:, 0]

    def _told(self, state: State) -> Told:
        return Told(state["words"][:, : int(state["length"].max())], state["length"], state["last"])

    def action_logits(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        told = self._readings_of(batch)
        as_if: tuple[Tensor | None, Tensor | None] = batch.unknown, batch.expected
        if batch.unknown is None and batch.expected is None:
            as_if = self.pretended(batch.instruction_id) or as_if
        return self.heads(told, batch.features, batch.previous_action, *as_if)[:2]

    @torch.no_grad()
    def refresh_state(self, state: State) -> State:
        told = self._told(state)
        state["read"][:, : told.words.shape[1]] = self.heads.reader(told)[0]
        for t in range(int(state["step"].max())):  # what rows not so far write here, their own next step overwrites
            self._step(state, torch.full_like(state["step"], t), state["features"][:, t])
        return state

    def describe(self) -> str:
        return f"{super().describe()} | a trained decoder acts: the llm reads instructions only"
