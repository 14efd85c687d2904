"""PPO's mathematics against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llarp.errors import UserError
from llarp.rl.config import BCConfig, PPOConfig, TrainConfig
from llarp.rl.ppo import explained_variance, gae, normalize, ppo_loss


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def flags(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.bool)[:, None]


def test_gae_of_one_running_episode():
    # gamma 0.5, lambda 0.5, so each step back counts a quarter.
    # delta_2 = 3 + 0.5 * 8 - 4 = 3        A_2 = 3
    # delta_1 = 2 + 0.5 * 4 - 6 = -2       A_1 = -2 + 3 / 4 = -1.25
    # delta_0 = 1 + 0.5 * 6 - 2 = 2        A_0 = 2 - 1.25 / 4 = 1.6875
    none = flags(0, 0, 0)
    advantage, returns = gae(column(1, 2, 3), column(2, 6, 4), column(6, 4, 8), none, none, 0.5, 0.5)
    torch.testing.assert_close(advantage, column(1.6875, -1.25, 3))
    torch.testing.assert_close(returns, column(3.6875, 4.75, 7))


def test_gae_does_not_look_past_a_success():
    # delta_1 = 2 - 6 = -4 (terminated: its next value, 100, is not read); delta_0 = 1 + 0.5 * 6 - 2 = 2
    # A_2 = 3 + 0.5 * 8 - 4 = 3 belongs to another episode; A_1 = -4; A_0 = 2 - 4 / 4 = 1
    ended = flags(0, 1, 0)
    advantage, _ = gae(column(1, 2, 3), column(2, 6, 4), column(6, 100, 8), ended, ended, 0.5, 0.5)
    torch.testing.assert_close(advantage, column(1, -4, 3))


def test_gae_bootstraps_a_truncation_that_does_not_terminate():
    # The final observation is worth 10: delta_1 = 2 + 0.5 * 10 - 6 = 1 = A_1, nothing flows back from step 2.
    # A_0 = 2 + 1 / 4 = 2.25
    advantage, _ = gae(
        column(1, 2, 3), column(2, 6, 4), column(6, 10, 8), flags(0, 0, 0), flags(0, 1, 0), 0.5, 0.5
    )
    torch.testing.assert_close(advantage, column(2.25, 1, 3))


def test_gae_treats_worlds_apart():
    reward, value, after = (torch.tensor(x) for x in ([[1.0, 0.0]], [[0.0, 1.0]], [[2.0, 4.0]]))
    ended = torch.tensor([[True, False]])
    advantage, _ = gae(reward, value, after, ended, ended, 0.5, 0.9)
    torch.testing.assert_close(advantage, torch.tensor([[1.0, 1.0]]))


def loss_of(ratios: list[float], advantages: list[float], **changes):
    """ppo_loss of transitions with the given ratios; values 2, returns 3, entropy 0.7."""
    n = len(ratios)
    arguments = {
        "log_prob": torch.tensor([math.log(0.1 * r) for r in ratios]),
        "old_log_prob": torch.full((n,), math.log(0.1)),
        "advantage": torch.tensor(advantages),
        "value": torch.full((n,), 2.0),
        "return_": torch.full((n,), 3.0),
        "entropy": torch.full((n,), 0.7),
        "old_value": torch.full((n,), 2.0),
        "config": PPOConfig(),
    }
    return ppo_loss(**(arguments | changes))


def test_loss_takes_the_pessimistic_branch():
    # clip 0.2. Ratio 1.5: A 2 -> min(3, 2.4), A -2 -> min(-3, -2.4). 0.5: A 2 -> min(1, 1.6), A -2 -> min(-1, -1.6).
    # policy loss = -(2.4 - 3 + 1 - 1.6) / 4 = 0.3; value loss = (2 - 3)^2 / 2 = 0.5
    # loss = 0.3 + 0.5 * 0.5 - 0.01 * 0.7 = 0.543
    loss, stats = loss_of([1.5, 1.5, 0.5, 0.5], [2.0, -2.0, 2.0, -2.0])
    assert stats["policy_loss"].item() == pytest.approx(0.3, abs=1e-5)
    assert stats["value_loss"].item() == pytest.approx(0.5)
    assert stats["entropy"].item() == pytest.approx(0.7)
    assert loss.item() == pytest.approx(0.543, abs=1e-5)
    assert stats["clip_fraction"].item() == 1.0
    # KL estimate r - 1 - ln r: 0.5 - ln 1.5 = 0.0945349; -0.5 - ln 0.5 = 0.1931472; mean 0.1438410
    assert stats["approx_kl"].item() == pytest.approx(0.1438410, abs=1e-5)


def test_clip_fraction_counts_only_ratios_outside():
    _, stats = loss_of([1.1, 1.0, 0.85, 1.3], [1.0] * 4)
    assert stats["clip_fraction"].item() == 0.25


def test_no_gradient_where_the_clip_holds():
    log_prob = torch.tensor([math.log(0.15), math.log(0.105)], requires_grad=True)  # ratios 1.5 and 1.05
    loss, _ = loss_of([1.5, 1.05], [1.0, 1.0], log_prob=log_prob)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor([0.0, -1.05 / 2]))


def test_value_clipping():
    # Old value 2, new 2.9, return 3, clip 0.2: max((2.9 - 3)^2, (2.2 - 3)^2) / 2 = 0.32; unclipped 0.005
    value = torch.tensor([2.9])
    assert loss_of([1.0], [0.0], value=value)[1]["value_loss"].item() == pytest.approx(0.005, abs=1e-6)
    clipped = PPOConfig(clip_value=0.2)
    assert loss_of([1.0], [0.0], value=value, config=clipped)[1]["value_loss"].item() == pytest.approx(0.32, abs=1e-6)


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])  # variance 1.25
    assert explained_variance(returns + 7, returns) == pytest.approx(1.0)  # a constant error does not count
    assert explained_variance(torch.zeros(4), returns) == pytest.approx(0.0)
    # errors 1, -1, 1, -1: variance 1, so 1 - 1 / 1.25 = 0.2
    assert explained_variance(torch.tensor([0.0, 3.0, 2.0, 5.0]), returns) == pytest.approx(0.2)
    assert explained_variance(torch.ones(4), torch.ones(4)) == 0.0


def test_normalize():
    torch.testing.assert_close(normalize(torch.tensor([[1.0, 3.0]])), torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize(
    ("config", "setting", "value"),
    [
        (PPOConfig, "num_steps", 0),
        (PPOConfig, "lr", -1e-3),
        (PPOConfig, "gamma", 1.5),
        (BCConfig, "noise", 1.0),
        (BCConfig, "episodes", 0),
        (TrainConfig, "total_steps", 0),
    ],
)
def test_settings_out_of_range_are_named(config, setting, value):
    with pytest.raises(UserError, match=setting):
        config(**{setting: value})


def test_the_defaults_are_the_papers():
    c = PPOConfig()
    assert (c.num_steps, c.num_epochs, c.num_minibatches, c.lr, c.clip) == (32, 2, 8, 3e-4, 0.2)
    assert (c.entropy_coef, c.value_coef, c.gamma, c.gae_lambda, c.max_grad_norm) == (0.01, 0.5, 0.99, 0.95, 0.2)
