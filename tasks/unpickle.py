"""Pickles read without running anything: plain containers, numbers, text and numpy arrays, every other thing refused.

Python's own unpickler is not used. It calls what a file names, and files of a few bytes make it allocate gigabytes or
overflow the stack. This one knows the data opcodes of protocols 2 to 5 and rebuilds numpy arrays itself from their
bytes; a named class or function that is not numpy's own three ends the reading. Memory stays within a small multiple
of the file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .unpickle_arrays import DTYPE, FUNCTIONS, MODULES, Array, Named, Type, UnpickleError, from_bytes, from_list

__all__ = ["UnpickleError", "load_plain", "loads_plain"]

MAX_BYTES = 1 << 26
"""Larger files are refused before they are read (a published file of 100 episodes: 600 kB)."""
MAX_STEPS = 1 << 21
"""Opcodes that a file may hold, each of which makes one value at most (a published file: 50 thousand)."""
MAX_EXPANDED = 1 << 21
"""Values as seen by a walk that visits shared ones again every time they occur."""
MAX_DEPTH = 64
"""Containers within containers."""
_MAX_KEY = 1 << 31


def load_plain(path: str | Path) -> Any:
    """The value in a pickle file: dict, list, tuple, set, str, bytes, int, float, bool, None, numpy array.

    Raises UnpickleError, which does not name the file, and OSError where the file cannot be read."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnpickleError(f"{size} bytes are more than the {MAX_BYTES} that are read")
    return loads_plain(path.read_bytes())


def loads_plain(data: bytes) -> Any:
    """The value in a pickle. Raises UnpickleError."""
    machine = _Machine(data)
    value = machine.run()
    _check_plain(value)
    return value


_MARK = object()


class _Machine:
    """The pickle virtual machine, data opcodes only."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        if self.data[:1] != b"\x80":
            raise UnpickleError("no pickle of protocol 2 or later (it begins otherwise)")
        begin = 0
        try:
            for _ in range(MAX_STEPS):
                begin = self.at
                opcode = self.take(1)[0]
                if opcode == _STOP:
                    return self.result()
                handler = _HANDLERS.get(opcode)
                if handler is None:
                    raise UnpickleError(f"opcode {_name(opcode)} is refused: only plain data is read")
                handler(self)
            raise UnpickleError(f"more than {MAX_STEPS} opcodes")
        except UnpickleError as error:
            raise UnpickleError(f"byte {begin}: {error}") from None
        except ValueError:  # an array where a name, number or flag was compared with one
            raise UnpickleError(f"byte {begin}: an array in the place of something else") from None

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise UnpickleError(f"the pickle ends with {len(self.stack)} values instead of one")
        return self.stack[0]

    # -- bytes and stack ----------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise UnpickleError(f"the file ends too early: {count} bytes wanted, {len(self.data) - self.at} left")
        taken, self.at = self.data[self.at : end], end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise UnpickleError("a name without an end")
        return _text(self.take(end + 1 - self.at)[:-1])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise UnpickleError("a value is missing")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise UnpickleError(f"there is no {kind.__name__} to add to")
        return self.stack[-1]

    def to_mark(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        raise UnpickleError("a mark is missing")

    # -- opcodes ------------------------------------------------------------------------------------------------------

    def proto(self) -> None:
        if not 2 <= (version := self.number(1)) <= 5:
            raise UnpickleError(f"pickle protocol {version} is unknown")

    def remember(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise UnpickleError("a value is missing")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise UnpickleError(f"refers to value {index}, which there is not")
        value = self.memo[index]
        self.push(value.value if isinstance(value, Array) and value.value is not None else value)

    def long(self, size: int) -> None:
        if size > 8:
            raise UnpickleError("a whole number of more than 64 bits")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def appends(self) -> None:
        values = self.to_mark()
        self.top(list).extend(values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[_key(key)] = value

    def set_items(self) -> None:
        values = self.to_mark()
        if len(values) % 2:
            raise UnpickleError("a key without a value")
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def dict(self) -> None:
        values = self.to_mark()
        self.push({})
        self.stack += [_MARK, *values]
        self.set_items()

    def add_items(self) -> None:
        values = self.to_mark()
        self.top(set).update(map(_key, values))

    def frozen_set(self) -> None:
        self.push(frozenset(map(_key, self.to_mark())))

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:  # showing such a value could take for ever
            raise UnpickleError("a name that is no text")
        if module not in MODULES or name not in FUNCTIONS:
            raise UnpickleError(f"names {module[:80]}.{name[:80]}, which is refused: only numpy arrays and "
                                "plain containers are read")  # fmt: skip
        self.push(Named(name))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.named(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Named) or type(arguments) is not tuple:
            raise UnpickleError("a call of something that is no numpy function")
        match function.name, arguments:
            case "dtype", (str(code), *_) if DTYPE.fullmatch(code):
                self.push(Type(code))
            case "_reconstruct", (Named(name="ndarray"), (0,), _):
                self.push(Array())
            case "scalar", (Type() as kind, bytes(raw)) if kind.code != "O8":
                self.push(from_bytes(raw, kind, (), "C").item())
            case "_frombuffer", (bytes(raw) | bytearray(raw), Type() as kind, tuple(shape), "C" | "F" as order):
                self.push(from_bytes(bytes(raw), kind, shape, order))
            case _:
                raise UnpickleError(f"numpy's {function.name} with arguments that numpy does not write")

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        match target, state:
            case Type(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                target.order = "=" if order == "|" else order
            case Array(value=None), (int(), tuple(shape), Type() as kind, bool(fortran), bytes(raw)):
                target.value = from_bytes(raw, kind, shape, "F" if fortran else "C")
                self.stack[-1] = target.value
            case Array(value=None), (int(), tuple(shape), Type(code="O8"), bool(fortran), list(items)):
                target.value = from_list(items, shape, "F" if fortran else "C")
                self.stack[-1] = target.value
            case _:
                raise UnpickleError("a numpy array or type with a state that numpy does not write")


def _key(value: Any) -> Any:
    """A dict key or member of a set; what could hash slowly, or alike in great numbers, is refused."""
    if type(value) is str or value is None or (isinstance(value, int) and abs(value) < _MAX_KEY):
        return value
    raise UnpickleError(f"a key of type {type(value).__name__}: keys are text or small whole numbers")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnpickleError("text that is no UTF-8") from None


def _name(opcode: int) -> str:
    return repr(chr(opcode)) if 32 < opcode < 127 else f"0x{opcode:02x}"


def _check_plain(root: Any) -> None:
    """Raises UnpickleError if anything but plain data is left, or if containers are nested too deep or in a ring."""
    sizes: dict[int, int] = {}  # id of a finished container -> values in it, shared ones counted every time
    depths: dict[int, int] = {}
    open_ids: set[int] = set()
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        value, done = pending.pop()
        children = _children(value)
        if children is None or id(value) in sizes:
            continue
        if not done:
            if id(value) in open_ids:
                raise UnpickleError("a container that holds itself")
            if len(open_ids) >= MAX_DEPTH:
                raise UnpickleError(f"containers nested more than {MAX_DEPTH} deep")
            open_ids.add(id(value))
            pending.append((value, True))
            pending.extend((c, False) for c in children if type(c) not in _ATOMIC)
        else:
            open_ids.discard(id(value))
            sizes[id(value)] = 1 + sum(sizes.get(id(c), 1) for c in children)
            depths[id(value)] = 1 + max((depths.get(id(c), 0) for c in children), default=0)
            if sizes[id(value)] > MAX_EXPANDED:
                raise UnpickleError(f"shared values that come to more than {MAX_EXPANDED} when followed")
            if depths[id(value)] > MAX_DEPTH:
                raise UnpickleError(f"containers nested more than {MAX_DEPTH} deep")


def _children(value: Any) -> list[Any] | None:
    """What a container holds; None for a value that holds nothing. Raises UnpickleError for what is not plain."""
    if isinstance(value, (Named, Type, Array)) or value is _MARK:
        raise UnpickleError("numpy's inner pieces outside of an array")
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    return value.ravel().tolist() if isinstance(value, np.ndarray) and value.dtype == object else None


_ATOMIC = {str, int, float, bool, bytes, bytearray, type(None), set, frozenset}
_STOP = ord(".")
_HANDLERS: dict[int, Callable[[_Machine], object]] = {
    0x80: _Machine.proto,
    0x95: lambda m: m.number(8),  # FRAME: a hint for readers from streams
    ord("("): lambda m: m.stack.append(_MARK),
    ord("0"): lambda m: m.pop(),
    ord("1"): lambda m: m.to_mark(),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    0x8A: lambda m: m.long(m.number(1)),
    0x8B: lambda m: m.long(m.number(4)),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("X"): lambda m: m.push(_text(m.take(m.number(4)))),
    0x8C: lambda m: m.push(_text(m.take(m.number(1)))),
    0x8D: lambda m: m.push(_text(m.take(m.number(8)))),
    ord("B"): lambda m: m.push(m.take(m.number(4))),
    ord("C"): lambda m: m.push(m.take(m.number(1))),
    0x8E: lambda m: m.push(m.take(m.number(8))),
    0x96: lambda m: m.push(bytearray(m.take(m.number(8)))),
    ord("]"): lambda m: m.push([]),
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("d"): _Machine.dict,
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple(1),
    0x86: lambda m: m.tuple(2),
    0x87: lambda m: m.tuple(3),
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    0x8F: lambda m: m.push(set()),
    0x90: _Machine.add_items,
    0x91: _Machine.frozen_set,
    0x94: lambda m: m.remember(len(m.memo)),
    ord("q"): lambda m: m.remember(m.number(1)),
    ord("r"): lambda m: m.remember(m.number(4)),
    ord("h"): lambda m: m.recall(m.number(1)),
    ord("j"): lambda m: m.recall(m.number(4)),
    ord("c"): lambda m: m.named(m.line(), m.line()),
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
}
"""What each opcode does (the names: `pickletools.opcodes`); all others are refused."""
