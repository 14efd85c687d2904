"""Build script: `tasks/` and `habitat_configs/` are installed inside the package, so that they claim no general names."""

from setuptools import find_packages, setup

packages = find_packages(include=["llarp", "llarp.*"])
setup(
    packages=[*packages, "llarp.tasks", "llarp.habitat_configs"],
    package_dir={"llarp": "llarp", "llarp.tasks": "tasks", "llarp.habitat_configs": "habitat_configs"},
    package_data={"llarp": ["py.typed"], "llarp.habitat_configs": ["*.yaml"]},
)
