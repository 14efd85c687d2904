"""The second simulator: Habitat-Sim through Habitat-Lab, where they are installed (docs/habitat.md).

Only `plugin.py` imports habitat, and only worker processes import `plugin.py`: this package can be imported anywhere.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

from llarp.errors import UserError

MIN_VERSION = (0, 3, 3)
"""Of habitat-sim and of habitat-lab."""
INSTALL = {
    "habitat-sim": ("habitat_sim", "conda install habitat-sim withbullet headless -c conda-forge -c aihabitat-nightly, "
                    "or build it from source (docs/docker.md)"),
    "habitat-lab": ("habitat", "pip install 'llarp[habitat]'"),
}  # fmt: skip
"""By distribution: the module it installs, and how to get it."""


def version_of(distribution: str) -> str | None:
    """The installed version of habitat-sim or habitat-lab, found without importing it; None if it is not there.

    "?" if it is there, but says no version."""
    module, _ = INSTALL[distribution]
    if importlib.util.find_spec(module) is None:
        return None
    for name in (distribution, module):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"


def check_version(distribution: str) -> str:
    """The version of habitat-sim or habitat-lab; UserError if it is missing or too old."""
    version, remedy = version_of(distribution), INSTALL[distribution][1]
    if version is None:
        raise UserError(f"backend=habitat needs {distribution}, which is not installed: {remedy}")
    if version != "?" and _numbers(version) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise UserError(f"{distribution} {version} is too old: backend=habitat needs {least} or later: {remedy}")
    return version


def check_installed() -> dict[str, str]:
    """The versions of habitat-sim and habitat-lab; UserError if one is missing or too old."""
    return {distribution: check_version(distribution) for distribution in INSTALL}


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version; of habitat-lab's dated ones ("0.3.320260507") too."""
    parts = []
    for part in version.split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits[:1]) if len(digits) > 6 else int(digits or 0))
    return tuple(parts)
