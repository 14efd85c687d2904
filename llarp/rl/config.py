"""Settings of PPO, behaviour cloning and the training run. Imports nothing heavy, so `llarp --help` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llarp.errors import UserError


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """UserError naming the setting `name` unless its value lies in the range."""
    if not low <= value <= high:
        span = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{name}={value!r} is out of range: it must be {span}")


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation; the defaults are the LLaRP paper's (arXiv 2310.17722)."""

    num_steps: int = 32  # environment steps a world takes between two updates
    num_epochs: int = 2  # passes over the rollout in one update
    num_minibatches: int = 8  # gradient steps a pass
    lr: float = 3e-4  # Adam's learning rate at the beginning
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"  # how it falls to 0 at the end of the run
    adam_eps: float = 1e-5  # Adam's epsilon
    clip: float = 0.2  # how far the probability ratio may leave 1
    clip_value: float = 0.0  # how far a value may leave its old one before its loss is clipped; 0: never clipped
    entropy_coef: float = 0.01  # weight of the entropy bonus
    value_coef: float = 0.5  # weight of the value loss (half the squared error)
    gamma: float = 0.99  # discount a step
    gae_lambda: float = 0.95  # lambda of generalised advantage estimation
    max_grad_norm: float = 0.2  # gradients are scaled down to this global norm
    # Divide rewards by the deviation of the discounted returns seen so far (Engstrom et al. 2020, arXiv 2005.12729).
    normalize_returns: bool = False
    bc_coef: float = 0.0  # weight of the cross-entropy to demonstrations (bc.*) beside PPO's loss; 0: none
    # Shares of the instructions, as `bc.unknown_share` and `bc.described_share`: policy.kind=encoder_decoder acts as if
    # it did not know the looks of what they name, or as if that was described only; the reward is the world's.
    unknown_share: float = 0.0
    described_share: float = 0.0
    normalize_advantage: bool = False  # scale the rollout's advantages to mean 0 and deviation 1
    bootstrap_time_limit: bool = False  # true: a truncated episode is worth the value of its final observation, not 0
    target_kl: float = 0.0  # no further epoch once one's mean KL estimate exceeds this; 0: off
    micro_batch_tokens: int = 1024  # padded segment steps in one forward pass; bounds the memory, not the result
    micro_batch_fill: float = 0.5  # no segment shorter than this share of its micro-batch's longest (1: no padding)
    max_log_prob_gap: float = 0.25  # rollout and update may differ by this much in mean log-probability, else an error

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_epochs", "num_minibatches", "micro_batch_tokens"):
            check_range(f"ppo.{name}", getattr(self, name), 1)
        for name in ("lr", "adam_eps", "clip", "max_grad_norm", "max_log_prob_gap"):
            check_range(f"ppo.{name}", getattr(self, name), 1e-12)
        for name in ("gamma", "gae_lambda", "micro_batch_fill", "unknown_share", "described_share"):
            check_range(f"ppo.{name}", getattr(self, name), 0, 1)
        for name in ("clip_value", "entropy_coef", "value_coef", "target_kl", "bc_coef"):
            check_range(f"ppo.{name}", getattr(self, name), 0)
        check_range("ppo.unknown_share + ppo.described_share", self.unknown_share + self.described_share, 0, 1)

    @property
    def pretends(self) -> bool:
        """Whether some instructions are heard as if what they name was unknown or described."""
        return self.unknown_share > 0 or self.described_share > 0


@dataclass(frozen=True)
class BCConfig:
    """Behaviour cloning of a planner's demonstrations: as an algorithm of its own, before PPO, or beside it."""

    # Planner that gives the labels; the explorer has seen no more than the robot could have.
    demonstrator: Literal["explorer", "oracle", "sweep"] = "explorer"
    demonstrations: str = ""  # folder they are kept in, for many runs; empty: the run's own
    episodes: int = 3000  # demonstrations to have; those that the folder lacks are collected
    collect_minutes: float = 2.75  # stop collecting after this long, however many there are; 0: no limit
    noise: float = 0.12  # share of steps at which a mistake is made, while the label stays the planner's
    epochs: int = 20  # passes over the demonstrations, in each round
    train_minutes: float = 4.0  # the schedule of all rounds ends after this long, if not before; 0: no limit
    checkpoint_minutes: float = 10.0  # between two checkpoints; the last state is always kept
    dagger_rounds: int = 0  # then the policy acts, the planner labels, and cloning goes on with those episodes as well
    dagger_episodes: int = 1000  # how many of them in each round
    dagger_beta: float = 0.0  # share of those that the planner plays itself, in round k to the power of k
    lr: float = 1e-3  # AdamW's peak learning rate
    weight_decay: float = 0.01  # AdamW's weight decay
    warmup: float = 0.05  # share of the training over which the learning rate rises
    batch_tokens: int = 256  # steps of episodes a gradient step sees
    # An instruction that is no longer in policy.instruction_cache_mb is read anew, which costs about half as much as
    # the training on its episode. So passes can come several at a time over as many episodes as the cache holds.
    window: int = 2000  # episodes
    window_passes: int = 1  # passes over them at a time
    feature_noise: float = 0.0  # Gaussian noise on the pictures' features, in their standard deviations
    # Share of an instruction's tokens that policy.instruction_skip may not look up while cloning: the heads then also
    # learn to go by what the language model has made of them.
    word_dropout: float = 0.0
    # Share of the episodes of which policy.kind=encoder_decoder is to learn without knowing the looks of what it picks
    # up, as it must with categories never shown: the demonstrator reaches for it wherever it comes.
    unknown_share: float = 0.0
    # Share of the episodes about one category of which policy.kind=encoder_decoder is to learn as if that was described
    # only: the instruction calls it a thing, and what the language model expects is vague.
    described_share: float = 0.0
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm
    holdout: float = 0.05  # share of the episodes kept for the printed loss and accuracy

    def __post_init__(self) -> None:
        for name in ("episodes", "epochs", "batch_tokens", "dagger_episodes", "window", "window_passes"):
            check_range(f"bc.{name}", getattr(self, name), 1)
        for name in ("collect_minutes", "train_minutes", "weight_decay", "feature_noise", "dagger_rounds"):
            check_range(f"bc.{name}", getattr(self, name), 0)
        for name in ("lr", "max_grad_norm", "checkpoint_minutes"):
            check_range(f"bc.{name}", getattr(self, name), 1e-12)
        for name in ("noise", "warmup", "holdout", "word_dropout", "unknown_share", "described_share"):
            check_range(f"bc.{name}", getattr(self, name), 0, 0.95)
        check_range("bc.dagger_beta", self.dagger_beta, 0, 1)


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    algorithm: Literal["ppo", "bc"] = "ppo"  # "bc": behaviour cloning and nothing else
    # Run, checkpoint or shipped policy whose weights training starts from (trained parts it lacks begin anew); empty:
    # random ones.
    init: str = ""
    # Seed of the training episodes and the demonstrations, so that runs with other seeds can share them; null: `seed`.
    data_seed: int | None = None
    total_steps: int = 20_000  # PPO's environment steps, all worlds together
    max_minutes: float = 0.0  # PPO also ends after this long; 0: no limit
    session_minutes: float = 0.0  # stop after this long as if asked to, to be resumed; 0: no limit
    warm_start: Literal["bc", "none"] = "bc"  # "bc": clone demonstrations before PPO
    # Environment steps of fresh rollouts on which the critic is fitted, the rest frozen, before PPO follows cloning or
    # train.init; 0: it is not.
    critic_warmup_steps: int = 1500
    success_window: int = 200  # success rate and mean return are over this many episodes finished last
    checkpoint_interval: int = 10  # updates between two checkpoints; the last state is always kept
    keep_checkpoints: int = 2  # how many of the newest are kept
    # Of several ranks: once this share of them has finished a rollout, the others end theirs early, with at least a
    # quarter of its steps (DD-PPO, section 3); 0: never; null: 0.6 with backend=habitat, else 0 (repeatable).
    preempt_share: float | None = None
    eval_episodes: int = 300  # held-out episodes evaluated before and after PPO; 0: none
    eval_split: str = "new_scenes"  # which split those come from

    def __post_init__(self) -> None:
        for name in ("total_steps", "success_window", "checkpoint_interval", "keep_checkpoints"):
            check_range(f"train.{name}", getattr(self, name), 1)
        for name in ("max_minutes", "session_minutes", "eval_episodes", "critic_warmup_steps"):
            check_range(f"train.{name}", getattr(self, name), 0)
        check_range("train.preempt_share", self.preempt_share or 0, 0, 1)
        check_range("train.data_seed", self.data_seed or 0, 0)

    @property
    def clones(self) -> bool:
        """Whether demonstrations are cloned, first or only."""
        return self.algorithm == "bc" or self.warm_start == "bc"
