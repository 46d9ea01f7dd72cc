"""The code in the words of docs/words.md: names, messages, docstrings and comments."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import glossary
import pytest

ROOT = Path(__file__).resolve().parents[2]


def files(*folders: str, ending: str = "py") -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob(f"*.{ending}"))]


PACKAGE = files("pg_qwen_embed")
SQL = files("pg_qwen_embed", ending="sql")
COMMENTED = files("pg_qwen_embed", "migrations", "tools", "benchmarks", "tests")
# Names that stay, with their reason.
NAMED = {
    "cursor": "psycopg's object that returns rows",
    "AsyncCursor": "likewise, its type",
    "member": "a parameter in demo/corpus.py: the word of Python's module inspect",
}
# What stays in a file: words, as the reports say them, with their reason.
STAYS = {
    ("pg_qwen_embed/admin/query_form.py", "cursor"): "Django's object that runs a statement",
    ("pg_qwen_embed/postgres/schema.py", "cursor"): "a column of the registry, in the databases of users",
    ("pg_qwen_embed/postgres/store.py", "cursor"): "likewise",
    ("pg_qwen_embed/postgres/sql/outbox.sql", "cursor"): "likewise",
}


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def identifiers(tree: ast.Module) -> Iterator[str]:
    """What the file names itself; not what it calls of others."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)) | ast.keyword(arg=str(name)):
                yield name


def identifiers_of_sql(text: str) -> Iterator[str]:
    """Names of tables, columns, parameters, placeholders and PL/pgSQL variables. Keywords are in capitals."""
    yield from re.findall(r"\b[a-z_][a-z0-9_]*", re.sub(r"--.*|'[^'\n]*'", "", text))


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Strings that stand alone, as a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def messages(tree: ast.Module) -> Iterator[str]:
    """Every other string, and the literal parts of f-strings."""
    prose = {id(node) for node in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def replaced(file: Path, texts: Iterator[str], words: Callable[[str], list[str]] = glossary.in_text) -> list[str]:
    """The words of a file that docs/words.md replaces, those left out that stay."""
    found = [word for text in texts for word in words(text)]
    return [word for word in found if (named(file), word.partition(":")[0].lower()) not in STAYS]


@pytest.mark.parametrize("file", PACKAGE, ids=named)
def test_names_use_the_words_of_the_glossary(file: Path) -> None:
    found = [name for name in (file.stem, *identifiers(parsed(file))) if name not in NAMED]
    assert replaced(file, iter(found), glossary.in_name) == []


@pytest.mark.parametrize("file", SQL, ids=named)
def test_statements_and_their_parts_use_the_words_of_the_glossary(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    found = re.findall(r"^-- name: (\w+)|(?:\bWITH|^\),) (\w+) AS\b", text, re.MULTILINE)
    assert found
    assert replaced(file, ("".join(pair) for pair in found), glossary.in_name) == []
    assert replaced(file, (line for line in text.splitlines() if line.lstrip().startswith("--"))) == []


@pytest.mark.parametrize("file", SQL, ids=named)
def test_names_in_statements_use_the_words_of_the_glossary(file: Path) -> None:
    found = [name for name in identifiers_of_sql(file.read_text(encoding="utf-8")) if name not in NAMED]
    assert replaced(file, iter(found), glossary.in_name) == []


@pytest.mark.parametrize("file", PACKAGE, ids=named)
def test_messages_use_the_words_of_the_glossary(file: Path) -> None:
    assert replaced(file, messages(parsed(file))) == []


@pytest.mark.parametrize("file", COMMENTED, ids=named)
def test_docstrings_and_comments_use_the_words_of_the_glossary(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert replaced(file, (node.value for node in docstrings(parsed(file)))) == []
    assert replaced(file, comments(source)) == []


def test_every_exception_is_still_needed() -> None:
    trees = {named(file): parsed(file) for file in PACKAGE}
    in_sql = {named(file): set(identifiers_of_sql(file.read_text(encoding="utf-8"))) for file in SQL}
    assert set(NAMED) <= {name for tree in trees.values() for name in identifiers(tree)}.union(*in_sql.values())
    in_code = {file: set(messages(tree)) for file, tree in trees.items()}
    assert [stays for stays in STAYS if stays[1] not in (in_code | in_sql)[stays[0]]] == []
    pages = [*(ROOT / "docs").rglob("*.md"), *COMMENTED]
    texts = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.name != "glossary.py")
    assert [phrase for phrase in glossary.PHRASES if not re.search(phrase, texts, re.IGNORECASE)] == []
