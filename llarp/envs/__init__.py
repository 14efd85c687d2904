"""The environment contract, its embedded implementation and its checker."""

from typing import Any

import gymnasium

ENV_ID = "LanguageRearrangement-v0"


def register() -> None:
    """Make the environment known to Gymnasium by name (done by `import llarp`)."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            ENV_ID,
            entry_point="llarp.envs.single:LanguageRearrangementEnv",
            vector_entry_point="llarp.envs.vector:LanguageRearrangementVectorEnv",
        )


def make(num_envs: int, **settings: Any):
    """A `LanguageRearrangementVectorEnv` of `num_envs` worlds; see there for the settings."""
    from .vector import LanguageRearrangementVectorEnv

    return LanguageRearrangementVectorEnv(num_envs, **settings)
