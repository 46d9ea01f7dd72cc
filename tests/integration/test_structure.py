"""The structure: short modules, small classes, and a reason in CONTRIBUTING for each exception."""

import ast
import re
from collections.abc import Iterator, Mapping
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
        classes = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)}
        yield from (f"{name} {node.name}" for node in classes.values() if is_large(node, classes))


def is_large(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> bool:
    """classes: those of the same module, whose members count where they are inherited."""
    family = list(with_bases(node, classes))
    methods = {method.name for one in family for method in methods_of(one)}
    attributes = {name for one in family for name in attributes_of(one)}
    return len(methods) > MOST_METHODS or len(attributes) > MOST_ATTRIBUTES


def with_bases(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    yield node
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from with_bases(classes[base.id], classes)


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [inner for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)]


def attributes_of(node: ast.ClassDef) -> set[str]:
    """Those of the class, annotated or not, and those that its methods store in self."""
    stored = {
        target.attr
        for method in methods_of(node)
        for target in ast.walk(method)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and getattr(target.value, "id", "") == "self"
    }
    declared = {
        name.id
        for inner in node.body
        if isinstance(inner, ast.AnnAssign | ast.Assign)
        for target in (inner.targets if isinstance(inner, ast.Assign) else [inner.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    return stored | declared


def test_what_is_too_large_is_listed_with_its_reason() -> None:
    listed = exceptions()
    assert [name for name in too_large() if name not in listed] == []
    assert [name for name, reason in listed.items() if len(reason) < 20] == []


def test_no_exception_is_listed_that_is_none_any_more() -> None:
    assert sorted(set(exceptions()) - set(too_large())) == []
