"""`doctor --vectors`: rows whose vector is odd, with their keys. It reads page by page, until its time is up."""

import time
from collections.abc import Iterator, Sequence

from psycopg import sql

from pg_qwen_embed.admin.doctor.findings import Finding, State
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.next_step import with_name
from pg_qwen_embed.domain.odd_vectors import Census, Key, Kind, Looked
from pg_qwen_embed.postgres import binary, catalog
from pg_qwen_embed.postgres.connection import Connection, connect
from pg_qwen_embed.postgres.drift import look_at_page
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

_ADVICE = {
    Kind.BLANK: "searches by vector do not find it; fill the columns of the template",
    Kind.SHORT: "its vector says little; add a column to the template that says more",
    Kind.LENGTH: "the worker writes unit vectors, so something else has written it; run: pg-qwen-embed verify {}",
    Kind.FLAT: "the server does not tell these texts apart; run: pg-qwen-embed doctor",
    Kind.SHARED: "the server does not tell these texts apart; run: pg-qwen-embed doctor",
    Kind.FREQUENT: "a search that finds one of them finds them all; leave such rows out with a filter",
}


def diagnose_vectors(url: str, name: str, seconds: float) -> list[Finding]:
    """Findings on the vectors of an embedding, from its first rows in key order. Raises UsageError, SetupError.

    seconds: how long to look."""
    with connect(url, "pg_qwen_embed doctor", tables_only=True) as connection:
        catalog.require_initialised(connection)
        embedding = catalog.embedding(connection, name)
        census, complete, began = Census(), False, time.monotonic()
        pages = _pages(connection, Names(embedding.target))
        while time.monotonic() - began < seconds:
            page = next(pages, None)
            if page is None:
                complete = True
                break
            census.add(page)
    return [*_findings(embedding, census), _summary(name, census, complete=complete)]


def _findings(embedding: Embedding, census: Census) -> Iterator[Finding]:
    columns = [column.name for column in embedding.source.key]
    for kind, rows, keys in census.odd():
        shown = ", ".join(_written(columns, key) for key in keys)
        more = f" and {rows - len(keys):,} more" if rows > len(keys) else ""
        text = f"{_count(rows, 'row')}: {kind}: {shown}{more}"
        state = State.WRONG if kind is Kind.LENGTH else State.WARNING
        yield Finding(embedding.name, state, text, with_name(_ADVICE[kind], embedding.name))


def _written(columns: Sequence[str], key: Key) -> str:
    pairs = [f"{column}={value}" for column, value in zip(columns, key, strict=True)]
    return pairs[0] if len(pairs) == 1 else f"({', '.join(pairs)})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _summary(name: str, census: Census, *, complete: bool) -> Finding:
    text = f"looked at {_count(census.vectors, 'vector')} of {_count(census.rows, 'row')}"
    if complete:
        return Finding(name, State.OK, text)
    return Finding(name, State.WARNING, f"{text}, and then the time was up", "look for longer with --seconds")


def _pages(connection: Connection, names: Names) -> Iterator[list[Looked]]:
    """Each row with each of its vectors. A page that cannot be read is halved, as in a repair."""
    after: Key = ()
    while True:
        page = _page(connection, names, after)
        if not page:
            return
        yield page
        after = page[-1].key


def _page(connection: Connection, names: Names, after: Key) -> list[Looked]:
    query = statement(
        "vectors_page", names, beyond=statement("beyond", names) if after else TRUE,
        vector_in_source=sql.Identifier("t", names.target.source_column) if names.layout.in_source else sql.SQL("NULL"),
        any_vector=sql.SQL("p.vector" if names.layout.in_source else "s.embedding"),
        own_fingerprint=sql.SQL("s.chunk_fingerprint" if names.layout.has_chunks else "s.fingerprint"),
    )  # fmt: skip
    found, _ = look_at_page(connection, names, query, after, binary=True)
    return [_looked(*row) for row in found]


def _looked(letters: int | None, document: bytes | None, vector: bytes | None, *key: str) -> Looked:
    return Looked(key, letters, document, None if vector is None else binary.from_halfvec(vector))
