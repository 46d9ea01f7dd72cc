"""The demo's documents: the docstrings of Python's own standard library. Its source is read, not run."""

import ast
import builtins
import inspect
import itertools
import math
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "ensurepip",
    "pydoc_data",
    "config",
    "distutils",
}
_IN_C = (builtins, itertools, math, time)  # modules without Python source
_SHORTEST = 20  # characters


@dataclass(frozen=True, slots=True)
class Document:
    name: str  # dotted, as it is imported
    kind: str  # module | class | function | method
    doc: str


def documents() -> Iterator[Document]:
    """Every public module, class, function and method with a docstring, each name once."""
    seen: set[str] = set()
    for document in itertools.chain(_from_source(Path(sysconfig.get_path("stdlib"))), *map(_from_module, _IN_C)):
        if document.name not in seen and len(document.doc) >= _SHORTEST:
            seen.add(document.name)
            yield document


def _from_source(library: Path) -> Iterator[Document]:
    for file in sorted(library.rglob("*.py")):
        path = file.relative_to(library).with_suffix("").parts
        if _LEFT_OUT.intersection(path) or any(part.startswith("_") and part != "__init__" for part in path):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        yield from _from_tree(tree, ".".join(part for part in path if part != "__init__"), "module")


def _from_tree(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, kind: str
) -> Iterator[Document]:
    doc = ast.get_docstring(node)
    if doc:
        yield Document(name, kind, doc)
    if kind in ("function", "method"):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _from_tree(child, f"{name}.{child.name}", "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _from_tree(child, f"{name}.{child.name}", "method" if kind == "class" else "function")


def _from_module(module: ModuleType) -> Iterator[Document]:
    for name, thing in inspect.getmembers(module, lambda member: inspect.isclass(member) or inspect.isroutine(member)):
        if not name.startswith("_"):
            kind = "class" if inspect.isclass(thing) else "function"
            yield Document(f"{module.__name__}.{name}", kind, inspect.getdoc(thing) or "")
