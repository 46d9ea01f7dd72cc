"""The statements live in sql/: each is used, each that is asked for exists, and Python holds none."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pg_qwen_embed
from pg_qwen_embed.postgres import sql

PACKAGE = Path(pg_qwen_embed.__file__).parent
FILES = [
    file for file in sorted(PACKAGE.rglob("*.py")) if not {"sql", "migrations"} & set(file.relative_to(PACKAGE).parts)
]
STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT INTO\s|UPDATE\s+\S+\s+SET\s|DELETE FROM\s|CREATE\s+\w+|ALTER\s+\w+|DROP\s+\w+|TRUNCATE\s|"
    r"WITH\s+\w+\s+AS|LISTEN\s|NOTIFY\s|VACUUM|ANALYZE|COPY\s|GRANT\s|REVOKE\s|SET\s+\w+\s|BEGIN\b|COMMIT\b|EXPLAIN\s)"
)


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """Each string of a file that is no docstring, with its line; holes of f-strings become {}."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docs:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)


def test_every_statement_is_used_somewhere() -> None:
    written = {text for file in FILES for _, text in strings(file)}
    patterns = [re.compile(re.escape(text).replace(r"\{\}", r"\w+")) for text in written if text.strip("{}_")]
    assert [name for name in sql.names() if not any(pattern.fullmatch(name) for pattern in patterns)] == []


def test_every_statement_that_is_named_in_python_exists() -> None:
    called = {name for file in FILES for name in re.findall(r'\bstatement\("(\w+)"', file.read_text(encoding="utf-8"))}
    assert called
    assert called <= set(sql.names())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_python_holds_no_statement(file: Path) -> None:
    assert [(line, text) for line, text in strings(file) if STATEMENT.match(text)] == []


def test_every_statement_says_its_name_to_the_server() -> None:
    for name in sql.names():
        found = sql._catalogue()[name]
        assert found.startswith(f"/* pg_qwen_embed:{name} */ ")
        assert "--" not in found
        assert not found.endswith(";") or name.startswith("body_")


def test_a_statement_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        sql.statement("no_such_statement")
