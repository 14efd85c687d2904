"""Where the time of rollout and update goes, and what each part achieved of what this machine can do."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .cost import LanguageModel, counted, linear_products, visible_pairs
from .policy import context
from .policy.policy import LLaRPPolicy
from .rates import bandwidth, finish, large_rate, product_rate, seconds_of
from .rl import trainer as trainer_module
from .rl import update as update_module
from .rl.rollout import Rollout
from .stopwatch import Stopwatch

GIGA = 1e9


class Breakdown:
    """Watches an environment, a policy and their training while `run` works, then says what it saw.

    Useful are only tokens of transitions: not padding, and not context or tails, which an update reads without loss
    (both are reported). Seconds are of one watched run of one or more updates, which is apart from the timed ones.
    """

    def __init__(self, device: str, env: Any = None, policy: LLaRPPolicy | None = None, optimizer: Any = None) -> None:
        self.device, self.env, self.policy = device, env, policy
        self.watch = Stopwatch(device)
        self.phase = "decode"  # what a pass of the language model belongs to
        self.calls: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()  # computed, by part
        self.real: dict[str, float] = defaultdict(float)  # those of transitions, or of instructions
        self.pairs: dict[str, float] = defaultdict(float)
        self.seen_context = self.updates = 0
        self.wall_s = 0.0
        self.prefix = 0.0  # tokens of the mean instruction
        self._pieces: dict[int, tuple[Any, int, float]] = {}  # of one update, alive, so that an id stands for one batch
        self._passing = False  # within a pass of the language model
        if env is not None:
            self._watch_env(env)
        if policy is not None:
            self._watch_policy(policy)
        if optimizer is not None:
            self._watch_update(optimizer)

    def run(self, work: Callable[[], object]) -> None:
        """Do the work that is watched, once."""
        finish(self.device)
        start = time.perf_counter()
        try:
            work()
            finish(self.device)
            self.wall_s = time.perf_counter() - start
        finally:
            self.watch.close()

    def acted(self, steps: int, pairs: float) -> None:
        """Tell how many environment steps were acted in, and how many keys their tokens saw."""
        assert self.policy is not None
        self.real["llm decode"] += steps * self.policy.config.num_visual_tokens
        self.pairs["llm decode"] += pairs

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch_env(self, env: Any) -> None:
        for half in getattr(env, "halves", [env]):
            for name in ("step", "step_async", "step_wait"):
                self.watch.watch(half, name, "task")
            renderer = getattr(half.world, "_head", None)
            for name in ("set_scene", "set_poses"):
                self.watch.watch(renderer, name, "render: poses")
            self.watch.watch(renderer, "render", self._counting("render"))

    def _counting(self, name: str) -> Callable[..., str]:
        def part(*args: Any) -> str:
            self.calls[name] += 1
            return name

        return part

    def _watch_policy(self, policy: LLaRPPolicy) -> None:
        watch = self.watch

        def encode(rgb: Tensor) -> str:
            self.calls["vision"] += 1
            self.tokens["vision"] += len(rgb)
            return "vision"

        watch.watch(policy, "encode", encode)
        watch.watch(policy, "act", "act: cache, sampling")
        watch.watch(policy.heads, "visual_tokens", "heads")
        watch.watch(policy.heads, "forward", "heads")
        watch.watch(policy, "refresh_state", "refresh")
        self._in_phase(policy, "refresh_state", "refresh")
        watch.watch(context, "compute_prefixes", self._instructions)
        self._in_phase(context, "compute_prefixes", "prefix")
        decoder = getattr(policy.llm, "decoder", None)
        for owner, names in ((policy.llm, ("run",)), (decoder, ("run", "forward", "decode"))):
            for name in names:
                if hasattr(owner, name):
                    watch.replace(owner, name, self._pass(getattr(owner, name)))

    def _pass(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A pass of the language model over embeddings (..., hidden), timed and its tokens counted."""

        def timed(embeds: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self._passing:
                return inner(embeds, *args, **kwargs)
            grad = embeds.requires_grad and torch.is_grad_enabled()
            name = "llm forward" if grad else f"llm {self.phase}"
            self.calls[name] += 1
            self.tokens[name] += embeds.shape[:-1].numel()
            self._passing = True
            try:
                with self.watch.part(name):
                    hidden = inner(embeds, *args, **kwargs)
            finally:
                self._passing = False
            if grad:
                self._time_backward(hidden, embeds)
            return hidden

        return timed

    def _in_phase(self, owner: Any, name: str, phase: str) -> None:
        """Passes of the language model within `owner.name()` belong to `phase`."""
        if not hasattr(owner, name):
            return
        inner = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return inner(*args, **kwargs)
            finally:
                self.phase = before

        self.watch.replace(owner, name, call)

    def _instructions(self, llm: Any, ids: list[list[int]], *rest: Any) -> str:
        for tokens in ids:
            self.real["llm prefix"] += len(tokens)
            self.pairs["llm prefix"] += visible_pairs(0, 0, len(tokens))
        return "llm prefix"

    def _time_backward(self, hidden: Tensor, embeds: Tensor) -> None:
        """Between the gradient's arrival at the last hidden states and at the inputs lies the model's backward pass."""
        began = 0.0

        def start(_: Tensor) -> None:
            nonlocal began
            finish(self.device)
            began = time.perf_counter()

        def stop(_: Tensor) -> None:
            finish(self.device)
            seconds = time.perf_counter() - began
            self.watch.add("llm backward", seconds)
            self.watch.add("update: backward of heads", -seconds)

        self.calls["llm backward"] += 1
        self.tokens["llm backward"] += embeds.shape[:-1].numel()
        hidden.register_hook(start)
        embeds.register_hook(stop)

    def _watch_update(self, optimizer: Any) -> None:
        watch = self.watch
        watch.watch(torch.Tensor, "backward", "update: backward of heads")
        watch.watch(optimizer, "step", "optimizer")
        watch.watch(torch.nn.utils, "clip_grad_norm_", "optimizer")
        watch.watch(Rollout, "minibatches", "update: segments")
        self._count_real(Rollout, "_piece")
        for module in (trainer_module, update_module):
            self._in_phase(module, "ppo_update", "recompute")
            watch.watch(module, "ppo_update", self._updated)

    def _count_real(self, owner: type[Rollout], name: str) -> None:
        """Count the transitions in the segments that the policy evaluates, with and without gradient."""
        policy, cut = self.policy, getattr(owner, name)
        assert policy is not None
        evaluate, each = policy.evaluate_segments, policy.config.num_visual_tokens
        pieces = self._pieces

        def piece_of(rollout: Rollout, index: Tensor, tails: bool) -> Any:
            with self.watch.part("update: segments"):
                piece = cut(rollout, index, tails)
            pieces[id(piece.batch)] = piece.batch, piece.size * each, _pairs(rollout, index, self.prefix, each)
            return piece

        def evaluated(batch: Any) -> Any:
            _, tokens, pairs = pieces.get(id(batch), (None, 0, 0.0))
            for part in ("llm forward", "llm backward") if torch.is_grad_enabled() else ("llm recompute",):
                self.real[part] += tokens
                self.pairs[part] += pairs
            return evaluate(batch)

        self.watch.replace(owner, name, piece_of)
        self.watch.replace(policy, "evaluate_segments", evaluated)

    def _updated(self, policy: Any, optimizer: Any, rollout: Rollout, *rest: Any) -> str:
        """Called as an update begins; what was acted is in its rollout."""
        assert self.policy is not None
        ids = rollout.data["instruction_id"].flatten().tolist()
        self.prefix = prefix_tokens(self.policy, [self.policy.instruction_text(i) for i in ids])
        everything = torch.arange(len(rollout.begin))
        pairs = _pairs(rollout, everything, self.prefix, self.policy.config.num_visual_tokens)
        self.acted(rollout.num_transitions, pairs)
        self.updates += 1
        self._pieces.clear()
        self.seen_context += int((rollout.end - rollout.begin).sum()) - rollout.num_transitions
        return "update: loss, python"

    # -- what it saw --------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """`where` (shares of the time), `achieved_over_possible` by part, and `parts` with all that explains them."""
        parts: dict[str, Any] = {}
        if self.calls["render"]:
            parts["render"] = self._render()
        if self.policy is not None:
            parts |= self._vision(self.policy) | self._llm(self.policy)
        ratios = {name: part["achieved_over_possible"] for name, part in parts.items()}
        if "llm decode" in parts:
            ratios["llm decode, of bandwidth"] = parts["llm decode"]["achieved_over_bandwidth"]
        where = {name: round(share, 4) for name, share in self.watch.shares(self.wall_s).items()}
        return {"where": where, "where_s": self.wall_s, "achieved_over_possible": ratios, "parts": parts}

    def _render(self) -> dict[str, float]:
        """Pixels a second in the loop, and of the renderer called again and again with nothing between."""
        half = getattr(self.env, "halves", [self.env])[0]
        renderer = half.world.renderer
        pixels = renderer.num_worlds * renderer.size**2
        achieved = self.calls["render"] * pixels / self.watch.seconds["render"]
        possible = pixels / seconds_of(renderer.render, self.device, repeats=15)
        return {
            "seconds": self.watch.seconds["render"],
            "pictures": self.calls["render"] * renderer.num_worlds,
            "mpixels_per_s": achieved / 1e6,
            "possible_mpixels_per_s": possible / 1e6,
            "achieved_over_possible": achieved / possible,
        }

    def _vision(self, policy: LLaRPPolicy) -> dict[str, Any]:
        size, backbone = policy.config.image_size, policy.vision.backbone
        products = linear_products(backbone)
        if not self.calls["vision"] or not products:  # a convolutional network's are of another kind
            return {}
        operations = picture_operations(policy)
        batch = self.tokens["vision"] // self.calls["vision"]
        dtype = next(backbone.parameters()).dtype
        grid = getattr(getattr(backbone, "patch_embed", None), "num_patches", (size // 16) ** 2)
        rate = product_rate(products, batch * grid, dtype, self.device)
        part = self._part("vision", operations * self.tokens["vision"], rate)
        return {"vision": part | {"pictures": self.tokens["vision"], "gflop_a_picture": operations / GIGA}}

    def _llm(self, policy: LLaRPPolicy) -> dict[str, Any]:
        try:
            model = LanguageModel.of(policy.llm.backbone.config, policy.llm.dtype.itemsize)
        except AttributeError:  # not of Llama's kind
            return {}
        parts = {}
        for name in ("llm prefix", "llm decode", "llm recompute", "llm forward", "llm backward"):
            if not (self.calls[name] and self.real[name]):
                continue
            backward = name == "llm backward"
            tokens = max(1, self.tokens[name] // self.calls[name])
            rate = product_rate(model.products, tokens, policy.llm.dtype, self.device, backward)
            count = model.backward if backward else model.forward
            part = self._part(name, count(self.real[name], self.pairs[name]), rate)
            computed = self.tokens[name]
            parts[name] = part | {
                "calls": self.calls[name],
                "tokens_a_call": tokens,
                "tokens_real": self.real[name],
                "tokens_computed": computed,
                "real_share": self.real[name] / computed,
                "computed_over_possible": part["achieved_over_possible"] * computed / self.real[name],
            }
        if "llm decode" in parts:
            part, calls = parts["llm decode"], self.calls["llm decode"]
            worlds = part["tokens_a_call"] / policy.config.num_visual_tokens
            keys = self.pairs["llm decode"] / self.real["llm decode"]
            moved = model.decode_bytes(round(worlds), keys) * calls
            reach = bandwidth(self.device)
            part |= {
                "gbytes": moved / GIGA,
                "gbytes_per_s": moved / part["seconds"] / GIGA,
                "bandwidth_gbytes_per_s": reach / GIGA,
                "achieved_over_bandwidth": moved / part["seconds"] / reach,
            }
        if "llm forward" in parts:
            parts["llm forward"]["context_steps_an_epoch"] = self.seen_context // max(1, self.updates)
            parts["update, of a large product"] = self._update(parts, large_rate(policy.llm.dtype, self.device))
        return parts

    def _update(self, parts: dict[str, Any], rate: float) -> dict[str, Any]:
        """The language model's operations in an update over all the update's time but the heads' forward passes."""
        passes = ("llm recompute", "llm forward", "llm backward")
        own = [name for name in self.watch.seconds if name in passes or name.startswith(("update:", "optimizer"))]
        seconds = sum(self.watch.seconds[name] for name in own)
        gflop = sum(parts[name]["gflop"] for name in passes if name in parts)
        return _achieved(gflop * GIGA, seconds, rate)

    def _part(self, name: str, operations: float, rate: float) -> dict[str, Any]:
        return _achieved(operations, self.watch.seconds[name], rate)


def _achieved(operations: float, seconds: float, rate: float) -> dict[str, Any]:
    """What was done, in which time, and what the machine could have done."""
    return {
        "seconds": seconds,
        "gflop": operations / GIGA,
        "gflop_per_s": operations / seconds / GIGA,
        "possible_gflop_per_s": rate / GIGA,
        "achieved_over_possible": operations / seconds / rate,
    }


def picture_operations(policy: LLaRPPolicy) -> int:
    """Operations of the vision model on one picture."""
    backbone, size = policy.vision.backbone, policy.config.image_size
    picture = torch.zeros(1, 3, size, size, device=policy.device, dtype=next(backbone.parameters()).dtype)
    return counted(backbone, picture, method="forward_features")


def head_operations(policy: LLaRPPolicy) -> int:
    """Operations of one forward of what is trained, one step of one world."""
    layers = [m for m in policy.heads.modules() if isinstance(m, nn.Linear)]
    return sum(2 * m.in_features * m.out_features for m in layers)


def prefix_tokens(policy: LLaRPPolicy, texts: list[str]) -> float:
    """Mean tokens of what is read before an episode's first step."""
    lengths = [len(policy.llm.tokens(policy.config.prompt.replace("{instruction}", text))) for text in texts]
    return sum(lengths) / len(lengths)


def _pairs(rollout: Rollout, index: Tensor, prefix: float, each: int) -> float:
    """Keys that the visual tokens of some segments' transitions see, each counted, behind `prefix` tokens."""
    begin = rollout.begin[index]
    first, end = (rollout.first[index] - begin).tolist(), (rollout.end[index] - begin).tolist()
    return sum(visible_pairs(prefix, a * each, b * each) for a, b in zip(first, end, strict=True))
