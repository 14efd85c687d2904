"""The restricted unpickler: reads plain data and arrays as Python's does, runs nothing, cannot be choked."""

from __future__ import annotations

import io
import pickle
import random
import resource
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llarp.tasks.unpickle import MAX_STEPS, UnpickleError, load_plain, loads_plain

PLAIN: dict[str, Any] = {
    "numbers": [0, 255, 256, 65536, -1, 2**40, -(2**63), 1.5, float("-inf")],
    "others": (None, True, False, "", "ü\n", b"", b"x" * 300, "y" * 300),
    "nested": {1: {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}},
    "set": {1, "b"},
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4, 4), np.float32),
    "scalar": np.float32(0.5),
    "objects": np.array([[1, "a"], [None, [2]]], dtype=object),
}
PLAIN["shared"] = [PLAIN["matrix"], PLAIN["matrix"], PLAIN["nested"]]


def same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype and a.tolist() == b.tolist()
    if isinstance(b, np.generic):
        return bool(a == b.item())
    if isinstance(b, dict):
        return type(a) is dict and a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("protocol", [4, 5])
def test_plain_data_is_read_as_python_reads_it(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    expected = dict(PLAIN, big_endian=PLAIN["big_endian"].astype("=i4"))  # arrays come in the machine's byte order
    assert same(load_plain(path), expected)


def test_older_protocols_that_hold_arrays() -> None:
    assert same(loads_plain(pickle.dumps({"a": np.arange(4.0)}, 3)), {"a": np.arange(4.0)})
    assert loads_plain(pickle.dumps({"a": [1, (2.0, "b")]}, 2)) == {"a": [1, (2.0, "b")]}


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any):
        self.pair = function, arguments

    def __reduce__(self) -> Any:
        return self.pair


class _Text(str):
    pass


def _persistent() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return "id" if value == "x" else None

    out = io.BytesIO()
    Pickler(out, 4).dump(["x"])
    return out.getvalue()


def array_of(shape: Any, data: Any, code: str = "f4", fortran: bool = False) -> bytes:
    """A pickle of an array as numpy writes it, with these parts."""
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85C\x01b\x87R"
    dtype = b"cnumpy\ndtype\n" + _bare(code) + b"\x89\x88\x87R" + b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ" \
        + b"\xff\xff\xff\xffK\x00tb"  # fmt: skip
    state = b"(K\x01" + _bare(shape) + dtype + _bare(fortran) + _bare(data) + b"t"
    return b"\x80\x03" + reconstruct + state + b"b."


def _bare(value: Any) -> bytes:
    """The opcodes that make a value, without a pickle's head and end."""
    return pickle.dumps(value, 3)[2:-1]


def test_the_pieces_of_an_array_put_together_by_hand() -> None:
    assert loads_plain(array_of((2,), struct.pack("<2f", 1, 2))).tolist() == [1, 2]


P = b"\x80\x04"
_ARRAY = pickle.dumps(np.arange(2), 4)[2:-1]
REFUSED = {
    "a call": pickle.dumps(_Calls(print, "hello")),
    "a call of eval": pickle.dumps(_Calls(eval, "1"), 2),
    "a class": pickle.dumps(Path("a")),
    "a class itself": pickle.dumps(Path),
    "a subclass of str": pickle.dumps(_Text("a")),
    "an instance by NEWOBJ": P + b"\x8c\x08builtins\x8c\x03int\x93)\x81.",
    "an extension code": P + b"\x82\x01.",
    "a persistent id": _persistent(),
    "a persistent id as text": P + b"Pid\n.",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "another numpy function": P + b"\x8c\x05numpy\x8c\x04load\x93.",
    "a numpy function left lying": pickle.dumps(np.ndarray),
    "a numpy type left lying": pickle.dumps([np.dtype("f4")]),
    "a numpy name with dots": P + b"\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    "a structured array": pickle.dumps(np.zeros(2, "f4,i4")),
    "an array of text": pickle.dumps(np.array(["a"])),
    "complex numbers": pickle.dumps(np.zeros(2, complex)),
    "a masked array": pickle.dumps(np.ma.zeros(2)),
    "an array that is never filled": P + b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93\x8c\x05numpy\x8c\x07nd"
    b"array\x93K\x00\x85C\x01b\x87R.",
    "too little data": array_of((3,), b"\0" * 8),
    "too much data": array_of((1,), b"\0" * 8),
    "a huge array": array_of((2**40, 2**20), b"\0" * 8),
    "a huge empty array": array_of((2**62, 0, 2**62), b""),
    "a negative shape": array_of((-1, -2), b"\0" * 8),
    "a shape of floats": array_of((2.0,), b"\0" * 8),
    "many dimensions": array_of((1,) * 33, b"\0" * 4),
    "objects from bytes": array_of((1,), b"\0" * 8, "O8"),
    "objects, one missing": array_of((2,), [1], "O8"),
    "huge bytes": P + b"\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "huge text": P + b"X\xff\xff\xff\xffx.",
    "a huge number": P + b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
    "a huge frame": P + b"\x95" + struct.pack("<Q", 2**63),
    "a long number": pickle.dumps(2**64),
    "a memo that is not there": P + b"h\x05.",
    "many opcodes": P + b"N0" * MAX_STEPS + b".",
    "many marks": P + b"(" * (MAX_STEPS + 1) + b".",
    "deep nesting": P + b"]" * 5000 + b"a" * 4999 + b".",
    "deep tuples": P + b")" + b"\x85" * 100_000 + b".",
    "a deep tuple as a key": P + b"})" + b"\x85" * 100_000 + b"Ns.",
    "a list that holds itself": P + b"]\x94h\x00a.",
    "a bomb of shared lists": P + b"]" + b"\x94" + b"".join(b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94"
                                                           for i in range(60)) + b".",
    "a bomb as a name": P + b"]" + b"\x94" + b"".join(b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94"
                                                    for i in range(60)) + b"N\x93.",  # found by damaging files
    "a key that is a number of 63 bits": pickle.dumps({2**62: 1}),
    "a key that is a float": pickle.dumps({0.5: 1}),
    "a key without a value": P + b"}(Ku.",
    "items without a mark": P + b"}NNu.",
    "items for a number": P + b"K\x01(NNu.",
    "two values": P + b"NN.",
    "no value": P + b".",
    "a mark at the end": P + b"(.",
    "no end": P + b"N",
    "nothing": b"",
    "text protocol": pickle.dumps([1], 0),
    "protocol 1": pickle.dumps([1], 1),
    "protocol 9": b"\x80\x09N.",
    "no pickle": b"PK\x03\x04",
    "an array as a function's name": P + _ARRAY + _ARRAY + b"\x93.",  # found by damaging files
    "an array as a shape": P + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _ARRAY + b"\x85C\x01b\x87R"
    b".",
    "no UTF-8": P + b"\x8c\x01\xff.",
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line(what: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnpickleError) as caught:
        loads_plain(REFUSED[what])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert time.monotonic() - began < 10


def test_a_large_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pickle"
    with path.open("wb") as file:
        file.truncate(1 << 33)  # a sparse file
    with pytest.raises(UnpickleError, match="are more than"):
        load_plain(path)


def test_memory_stays_small() -> None:
    """The costliest refusals, and a file that is nothing but empty containers, raise the peak by no more than this."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    costly = [REFUSED[what] for what in ("many marks", "huge bytes", "a huge array")]
    for data in [*costly, P + b"(" + b"]" * 300_000 + b"l."]:
        try:
            loads_plain(data)
        except UnpickleError:
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # kB


def damaged(data: bytes, draw: random.Random) -> bytes:
    """`data` cut short, with flipped bits, or with bytes put in, taken out or repeated."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(max(1, len(changed) - 9))
        match draw.randrange(5):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.randrange(256)
            case 2:
                changed[at:at] = bytes(draw.choices(b"(.0]}tabeusRcP\x80\x85\x93\x94h", k=draw.randint(1, 3)))
            case 3:
                del changed[at : at + draw.randint(1, 9)]
            case _:
                changed[at:at] = changed[max(0, at - draw.randint(1, 40)) : at]
    return bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.1 else changed)


def test_damaged_pickles_are_read_or_refused() -> None:
    draw = random.Random(3)
    seeds = [pickle.dumps(PLAIN, p) for p in (4, 5)] + [array_of((2,), b"\0" * 8), array_of((1,), [[]], "O8")]
    refused = 0
    for _ in range(4000):
        try:
            loads_plain(damaged(draw.choice(seeds), draw))
        except UnpickleError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 1000 < refused < 4000


@pytest.mark.shared_data
def test_damaged_published_files_are_read_or_refused(shared: Path) -> None:
    draw = random.Random(4)
    data = (shared / "language_rearrangement" / "rephrasing.pickle").read_bytes()
    assert same(loads_plain(data), pickle.loads(data))
    for _ in range(40):
        try:
            loads_plain(damaged(data, draw))
        except UnpickleError as error:
            assert "\n" not in str(error)
