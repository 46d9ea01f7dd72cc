"""The functions qwen_embed.NAME, NAME_like and NAME_duplicates: what they return, with which rights, and how they are kept."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from harness import LAYOUTS, Harness, as_role, both_versions, eventually, quoted, versions_and_layouts

ROWS = 60


def fill(harness: Harness, *options: str, rows: int = ROWS) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, views int NOT NULL DEFAULT 0)")
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n, n %% 3 FROM generate_series(1, %s) n", rows)
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()


def vector(harness: Harness, text: str) -> str:
    return str(harness.server.vector(text).tolist())


def exact(harness: Harness, text: str, where: str = "true") -> list[tuple[int, float]]:
    """Each row with the distance of its nearest vector, found by comparing all."""
    return harness.rows(
        "SELECT id, min(embedding <=> %s::halfvec) AS distance FROM qwen_embed.articles"
        f" WHERE {where} GROUP BY id ORDER BY distance, id",
        vector(harness, text),
    )


def found(harness: Harness, call: str, *values: Any) -> list[tuple[int, float]]:
    return harness.rows(f"SELECT id, distance FROM {call}", *values)


def answers(harness: Harness) -> bool:
    """Whether a worker is there that embeds queries. From then on this text's vector is in the cache."""
    try:
        return bool(harness.value("SELECT qwen_embed.embed_query('articles', 'how?') IS NOT NULL"))
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False


def assert_same(rows: Sequence[tuple[int, float]], others: Sequence[tuple[int, float]]) -> None:
    assert [key for key, _ in rows] == [key for key, _ in others]
    assert [distance for _, distance in rows] == pytest.approx([distance for _, distance in others], abs=1e-6)


@versions_and_layouts
def test_search_function_returns_the_k_nearest_rows_nearest_first(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout])
    wanted = exact(harness, "text 7")
    query = vector(harness, "text 7")
    for setting in ("on", "off"):  # without and with the index
        harness.execute(f"SET enable_seqscan = {setting}")
        assert_same(found(harness, "qwen_embed.articles(%s::halfvec)", query), wanted[:10])
        assert_same(found(harness, "qwen_embed.articles(query => %s::halfvec, k => 3)", query), wanted[:3])
        assert_same(found(harness, "qwen_embed.articles(%s::halfvec, 1000)", query), wanted)
        assert_same(found(harness, "qwen_embed.articles(%s::halfvec, 2147483647)", query), wanted)
    assert wanted[0] == (7, pytest.approx(0, abs=1e-3))


@versions_and_layouts
def test_columns_are_the_key_the_distance_and_of_a_chunked_embedding_the_chunk(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout], rows=2)
    description = harness.connection.execute("SELECT * FROM qwen_embed.articles_like(1)").description or ()
    chunk = ["chunk", "span", "chunk_text"] if layout == "chunked" else []
    assert [column.name for column in description] == ["id", "distance", *chunk]
    assert [column.type_code for column in description[:2]] == [20, 701]
    description = harness.connection.execute("SELECT * FROM qwen_embed.articles_duplicates(2)").description or ()
    chunks = ["a_chunk", "b_chunk"] if layout == "chunked" else []
    assert [column.name for column in description] == ["a_id", "b_id", "distance", *chunks]
    if layout == "chunked":
        (row,) = harness.rows("SELECT chunk, span::text, chunk_text FROM qwen_embed.articles_like(1)")
        assert row == (1, "[0,6)", "text 2")


@versions_and_layouts
def test_among_returns_given_keys_only_by_their_exact_distance(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout])
    query = vector(harness, "text 7")
    for setting in ("on", "off"):
        harness.execute(f"SET enable_seqscan = {setting}")
        given = [7, 9, 9, None, 30, 31, 100000]
        wanted = exact(harness, "text 7", "id IN (7, 9, 30, 31)")
        assert_same(found(harness, "qwen_embed.articles(%s::halfvec, 10, %s)", query, given), wanted)
        assert_same(found(harness, "qwen_embed.articles(%s::halfvec, 2, among => %s)", query, given), wanted[:2])
        assert found(harness, "qwen_embed.articles(%s::halfvec, 10, '{}')", query) == []
        assert len(found(harness, "qwen_embed.articles(%s::halfvec, 100, NULL)", query)) == ROWS
        chosen = "ARRAY(SELECT id FROM articles WHERE views = 1)"
        wanted = exact(harness, "text 7", "id IN (SELECT id FROM articles WHERE views = 1)")
        assert_same(found(harness, f"qwen_embed.articles(%s::halfvec, 100, {chosen})", query), wanted)


@versions_and_layouts
def test_more_like_this_leaves_the_row_itself_out(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout])
    harness.execute("UPDATE articles SET body = 'text 7' WHERE id IN (20, 21, 22)")
    harness.once()
    wanted = [row for row in exact(harness, "text 7") if row[0] != 7]
    assert {key for key, _ in found(harness, "qwen_embed.articles_like(7, 3)")} == {20, 21, 22}
    assert_same(found(harness, "qwen_embed.articles_like(key => 7, k => 15)")[3:], wanted[3:15])
    assert len(found(harness, "qwen_embed.articles_like(7, 2147483647)")) == ROWS - 1
    assert found(harness, "qwen_embed.articles_like(100000)") == []
    assert found(harness, "qwen_embed.articles_like(NULL)") == []


@versions_and_layouts
def test_duplicates_are_pairs_each_of_them_once(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout])
    harness.execute("UPDATE articles SET body = 'the same' WHERE id IN (3, 20, 41)")
    harness.execute("UPDATE articles SET body = 'the other' WHERE id IN (4, 50)")
    harness.once()
    for call in ("(0.001)", "(0.001, 2)", "(0.001, exact => true)", "(threshold => 0.001, k => 5)"):
        pairs = harness.rows(f"SELECT a_id, b_id, distance FROM qwen_embed.articles_duplicates{call}")
        assert {row[:2] for row in pairs} == {(3, 20), (3, 41), (20, 41), (4, 50)}, call
        assert len(pairs) == 4
        assert all(row[2] <= 0.001 for row in pairs)
    every = harness.rows("SELECT distance FROM qwen_embed.articles_duplicates(3, exact => true)")
    assert len(every) == ROWS * (ROWS - 1) // 2
    assert every == sorted(every)
    assert len(harness.rows("SELECT FROM qwen_embed.articles_duplicates(3, 1000)")) == len(every)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["hnsw", "hnsw-binary", "hnsw-prefix:4", "none"])
@pytest.mark.long
def test_duplicates_are_the_nearest_of_each_row_by_whole_vectors(harness: Harness, kind: str, layout: str) -> None:
    fill(harness, *LAYOUTS[layout], "--index", kind, rows=30)
    vectors = np.array([harness.server.vector(f"text {n}") for n in range(1, 31)])
    near = vectors @ vectors.T - 9 * np.eye(30)
    for k in (1, 3):
        wanted = {tuple(sorted((i + 1, int(j) + 1))) for i in range(30) for j in np.argsort(-near[i])[:k]}
        pairs = harness.rows("SELECT a_id, b_id FROM qwen_embed.articles_duplicates(3, %s)", k)
        assert set(pairs) == wanted
        assert len(pairs) == len(wanted)


@versions_and_layouts
def test_functions_say_in_a_sentence_what_is_wrong(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout], rows=3)
    query = f"'{vector(harness, 'x')}'::halfvec"
    for call, words in {
        f"articles({query}, 0)": "articles: k is 0; it must be 1 or more",
        f"articles({query}, -1)": "articles: k is -1; it must be 1 or more",
        f"articles({query}, NULL)": "articles: k is <NULL>; it must be 1 or more",
        "articles('text', 0)": "articles: k is 0; it must be 1 or more",
        "articles_like(1, 0)": "articles: k is 0; it must be 1 or more",
        "articles_duplicates(0.1, 0)": "articles: k is 0; it must be 1 or more",
        "articles_duplicates(NULL)": "articles: the threshold is NULL; it must be a distance",
        f"articles('{[0] * 16}'::halfvec)": "articles: the query is a zero vector: it has no direction",
        "articles('[1,2,3]'::halfvec)": "the query has 3 dimensions and the vectors of this embedding have 16",
    }.items():
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
            harness.rows(f"SELECT * FROM qwen_embed.{call}")
        assert words in (error.value.diag.message_primary or ""), call
    assert harness.rows("SELECT * FROM qwen_embed.articles(NULL::halfvec)") == []
    assert harness.rows("SELECT * FROM qwen_embed.articles(NULL::text)") == []


@versions_and_layouts
def test_text_is_embedded_by_a_worker_and_searched_for(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout])
    harness.worker()
    eventually(lambda: answers(harness))
    query = harness.value("SELECT qwen_embed.embed_query('articles', 'how?')::text")
    wanted = found(harness, "qwen_embed.articles(%s::halfvec, 10)", query)
    assert_same(found(harness, "qwen_embed.articles('how?')"), wanted)
    assert_same(found(harness, "qwen_embed.articles(%s, 4)", "how?"), wanted[:4])
    few = found(harness, "qwen_embed.articles(%s::halfvec, 10, '{9, 7, 8}')", query)
    assert_same(found(harness, "qwen_embed.articles('how?', among => '{9, 7, 8}')"), few)
    joined = "articles a JOIN qwen_embed.articles('how?', 5) h USING (id) WHERE a.views < 9 ORDER BY h.distance"
    assert_same(found(harness, joined), wanted[:5])


# Keys and names

LONG = "n" * 60
KEYS = {  # the columns of the key, and two keys as SQL writes them
    "uuid": ("id uuid PRIMARY KEY", ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    "text": ('"Odd ""Name%" text COLLATE "C" PRIMARY KEY', ["'a,b'", "'a''b\\'"]),
    "length": ("code character varying(5) PRIMARY KEY", ["'abcde'", "'b'"]),
    "character": ("code character(3) PRIMARY KEY", ["'abc'", "'b'"]),
    "instant": ("moment timestamp(3) with time zone PRIMARY KEY", ["'2024-05-01 12:00Z'", "'infinity'"]),
    "array": ("path int[] PRIMARY KEY", ["'{1,2}'", "'{1,NULL}'"]),
    "domain": ("code short PRIMARY KEY", ["'x'", "'y'"]),
    "domain over an array": ("path steps PRIMARY KEY", ["'{1,2}'", "'{3}'"]),
    "enum": ("mood mood PRIMARY KEY", ["'calm'", "'glad'"]),
    "row": ("place place PRIMARY KEY", ["'(1,x)'", "'(1,y)'"]),
    "names of the functions": ("distance int, query text, PRIMARY KEY (distance, query)", ["1, 'x'", "1, 'y'"]),
    "names of the bodies": ("e int, k1 int, done int, own int, PRIMARY KEY (e, k1, done, own)", ["1, 2, 3, 4", "1, 2, 3, 5"]),
    "composite": ("among text, k uuid, key date, PRIMARY KEY (key, among, k)",
                  ["'2024-05-01', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
                   "'2024-05-01', 'y', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    "long names": (f"{LONG}_a int, {LONG}_b int, PRIMARY KEY ({LONG}_a, {LONG}_b)", ["1, 2", "2, 1"]),
}  # fmt: skip
TYPES = """CREATE DOMAIN short AS varchar(9); CREATE DOMAIN steps AS int[]; CREATE TYPE mood AS ENUM ('calm', 'glad');
CREATE TYPE place AS (a int, b text)"""
KEY_COLUMNS = """SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(n, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
WHERE i.indrelid = 'articles'::regclass ORDER BY k.position"""


@pytest.mark.parametrize("layout", ["table", "chunked"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.long
def test_functions_take_keys_of_every_type_and_name(harness: Harness, key: str, layout: str) -> None:
    columns, (one, two) = KEYS[key]
    name = 'o"d %s\\d'

    def rows(text: str) -> list[tuple[Any, ...]]:
        return harness.connection.execute(text.encode()).fetchall()

    rows_of = "SELECT ROW({})::text FROM {} h"
    harness.execute(TYPES)
    harness.connection.execute(f"CREATE TABLE articles (body text, {columns})".encode())
    described = harness.rows(KEY_COLUMNS)
    listed = ", ".join(quoted(column) for column, _ in described)
    harness.connection.execute(f"INSERT INTO articles (body, {listed}) VALUES ('one', {one}), ('two', {two})".encode())
    harness.ok("attach", "articles", "--text", "body", "--name", name, *LAYOUTS[layout])
    harness.once()
    view, like, pairs = (f"qwen_embed.{quoted(name + suffix)}" for suffix in ("", "_like", "_duplicates"))
    query = f"'{vector(harness, 'one')}'::halfvec"
    shown = ", ".join(f"h.{quoted(column)}" for column, _ in described)
    values = one.split(", ") if len(described) > 1 else [one]

    both = rows(rows_of.format(shown, f"{view}({query}, 10)"))
    nearest = rows(rows_of.format(shown, f"{view}({query}, 1)"))
    assert len(both) == 2
    assert nearest == rows(f"SELECT ROW({shown})::text FROM articles h WHERE body = 'one'")
    arrays = [
        f"ARRAY[{value}]::{'text' if key in ('array', 'domain over an array') else kind}[]"
        for value, (_, kind) in zip(values, described, strict=True)
    ]
    assert rows(rows_of.format(shown, f"{view}({query}, 10, {', '.join(arrays)})")) == nearest
    typed = ", ".join(f"{value}::{kind}" for value, (_, kind) in zip(values, described, strict=True))
    assert [*nearest, *rows(rows_of.format(shown, f"{like}({typed})"))] == both
    for exactly in ("false", "true"):
        assert rows(f"SELECT count(*) FROM {pairs}(3, exact => {exactly})") == [(1,)]
    harness.ok("detach", name, "--yes")
    assert rows("SELECT FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace AND proname LIKE 'o%'") == []


def test_arrays_of_a_composite_key_belong_together(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (lang text, id int, body text, PRIMARY KEY (lang, id))")
    harness.execute(
        "INSERT INTO articles SELECT lang, n, lang || n FROM unnest('{de,en}'::text[]) lang, generate_series(1, 9) n"
    )
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    query = vector(harness, "de3")
    call = "SELECT lang, id FROM qwen_embed.articles(%s::halfvec, 10, among_lang => %s, among_id => %s)"
    assert set(harness.rows(call, query, ["de", "en", "en", None], [3, 4, 4, 5])) == {("de", 3), ("en", 4)}
    assert harness.rows(call, query, [], []) == []
    assert len(harness.rows(call, query, None, None)) == 10
    for languages, numbers in ((["de"], [1, 2]), (["de"], None), (None, [1]), ([], [1])):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="must all be given and be of one length"):
            harness.rows(call, query, languages, numbers)
    assert ("de", 3) not in harness.rows("SELECT lang, id FROM qwen_embed.articles_like('de', 3, 20)")


@pytest.mark.parametrize("distance", ["ip", "l2"])
def test_distance_is_that_of_the_embedding(harness: Harness, distance: str) -> None:
    fill(harness, "--distance", distance)
    operator = {"ip": "<#>", "l2": "<->"}[distance]
    query = vector(harness, "text 7")
    wanted = harness.rows(
        f"SELECT id, embedding {operator} %s::halfvec AS distance FROM qwen_embed.articles ORDER BY distance", query
    )
    for setting in ("on", "off"):
        harness.execute(f"SET enable_seqscan = {setting}")
        assert_same(found(harness, "qwen_embed.articles(%s::halfvec, 5)", query), wanted[:5])


# Plans and settings


@pytest.fixture
def many(harness: Harness) -> Harness:
    """3,000 rows with vectors and an index."""
    fill(harness, rows=3)
    harness.bypass("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(4, 3000) n")
    index = harness.value("SELECT indexdef FROM pg_indexes WHERE indexname ~ '_hnsw$'")
    harness.execute("DROP INDEX _qwen_embed.store_1_hnsw")
    harness.execute(
        f"INSERT INTO {harness.internal('store')} (k1, version, fingerprint, embedding)"
        " SELECT n, 1, 'x', ARRAY(SELECT random() - 0.5 + 0 * n FROM generate_series(1, 16))::real[]::halfvec"
        " FROM generate_series(4, 3000) n"
    )
    harness.execute(index)
    harness.execute(f"ANALYZE articles, {harness.internal('store')}")
    return harness


def read_by_index(harness: Harness) -> int:
    """How many vectors the index has returned so far."""
    harness.execute("SELECT pg_stat_force_next_flush()")
    count: int = harness.value("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE indexrelname ~ '_hnsw$'")
    return count


@both_versions
def test_functions_use_the_index_unless_keys_are_given(many: Harness) -> None:
    query = vector(many, "text 2")
    for repeated in range(8):  # a plan is kept from the sixth on
        before = read_by_index(many)
        assert len(found(many, "qwen_embed.articles(%s::halfvec, 10)", query)) == 10
        assert 10 <= read_by_index(many) - before < 200, repeated
    before = read_by_index(many)
    assert len(found(many, "qwen_embed.articles_like(2, 10)")) == 10
    assert 10 <= read_by_index(many) - before < 200
    before = read_by_index(many)
    assert len(found(many, "qwen_embed.articles(%s::halfvec, 10, ARRAY(SELECT generate_series(1, 2900)))", query)) == 10
    assert read_by_index(many) == before
    many.rows("SELECT * FROM qwen_embed.articles_duplicates(0.01, 2)")
    assert 6000 <= read_by_index(many) - before < 600_000


@both_versions
def test_search_function_returns_k_rows_where_the_index_ends_early(many: Harness) -> None:
    query = vector(many, "text 2")
    many.execute("SET hnsw.max_scan_tuples = 20; SET hnsw.scan_mem_multiplier = 1; SET work_mem = '64kB'")
    for k in (50, 1000, 2999, 3000, 5000):
        rows = found(many, "qwen_embed.articles(%s::halfvec, %s)", query, k)
        assert len({key for key, _ in rows}) == min(k, 3000)
        assert rows == sorted(rows, key=lambda row: row[1])


@versions_and_layouts
def test_settings_of_the_session_are_as_before(harness: Harness, layout: str) -> None:
    fill(harness, *LAYOUTS[layout], rows=3)
    names = (
        "hnsw.iterative_scan",
        "hnsw.ef_search",
        "hnsw.max_scan_tuples",
        "plan_cache_mode",
        "cursor_tuple_fraction",
    )
    shown = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    query = vector(harness, "x")
    calls = (
        f"articles('{query}'::halfvec)",
        "articles_like(1)",
        "articles_duplicates(1)",
        f"articles('{query}'::halfvec, 1, '{{1}}')",
    )

    def call_all() -> None:
        for call in calls:
            harness.rows(f"SELECT * FROM qwen_embed.{call}")
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            harness.rows("SELECT * FROM qwen_embed.articles_like(1, 0)")

    call_all()
    assert harness.rows(shown) == [("off", "40", "20000", "auto", "0.1")]
    harness.execute("SET hnsw.iterative_scan = relaxed_order; SET hnsw.ef_search = 77; SET hnsw.max_scan_tuples = 9")
    call_all()
    with harness.connection.transaction():
        harness.execute("SET LOCAL hnsw.ef_search = 88")
        for call in calls:
            harness.rows(f"SELECT * FROM qwen_embed.{call}")
        assert harness.rows(shown) == [("relaxed_order", "88", "9", "auto", "0.1")]
    assert harness.rows(shown) == [("relaxed_order", "77", "9", "auto", "0.1")]


@both_versions
def test_functions_work_in_a_session_that_has_not_used_pgvector(harness: Harness) -> None:
    fill(harness, rows=5)
    for call in ("articles((SELECT embedding FROM qwen_embed.articles WHERE id = 1), 3)", "articles_like(1, 3)"):
        with psycopg.connect(harness.url) as fresh:
            rows = fresh.execute(f"SELECT * FROM qwen_embed.{call}".encode()).fetchall()
            assert len(rows) == 3
            (after,) = fresh.execute("SELECT current_setting('hnsw.iterative_scan')").fetchone() or ("",)
            assert after == "off"


# Rights, schemas and names that are taken


@versions_and_layouts
def test_functions_have_the_rights_of_who_calls_them_and_trust_no_search_path(harness: Harness, layout: str) -> None:
    harness.execute("CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
    harness.execute("SET search_path = public, extensions")
    fill(harness, *LAYOUTS[layout], rows=30)
    query = vector(harness, "text 7")
    harness.worker()
    eventually(lambda: answers(harness))
    role = f"reader_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {role} LOGIN")
    try:
        harness.execute(
            f"GRANT USAGE ON SCHEMA qwen_embed, extensions TO {role}; GRANT SELECT ON qwen_embed.articles TO {role}"
        )
        harness.execute("ALTER EXTENSION vector SET SCHEMA public; ALTER EXTENSION vector SET SCHEMA extensions")
        plant(harness)
        calls = {
            f"articles('{query}'::extensions.halfvec, 5)": 5,
            "articles('how?', 5)": 5,
            f"articles('{query}'::extensions.halfvec, 5, '{{1,2,20}}')": 3,
            "articles_like(7, 5)": 5,
            "articles_duplicates(3, 2)": None,
            "articles_duplicates(3, exact => true)": 30 * 29 // 2,
        }
        with psycopg.connect(harness.url, autocommit=True, user=role) as reader:
            for path in ("''", "public, pg_catalog", "pg_temp, public, extensions, pg_catalog"):
                reader.execute(f"SET search_path = {path}".encode())
                for call, rows in calls.items():
                    statement = f"SELECT * FROM qwen_embed.{call}".encode()
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        reader.execute(statement)
                    harness.execute(f"GRANT SELECT ON articles TO {role}")
                    assert rows in (None, len(reader.execute(statement).fetchall())), call
                    harness.execute(f"REVOKE SELECT ON articles FROM {role}")
            harness.execute(f"GRANT SELECT ON articles TO {role}; ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
            harness.execute("CREATE POLICY few ON articles USING (id <= 4)")
            for call, rows in zip(calls, (4, 4, 2, 0, None, 6), strict=True):
                seen = reader.execute(f"SELECT * FROM qwen_embed.{call}".encode()).fetchall()
                assert rows in (None, len(seen)), call
                assert all(row[0] <= 4 for row in seen)
            assert len(reader.execute("SELECT FROM qwen_embed.articles_like(2, 9)").fetchall()) == 3
    finally:
        harness.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def plant(harness: Harness) -> None:
    """Functions and operators that a search_path could find in place of PostgreSQL's."""
    for name in ("cardinality(real[])", "num_nonnulls(bigint[])", "array_append(text[], text)", "count(bigint)"):
        harness.execute(f"CREATE FUNCTION {name} RETURNS int LANGUAGE sql AS 'SELECT 1 / 0'")
    harness.execute(
        "CREATE FUNCTION set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT (1 / 0)::text'"
    )
    for kind, operators in {"int": "=<>-+", "bigint": "=<>", "double precision": "<"}.items():
        harness.execute(f"CREATE FUNCTION wrong({kind}, {kind}) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1'")
        for operator in [*operators, "<=", ">="]:
            harness.execute(f"CREATE OPERATOR {operator} (leftarg = {kind}, rightarg = {kind}, function = wrong)")
    harness.execute("CREATE DOMAIN text AS varchar(1)")


@pytest.mark.parametrize(
    ("taken", "name", "words"),
    [
        ("articles", "articles_like", 'the name "articles_like" is that of a function of the embedding articles'),
        (
            "articles_like",
            "articles",
            "articles would have a function articles_like, and there is an embedding articles_like",
        ),
        ("articles_duplicates", "articles", "there is an embedding articles_duplicates"),
        (None, "n" * 53, "add --name with at most 52"),
        (None, "é" * 27, "add --name with at most 52"),
    ],
)
def test_attach_rejects_a_name_of_which_a_function_is_there(
    harness: Harness, taken: str | None, name: str, words: str
) -> None:
    harness.articles("one")
    if taken:
        harness.ok("attach", "articles", "--text", "body", "--name", taken)
    before = harness.catalog()
    assert words in harness.refused("attach", "articles", "--text", "body", "--name", name)
    assert harness.catalog() == before


@pytest.mark.parametrize("function", ["articles(text)", "articles_like(bigint, integer)", "articles_duplicates(real)"])
def test_attach_leaves_functions_of_others_alone(harness: Harness, function: str) -> None:
    harness.articles("one")
    harness.execute(f"CREATE FUNCTION qwen_embed.{function} RETURNS int LANGUAGE sql AS 'SELECT 7'")
    before = harness.catalog()
    said = harness.refused("attach", "articles", "--text", "body")
    assert f"there is a function qwen_embed.{function.replace(', ', ',')} already; add --name" in said
    assert harness.catalog() == before
    harness.ok("attach", "articles", "--text", "body", "--name", "others")
    harness.ok("detach", "others", "--yes")
    assert harness.catalog() == before


# How they are kept


HARM = {
    "dropped": "DROP FUNCTION qwen_embed.articles_like(bigint, integer)",
    "search dropped": "DROP FUNCTION qwen_embed.articles(halfvec, integer, bigint[])",
    "altered": "CREATE OR REPLACE FUNCTION qwen_embed.articles_duplicates(threshold double precision, k integer DEFAULT 10,"
    " exact boolean DEFAULT false) RETURNS TABLE (a_id bigint, b_id bigint, distance double precision) LANGUAGE sql STABLE"
    " AS 'SELECT 1::bigint, 2::bigint, 0::float8'",
    "with others' rights": "ALTER FUNCTION qwen_embed.articles(text, integer, bigint[]) SECURITY DEFINER",
    "volatile": "ALTER FUNCTION qwen_embed.articles(text, integer, bigint[]) VOLATILE",
    "other columns": "DROP FUNCTION qwen_embed.articles_like(bigint, integer); CREATE FUNCTION"
    " qwen_embed.articles_like(bigint, integer) RETURNS TABLE (x int) LANGUAGE sql STABLE AS 'SELECT 1'",
    "without comment": "COMMENT ON FUNCTION qwen_embed.articles_like(bigint, integer) IS NULL",
    "of an earlier release": "CREATE FUNCTION qwen_embed.articles(halfvec, rows integer DEFAULT 10) RETURNS int LANGUAGE sql"
    " AS 'SELECT 1'; COMMENT ON FUNCTION qwen_embed.articles(halfvec, integer) IS 'pg_qwen_embed articles (generation 1): x'",
    "all": "DROP FUNCTION qwen_embed.articles(halfvec, integer, bigint[]), qwen_embed.articles(text, integer, bigint[]),"
    " qwen_embed.articles_like, qwen_embed.articles_duplicates, qwen_embed.distance_1; DROP VIEW qwen_embed.articles",
}


@pytest.mark.parametrize("harm", HARM)
def test_function_that_is_not_as_created_is_reported_and_created_again(harness: Harness, harm: str) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    before = harness.catalog()
    assert "not as created" not in harness.cli("doctor").stdout
    harness.execute(HARM[harm])
    assert "qwen_embed.articles" in harness.ok("status")
    assert "missing or not as created" in harness.cli("doctor").stdout
    assert "restored: " in harness.ok("verify", "articles", "--repair")
    assert harness.catalog() == before
    assert "restored: " not in harness.ok("verify", "articles", "--repair")
    assert len(harness.rows("SELECT FROM qwen_embed.articles_like(1)")) == 1


@pytest.mark.long
def test_grants_on_functions_are_kept_by_a_repair_and_while_the_table_is_altered(harness: Harness) -> None:
    role = f"app_{harness.value('SELECT current_database()')}"
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute(f"CREATE ROLE {role}")
    acl = "SELECT p.oid::regprocedure::text, proacl::text FROM pg_proc p WHERE proname LIKE 'articles%' ORDER BY 1"
    try:
        harness.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qwen_embed FROM PUBLIC")
        harness.execute(f"GRANT EXECUTE ON FUNCTION qwen_embed.articles_like TO {role} WITH GRANT OPTION")
        harness.execute(f"GRANT EXECUTE ON FUNCTION qwen_embed.articles(text, integer, bigint[]) TO {role}, PUBLIC")
        before = harness.rows(acl.replace("%", "%%"))
        harness.execute("ALTER FUNCTION qwen_embed.articles_like VOLATILE")
        harness.ok("verify", "articles", "--repair")
        assert harness.rows(acl.replace("%", "%%")) == before
        harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER body TYPE varchar(90), ALTER id TYPE int")
        after = harness.rows(acl.replace("%", "%%"))
        assert [row[0].replace("bigint", "integer") for row in before] == sorted(row[0] for row in after)
        rights = {
            name.replace("bigint", "integer"): sorted((rights or "").strip("{}").split(",")) for name, rights in before
        }
        assert {name: sorted((rights or "").strip("{}").split(",")) for name, rights in after} == rights
        assert harness.value("SELECT id FROM qwen_embed.articles_like(1::int)") == 2
    finally:
        harness.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@both_versions
@pytest.mark.long
def test_functions_follow_another_key_and_another_table(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("ALTER TABLE articles ADD slug text NOT NULL DEFAULT ''")
    harness.execute("UPDATE articles SET slug = body")
    harness.execute(
        "ALTER TABLE articles DROP CONSTRAINT articles_pkey CASCADE; ALTER TABLE articles ADD PRIMARY KEY (slug)"
    )
    harness.ok("alter", "articles", "--rekey")
    harness.once()
    assert harness.rows("SELECT slug FROM qwen_embed.articles_like('one')") == [("two",)]
    harness.execute(
        "CREATE TABLE texts (slug text PRIMARY KEY, body text, id int); INSERT INTO texts VALUES ('x', 'one'), ('y', 'z')"
    )
    harness.ok("alter", "articles", "--table", "texts")
    harness.once()
    assert harness.rows("SELECT slug FROM qwen_embed.articles_like('x')") == [("y",)]
    signatures = (
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace AND proname ~ '^articles'"
    )
    assert harness.value(signatures) == 4
    harness.execute("DROP TABLE texts CASCADE")
    harness.ok("detach", "articles", "--yes")
    assert harness.value(signatures) == 0


@both_versions
@pytest.mark.long
def test_functions_survive_a_dump_that_is_restored_by_its_owner(harness: Harness, bare: Harness) -> None:
    """Not a superuser: he may not give a function settings of a library that the session has not loaded."""
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.ok("attach", "articles", "--text", "body", "--name", "long", "--chunk-tokens", "64", "--column", "v")
    harness.once()
    role = f"owner_{harness.value('SELECT current_database()')}"
    bare.execute(f"CREATE ROLE {role} LOGIN; CREATE EXTENSION vector; GRANT CREATE ON SCHEMA public TO {role}")
    bare.execute(f"GRANT CREATE ON DATABASE {bare.value('SELECT current_database()')} TO {role}")
    try:
        tools = Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
        dump = subprocess.run(
            [tools / "pg_dump", "--no-owner", harness.url], capture_output=True, check=True, text=True
        ).stdout
        lines = [
            line for line in dump.splitlines() if not line.startswith(("CREATE EXTENSION", "COMMENT ON EXTENSION"))
        ]
        psql = [tools / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", as_role(bare.url, role)]
        made = subprocess.run(psql, input="\n".join(lines), capture_output=True, check=False, text=True)
        assert made.returncode == 0, made.stderr
        assert len(bare.rows("SELECT FROM qwen_embed.articles_like(1)")) == 1
        assert len(bare.rows("SELECT chunk_text FROM qwen_embed.long_like(2)")) == 1
    finally:
        bare.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
