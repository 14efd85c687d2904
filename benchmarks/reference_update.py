"""How much faster is our PPO update than a plain transformers implementation of the same policy? One ratio a rollout.

    python benchmarks/reference_update.py [rollout=natural|long|short] [minibatches=8] [repeats=3] [ablations=true]
        [out=FILE] [llm=NAME] [vision=NAME] [worlds=16] [steps=128] [epochs=2] [threads=N] [device=cpu]
        [attention=eager|sdpa]

`natural`: one step in 24 ends its episode, as in `llarp bench train` (but here all begin and end within the rollout);
`short`: one in 10; `long`: none. None lasts longer than the task allows, 32 steps. Steps and mini-batches are the
preset's.
The plain update (`plain_update.py`, with transformers' eager attention, here the faster one) is timed in float32,
encoding the pictures in every mini-batch or with stored features, and in bfloat16 with stored features, which is the
original's way; ours in bfloat16; all in turn, in one process, on the same rollout (one a precision: each holds the
log-probabilities of its own numerics). Ours also recomputes the old log-probabilities, which the plain one takes from
the rollout. Prints medians, ratios, how far losses, gradients and features of both lie apart in float32, and, with
ablations, the time after each saving was put into the plain update. Exit code 1 if they are further apart than rounding
explains.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plain_update import PlainUpdate, load_model, make_rollout
from words import one_line, read_words

from llarp.bench import STEPS_TO_SUCCESS
from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_episodes
from llarp.errors import UserError
from llarp.machine import keep_memory
from llarp.policy.config import PolicyConfig
from llarp.policy.policy import LLaRPPolicy
from llarp.rates import finish, seconds_of
from llarp.rl.config import PPOConfig
from llarp.rl.update import ppo_update, trainable_parameters
from llarp.tasks.task import TaskConfig

MEAN_STEPS = {"natural": float(STEPS_TO_SUCCESS), "long": 0.0, "short": 10.0}
"""Of an episode, were it not cut at the task's limit or the rollout's end; 0: all are cut there."""
TOLERANCE = 1e-3
"""Largest difference of losses, and of gradients over the largest gradient, in float32."""
DEFAULTS = {
    "rollout": "natural", "minibatches": 8, "repeats": 3, "ablations": True, "llm": "smollm2-135m", "worlds": 16,
    "steps": 128, "epochs": 2, "threads": 0, "device": "cpu", "vision": "vit_tiny_patch16_224", "seed": 1,
    "attention": "eager", "out": "",
}  # fmt: skip


def ours(policy: LLaRPPolicy, rollout: Any, config: PPOConfig) -> Callable[[], dict[str, float]]:
    """Our update, as the trainer calls it."""
    optimizer = torch.optim.Adam(trainable_parameters(policy), lr=config.lr, eps=config.adam_eps)
    return lambda: ppo_update(policy, optimizer, rollout, config, torch.Generator().manual_seed(0))


def by_transformers(policy: LLaRPPolicy, update: Callable[[], Any]) -> Callable[[], Any]:
    """The update with transformers' modules (and our attention) in place of our packed decoder."""

    def run() -> Any:
        decoder, policy.llm.decoder = policy.llm.decoder, None
        try:
            return update()
        finally:
            policy.llm.decoder = decoder

    return run


def differences(policy: LLaRPPolicy, rollout: Any, plain: PlainUpdate) -> dict[str, float]:
    """How far both lie apart on one gradient step over the whole rollout, from the same weights."""
    config = replace(plain.config, num_epochs=1, num_minibatches=1, max_grad_norm=1e9)
    before = policy.trainable_state_dict()
    results, gradients = [], []
    for update in (ours(policy, rollout, config), plain_with(plain, config).update):
        results.append(update())
        gradients.append([p.grad.clone() for p in trainable_parameters(policy) if p.grad is not None])
        policy.load_trainable_state_dict(before)
    largest = max(float(g.abs().max()) for g in gradients[1])
    apart = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    names = ("policy_loss", "value_loss", "entropy", "approx_kl")
    return {f"{name} apart": abs(results[0][name] - results[1][name]) for name in names} | {
        "gradients apart": apart / largest
    }


def plain_with(plain: PlainUpdate, config: PPOConfig) -> PlainUpdate:
    """The same with other settings."""
    other = object.__new__(PlainUpdate)
    other.__dict__ |= plain.__dict__ | {"config": config}
    return other


def timed(variants: dict[str, tuple[LLaRPPolicy, Callable[[], Any]]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat of each variant, in turn, from the same weights; the first round is not counted."""
    weights = {id(policy): policy.trainable_state_dict() for policy, _ in variants.values()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(repeats + 1):
        for name, (policy, update) in variants.items():
            policy.load_trainable_state_dict(weights[id(policy)])
            finish(str(policy.device))
            start = time.perf_counter()
            update()
            finish(str(policy.device))
            if i:
                seconds[name].append(time.perf_counter() - start)
    for policy, _ in variants.values():
        policy.load_trainable_state_dict(weights[id(policy)])
    return seconds


@torch.no_grad()
def decode_ms(model: Any, worlds: int) -> float:
    """A step of transformers' own decoding behind 32 tokens: tells how fast the machine is now, to compare over days.

    The original took 36 to 48 ms in bfloat16 for 16 worlds on two cores with SmolLM2-135M, when its update of 16 x 32
    steps took 4.2 to 4.7 s with 8 mini-batches and 2.5 s with 2."""
    tokens = torch.randn(worlds, 33, model.config.hidden_size, device=model.device, dtype=model.dtype)
    past = model(inputs_embeds=tokens[:, :32], use_cache=True).past_key_values
    step = tokens[:, 32:]
    return 1000 * seconds_of(lambda: model(inputs_embeds=step, past_key_values=past, use_cache=True), str(model.device))


def forward_backward_s(model: Any, worlds: int, tokens: int = 72) -> float:
    """Transformers' own forward and backward to the inputs of `tokens` embeddings a world, s: as `decode_ms`, but bound
    by the products, as an update is. Where the original took 2.5 s, 16 x 72 took 1.6 s in bfloat16."""
    x = torch.randn(worlds, tokens, model.config.hidden_size, device=model.device, dtype=model.dtype)

    def both() -> None:
        model(inputs_embeds=x.requires_grad_(), use_cache=False).last_hidden_state.sum().backward()

    return seconds_of(both, str(model.device))


def compare(options: dict[str, Any]) -> dict[str, Any]:
    """The whole comparison."""
    worlds, steps = options["worlds"], options["steps"]
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    torch.manual_seed(options["seed"])
    mean_steps = MEAN_STEPS[options["rollout"]]
    config = PPOConfig(num_steps=steps, num_epochs=options["epochs"], num_minibatches=options["minibatches"])
    all_texts = load_episodes(EnvConfig(), options["seed"]).instruction
    texts = [str(all_texts[i]) for i in range(0, len(all_texts), max(1, len(all_texts) // 256))][:256]
    variants: dict[str, tuple[LLaRPPolicy, Callable[[], Any]]] = {}
    apart: dict[str, float] = {}
    settings: dict[str, Any] = options | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for precision in ("float32", "bfloat16"):
        shape = {"llm": options["llm"], "vision": options["vision"], "max_steps": min(steps, TaskConfig().max_steps)}
        policy_config = PolicyConfig(precision=precision, **shape)
        policy = LLaRPPolicy(policy_config, options["device"])
        rollout, episodes, pictures = make_rollout(policy, texts, worlds, steps, mean_steps, options["seed"])
        model = load_model(policy, options["attention"])

        def plain(*, _of: tuple = (policy, rollout, episodes, config), _model: Any = model, **kw: Any) -> PlainUpdate:
            return PlainUpdate(*_of, model=_model, **kw)

        variants[f"plain {precision}"] = (policy, plain().update)
        if precision == "float32":
            variants["plain float32, pictures encoded anew"] = policy, plain(pictures=pictures).update
            apart = differences(policy, rollout, plain()) | {
                "features apart": float((torch.cat(plain(pictures=pictures).features_of(episodes)).float()
                                         - torch.cat(plain().features_of(episodes)).float()).abs().max())
            }  # fmt: skip
            if options["ablations"]:
                variants["plain float32, with gradients of the weights"] = policy, plain(weight_gradients=True).update
        else:
            if options["ablations"]:
                variants["+ instructions read once"] = policy, plain(reuse_prefix=True).update
                variants["+ padded by similar length"] = policy, plain(reuse_prefix=True, bucket=True).update
                update = by_transformers(policy, ours(policy, rollout, config))
                variants["ours by transformers' modules"] = policy, update
            variants["ours"] = (policy, ours(policy, rollout, config))
            lengths = [len(policy.llm.tokens(e.text)) for e in episodes]
            settings |= {"episodes": len(episodes), "mean_instruction_tokens": statistics.mean(lengths)}
            settings["plain_decode_ms"] = decode_ms(model, worlds)
            settings["plain_forward_backward_s"] = forward_backward_s(model, worlds)
    seconds = timed(variants, options["repeats"])
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "settings": settings,
        "seconds": seconds,
        "median_s": median,
        "ours_over_float32_and_pictures": median["plain float32, pictures encoded anew"] / median["ours"],
        "ours_over_float32": median["plain float32"] / median["ours"],
        "ours_over_bfloat16": median["plain bfloat16"] / median["ours"],
        "apart": apart,
    }


@one_line
def main(words: list[str]) -> int:
    """Prints the table; the exit code."""
    options = read_words(words, DEFAULTS)
    for key, known in (("rollout", tuple(MEAN_STEPS)), ("attention", ("eager", "sdpa"))):
        if options[key] not in known:
            raise UserError(f"{key}={options[key]}: choose one of {', '.join(known)}")
    keep_memory()  # as a trainer does
    result = compare(options)
    s = result["settings"]
    print(f"{s['rollout']} rollout: {s['worlds']} worlds x {s['steps']} steps, {s['episodes']} episodes, instructions "
          f"of {s['mean_instruction_tokens']:.1f} tokens, {s['epochs']} epochs, {s['minibatches']} mini-batches, "
          f"{s['threads']} threads, {s['llm']}; a plain decode step takes {s['plain_decode_ms']:.0f} ms, "
          f"forward and backward of 72 tokens a world {s['plain_forward_backward_s']:.2f} s")  # fmt: skip
    for name, median in result["median_s"].items():
        spread = " ".join(f"{x:.2f}" for x in result["seconds"][name])
        print(f"    {name:46} {median:7.2f} s  {median / result['median_s']['ours']:5.2f} x ours  ({spread})")
    print(f"ours is {result['ours_over_float32_and_pictures']:.2f} times as fast as the plain update in float32 that "
          f"encodes pictures, {result['ours_over_float32']:.2f} times as with stored features, "
          f"{result['ours_over_bfloat16']:.2f} times as in bfloat16")  # fmt: skip
    print("in float32, one step: " + ", ".join(f"{name} {value:.1e}" for name, value in result["apart"].items()))
    if options["out"]:
        Path(options["out"]).write_text(json.dumps(result, indent=1) + "\n")
    different = max(result["apart"].values()) > TOLERANCE
    if different:
        print("NOT EQUAL")
    return int(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
