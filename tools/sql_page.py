"""docs/sql.md: every statement with its purpose, rendered for one example table. No database is needed.

postgres/ddl.py itself renders what creates and drops objects, postgres/grants.py the rights; the rest is rendered with the
placeholders of `Names`. A statement is shown once for each text that it has: examples with the same text share it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from textwrap import fill

from psycopg import sql

from pg_qwen_embed.admin.sql import DEFAULT_ROLES
from pg_qwen_embed.domain import template
from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION
from pg_qwen_embed.domain.source import Column, QualifiedName, Source
from pg_qwen_embed.domain.spec import Chunking, Spec, StoreKind
from pg_qwen_embed.postgres import ddl, interface, queries
from pg_qwen_embed.postgres.conditions import CHOSEN
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.grants import groups, subject_of
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.sql import Statement, files, statement

INTRODUCTION = """\
# SQL statements

Generated from `pg_qwen_embed/postgres/sql` by `make docs`. Each statement has its purpose, and its hazard where it has
one. It is rendered for one example:

- the table `public.articles(id bigint PRIMARY KEY, title text, body text)`
- `pg-qwen-embed attach articles --text title --text body` with a model of 1,024 dimensions, as generation 1

`%(name)s` is a bound value. A statement that differs by layout is shown for each: `table` is the default, `column` is
`attach --store column`, `chunked` is `attach --chunk-tokens 512`. pg_qwen_embed quotes every identifier; this page
leaves out the quotes that SQL does not need. At run time a statement carries its name, as in `/* pg_qwen_embed:ping */`;
pg_stat_activity and the server's log show it. Inside a statement a name marks a part that this page also shows alone.

`pg-qwen-embed sql attach` prints the DDL for your table, in the order in which `attach` runs it."""

COLUMNS = tuple(Column(name, type_) for name, type_ in (("id", "bigint"), ("title", "text"), ("body", "text")))
SOURCE = Source(QualifiedName("public", "articles"), COLUMNS[:1], COLUMNS)
SPEC = Spec("Qwen/Qwen3-Embedding-0.6B", 1024, template.from_columns(("title", "body")))
NAME = re.compile(r"/\* pg_qwen_embed:(\w+) \*/ ")
APPLICATIONS = {one.name for file in files() if file.name == "applications.sql" for one in file.statements}
RESERVED = {"column", "table", "user"}


def embedding(source: Source, spec: Spec) -> Embedding:
    return Embedding("articles", source, DEFAULT_INSTRUCTION, Generation(1, GenerationState.LIVE, spec))


LAYOUTS = {
    "`table`": embedding(SOURCE, SPEC),
    "`column`": embedding(SOURCE, replace(SPEC, store=StoreKind.COLUMN)),
    "`chunked`": embedding(SOURCE, replace(SPEC, chunking=Chunking(512))),
}
PARTITIONED, NOT_PARTITIONED = "Partitioned source", "Source that is not partitioned"
EXAMPLES = LAYOUTS | {PARTITIONED: embedding(replace(SOURCE, partitioned=True), SPEC)}


def page() -> str:
    parts = [
        INTRODUCTION,
        "\n".join(f"- [{file.name}](#{file.name.replace('.', '')}): {file.purpose}" for file in files()),
    ]
    texts = {label: Texts(example) for label, example in EXAMPLES.items()}
    for file in files():
        parts.append(f"## {file.name}\n\n{wrapped(file.purpose)}")
        parts += (section(one, texts) for one in file.statements)
    return "\n\n".join(parts) + "\n"


def section(one: Statement, texts: "dict[str, Texts]") -> str:
    """A statement's part of the page: its purpose, and each text that it has."""
    created = any(one.name in example.created for example in texts.values())
    owned = any(one.name in example.owned for example in texts.values())
    by_text: dict[str, list[str]] = {}
    for label, example in texts.items():
        if (text := example.text(one.name, created=created, owned=owned)) is not None:
            by_text.setdefault(text, []).append(label)
    blocks = [f"{caption(labels, len(by_text))}```sql\n{text}\n```" for text, labels in by_text.items()]
    return "\n\n".join([f"### {one.name}", wrapped(one.purpose), *blocks])


def caption(examples: list[str], texts: int) -> str:
    """The layouts that have this text; empty if every layout has it."""
    layouts = [name for name in examples if name in LAYOUTS]
    if len(layouts) == len(LAYOUTS):
        return "" if texts == 1 and PARTITIONED in examples else f"{NOT_PARTITIONED}:\n\n"
    return f"Layout {' and '.join(layouts)}:\n\n" if layouts else f"{PARTITIONED}:\n\n"


class Texts:
    """The statements about one embedding, as texts."""

    def __init__(self, example: Embedding) -> None:
        layout = names_of(example).layout
        self.names = names_of(example)
        superseded = interface.drop_superseded(example)
        self.created = first_of_each(
            (
                *queries.create("public"),
                *queries.create_live_generation(),
                *ddl.attach(example),
                *ddl.detach(example),
                superseded,
                *grants(example),
            )
        )
        self.owned = {value for name in dir(layout) if isinstance(value := getattr(layout, name), str)}

    def text(self, name: str, *, created: bool, owned: bool) -> str | None:
        """None where this embedding has no such statement. created: whether `ddl` or `grants` makes it for any embedding.
        owned: whether some layout names it."""
        if name in self.created:
            return self.created[name]
        if created or (owned and name not in self.owned):
            return None
        return readable(statement(name, self.names, **pieces(name, self.names)))


def grants(example: Embedding) -> Iterator[sql.Composed]:
    for group in groups(DEFAULT_ROLES, "shop", subject_of(example, "app")):
        yield from group.statements


def first_of_each(commands: Iterable[sql.Composed]) -> dict[str, str]:
    """Texts by the names that the statements carry."""
    texts: dict[str, str] = {}
    for command in commands:
        if found := NAME.match(command.as_string(None)):
            texts.setdefault(found[1], readable(command))
    return texts


OF_STORE = ("repair_orphans_page", "derive_table", "derive_chunked")  # they take pages of a store, not of the source

# The pieces of a search with a condition, by the names of the statements that they come from.
SEARCHING: dict[str, sql.Composable] = {
    "own_condition": sql.SQL("likes > 10"),
    "chosen_column": CHOSEN,
    "filtered_rows": sql.SQL("... rows_filtered"),
    "candidates": sql.SQL("... candidates_in_store"),
    "candidates_to_filter": sql.SQL("... candidates_in_store, with rows_to_filter"),
    "exact_search": sql.SQL("... exact_rows"),
    "best_hits": sql.SQL("... take_rows"),
    "found_hits": sql.SQL("... found_rows"),
    "words_among": sql.SQL("... words_among"),
}


def pieces(name: str, names: Names) -> dict[str, sql.Composable]:
    """The placeholders that a statement gets where it is used."""
    index, partition = names.index, sql.Identifier("public", "articles_2026")
    return {
        **SEARCHING,
        "append": statement("append_changed_rows", names),
        "probe": statement("probe_changed_rows", names),
        "append_renamed": statement("append_renamed_changed_rows", names),
        "signal": statement("signal_worker", names),
        "beyond": statement("store_beyond" if name in OF_STORE else "beyond", names),
        "longer": sql.Identifier("_qwen_embed", f"store_{names.target.id - 1}"),
        "again": sql.SQL("qwen_embed.articles($1, $2, $3)"),
        "chosen": names.one_key,
        "any_vector": sql.SQL("s.embedding"),
        "vector_in_source": sql.SQL("NULL"),
        "own_fingerprint": sql.SQL("s.fingerprint"),
        "body": sql.SQL("'BEGIN EXECUTE ''ALTER TABLE articles ALTER COLUMN body TYPE varchar''; END'"),
        "command": sql.SQL("'ALTER TABLE articles ALTER COLUMN body TYPE varchar'"),
        "same_row": sql.SQL("t.id = s.k1"),
        "channel": sql.Identifier("qwen_embed"),
        "table": partition if name == "has_rows" else names.indexed,
        "index": sql.Identifier(index.name),
        "index_in_schema": identifier(index),
        "columns": sql.SQL("t.id, t.title, t.body"),
        "distance_column": sql.SQL("distance"),
        "text": sql.SQL(":'query'"),
        "operator": sql.SQL("<=>"),
        "same": sql.SQL("e.id = t.id" if name == "example_of_rows" else "h.id = t.id"),
        "rows": sql.SQL("(SELECT * FROM articles t WHERE (likes > 10))"),
        "measure": sql.SQL("distance"),
        "candidates_given": sql.SQL("$3"),
        "rrf_k_given": sql.SQL("$4"),
        "weights_given": sql.SQL("$5, $6"),
        "check_fusion": sql.SQL("... check_fusion"),
        "among": sql.SQL(", ARRAY(SELECT t.id FROM articles t WHERE (likes > 10) ORDER BY t.id)"),
        "one": sql.SQL("t.id"),
        "generic": sql.SQL(", GENERIC_PLAN"),
        "query": sql.SQL("SELECT id FROM qwen_embed.articles ORDER BY embedding <=> $1 LIMIT 10"),
        "database": sql.Identifier("shop"),
        "index_state": statement("index_state"),
        "foreign_object": statement("foreign_object"),
        "look_for_worker": statement("look_for_worker"),
        "storage_parameters": sql.SQL(""),
        "ranked": sql.SQL(""),
        "function": names.document_function,
        "parameters": sql.SQL("title text, body text"),
        "condition": sql.SQL("likes > 10") if name.startswith("example") else statement("is_among", names),
        "found": sql.SQL("0"),
        "limit": sql.SQL("LIMIT $2) many"),
        "present": sql.SQL("ARRAY['articles(halfvec, integer, bigint[])']"),
        "comment": names.comment("nearest neighbours"),
        "title": sql.SQL("t.title::text"),
        "drawn_document": sql.SQL("{}(NULL::text, t.body)").format(names.document_function),
        "right": sql.SQL("INSERT"),
        "relation": names.store,
        "role": sql.Identifier("qwen_embed_worker"),
        "ef_search": sql.Literal("100"),
        "embedding": sql.Literal("articles"),
        "vector": sql.SQL("%(query)s::text::{}").format(names.halfvec),
    } | (of_an_application(name, names) if name in APPLICATIONS else {})


def of_an_application(name: str, names: Names) -> dict[str, sql.Composable]:
    """The placeholders of the statements in applications.sql."""
    return {
        "query": sql.SQL("%(query)s::{}").format(names.halfvec),
        "operator": names.distance,
        "chunk": sql.Identifier("chunk") if name == "nearest_chunk" else sql.Identifier("e", "chunk"),
        "nearest": sql.SQL("(SELECT ...)"),
        "found_key": sql.SQL("k1"),
        "arguments": sql.SQL("%(text)s::text, %(most)s::integer"),
        "shown": sql.SQL("to_json(t.id), to_json(t.body)"),
        "among": sql.SQL(""),
        "condition": sql.SQL("t.id > %(filter0)s::text::bigint"),
    }


def wrapped(prose: str) -> str:
    return fill(prose, 120, break_long_words=False, break_on_hyphens=False)


def readable(query: sql.Composable) -> str:
    """The text as a person would write it."""
    return re.sub(r'"([a-z_][a-z0-9_]*)"', lambda found: found[0] if found[1] in RESERVED else found[1], as_text(query))
