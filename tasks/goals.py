"""Goals: expression trees, grounded for an episode into boolean circuits over the atom table, evaluated in batches.

An expression is written as in the published episode files:

    {"expr_type": "AND", "quantifier": "EXISTS", "inputs": [{"name": "X", "expr_type": "ball"}],
     "sub_exprs": ["on_top(X, black table)", "not_holding()"]}

`expr_type` AND, OR, NAND or NOR; `quantifier` EXISTS, FORALL or absent; a variable's type is an object category or
"receptacle". The variables of one quantifier never stand for the same thing. Over an empty domain EXISTS is false and
FORALL true. A negation (NAND, NOR) with a quantifier means
- in clean rules the contrary of the whole statement: NAND with EXISTS is "there is no X such that all of these hold";
- in published rules, as the original expands it, a negation under the quantifier: NAND with EXISTS is "there is some X
  such that not all of these hold".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .atoms import NUM_ATOMS, Entity, atom_index, fixed_entity, split_predicate
from .entities import CATEGORY_INDEX, NUM_RECEPTACLES
from .rules import TaskError, is_published

MAX_SUBGOALS = 12
MAX_NODES, MAX_EDGES, MAX_DEPTH = 4096, 16384, 100
"""Limits of one circuit; a goal that needs more (many objects under several variables, deep nesting) is refused."""

AND, OR, NAND, NOR = range(4)
_OPS = {"AND": AND, "OR": OR, "NAND": NAND, "NOR": NOR}
_KEYS = {"expr_type", "quantifier", "inputs", "sub_exprs"}


@dataclass(frozen=True)
class Predicate:
    """A predicate over variables and named things: on_top(X, black table)."""

    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.arguments)})"


@dataclass(frozen=True)
class Variable:
    """A quantified variable and its domain: an object category or "receptacle"."""

    name: str
    type: str


@dataclass(frozen=True)
class Expression:
    """An operator over predicates and expressions, under a quantifier or none (then `variables` is empty)."""

    op: str
    terms: tuple[Predicate | Expression, ...]
    quantifier: str | None = None
    variables: tuple[Variable, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The expression in the files' format; `parse` reads it back as an equal expression."""
        out: dict[str, Any] = {"expr_type": self.op}
        if self.quantifier:
            out["quantifier"] = self.quantifier
            out["inputs"] = [{"name": v.name, "expr_type": v.type} for v in self.variables]
        out["sub_exprs"] = [str(t) if isinstance(t, Predicate) else t.to_dict() for t in self.terms]
        return out


def parse(source: Mapping[str, Any]) -> Expression:
    """The expression a nested dict describes. Raises TaskError, which names the part that is wrong."""
    if not isinstance(source, Mapping):
        raise TaskError(f"an expression is a dict with {sorted(_KEYS)}, not {source!r}")
    if unknown := set(source) - _KEYS:
        raise TaskError(f"expression has unknown keys {sorted(map(str, unknown))}; known: {sorted(_KEYS)}")
    op, quantifier = source.get("expr_type"), source.get("quantifier")
    inputs, terms = source.get("inputs") or [], source.get("sub_exprs")
    if op not in _OPS:
        raise TaskError(f"expr_type {op!r} is not one of {', '.join(_OPS)}")
    if quantifier not in (None, "EXISTS", "FORALL"):
        raise TaskError(f"quantifier {quantifier!r} is not EXISTS or FORALL")
    if bool(inputs) != (quantifier is not None):
        raise TaskError("an expression has a quantifier and inputs, or neither")
    if not isinstance(terms, Sequence) or isinstance(terms, str) or not terms:
        raise TaskError(f"sub_exprs must be a non-empty list, not {terms!r}")
    variables = tuple(_variable(v) for v in inputs)
    if len({v.name for v in variables}) < len(variables):
        raise TaskError(f"two variables of one quantifier have the same name: {[v.name for v in variables]}")
    return Expression(
        op=op,
        terms=tuple(Predicate(*split_predicate(t)) if isinstance(t, str) else parse(t) for t in terms),
        quantifier=quantifier,
        variables=variables,
    )


def _variable(source: Any) -> Variable:
    if not isinstance(source, Mapping) or set(source) != {"name", "expr_type"}:
        raise TaskError(f'a variable is {{"name": ..., "expr_type": ...}}, not {source!r}')
    variable = Variable(str(source["name"]), str(source["expr_type"]))
    if variable.type != "receptacle" and variable.type.replace("_", " ") not in CATEGORY_INDEX:
        raise TaskError(f'variable type {variable.type!r} is neither an object category nor "receptacle"')
    return variable


def domain(variable: Variable, object_category: np.ndarray) -> list[Entity]:
    """What a variable can stand for, given the category of each object slot (M,), -1 where empty."""
    if variable.type == "receptacle":
        return [("receptacle", i) for i in range(NUM_RECEPTACLES)]
    slots = np.flatnonzero(object_category == CATEGORY_INDEX[variable.type.replace("_", " ")])
    return [("object", int(s)) for s in slots]


def slot_name(slot: int) -> str:
    """What predicates call the object of a slot where the episode has no names of its own."""
    return f"object_{slot}"


# -- grounding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Circuit:
    """One episode's goal. Node 0 is the goal, 1..num_subgoals the subgoals; a source below NUM_ATOMS is an atom, any
    other is node `source - NUM_ATOMS`."""

    ops: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]
    num_subgoals: int
    depth: int  # passes over all nodes until every value is final


class _Builder:
    def __init__(self, num_fixed: int, object_category: np.ndarray, objects: Mapping[str, Entity], negate_whole: bool):
        self.negate_whole = negate_whole  # a negation with a quantifier applies to the whole statement
        self.ops: list[int] = [AND] * num_fixed
        self.sources: list[tuple[int, ...]] = [()] * num_fixed
        self.depths = [1] * num_fixed
        self.num_edges, self.object_category, self.objects = 0, object_category, objects

    def check_size(self, more_edges: int) -> None:
        if len(self.ops) > MAX_NODES or self.num_edges + more_edges > MAX_EDGES:
            raise TaskError(f"the goal grows beyond {MAX_NODES} nodes or {MAX_EDGES} edges; use fewer variables")

    def set(self, node: int, op: int, sources: Sequence[int]) -> None:
        self.check_size(len(sources))
        self.num_edges += len(sources)
        self.ops[node], self.sources[node] = op, tuple(sources)
        self.depths[node] = 1 + max((self.depths[s - NUM_ATOMS] for s in sources if s >= NUM_ATOMS), default=0)

    def add(self, op: int, sources: Sequence[int]) -> int:
        """A source with the value of `op` over `sources`: a new node, or the one source it would only repeat."""
        if len(sources) == 1 and op in (AND, OR):
            return sources[0]
        self.ops.append(op)
        self.sources.append(())
        self.depths.append(1)
        self.set(len(self.ops) - 1, op, sources)
        return NUM_ATOMS + len(self.ops) - 1

    def atom(self, predicate: Predicate, bound: Mapping[str, Entity]) -> int:
        entities = []
        for name in predicate.arguments:
            entity = bound.get(name) or fixed_entity(name) or self.objects.get(name)
            if entity is None:
                raise TaskError(f"{predicate}: {name!r} is no variable, receptacle, handle or object of this episode")
            entities.append(entity)
        return atom_index(predicate.name, tuple(entities))

    def term(self, term: Predicate | Expression, bound: Mapping[str, Entity]) -> int:
        return self.atom(term, bound) if isinstance(term, Predicate) else self.add(*self.expand(term, bound))

    def expand(self, expression: Expression, bound: Mapping[str, Entity]) -> tuple[int, list[int]]:
        """Operator and sources of the node that has the expression's value."""
        op = _OPS[expression.op]
        if expression.quantifier is None:
            return op, [self.term(t, bound) for t in expression.terms]
        inner, outer = op, OR if expression.quantifier == "EXISTS" else AND
        if op in (NAND, NOR) and self.negate_whole:  # the negation goes outside the quantifier
            inner, outer = {NAND: AND, NOR: OR}[op], {OR: NOR, AND: NAND}[outer]
        names = [v.name for v in expression.variables]
        cases: list[int] = []
        for values in product(*(domain(v, self.object_category) for v in expression.variables)):
            if len(set(values)) == len(values):
                self.check_size(len(cases))
                binding = {**bound, **dict(zip(names, values, strict=True))}
                cases.append(self.add(inner, [self.term(t, binding) for t in expression.terms]))
        return outer, cases


def ground(
    expression: Expression,
    subgoals: Sequence[Sequence[str]],
    object_category: np.ndarray,
    rules: str = "clean",
    object_names: Sequence[str] | None = None,
) -> Circuit:
    """The circuit of a goal and its subgoals (each a list of predicates that hold together) in one episode.

    `object_category` (M,) gives each slot's category, -1 where empty; `object_names` the names predicates use for the
    objects of the slots (default: `slot_name`). Raises TaskError for unknown names, more than 12 subgoals, or a goal
    too large."""
    published = is_published(rules)
    if len(subgoals) > MAX_SUBGOALS:
        raise TaskError(f"{len(subgoals)} subgoals; at most {MAX_SUBGOALS} are possible")
    names = [slot_name(i) for i in range(len(object_category))] if object_names is None else object_names
    objects: dict[str, Entity] = {n: ("object", i) for i, n in enumerate(names) if object_category[i] >= 0}
    builder = _Builder(1 + len(subgoals), object_category, objects, negate_whole=not published)
    builder.set(0, *builder.expand(expression, {}))
    if builder.depths[0] > MAX_DEPTH:
        raise TaskError(f"the goal is nested {builder.depths[0]} deep; at most {MAX_DEPTH} is possible")
    for i, predicates in enumerate(subgoals):
        builder.set(1 + i, AND, [builder.atom(Predicate(*split_predicate(p)), {}) for p in predicates])
    return Circuit(tuple(builder.ops), tuple(builder.sources), len(subgoals), max(builder.depths))


# -- many circuits -----------------------------------------------------------------------------------------------------


@dataclass
class Circuits:
    """Circuits of E episodes as padded arrays; the sources of node j are `source[node_end[j - 1] : node_end[j]]`."""

    node_op: Tensor  # (E, J) int8; padding: AND of nothing
    node_end: Tensor  # (E, J) int16
    source: Tensor  # (E, K) int16; padding: the FALSE atom, in no node's range
    num_subgoals: Tensor  # (E,) int8
    depth: Tensor  # (E,) int8
    max_depth: int  # an upper bound of `depth`, known without asking the device

    @classmethod
    def pack(cls, circuits: Sequence[Circuit]) -> Circuits:
        """The circuits one after the other."""
        nodes = max([1 + MAX_SUBGOALS, *(len(c.ops) for c in circuits)])
        edges = max([1, *(sum(map(len, c.sources)) for c in circuits)])
        op, end = np.full((len(circuits), nodes), AND, np.int8), np.zeros((len(circuits), nodes), np.int16)
        source = np.zeros((len(circuits), edges), np.int16)
        for i, c in enumerate(circuits):
            ends = np.cumsum([len(s) for s in c.sources])
            op[i, : len(c.ops)], end[i, : len(ends)], end[i, len(ends) :] = c.ops, ends, ends[-1]
            source[i, : ends[-1]] = [s for sources in c.sources for s in sources]
        return cls.from_tensors(
            {
                "node_op": torch.from_numpy(op),
                "node_end": torch.from_numpy(end),
                "source": torch.from_numpy(source),
                "num_subgoals": torch.tensor([c.num_subgoals for c in circuits], dtype=torch.int8),
                "depth": torch.tensor([c.depth for c in circuits], dtype=torch.int8),
            }
        )

    @classmethod
    def none(cls, num: int) -> Circuits:
        """`num` places without a goal (always true) for `assign` to fill."""
        return cls.pack([Circuit((AND,), ((),), 0, 1)] * num)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Circuits:
        """Circuits from what `tensors()` gave. Raises TaskError if an index leads outside them (a damaged file)."""
        nodes, edges = tensors["node_op"].shape[1], tensors["source"].shape[1]
        bounds = {
            "node_op": (AND, NOR),
            "node_end": (0, edges),
            "source": (0, NUM_ATOMS + nodes - 1),
            "num_subgoals": (0, MAX_SUBGOALS),
            "depth": (1, MAX_DEPTH),
        }
        for name, (low, high) in bounds.items():
            values = tensors[name]
            if values.numel() and not (low <= int(values.min()) and int(values.max()) <= high):
                raise TaskError(f"goal circuits are damaged: {name} is not within {low} and {high}")
        return cls(**tensors, max_depth=int(tensors["depth"].max()) if len(tensors["depth"]) else 1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything to store."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "max_depth"}

    def to(self, device: torch.device | str) -> Circuits:
        """The same circuits on another device."""
        return Circuits(**{k: v.to(device) for k, v in self.tensors().items()}, max_depth=self.max_depth)

    def rows(self, index: Tensor) -> Circuits:
        """The circuits of the given episodes, in that order."""
        return Circuits(**{k: v[index] for k, v in self.tensors().items()}, max_depth=self.max_depth)

    def __len__(self) -> int:
        return self.depth.shape[0]

    def assign(self, index: Tensor, other: Circuits) -> None:
        """Replaces the circuits at `index` by those of `other`, in place; the arrays grow where `other`'s are wider."""
        device = self.depth.device
        for name, theirs in other.tensors().items():
            mine, theirs = getattr(self, name), theirs.to(device)
            if theirs.dim() == 2:
                width = max(mine.shape[1], theirs.shape[1])
                last = name == "node_end"  # padding nodes end where the last node does
                mine, theirs = _widen(mine, width, last), _widen(theirs, width, last)
            mine[index] = theirs
            setattr(self, name, mine)
        self.max_depth = max(self.max_depth, other.max_depth)


def _widen(x: Tensor, width: int, repeat_last: bool) -> Tensor:
    extra = width - x.shape[1]
    if extra == 0:
        return x
    tail = x[:, -1:].expand(-1, extra) if repeat_last else x.new_zeros(x.shape[0], extra)
    return torch.cat([x, tail], dim=1)


def evaluate(circuits: Circuits, atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values of N circuits over N rows of atoms (N, NUM_ATOMS).

    Returns the goal bool (N,), the subgoals bool (N, 12), false beyond their number, and that number int64 (N,)."""
    end, op = circuits.node_end.long(), circuits.node_op
    source = circuits.source.long()
    start = torch.nn.functional.pad(end[:, :-1], (1, 0))
    need = torch.where((op == AND) | (op == NAND), end - start, 1)  # true sources that decide it
    negated = op >= NAND
    values = torch.cat([atoms, torch.zeros_like(negated)], dim=1)
    for _ in range(circuits.max_depth):
        # the sources of a node are neighbours: a running sum counts the true ones, without atomics
        running = torch.nn.functional.pad(values.gather(1, source).cumsum(1, dtype=torch.int32), (1, 0))
        count = running.gather(1, end) - running.gather(1, start)
        values[:, NUM_ATOMS:] = (count >= need) ^ negated
    nodes = values[:, NUM_ATOMS:]
    number = circuits.num_subgoals.long()
    known = torch.arange(MAX_SUBGOALS, device=atoms.device) < number[:, None]
    return nodes[:, 0], nodes[:, 1 : 1 + MAX_SUBGOALS] & known, number
