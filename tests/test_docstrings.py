"""Public functions of several arguments document them. That docstrings exist, and their form: ruff's rules D."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_layers import modules

ROOT = Path(__file__).parents[1]

#: From this many arguments on, a sentence does not say what they are.
ARGUMENTS = 3


def undocumented(source: str) -> Iterator[str]:
    """Yield the public functions and methods of a module that have no section "Parameters" and should."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, f"{node.name}.")
                continue
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
            # A Triton kernel's arguments are documented where it is launched; an overload has no body.
            if len(named) < ARGUMENTS or decorators & {"jit", "overload"}:
                continue
            # The options of a command are documented by their help texts; its docstring is the command's help.
            if any("typer." in ast.unparse(argument) or "Annotated" in ast.unparse(argument) for argument in arguments):
                continue
            text = ast.get_docstring(node) or ""
            # The implementation of a protocol, which has them.
            if prefix and re.search(rf"\b[Ss]ee `\w+\.{node.name}`", text):
                continue
            if "Parameters\n----------" not in text:
                yield prefix + node.name

    yield from visit(ast.parse(source).body, "")


def test_functions_of_several_arguments_document_them() -> None:
    files = {name: file.read_text(encoding="utf-8") for name, file in modules(ROOT).items()}
    assert [f"{name}.{found}" for name, source in files.items() for found in undocumented(source)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a, b, c): ...", ["f"]),
        ("class C:\n    def m(self, a, *, b, c):\n        '''Do.'''", ["C.m"]),
        ("class C:\n    def m(self, a, b, c):\n        'Do; see `P.m`.'", []),
        ("class C:\n    def n(self, a, b, c):\n        'See `P.m`.'", ["C.n"]),
        ("def f(a, b, c):\n    'See `P.f`.'", ["f"]),
        ("def f(a, b): ...\ndef _g(a, b, c): ...\nclass _C:\n    def m(self, a, b, c): ...", []),
        ("def f(a, b, c):\n    '''Do.\n\n    Parameters\n    ----------\n    a\n        A.\n    '''", []),
    ],
)
def test_what_is_undocumented_is_found(source: str, found: list[str]) -> None:
    assert list(undocumented(source)) == found
