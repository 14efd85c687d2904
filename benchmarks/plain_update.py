"""A plain transformers implementation of the PPO update, in the original's way: what ours is measured against.

Same frozen model and heads, same loss. The instruction is embedded and read again in every mini-batch, sequences are
padded to the longest, autograd goes through transformers' own modules with `inputs_embeds`. Log-probabilities are the
rollout's own, as in the original, and so are features, unless pictures are to be encoded anew. Switches put single
savings of ours into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llarp.policy.base import NO_ACTION
from llarp.policy.cache import prefix_cache, range_mask
from llarp.policy.llm import quiet_transformers
from llarp.policy.policy import LLaRPPolicy
from llarp.rl.config import PPOConfig
from llarp.rl.ppo import gae, ppo_loss
from llarp.rl.rollout import Rollout, RolloutBuffer


@dataclass
class Episode:
    """One episode of a synthetic rollout: it begins and ends within."""

    world: int
    begin: int
    end: int
    text: str  # what the language model reads before the first step


def make_rollout(
    policy: LLaRPPolicy, texts: list[str], worlds: int, steps: int, mean_steps: float, seed: int
) -> tuple[Rollout, list[Episode], Tensor]:
    """A rollout of the policy on random pictures (given, too) and rewards.

    Episodes last as long as the policy remembers (`max_steps`); with `mean_steps` above 0 lengths are geometric and cut
    there. Those that run at the rollout's end are cut there.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = torch.zeros(steps, worlds, dtype=torch.bool)
    if mean_steps:
        ends = torch.rand(steps, worlds, generator=generator) < 1 / mean_steps
    running = torch.zeros(worlds, dtype=torch.int64)
    for ended in ends:
        running += 1
        ended |= running >= policy.config.max_steps
        running[ended] = 0
    ends[-1] = True
    starts = torch.cat([torch.ones(1, worlds, dtype=torch.bool), ends[:-1]])
    ids = (starts.T.flatten().cumsum(0) - 1).view(worlds, steps).T % len(texts)  # an episode's instruction
    size = policy.config.image_size
    pictures = torch.randint(0, 256, (steps, worlds, size, size, 3), generator=generator, dtype=torch.uint8)
    features = torch.stack([policy.encode(seen) for seen in pictures])
    reward = torch.randn(steps, worlds, generator=generator)
    policy.bind_instructions(lambda i: texts[i])
    policy.calibrate(features[0])
    buffer, state = RolloutBuffer(), policy.initial_state(worlds)
    none, device = torch.zeros(worlds, dtype=torch.bool), policy.device
    for t in range(steps):
        seen = {"features": features[t], "instruction_id": ids[t].to(device)}
        action, log_prob, value, state = policy.act(seen, state, starts[t].to(device))
        flags = {"terminated": none, "truncated": ends[t], "success": none, "invalid_action": none}
        buffer.add(
            **seen,
            **{name: flag.to(device) for name, flag in flags.items()},
            action=action.clone(),
            log_prob=log_prob.clone(),
            value=value.clone(),
            reward=reward[t].to(device),
            episode_start=starts[t].to(device),
        )
    episodes = []
    for world in range(worlds):
        begin = 0
        for t in range(steps):
            if ends[t, world]:
                text = policy.config.prompt.replace("{instruction}", texts[int(ids[t, world])])
                episodes.append(Episode(world, begin, t + 1, text))
                begin = t + 1
    return buffer.finish(features[0]), episodes, pictures


class PlainUpdate:
    """PPO on episodes of a rollout; see the module. Gradients go to the policy's heads, which it shares."""

    def __init__(
        self,
        policy: LLaRPPolicy,
        rollout: Rollout,
        episodes: list[Episode],
        config: PPOConfig,
        *,
        reuse_prefix: bool = False,
        bucket: bool = False,
        weight_gradients: bool = False,
        pictures: Tensor | None = None,
        model: Any = None,
    ):
        """`reuse_prefix`: instructions read once an update. `bucket`: no sequence is padded to more than twice its
        length. `weight_gradients`: the model's weights get gradients too, for nothing. `pictures` (T, N, H, W, 3): they
        are encoded in every mini-batch, instead of taking the rollout's features. `model`: `load_model`'s."""
        self.policy, self.heads, self.config = policy, policy.heads, config
        self.model = load_model(policy) if model is None else model
        self.reuse_prefix, self.bucket, self.weight_gradients = reuse_prefix, bucket, weight_gradients
        self.episodes, self.features, self.pictures = episodes, rollout._features, pictures
        self.data = data = rollout.data
        over = data["terminated"] | data["truncated"]
        following = torch.cat([data["value"][1:], torch.zeros_like(data["value"][:1])])
        self.advantage, self.return_ = gae(
            data["reward"], data["value"], following, over, over, config.gamma, config.gae_lambda
        )
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, eps=config.adam_eps)

    def update(self, seed: int = 0) -> dict[str, float]:
        """Epochs of mini-batches of nearly as many episodes each; returns the means of loss parts over transitions."""
        generator = torch.Generator().manual_seed(seed)
        self.model.requires_grad_(self.weight_gradients)
        prefixes = self._read_instructions() if self.reuse_prefix else None
        totals: dict[str, float] = {}
        seen = 0
        for _ in range(self.config.num_epochs):
            order = torch.randperm(len(self.episodes), generator=generator)
            for chosen in order.tensor_split(min(self.config.num_minibatches, len(order))):
                members = [self.episodes[i] for i in chosen.tolist()]
                size = sum(e.end - e.begin for e in members)
                self.optimizer.zero_grad(set_to_none=True)
                for group in buckets(members) if self.bucket else [members]:
                    loss, stats, count = self._loss(group, prefixes)
                    (loss * (count / size)).backward()
                    for name, part in stats.items():
                        totals[name] = totals.get(name, 0.0) + float(part) * count
                torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
                self.optimizer.step()
                self.model.zero_grad(set_to_none=True)
                seen += size
        self.model.requires_grad_(False)
        return {name: total / seen for name, total in totals.items()}

    def _loss(self, members: list[Episode], prefixes: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        features = pad_sequence(self.features_of(members), batch_first=True)
        steps = [e.end - e.begin for e in members]
        action = pad_sequence([self.data["action"][e.begin : e.end, e.world] for e in members], batch_first=True)
        previous = torch.cat([torch.full_like(action[:, :1], NO_ACTION), action[:, :-1]], 1)
        tokens = self.heads.visual_tokens(features, previous)  # (B, T, K, hidden)
        hidden = self._behind(members, tokens, prefixes) if self.reuse_prefix else self._whole(members, tokens)
        logits, value = self.heads(hidden)  # (B, T, 70), (B, T)
        log_probs = logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        log_prob = log_probs.gather(-1, action[..., None])[..., 0]
        valid = torch.arange(action.shape[1], device=action.device) < torch.tensor(steps, device=action.device)[:, None]

        def of(stored: Tensor) -> Tensor:
            return torch.cat([stored[e.begin : e.end, e.world] for e in members])

        old = of(self.data["log_prob"]), of(self.advantage), of(self.return_), of(self.data["value"])
        loss, stats = ppo_loss(
            log_prob[valid], old[0], old[1], value[valid], old[2], entropy[valid], old[3], self.config
        )
        return loss, stats, sum(steps)

    def features_of(self, members: list[Episode]) -> list[Tensor]:
        """(steps, num_tokens, dim) of each; pictures are encoded together."""
        if self.pictures is None:
            return [self.features[e.begin : e.end, e.world] for e in members]
        seen = torch.cat([self.pictures[e.begin : e.end, e.world] for e in members])
        return list(self.policy.encode(seen).split([e.end - e.begin for e in members]))

    def _whole(self, members: list[Episode], tokens: Tensor) -> Tensor:
        """Hidden states (B, T, hidden) of each step's last token, instructions and steps in one sequence."""
        embed, kind = self.model.get_input_embeddings(), self.model.dtype
        per_step = tokens.shape[2]
        rows, lengths, prefix = [], [], []
        for i, e in enumerate(members):
            ids = torch.tensor(self.policy.llm.tokens(e.text), device=tokens.device)
            visual = tokens[i, : e.end - e.begin].flatten(0, 1).to(kind)
            rows.append(torch.cat([embed(ids), visual]))
            lengths.append(len(rows[-1]))
            prefix.append(len(ids))
        embeds = pad_sequence(rows, batch_first=True)
        length = torch.tensor(lengths, device=embeds.device)
        mask = (torch.arange(embeds.shape[1], device=embeds.device) < length[:, None]).long()
        out = self.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
        step = torch.arange(tokens.shape[1], device=embeds.device)
        where = torch.tensor(prefix, device=embeds.device)[:, None] + (step + 1) * per_step - 1
        where = where.clamp(max=embeds.shape[1] - 1)  # padding
        return out.gather(1, where[..., None].expand(-1, -1, out.shape[-1]))

    @torch.no_grad()
    def _read_instructions(self) -> tuple[dict[str, int], Tensor, Tensor, Tensor]:
        """Row of each text, its tokens (U,), and keys and values (L, U, H, P, D), right-aligned."""
        texts = list(dict.fromkeys(e.text for e in self.episodes))
        ids = [torch.tensor(self.policy.llm.tokens(text)).flip(0) for text in texts]
        device = self.policy.device
        length = torch.tensor([len(i) for i in ids], device=device)
        padded = pad_sequence(ids, batch_first=True).flip(1).to(device)
        slots = padded.shape[1]
        mask = (torch.arange(slots, device=device) >= slots - length[:, None]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        past = self.model(
            input_ids=padded, attention_mask=mask, position_ids=positions, use_cache=True
        ).past_key_values
        keys, values = (torch.stack([getattr(layer, n) for layer in past.layers]) for n in ("keys", "values"))
        return {text: i for i, text in enumerate(texts)}, length, keys, values

    def _behind(self, members: list[Episode], tokens: Tensor, prefixes: Any) -> Tensor:
        """What `_whole` gives, the instructions' keys and values being there already."""
        row, length, keys, values = prefixes
        index = torch.tensor([row[e.text] for e in members], device=tokens.device)
        embeds = tokens.flatten(1, 2).to(self.model.dtype)
        count, slots = embeds.shape[1], keys.shape[3]
        step = torch.arange(count, device=embeds.device)
        last = (slots + step).expand(len(members), count)
        mask = range_mask(slots - length[index], last, slice(0, slots + count), self.model.dtype)
        out = self.model(
            inputs_embeds=embeds,
            position_ids=length[index][:, None] + step,
            attention_mask=mask,
            past_key_values=prefix_cache(keys, values, len(keys), index),
            use_cache=True,
        ).last_hidden_state
        return out.unflatten(1, tokens.shape[1:3])[:, :, -1]


def load_model(policy: LLaRPPolicy, attention: str = "eager") -> Any:
    """The policy's language model once more, as transformers loads it, frozen, in the policy's precision. `attention`:
    which of transformers' own; its default is "sdpa"."""
    from transformers import AutoModel

    with quiet_transformers():
        model = AutoModel.from_pretrained(policy.llm.folder, dtype=policy.llm.dtype, local_files_only=True,
                                          attn_implementation=attention)  # fmt: skip
    return model.to(policy.device).eval().requires_grad_(False)


def buckets(members: list[Episode]) -> list[list[Episode]]:
    """The episodes in groups of which none is less than half as long as the longest."""
    groups: list[list[Episode]] = []
    for e in sorted(members, key=lambda e: e.begin - e.end):
        if not groups or 2 * (e.end - e.begin) < groups[-1][0].end - groups[-1][0].begin:
            groups.append([])
        groups[-1].append(e)
    return groups
