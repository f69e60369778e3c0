"""`!ref <name>` of the YAML dialect: looked up, or computed as arithmetic by a walker that knows seven operators."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Number = int | float
MAX_EXPRESSION_CHARS = 300
MAX_MAGNITUDE = 1e18
MAX_EXPONENT = 64
MAX_NODES = 100_000  # of the whole file after references are replaced
_TARGET = re.compile(r"<([^<>]*)>")
_TARGET_NAME = re.compile(r"([A-Za-z_][\w.-]*)((?:\[[\w.-]+\])*)")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Reference:
    """The text after a `!ref` tag, and its line for messages."""

    text: str
    line: int


def resolve_references(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with every Reference replaced by a copy of its value, type kept.

    Raises ValueError (one clause) for an unknown name, a cycle, an expression that is no arithmetic on numbers, or a
    file whose references multiply into an enormous tree.
    """
    resolver = _Resolver(tree)
    return {key: resolver.resolve(value) for key, value in tree.items()}


class _Resolver:
    """Resolves one file; knows the names being followed (cycles) and how much has been made so far."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree
        self._following: list[str] = []
        self._num_nodes = 0

    def resolve(self, value: Any) -> Any:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise ValueError("its references multiply into an enormous tree")
        if isinstance(value, Reference):
            try:
                return self._reference(value.text.strip())
            except ValueError as error:
                text = str(error)
                raise ValueError(text if text.startswith("line ") else f"line {value.line}: {text}") from error
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        return value

    def _reference(self, text: str) -> Any:
        if len(text) > MAX_EXPRESSION_CHARS:
            raise ValueError(f"the reference is longer than {MAX_EXPRESSION_CHARS} characters")
        alone = _TARGET.fullmatch(text)
        if alone:
            return self._target(alone[1])
        numbers: dict[str, Number] = {}

        def placeholder(match: re.Match[str]) -> str:
            value = self._target(match[1])
            if isinstance(value, bool) or not isinstance(value, Number):
                raise ValueError(f"<{match[1]}> is not a number, so '!ref {text}' cannot be computed")
            numbers[f"_{len(numbers)}"] = value
            return f" _{len(numbers) - 1} "

        return evaluate(_TARGET.sub(placeholder, text), numbers)

    def _target(self, name: str) -> Any:
        match = _TARGET_NAME.fullmatch(name)
        if not match:
            raise ValueError(f"<{name}> is not a reference to a key")
        if name in self._following:
            raise ValueError(f"the references {' -> '.join([*self._following, name])} go in a circle")
        self._following.append(name)
        value: Any = self._tree
        for key in (match[1], *re.findall(r"\[([^\]]+)\]", match[2])):
            if isinstance(value, Reference):
                value = self.resolve(value)
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"<{name}> refers to a key that does not exist")
            value = value[key]
        resolved = self.resolve(value)
        self._following.pop()
        return resolved


def evaluate(expression: str, numbers: dict[str, Number]) -> Number:
    """Value of an arithmetic expression: numbers, the given names, + - * / // % ** and parentheses. Else ValueError."""
    try:
        return _bounded(_walk(ast.parse(expression.strip(), mode="eval").body, numbers))
    except (SyntaxError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise ValueError(f"'{expression.strip()}' cannot be computed") from error


def _walk(node: ast.expr, numbers: dict[str, Number]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name) if name in numbers:
            return numbers[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand, numbers)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand, numbers)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            first, second = _bounded(_walk(left, numbers)), _bounded(_walk(right, numbers))
            if isinstance(op, ast.Pow) and abs(second) > MAX_EXPONENT:
                raise ValueError(f"an exponent beyond {MAX_EXPONENT} is refused")
            return _bounded(_OPERATORS[type(op)](first, second))
        case _:
            raise ValueError("only numbers and + - * / // % ** with parentheses are computed")


def _bounded(value: Any) -> Number:
    if isinstance(value, complex) or not abs(value) <= MAX_MAGNITUDE:
        raise ValueError("the value is out of range")
    number: Number = value
    return number
