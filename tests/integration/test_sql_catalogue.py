"""The statements live in sql/: each is used, each that is used exists, and Python holds none."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from statement_names import Reader, parsed

import pg_qwen_embed
from pg_qwen_embed.postgres import sql

PACKAGE = Path(pg_qwen_embed.__file__).parent
TREES = parsed({
    str(name): file
    for file in sorted(PACKAGE.rglob("*.py"))
    if not {"sql", "migrations"} & set((name := file.relative_to(PACKAGE)).parts)
})  # fmt: skip
STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT INTO\s|UPDATE\s+\S+\s+SET\s|DELETE FROM\s|CREATE\s+\w+|ALTER\s+\w+|DROP\s+\w+|TRUNCATE\s|"
    r"WITH\s+\w+\s+AS|LISTEN\s|NOTIFY\s|VACUUM|ANALYZE|COPY\s|GRANT\s|REVOKE\s|SET\s+\w+\s|BEGIN\b|COMMIT\b|EXPLAIN\s)"
)
SENTENCES = re.compile(r"[^a-z].{15,}\.")


# Names that are made up, by file and expression, with all that each can be. To be emptied: a name should be a literal.
COMPUTED: dict[tuple[str, str], set[str]] = {
    ("cli/demo.py", "change"): {"demo_insert", "demo_update"},
    ("postgres/drift.py", "page"): {"repair_page", "repair_orphans_page"},
    ("postgres/drift.py", "beyond"): {"beyond", "store_beyond"},
}


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each string that is no docstring, with its line; placeholders of f-strings become {}."""
    nodes = list(ast.walk(tree))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)


def test_every_statement_is_asked_for_by_a_name_that_can_be_followed_and_exists() -> None:
    reader = Reader(TREES, COMPUTED)
    asked = reader.names()
    assert reader.problems == []
    assert sorted(set(sql.names()) - asked) == [], "statements that nothing asks for"
    assert sorted(asked - set(sql.names())) == [], "statements that are asked for and do not exist"
    assert set(COMPUTED) - reader.met == set(), "exceptions that are no longer needed"


@pytest.mark.parametrize("file", TREES)
def test_python_holds_no_statement(file: str) -> None:
    assert [(line, text) for line, text in strings(TREES[file]) if STATEMENT.match(text)] == []


def test_every_statement_says_its_name_to_the_server() -> None:
    for name in sql.names():
        found = sql._catalogue()[name]
        assert found.startswith(f"/* pg_qwen_embed:{name} */ ")
        assert "--" not in found
        assert not found.endswith(";") or name.startswith("body_")


def test_every_statement_and_every_file_says_what_it_is_for() -> None:
    for file in sql.files():
        purposes = {file.name: file.purpose} | {one.name: one.purpose for one in file.statements}
        assert [name for name, purpose in purposes.items() if not SENTENCES.fullmatch(purpose)] == []


def test_a_statement_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        sql.statement("no_such_statement")
