"""Run where an image is built: is all of it there, and does it draw? `smoke_test.py habitat` asks for Habitat as well.

What a build machine lacks (a GPU, downloads) is not asked for. Exit code 1, with what is wrong, fails the build.
"""

from __future__ import annotations

import sys

from llarp.config import load
from llarp.doctor import examine

NEEDED = ("python", "torch", "render", "transformers", "timm", "video encoder")
NEEDED_BY_HABITAT = ("habitat-sim", "habitat-lab")
SIZE = 32
"""Height and width of the picture, pixels."""


def missing(needed: tuple[str, ...]) -> list[str]:
    """What `llarp doctor` says of the needed parts that are not in order."""
    checks = {check["name"]: check for check in examine(load(overrides=["device=cpu"]))["checks"]}
    return [f"{name}: {checks[name]['detail']}" for name in needed if not checks[name]["ok"]]


def draw_with_habitat() -> tuple[int, ...]:
    """Import Habitat-Lab, then draw an empty scene with Habitat-Sim on Mesa; the picture's shape."""
    import habitat  # noqa: F401
    import habitat_sim
    from habitat_sim.agent import AgentConfiguration

    simulator = habitat_sim.SimulatorConfiguration()
    simulator.scene_id, simulator.gpu_device_id = "NONE", -1
    camera = habitat_sim.CameraSensorSpec()
    camera.uuid, camera.resolution = "camera", [SIZE, SIZE]
    settings = habitat_sim.Configuration(simulator, [AgentConfiguration(sensor_specifications=[camera])])
    with habitat_sim.Simulator(settings) as running:
        return running.get_sensor_observations()["camera"].shape


if __name__ == "__main__":
    with_habitat = sys.argv[1:] == ["habitat"]
    wrong = missing(NEEDED + NEEDED_BY_HABITAT * with_habitat)
    if with_habitat and not wrong and draw_with_habitat() != (SIZE, SIZE, 4):
        wrong = ["Habitat-Sim draws no picture"]
    sys.exit("\n".join(wrong) or None)
