"""Arithmetic in config files, without running code.

Some published files write anchor sizes as ``!!python/object/apply:eval ["[x * 2**(1.0/3) for x in [32, 64]]"]``.
Python's ``eval`` would let a config file do anything; here only numbers, lists, ``+ - * / // % **`` and comprehensions
over lists are understood.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

import yaml

EVAL_TAG = "tag:yaml.org,2002:python/object/apply:eval"
_MAX_EXPONENT = 64  # keeps 9**9**9 from filling the memory

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class ConfigLoader(yaml.SafeLoader):
    """YAML's safe loader plus arithmetic; every other tag that would run code is refused."""


def _construct_eval(loader: ConfigLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise yaml.constructor.ConstructorError(None, None, "eval takes one expression in a list", node.start_mark)
    try:
        return evaluate(arguments[0])
    except (ValueError, SyntaxError, ArithmeticError) as error:
        raise yaml.constructor.ConstructorError(
            None, None, f"cannot evaluate {arguments[0]!r} safely: {error}", node.start_mark
        ) from error


ConfigLoader.add_constructor(EVAL_TAG, _construct_eval)


def evaluate(expression: str) -> Any:
    """Value of an arithmetic expression.

    Raises:
        ValueError: The expression holds something else than numbers, lists, arithmetic and comprehensions over lists.
    """
    return _value(ast.parse(expression, mode="eval").body, {})


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() as constant):
            return constant
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=items):
            return [_value(item, names) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, names) for item in items)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _number(left, names), _number(right, names)
            if isinstance(op, ast.Pow) and abs(b) > _MAX_EXPONENT:
                raise ValueError(f"the exponent {b} is above {_MAX_EXPONENT}")
            return _BINARY[type(op)](a, b)
        case ast.ListComp(elt=item, generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=[])]):
            values = _value(source, names)
            if not isinstance(values, list | tuple):
                raise ValueError("a comprehension runs over a list")
            return [_value(item, {**names, name: value}) for value in values]
    raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")


def _number(node: ast.expr, names: dict[str, Any]) -> Any:
    value = _value(node, names)
    if not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)!r} is not a number")
    return value
