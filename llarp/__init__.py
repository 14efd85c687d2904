"""LLaRP-style embodied agents: a frozen language model and a frozen ViT, trained with PPO on 70 household skills."""

from pathlib import Path
from typing import Any

__version__ = "0.1.0"

if not (Path(__file__).parent / "tasks").exists():  # a source checkout: `tasks/` lies beside this package
    __path__.append(str(Path(__file__).parent.parent))

from .envs import register as _register  # noqa: E402

_register()


def __getattr__(name: str) -> Any:
    """`llarp.LLaRPPolicy`, loaded when asked for: torch and transformers take seconds to import."""
    if name == "LLaRPPolicy":
        from .policy.policy import LLaRPPolicy

        return LLaRPPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
