"""Mutants that are made from the syntax of `wire` and `endpoint`, one small change each; see `mutants.py`.

Comparisons, `and` and `or`, `not`, arithmetic, numbers, words, truth values, returned values, statements that are
calls, raises, breaks. Not changed: annotations, docstrings, sentences (texts with a space in them), log calls.
"""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = {
    "endpoint.py": [
        "test_middleware",
        "test_amp",
        "test_proxies",
        "test_bounds",
        "test_refusals",
        "test_counts",
        "test_asgi",
        "test_visitors",
    ],
    "wire/access_log.py": ["test_replay"],
    "wire/amp.py": ["test_amp"],
    "wire/answers.py": ["test_middleware", "test_amp", "test_collector"],
    "wire/mapping.py": ["test_mapping", "test_middleware"],
    "wire/printable.py": ["test_mapping", "test_middleware", "test_refusals", "test_rudderstack"],
    "wire/query.py": ["test_mapping", "test_bounds"],
    "wire/request.py": ["test_proxies", "test_middleware", "test_bounds", "test_refusals"],
    "wire/shapes.py": ["test_mapping"],
    "wire/signatures.py": ["test_processors", "test_urls"],
    "wire/urls.py": ["test_urls", "test_emails"],
}
"""The tests that are to notice a mutant of a file, the quickest first."""

_SAME = "it only chooses between two ways that give the same"
EQUIVALENT = {
    "endpoint.py": {
        'return answers.amp(amp.configuration(origin, path), pairs.get("__amp_source_origin", ""))': (
            "any text that is no origin does"
        ),
        "self._surely_short = (self._limits.max_event_bytes - 8192) // 12": "it only saves measuring short events",
        "if len(query) + len(who.referer) > self._surely_short:": "it only saves measuring short events",
        'query = environ.get("QUERY_STRING", "")': "a name alone is no event either",
        "if self._processors:": "it only saves making a request for nobody",
        "if returned is not None:": "it only saves a call",
    },
    "wire/access_log.py": {
        "@lru_cache(maxsize=16)": "it only remembers",
        'parts: list[str] = _PART.findall(line) if "\\\\" in line else line.split(\'"\')': _SAME,
        'head, request, after, referer, _, agent, *_ = (*parts, "", "", "", "", "", "")': (
            "a line without its middle parts has no status, and is none"
        ),
        'status = after.split(" ")[1:2]': "the first is looked at alone",
        'status = int(given["status"][:4])': "a longer one is asked for by nobody either way",
        'return text if text.isascii() else text.encode("utf-8", "replace").decode("latin-1")': _SAME,
        'if "\\\\" not in text:': _SAME,
    },
    "wire/urls.py": {
        "_NO_LIMITS = Limits(max_query_bytes=1 << 30)": "no URL is so long",
        'return quote(text, safe="")': "a letter is safe either way",
    },
    "wire/mapping.py": {
        "_MOST_NAMES = 32": _SAME,
        "is_numbered = False": _SAME,
        "sent = nest(zip(names, values, strict=True), limits) if shape is None else shape.fill(values)": _SAME,
        "return Shape(names) if is_plain else None": _SAME,
        "if str(len(node) - 1) not in node:  # which says it of nearly all, in less time": _SAME,
        "@lru_cache(maxsize=256)": "it only remembers",
        "if is_numbered:": _SAME,
        'is_plain = len(set(names)) == len(names) and not any(path[0] in IGNORED or "0" in path for path in parts)': (
            _SAME
        ),
        (
            "if len(names) <= _MOST_NAMES and (len(query) <= _MOST_CHARACTERS or sum(map(len, names)) <"
            "= _MOST_CHARACTERS):"
        ): _SAME,
    },
    "wire/printable.py": {
        r'_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"'
        "  # printable, says Unicode, and yet nothing to see": "whether a letter of ASCII is seen is answered before"
    },
    "wire/query.py": {
        "@dataclass(frozen=True, kw_only=True)": "how it is made is for mypy to check",
        'LIMITS = "pixel_middleware.limits"': "both sides use the constant",
        "return zip(*split(query, limits), strict=True)": "there are as many values as names",
        "count = len(signs) // 2 + 1": _SAME,
        'if signs != b"=&" * (count - 1) + b"=":  # then some pair has no `=` or several, or is empty': _SAME,
        'if len(encoded) - len(decoded) != 2 * encoded.count(b"=") or b"\\n" in raw or b"\\r" in raw:': _SAME,
    },
    "wire/request.py": {
        "def visit(environ: WSGIEnvironment, trusted_proxies: int = 0) -> Visit:": "the endpoint says it",
        "def client_address(environ: WSGIEnvironment, trusted_proxies: int = 0) -> str:": "the endpoint says it",
        "def public_origin(environ: WSGIEnvironment, trusted_proxies: int = 0) -> str:": "the endpoint says it",
        "if most_bytes is not None and len(value) > most_bytes:": _SAME,
        "if 0 < len(entry) <= _MOST_ADDRESS:": "it only saves asking of what is no address",
        'return value if value.isascii() else value.encode("latin-1", "replace").decode("utf-8", "replace")': _SAME,
    },
    "wire/shapes.py": {
        'dotted, above = "", 0': "only whether two of them are the same is used",
        "for place, last, value in zip(self._places, self._lasts, values, strict=True):": "there are as many of each",
        'numbers = {"": 0}  # dotted name of a dict -> its place': "only the number is used",
    },
    "wire/signatures.py": {
        'VERIFIED = "pixel_middleware.signature_verified"': "both sides use the constant",
        'given = dict(reversed(pairs)).get(SIGNATURE, "")': "any text that is no signature does",
    },
}
"""Lines of which some mutants change nothing that a test can see, and why; others of the same line may be noticed."""

COMPARISONS = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
ARITHMETIC = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}


class Mutant(NamedTuple):
    name: str
    line: str
    """The text of the line that is changed."""
    text: str
    """Of the whole file."""


class Change(NamedTuple):
    start: int
    end: int
    new: bytes
    line: int


def of_file(package: Path, file: str) -> list[Mutant]:
    """All mutants of a file, in order."""
    source = (package / file).read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    mutants: dict[str, Mutant] = {}
    for change in sorted(set(_changes(ast.parse(source), source, starts))):
        mutated = source[: change.start] + change.new + source[change.end :]
        try:
            compile(mutated, file, "exec")
        except SyntaxError:
            continue
        # Named by its line's text, and not by its number, so that what is said of it stays true.
        new_line = mutated.splitlines()[change.line - 1].decode().strip()
        line = lines[change.line - 1].decode().strip()
        name = f"{file}: {line}  ->  {new_line}"
        mutants.setdefault(name, Mutant(name, line, mutated.decode()))
    return list(mutants.values())


def _changes(tree: ast.Module, source: bytes, starts: list[int]) -> Iterator[Change]:
    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def instead(node: ast.expr | ast.stmt, new: str) -> Change:
        return Change(*span(node), new.encode(), node.lineno)

    def between(left: ast.expr, right: ast.expr, new: str) -> Change:
        gap = source[span(left)[1] : span(right)[0]]
        words = gap.strip(b" ()\n\\")
        start = span(left)[1] + gap.index(words)
        return Change(start, start + len(words), new.encode(), source[:start].count(b"\n") + 1)

    def text(node: ast.expr | ast.stmt) -> str:
        return source[slice(*span(node))].decode()

    for node in _nodes(tree):
        match node:
            case ast.Compare(left=left, ops=ops, comparators=rights):
                for one, op, other in zip([left, *rights], ops, rights, strict=False):
                    yield between(one, other, COMPARISONS[type(op)])
            case ast.BoolOp(op=op, values=values):
                for one, other in itertools.pairwise(values):
                    yield between(one, other, "or" if isinstance(op, ast.And) else "and")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield instead(node, text(operand))
            case ast.BinOp(left=one, op=op, right=other) if type(op) in ARITHMETIC:
                yield between(one, other, ARITHMETIC[type(op)])
            case ast.Constant(value=bool() as value):
                yield instead(node, str(not value))
            case ast.Constant(value=int() as value):
                yield instead(node, str(value + 1))
            case ast.Constant(value=str() as value) if " " not in value:
                yield instead(node, repr(f"{value}X") if value else "'X'")
            case ast.IfExp(test=test, body=body, orelse=orelse):
                yield instead(node, f"({text(body)})")
                yield instead(node, f"({text(orelse)})")
            case ast.If(test=test):
                yield instead(test, "True")
                yield instead(test, "False")
            case ast.Return(value=ast.expr() as value):
                yield instead(value, "None")
            case ast.Raise() | ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign():
                yield instead(node, "pass")
            case ast.Continue():
                yield instead(node, "break")
            case ast.Break():
                yield instead(node, "continue")


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that may be changed."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_log = isinstance(node, ast.Expr) and ast.unparse(node).startswith("_log.")
            if not isinstance(node, ast.AST) or is_docstring or is_log or isinstance(node, ast.JoinedStr):
                continue
            yield node
            yield from _nodes(node)
