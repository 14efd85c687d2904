"""The page docs/extending.md works as it stands; without extensions everything is the benchmark."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_llm import make_tiny_llm

from llarp.tasks import extensions
from llarp.tasks.actions import ACTIONS, NUM_ACTIONS, NUM_STANDARD, pick
from llarp.tasks.atoms import NUM_ATOMS, NUM_STANDARD_ATOMS
from llarp.tasks.entities import CATEGORIES, NOVEL_KINDS, TRAINING_KINDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()


def run(folder: Path, *words: str, module: str = "household.py") -> subprocess.CompletedProcess[str]:
    """Python in a folder, with an extension; tables are made once a process, so each needs one of its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {extensions.VARIABLE: module, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_without_extensions_it_is_the_benchmark() -> None:
    assert NUM_ACTIONS == NUM_STANDARD == 70 and len(CATEGORIES) == 33
    assert (TRAINING_KINDS, NOVEL_KINDS) == (tuple(range(28)), tuple(range(28, 33)))
    assert NUM_ATOMS == NUM_STANDARD_ATOMS and extensions.digest() == ""
    assert [pick(c) for c in range(33)] == [a.index for a in ACTIONS if a.kind == "pick"]


def test_the_page_works(tmp_path: Path) -> None:
    module, *rest = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert module.startswith("# household.py")
    (tmp_path / "household.py").write_text(module)
    make_tiny_llm(tmp_path / "llm")
    script = "\n".join(rest).replace("path/to/a/model", "llm")
    (tmp_path / "example.py").write_text(f'{script}\nassert "path/to" not in "{tmp_path}"\n')
    done = run(tmp_path, "example.py")
    assert done.returncode == 0, done.stderr
    # what was made with an extension is refused without, in one line
    load = "from llarp.tasks.episodes import load; load('backs.safetensors')"
    done = run(tmp_path, "-c", load, module="")
    assert "made with other predicates of an extension" in done.stderr.strip().splitlines()[-1]


BAD = {
    "no module": ("", "nothing.py", "there is no file nothing.py"),
    "no such package": ("", "nothing_of_the_kind", "nothing_of_the_kind cannot be used (ModuleNotFoundError"),
    "an error in it": ("1 / 0", "bad.py", "bad.py cannot be used (ZeroDivisionError"),
    "a name of the benchmark": ("extensions.add_object('cup', None, [{}, {}])", "bad.py", "one of the benchmark's"),
    "a benchmark's skill": ("extensions.add_skill('nav(sink)', '', None, None)", "bad.py", "one of the benchmark's"),
    "too few models": ("extensions.add_object('pot', None, [{}])", "bad.py", "at least 2"),
    "a bad name": ("extensions.add_skill('Turn!', '', None, None)", "bad.py", "is no name"),
    "a bad argument": ("extensions.add_predicate('p', ['room'], None)", "bad.py", "one or two arguments"),
}


@pytest.mark.parametrize("what", ["no module", "an error in it", "a name of the benchmark", "a benchmark's skill"])
def test_bad_extensions_end_with_2_and_one_line(what: str, tmp_path: Path) -> None:
    code, module, said = BAD[what]
    (tmp_path / "bad.py").write_text(f"from llarp.tasks import extensions\n{code}\n")
    done = run(tmp_path, "-m", "llarp", "eval", "policy=random", module=module)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("what", ["too few models", "a bad name", "a bad argument"])
def test_what_cannot_be_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "_used", False)
    code, _, said = BAD[what]
    with pytest.raises(extensions.ExtensionError, match=said):
        exec(code, {"extensions": extensions})


def test_too_late() -> None:
    with pytest.raises(extensions.ExtensionError, match="comes too late"):
        extensions.add_object("pot", dict, [{}, {}])
    assert not extensions.OBJECTS
