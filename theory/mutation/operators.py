"""Mutation operators: one small change of a function's syntax tree at a time."""

import ast
import copy
import dataclasses
from collections.abc import Iterator
from types import CodeType
from typing import Any

Change = tuple[str, ast.AST]
"""(name of the operator, the node that takes the place of the old one)."""

_SWAPPED = {"minimum": "maximum", "maximum": "minimum", "max": "min", "min": "max", "masked_mean": "masked_sum",
            "masked_sum": "masked_mean", "mean": "sum", "sum": "mean", "any": "all", "all": "any"}  # fmt: skip
_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
POLICY = frozenset({"logp", "token_logp", "score", "margin", "log_ratio", "values", "x", "logq"})
"""Parameters that the policy flows through: where a stop-gradient may be added."""
_SHAPES = (
    "reshape",
    "broadcast_to",
    "astype",
    "swapaxes",
    "moveaxis",
    "broadcast_arrays",
    "promote_types",
    "isinstance",
)
_UNORDERED = (
    "einsum", "where", "fori_loop", "partial", "map", "custom_jvp", "full_like", "stack", "logaddexp", "solve", "vmap",
    "member", "positive", "minimum", "maximum", "result_type",
)  # fmt: skip
_REDUCTIONS = (
    "sum",
    "mean",
    "max",
    "min",
    "any",
    "all",
    "cumsum",
    "flip",
    "log_softmax",
    "logsumexp",
    "argmin",
    "full_like",
)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One changed place in one function of one module."""

    module: str
    function: str
    operator: str
    line: int
    before: str
    after: str
    text: str = dataclasses.field(repr=False)
    """The changed function's source."""

    @property
    def equation(self) -> str:
        """The equation's name in the table: its module, less the library's name, and its own."""
        return f"{self.module.removeprefix('alignjax.')}.{self.function}"

    def compile(self, source: str, filename: str = "<mutant>") -> CodeType:
        """The code of the whole module, of the given source, with this function in the place of the original."""
        tree = ast.parse(source)
        (function,) = ast.parse(self.text).body
        replaced(tree, _function(tree, self.function), function)
        return compile(ast.fix_missing_locations(tree), filename, "exec")

    @property
    def diff(self) -> str:
        """The change in a line."""
        return f"{self.equation}:{self.line} [{self.operator}] {self.before}  ->  {self.after}"


def _name(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def _detached(node: ast.expr) -> ast.expr:
    """stop_gradient(node), in a module that may not import jax."""
    function = ast.parse("__import__('jax').lax.stop_gradient", mode="eval").body
    return ast.Call(func=function, args=[node], keywords=[])


def _is_sg(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in ("sg", "stop_gradient") and len(node.args) == 1


def _calls(node: ast.Call) -> Iterator[Change]:
    name, args = _name(node.func), node.args
    if _is_sg(node):
        yield "stop-gradient dropped", args[0]
    if name in _SWAPPED and not (name in ("max", "min") and len(args) > 1):
        new = copy.deepcopy(node)
        if isinstance(new.func, ast.Attribute):
            new.func.attr = _SWAPPED[name]
        elif isinstance(new.func, ast.Name) and name.startswith("masked"):
            new.func = _other_masked(name)
        yield "sum to mean" if "m" in name and name not in ("minimum", "maximum", "max", "min") else "operator", new
    if name == "where" and len(args) == 3:
        yield "swapped arguments", ast.Call(func=node.func, args=[args[0], args[2], args[1]], keywords=node.keywords)
    if len(args) >= 2 and name not in _UNORDERED and name not in _SHAPES and name not in _REDUCTIONS:
        yield "swapped arguments", ast.Call(func=node.func, args=[args[1], args[0], *args[2:]], keywords=node.keywords)
    if name == "log_ratio" and len(args) == 2:
        yield "wrong base", ast.Call(func=node.func, args=[args[0], args[0]], keywords=[])
        none = ast.BinOp(left=ast.Constant(0.0), op=ast.Mult(), right=args[1])
        yield "wrong base", ast.Call(func=node.func, args=[args[0], none], keywords=[])
    if name == "einsum" and isinstance(args[0], ast.Constant) and "ij," in str(args[0].value):
        turned = ast.Constant(str(args[0].value).replace("ij,", "ji,"))
        yield "swapped arguments", ast.Call(func=node.func, args=[turned, *args[1:]], keywords=node.keywords)


def _other_masked(name: str) -> ast.expr:
    source = f"__import__('sys').modules['alignjax.logspace'].{_SWAPPED[name]}"
    return ast.parse(source, mode="eval").body


def _binary(node: ast.BinOp) -> Iterator[Change]:
    def with_op(op: ast.operator) -> ast.BinOp:
        return ast.BinOp(left=node.left, op=op, right=node.right)

    if isinstance(node.op, ast.Add):
        yield "sign", with_op(ast.Sub())
    elif isinstance(node.op, ast.Sub):
        yield "sign", with_op(ast.Add())
        for kept, one in ((node.left, node.right), (node.right, node.left)):
            if isinstance(one, ast.Constant) and one.value == 1:
                yield "off by one", kept
    elif isinstance(node.op, ast.Div):
        yield "inverse", with_op(ast.Mult())
    elif isinstance(node.op, ast.BitAnd):
        yield "operator", with_op(ast.BitOr())
    elif isinstance(node.op, ast.BitOr):
        yield "operator", with_op(ast.BitAnd())


def _constant(node: ast.Constant, index: bool) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        return
    if not isinstance(value, int | float):
        return
    if index:
        if value in (0, 1):
            yield "off by one", ast.Constant(1 - value)
        return
    yield "changed constant", ast.Constant(value * 2 if value else 1.0 if isinstance(value, float) else 1)


def _changes(node: ast.AST, role: str, parameters: frozenset[str]) -> Iterator[Change]:
    if isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.BinOp):
        yield from _binary(node)
    elif isinstance(node, ast.Constant):
        yield from _constant(node, role == "index")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert) and role != "index":
        yield "sign" if isinstance(node.op, ast.USub) else "operator", node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _FLIPPED:
        flipped = _FLIPPED[type(node.ops[0])]()
        yield "comparison", ast.Compare(left=node.left, ops=[flipped], comparators=node.comparators)
    elif isinstance(node, ast.Name) and role == "operand" and node.id in parameters:
        yield "stop-gradient added", _detached(node)


def _returned(node: ast.expr) -> Iterator[Change]:
    """Changes of a returned value as a whole."""
    if isinstance(node, ast.Tuple | ast.Compare | ast.Lambda) or getattr(node, "value", "") is None:
        return  # no number: there is no sign to change
    yield "sign", ast.UnaryOp(op=ast.USub(), operand=node)
    yield "factor 2", ast.BinOp(left=ast.Constant(2), op=ast.Mult(), right=node)
    if not _is_sg(node):
        yield "stop-gradient added", _detached(node)


def _on_host(function: ast.FunctionDef) -> bool:
    """Whether a function returns plain numbers or NumPy arrays, which have no gradient to stop."""
    returns = "" if function.returns is None else ast.unparse(function.returns)
    return returns in ("float", "np.ndarray", "tuple[int, ...]") or returns.startswith("Float[np.ndarray")


def _skipped(node: ast.AST) -> bool:
    """Argument checks, messages and annotations are no part of an equation."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.arguments | ast.Expr | ast.ImportFrom | ast.Import):
        return True
    if isinstance(node, ast.If):
        return any(_root(part) == "checks" for part in ast.walk(node.test) if isinstance(part, ast.Call)) or all(
            isinstance(part, ast.Raise) for part in node.body
        )
    return isinstance(node, ast.Call) and (_root(node) == "checks" or _name(node.func) in _SHAPES[3:])


def _places(node: ast.AST, role: str) -> Iterator[tuple[ast.AST, str]]:
    """Every node that may be changed, with the role it plays: operand, index, axis, or other."""
    if _skipped(node):
        return
    yield node, role
    if isinstance(node, ast.UnaryOp) and role in ("index", "axis"):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "ctx", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            inner = "other"
            if isinstance(node, ast.BinOp | ast.UnaryOp):
                inner = "operand" if role != "index" else "index"
            elif isinstance(node, ast.Call) and field == "args":
                position = node.args.index(child)  # type: ignore[arg-type]
                axis = isinstance(child, ast.Constant | ast.UnaryOp) and _name(node.func) in _REDUCTIONS
                inner = "axis" if axis and (position > 0 or isinstance(node.func, ast.Attribute)) else "operand"
            elif isinstance(node, ast.keyword):
                inner = "axis" if node.arg in ("axis", "keepdims", "slope_at_infinity", "dtype") else "operand"
            elif (isinstance(node, ast.Subscript) and field == "slice") or role == "index":
                inner = "index"
            elif isinstance(node, ast.Tuple) and role in ("axis", "operand"):
                inner = role
            elif isinstance(node, ast.Subscript) and field == "value":
                inner = "operand"
            if inner == "axis":
                continue
            if isinstance(node, ast.Call) and _name(node.func) in _SHAPES and field == "args":
                continue
            if _is_sg(node) and inner == "operand":
                inner = "detached"
            yield from _places(child, inner)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The new node where the old one stands."""
        return self.new if node is self.old else super().generic_visit(node)


def _function(tree: ast.Module, qualname: str) -> ast.FunctionDef:
    body: list[ast.stmt] = tree.body
    *classes, name = qualname.split(".")
    for outer in classes:
        (found,) = (node for node in body if isinstance(node, ast.ClassDef) and node.name == outer)
        body = found.body
    (function,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    return function


def replaced(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    """Exchange one node of a tree, in place."""
    _Replace(old, new).visit(tree)


def mutants_of(source: str, module: str, qualname: str) -> list[Mutant]:
    """All mutants of one function of a module; what reads the same counts once."""
    function = _function(ast.parse(source), qualname)
    arguments = function.args
    parameters = frozenset(a.arg for a in (*arguments.posonlyargs, *arguments.args)) & POLICY
    original = ast.unparse(function)
    found: dict[str, Mutant] = {}

    def add(old: ast.AST, new: ast.AST, operator: str) -> None:
        if operator == "stop-gradient added" and _on_host(function):
            return
        memo: dict[int, Any] = {}
        changed = copy.deepcopy(function, memo)
        replaced(changed, memo[id(old)], copy.deepcopy(new))
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text != original and text not in found:
            line = getattr(old, "lineno", function.lineno)
            found[text] = Mutant(module, qualname, operator, line, _short(old), _short(new), text)

    for statement in function.body:
        for node, role in _places(statement, "other"):
            if isinstance(node, ast.Return) and node.value is not None:
                for operator, new in _returned(node.value):
                    add(node.value, new, operator)
            for operator, new in _changes(node, role, parameters):
                add(node, new, operator)
    return list(found.values())


def _short(node: ast.AST) -> str:
    text = ast.unparse(node).replace("__import__('jax').lax.stop_gradient", "sg")
    text = text.replace("__import__('sys').modules['alignjax.logspace'].", "")
    return text if len(text) <= 100 else f"{text[:97]}..."
