"""What a process does with the machine it runs on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llarp import machine

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

FAULTS = """
import resource, torch
from llarp import machine
{prepare}
def passes(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        kept = [torch.ones(1 << 18) for _ in range(200)]  # 200 MB
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
passes(2)
print(passes(10))
machine.give_back_memory()
print(passes(1))
"""


def faults(prepare: str) -> list[int]:
    run = subprocess.run([sys.executable, "-c", FAULTS.format(prepare=prepare)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [int(line) for line in run.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.skipif(HUGE_PAGES.is_file() and "[always]" in HUGE_PAGES.read_text(), reason="a fault is not a page here")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    kept, after = faults("machine.free_memory_gib = lambda: 8.0; machine.keep_memory()")
    assert kept < 1000 and after > 25_000, (kept, after)  # of 51,200 pages a pass; given back, so faulted in again
    assert any(faults("")[0] > 1000 for _ in range(5))  # by itself; now and then something lies above what is freed


def test_nothing_is_kept_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *told: calls.append(told)))
    for free, times in ((1.0, 0), (8.0, 2)):
        monkeypatch.setattr(machine, "free_memory_gib", lambda free=free: free)
        machine.keep_memory()
        assert len(calls) == times
