"""The structure: short modules, small classes, and a reason in CONTRIBUTING for each exception."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES, MOST_ATTRIBUTES, MOST_METHODS = 400, 12, 20
FILES = [file for folder in ("pg_qwen_embed", "benchmarks", "tools") for file in sorted((ROOT / folder).rglob("*.py"))]


def exceptions() -> dict[str, str]:
    """The exceptions in CONTRIBUTING: `path` or `path Class`, each with its reason."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Exceptions\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))


def too_large() -> Iterator[str]:
    for file in FILES:
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
        if len(text.splitlines()) > MOST_LINES:
            yield name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and is_large(node):
                yield f"{name} {node.name}"


def is_large(node: ast.ClassDef) -> bool:
    methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)]
    stored = {
        target.attr
        for method in methods
        for target in ast.walk(method)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and getattr(target.value, "id", "") == "self"
    }
    declared = {
        inner.target.id
        for inner in node.body
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
    }
    return len(methods) > MOST_METHODS or len(stored | declared) > MOST_ATTRIBUTES


def test_what_is_too_large_is_listed_with_its_reason() -> None:
    listed = exceptions()
    assert [name for name in too_large() if name not in listed] == []
    assert [name for name, reason in listed.items() if len(reason) < 20] == []


def test_no_exception_is_listed_that_is_none_any_more() -> None:
    assert sorted(set(exceptions()) - set(too_large())) == []
