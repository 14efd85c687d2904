"""Demonstrations that PPO learns from as well: loss = PPO's + `ppo.bc_coef` x cross-entropy to the planner's labels.

Up to a factor that is the objective of large action models, L_BC - lambda x expected reward, with lambda = 1 / bc_coef.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from llarp.policy.base import Policy

from .bc import CloningLoss
from .config import BCConfig
from .demonstrations import Demonstrations
from .unknown import text_of, varied


class Beside:
    """Adds the gradient of `coef` x mean cross-entropy over the next demonstrations, in passes of random order, with
    the shares of the unknown and the described that cloning has.

    `drawn`, the number of episodes so far, is all that decides which come next. Every rank has its own `seed`.
    """

    def __init__(
        self, policy: Policy, demonstrations: Demonstrations, config: BCConfig, coef: float, max_tokens: int,
        seed: int, drawn: int = 0,
    ) -> None:  # fmt: skip
        self.policy, self.demonstrations, self.coef, self.max_tokens = policy, demonstrations, coef, max_tokens
        self.seed, self.drawn, self.config = seed, drawn, config
        self._pass, self._order = -1, torch.empty(0)

    def draw(self, tokens: int) -> Tensor:
        """The next episodes, of at most so many steps together, at least one."""
        chosen: list[int] = []
        while True:
            turn, at = divmod(self.drawn, len(self.demonstrations))
            if turn != self._pass:
                generator = torch.Generator().manual_seed(self.seed + 7919 * turn)
                self._pass, self._order = turn, torch.randperm(len(self.demonstrations), generator=generator)
            episode = int(self._order[at])
            tokens -= int(self.demonstrations.length[episode])
            if chosen and tokens < 0:
                return torch.tensor(chosen)
            chosen.append(episode)
            self.drawn += 1

    def __call__(self, tokens: int) -> dict[str, Tensor]:
        """Adds to the gradients what about so many steps of demonstrations give; their mean loss and accuracy."""
        draws = [torch.Generator().manual_seed(self.seed + 7919 * (2 * self.drawn + k)) for k in range(2)]
        demos, index = self.demonstrations, self.draw(tokens)
        sums = {"bc_loss": torch.zeros(()), "bc_accuracy": torch.zeros(())}
        device = next(self.policy.parameters()).device
        parts = demos.batches(index, self.max_tokens, torch.Generator().manual_seed(0), self.policy.pads)
        steps = self.policy.unknown_steps
        batches = [varied(demos.batch(part), self.config, steps, demos.texts, *draws) for part in parts]
        total = sum(int(batch.valid.sum()) for batch in batches)
        with self.policy.bound_to(partial(text_of, demos.texts)):
            for batch in batches:
                loss = CloningLoss(self.policy, batch.to(device))
                share = loss.count / total
                (self.coef * share * loss.mean).backward()
                sums["bc_loss"] = sums["bc_loss"] + share * loss.mean.detach()
                sums["bc_accuracy"] = sums["bc_accuracy"] + loss.right / total
        return sums
