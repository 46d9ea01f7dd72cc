"""The words of documents: kept next to the vectors by the worker, of the same version, in every layout."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from harness import LAYOUTS, Harness, both_versions, eventually, quoted, versions_and_layouts

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement


def words_of(harness: Harness) -> dict[int, str]:
    store = harness.internal("store")
    return dict(harness.rows(f"SELECT k1, words::text FROM {store} WHERE words IS NOT NULL ORDER BY 1"))


@versions_and_layouts
def test_the_words_of_a_document_are_written_with_its_vector_and_follow_it(harness: Harness, layout: str) -> None:
    long = "Chapters about bread. " * 20
    harness.articles("Cold soups for summer", long, None, "gone soon", "  ")
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    found = words_of(harness)
    assert sorted(found) == [1, 2, 4]
    assert found[1] == "'cold':1 'soup':2 'summer':4"
    assert "'chapter':1" in found[2]
    harness.execute("UPDATE articles SET body = 'Warm soups' WHERE id = 1")
    harness.execute("UPDATE articles SET body = '' WHERE id = 2")
    harness.execute("UPDATE articles SET body = 'Now there' WHERE id = 3")
    harness.execute("DELETE FROM articles WHERE id = 4")
    harness.once()
    assert words_of(harness) == {1: "'soup':2 'warm':1", 3: ""}
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})


EMBED_QUERY = """CREATE OR REPLACE FUNCTION qwen_embed.embed_query(embedding text, query text) RETURNS public.halfvec
    LANGUAGE sql STABLE AS $$ SELECT e.vector::public.halfvec FROM public.embedded e WHERE e.query = $2 $$"""


def answer_queries(harness: Harness, *queries: str) -> None:
    """Let embed_query() answer these queries as a worker would: at once."""
    harness.execute("CREATE TABLE IF NOT EXISTS public.embedded (query text, vector text)")
    harness.execute("GRANT SELECT ON public.embedded TO PUBLIC")
    vectors = [(query, str(harness.server.vector(query).tolist())) for query in queries]
    harness.many("INSERT INTO public.embedded VALUES (%s, %s)", vectors)
    harness.execute(EMBED_QUERY)


SOUPS = (
    "Cold soups for summer",
    "A soup of beans",
    "Bread and butter",
    "How to reset a password",
    "Summer in the Alps",
)


@versions_and_layouts
def test_hybrid_finds_rows_by_their_words_and_by_their_vectors(harness: Harness, layout: str) -> None:
    harness.articles(*SOUPS, None)
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    answer_queries(harness, "soup for the summer", "Bread and butter", "the")
    hybrid = "SELECT id, score, vector_rank, text_rank, distance FROM qwen_embed.articles_hybrid"
    found = harness.rows(f"{hybrid}('soup for the summer')")
    assert {row[0] for row in found} == {1, 2, 3, 4, 5}, "every row has a vector"
    assert found[0][0] == 1, "it has both words"
    assert {row[0]: row[3] for row in found if row[3]} == {1: 1, 2: 2, 5: 3}
    assert sorted(row[2] for row in found) == [1, 2, 3, 4, 5]
    query = "(SELECT vector::public.halfvec FROM embedded WHERE query LIKE 'soup%')"
    exact = dict(harness.rows(f"SELECT id, embedding OPERATOR(public.<=>) {query} FROM qwen_embed.articles"))
    assert {row[0]: row[4] for row in found} == pytest.approx(exact)
    for key, score, by_vector, by_words, _ in found:
        expected = 1 / (5 + by_vector) + (1.5 / (5 + by_words) if by_words else 0)
        assert score == pytest.approx(expected), key
    assert [row[::3] for row in harness.rows(f"{hybrid}('Bread and butter', 1)")] == [(3, 1)]
    assert [row[3] for row in harness.rows(f"{hybrid}('the')")] == [None] * 5, "a query of stop words has no words"
    only_words = harness.rows(f"{hybrid}('soups', NULL::public.halfvec)")
    assert sorted((row[0], row[2], row[4]) for row in only_words) == [(1, None, None), (2, None, None)]
    assert [row[0] for row in harness.rows("SELECT * FROM qwen_embed.articles_words('bread butter -alps')")] == [3]
    weighted = harness.rows(f"{hybrid}('soup for the summer', 5, rrf_k => 60, vector_weight => 0, text_weight => 3)")
    assert {row[0]: row[1] for row in weighted} == pytest.approx({1: 3 / 61, 2: 3 / 62, 5: 3 / 63, 3: 0, 4: 0})


def words_index(harness: Harness) -> str:
    return f"store_{harness.embedding().live.id}_words"


def index_is_valid(harness: Harness) -> bool:
    query = "SELECT i.indisvalid FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relname = %s"
    return harness.rows(query, words_index(harness)) == [(True,)]


@both_versions
def test_the_worker_builds_the_index_of_the_words_and_builds_it_again(harness: Harness) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.once()
    assert index_is_valid(harness)
    harness.execute(f"DROP INDEX _qwen_embed.{words_index(harness)}")
    harness.once()
    assert index_is_valid(harness)
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    harness.ok("detach", "articles", "--yes")
    assert harness.rows("SELECT 1 FROM pg_class WHERE relname ~ '_words$|^words_'") == []


@versions_and_layouts
def test_client_and_command_search_by_words_and_by_both(harness: Harness, layout: str) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    with Client(harness.url, server_url=harness.server.url) as client:
        both = client.search("articles", "A soup of beans", 3, mode="hybrid")
        words = client.search("articles", "soup", mode="words")
        with pytest.raises(UsageError, match="mode words searches for the words of a text; a vector has none"):
            client.search("articles", [1.0] * 8, mode="words")
        with pytest.raises(UsageError, match="mode hybrid takes no ef_search"):
            client.search("articles", "soup", mode="hybrid", ef_search=100)
        with pytest.raises(UsageError, match="the query is blank"):
            client.search("articles", " ", mode="words")
    assert (both[0].row["id"], both[0].vector_rank, both[0].text_rank) == (2, 1, 1)
    assert both[0].score == pytest.approx(1 / 6 + 1.5 / 6)
    assert both[0].distance == pytest.approx(0, abs=1e-3)
    assert sorted(hit.row["id"] for hit in words) == [1, 2]
    assert [hit.text_rank for hit in words] == [1, 2]
    assert all(math.isnan(hit.distance) and hit.vector_rank is None and hit.score for hit in words)
    if layout == "chunked":
        assert (both[0].row["chunk"], both[0].row["chunk_text"]) == (1, "A soup of beans")
    (first, *_) = json.loads(harness.ok("search", "articles", "A soup of beans", "--hybrid", "--json"))
    assert (first["row"]["id"], first["vector_rank"], first["text_rank"]) == (2, 1, 1)
    (one,) = json.loads(harness.ok("search", "articles", "butter", "--mode", "words", "--json"))
    assert (one["distance"], one["text_rank"]) == (None, 1)
    assert "another; leave one of them out" in harness.refused("search", "articles", "x", "--hybrid", "--mode", "words")
    assert "has no row with these words" in harness.cli("search", "articles", "nothing", "--mode", "words").output


@both_versions
def test_an_embedding_without_words_says_how_to_get_them(harness: Harness) -> None:
    harness.articles("soup")
    harness.ok("attach", "articles", "--text", "body")
    said = harness.refused("search", "articles", "soup", "--hybrid")
    assert said == "articles keeps no words: detach it, and attach it again with --words english, for instance"
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass"
    assert ("words",) not in harness.rows(columns, harness.internal("store"))


@both_versions
def test_hybrid_embeds_its_query_by_the_worker(harness: Harness) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.worker()
    eventually(harness.settled)
    found = harness.rows("SELECT id, vector_rank, text_rank FROM qwen_embed.articles_hybrid('A soup of beans', 1)")
    assert found == [(2, 1, 1)]


def test_what_cannot_be_searched_for_is_said_before_a_worker_is_asked(harness: Harness) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    for arguments, words in {
        "'soup', 0": "k is 0", "'soup', k => NULL": "k is <NULL>", "'soup', candidates => 0": "candidates must be 1 or more",
        "'soup', text_weight => -1": "the weights 0 or more", "'soup', rrf_k => NULL": "rrf_k and", "' '": "the query is blank",
        "'soup', query_vector => NULL, k => 0": "k is 0",
    }.items():  # fmt: skip
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=words):
            harness.rows(f"SELECT * FROM qwen_embed.articles_hybrid({arguments})")
    assert harness.rows("SELECT * FROM qwen_embed.articles_hybrid(NULL::text)") == []
    assert harness.rows("SELECT * FROM qwen_embed.articles_hybrid('x', query_vector => NULL)") == []


# Rights


@pytest.fixture
def reader(harness: Harness) -> Iterator[str]:
    """A role with nothing but the rights to search with SQL."""
    name = f"reader_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA qwen_embed TO {name}")
    yield name
    harness.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def as_reader(harness: Harness, role: str) -> psycopg.Connection[Any]:
    url = harness.url.replace("user=postgres", f"user={role}")
    return harness.stack.enter_context(psycopg.connect(url, autocommit=True))


@both_versions
def test_a_reader_with_few_rights_finds_words_by_their_index(harness: Harness, reader: str) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.once()
    answer_queries(harness, "soup")
    connection = as_reader(harness, reader)
    search = "SELECT id FROM qwen_embed.articles_hybrid('soup', 2)"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(search)
    harness.execute(f"GRANT SELECT ON articles, qwen_embed.articles TO {reader}")
    assert {row[0] for row in connection.execute(search)} == {1, 2}
    connection.execute("SET default_transaction_read_only = on; SET enable_seqscan = off; SET search_path = pg_temp")
    ranked = f"qwen_embed.words_{harness.embedding().live.id}"
    for _ in range(7):  # generic plans too
        assert {row[0] for row in connection.execute(search)} == {1, 2}
    connection.execute("SET pg_qwen_embed.wanted = 'soup'")
    plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN SELECT * FROM {ranked}(10)"))
    assert f"Bitmap Index Scan on {words_index(harness)}" in plan
    assert "One-Time Filter" in plan


LEAK = """CREATE FUNCTION pg_temp.leak(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
$$ BEGIN INSERT INTO pg_temp.heard VALUES ($1::text); RETURN true; END $$"""


@versions_and_layouts
def test_row_level_security_holds_for_words(harness: Harness, reader: str, layout: str) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    answer_queries(harness, "soup")
    harness.execute(
        f"GRANT SELECT ON articles, qwen_embed.articles TO {reader}; GRANT USAGE ON SCHEMA _qwen_embed TO {reader}"
    )
    connection = as_reader(harness, reader)
    connection.execute("CREATE TEMPORARY TABLE heard (what text)")
    connection.execute(LEAK)
    view = f"_qwen_embed.words_{harness.embedding().live.id}"
    leaks = (
        f"SELECT count(*) FROM {view} w WHERE pg_temp.leak(w.k1)",
        f"SELECT count(*) FROM articles a LEFT JOIN {view} w ON pg_temp.leak(w.k1) AND pg_temp.leak(a.body)",
        f"SELECT count(*) FROM {view} w WHERE w.k1 > 0 AND pg_temp.leak(w.rank)",
    )
    connection.execute("SET pg_qwen_embed.wanted = 'bean'")
    assert connection.execute(leaks[0]).fetchone() == (1,), "the reader may read all rows"
    assert connection.execute("SELECT what FROM heard").fetchall() == [("2",)]
    connection.execute("TRUNCATE heard")
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON articles USING (id <> 2)")
    for leak in leaks:
        connection.execute(leak)
    assert connection.execute("SELECT DISTINCT what FROM heard WHERE what = '2' OR what ~ 'bean|[.]'").fetchall() == []
    found = connection.execute("SELECT id, text_rank FROM qwen_embed.articles_hybrid('soup', 9)").fetchall()
    assert {key: rank for key, rank in found if rank} == {1: 1}
    assert {key for key, _ in found} == {1, 3, 4, 5}
    assert connection.execute("SELECT id FROM qwen_embed.articles_words('soup')").fetchall() == [(1,)]
    connection.execute("TRUNCATE heard")
    harness.execute(f"REVOKE SELECT ON articles FROM {reader}; GRANT SELECT (id) ON articles TO {reader}")
    for leak in leaks[::2]:
        connection.execute(leak)
    assert connection.execute("SELECT DISTINCT what FROM heard").fetchall() == []


# Queries


@both_versions
@pytest.mark.parametrize("configuration", ["english", "cjk"])
def test_no_query_is_an_error_but_a_blank_one(harness: Harness, configuration: str) -> None:
    harness.articles(*SOUPS)
    harness.ok("attach", "articles", "--text", "body", "--words", configuration)
    harness.once()
    odd = (
        '"', '""', '"""', "-", "--", "- -", "or", "OR or", "a or", "-or", '-"', '-"soup', "'", "'':*", "soup:*", "soup & ", "!soup",
        "<->", "(", "))", "\\", "\\'", "soup | | beans", "soup <-> beans", "\t\x01\x02soup\x01", "soup " * 3000, "猫", "-猫",
        '"数据库" -猫', "数据库猫" * 900, "%s %% %", "{}", "$1", "a" * 9000, "\U0001f963", "\uff53\uff4f\uff55\uff50",
        "\U0001f963-soup",
    )  # fmt: skip
    for query in odd:
        harness.rows("SELECT id FROM qwen_embed.articles_words(%s)", query)
        harness.rows("SELECT id FROM qwen_embed.articles_hybrid(%s, NULL::public.halfvec)", query)
    for blank in ("", " ", "\n\t"):
        for call in ("articles_words(%s)", "articles_hybrid(%s)", "articles_hybrid(%s, NULL::public.halfvec)"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="the query is blank"):
                harness.rows(f"SELECT id FROM qwen_embed.{call}", blank)
    assert harness.rows("SELECT id FROM qwen_embed.articles_words(NULL)") == []
    for k in ("0", "-1", "NULL"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"articles: k is .+; it must be 1 or more"):
            harness.rows(f"SELECT id FROM qwen_embed.articles_words('soup', {k})")
    for wrong in ("candidates => 0", "rrf_k => -1", "text_weight => -1", "vector_weight => NULL"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="articles: candidates must be 1 or more"):
            harness.rows(f"SELECT id FROM qwen_embed.articles_hybrid('soup', NULL::public.halfvec, {wrong})")


@both_versions
def test_quotes_and_a_minus_are_taken_at_their_word_and_plain_words_are_alternatives(harness: Harness) -> None:
    harness.articles("hot soup", "soup, hot", "cold soup", "hot tea", "iced tea")
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.once()

    def found(query: str) -> list[int]:
        return [row[0] for row in harness.rows("SELECT id FROM qwen_embed.articles_words(%s)", query)]

    assert sorted(found("hot soup")) == [1, 2, 3, 4]
    assert set(found("hot soup")[:2]) == {1, 2}, "rows with both words come first"
    assert found('"hot soup"') == [1]
    assert sorted(found("soup -hot")) == [3]
    assert sorted(found('"hot soup" or iced')) == [1, 5]


@both_versions
def test_words_of_chinese_japanese_korean_and_thai_are_pairs_of_characters(harness: Harness) -> None:
    harness.articles(
        "关系数据库系统与 PostgreSQL",
        "图书馆的数据",
        "データベースの索引",
        "데이터베이스 색인",
        "ฐานข้อมูลเชิงสัมพันธ์",
        "小猫",
        "猫头鹰",
    )
    harness.ok("attach", "articles", "--text", "body", "--words", "cjk")
    harness.once()

    def found(query: str) -> list[int]:
        return [row[0] for row in harness.rows("SELECT id FROM qwen_embed.articles_words(%s)", query)]

    assert found("数据库")[0] == 1
    assert sorted(found("数据库")) == [1, 2]
    assert found('"数据库"') == [1]
    assert found("数据 -库系") == [2]
    assert found("データベース") == [3]
    assert found("ﾃﾞｰﾀﾍﾞｰｽ") == [3], "half-width characters are the same"
    assert found("데이터") == [4]
    assert found("ข้อมูล") == [5]
    assert sorted(found("猫")) == [6, 7], "a single character"
    assert found("postgresql") == [1], "words of Latin script stay whole"


# Documents


@both_versions
@pytest.mark.long
def test_no_document_fails_for_its_words(harness: Harness) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    many = " ".join(f"{letters[n % 26]}{n:x}-{letters[n % 7]}{n * 7:x}" for n in range(33_000))
    harness.articles("x" * 5000 + " fine", many, "soup " * 90_000, "\u0001 \ufffd \U0001f963 soup")
    harness.ok("attach", "articles", "--text", "body", "--words", "simple")
    harness.once()
    assert harness.count("failure") == 0
    found = dict(harness.rows(f"SELECT k1, length(words) FROM {harness.internal('store')}"))
    assert found[1] == 1
    assert found[2] > 20_000
    assert found[3] == 1
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})


@both_versions
@pytest.mark.long
def test_vectors_are_written_without_a_configuration_that_was_dropped(harness: Harness) -> None:
    create = 'CREATE TEXT SEARCH CONFIGURATION "Odd %s"."Own %" (COPY = simple)'
    harness.execute('CREATE SCHEMA "Odd %s"')
    harness.execute(create)
    harness.articles("cold soup")
    said = harness.refused("attach", "articles", "--text", "body", "--words", "englisch")
    assert said.startswith('there is no text search configuration "englisch"; there are: arabic')
    assert said.endswith("; or cjk, for Chinese, Japanese, Korean and Thai")
    assert '"Odd %s"."Own %"' in said
    harness.ok("attach", "articles", "--text", "body", "--words", "Own %")
    harness.once()
    assert words_of(harness) == {1: "'cold':1 'soup':2"}
    harness.execute('DROP TEXT SEARCH CONFIGURATION "Odd %s"."Own %"')
    with Client(harness.url, server_url=harness.server.url) as client:
        for mode in ("words", "hybrid"):
            with pytest.raises(
                UsageError, match=r"articles cannot be searched: text search configuration .* does not exist; see"
            ):
                client.search("articles", "soup", mode=mode)
    harness.execute("UPDATE articles SET body = 'hot soup'")
    harness.once()
    assert words_of(harness) == {}
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    assert "its text search configuration" in harness.cli("doctor").output
    harness.execute(create)
    assert harness.drift()[1] == {"missing": 1, "stale": 0, "orphaned": 0}
    harness.ok("verify", "articles", "--repair")
    harness.once()
    assert words_of(harness) == {1: "'hot':1 'soup':2"}


# What happens to a table


KEYS = (
    'score int, "query" text, "k" uuid, distance varchar(9), "Text_Rank %s" date, '
    'PRIMARY KEY (score, "query", "k", distance, "Text_Rank %s")'
)


@versions_and_layouts
def test_key_columns_may_have_any_name_and_type(harness: Harness, layout: str) -> None:
    name = 'O\'dd "%s" Ü' + "x" * 30
    harness.execute(f"CREATE TABLE {quoted(name)} (body text, {KEYS})")
    for body, key in (("cold soup", "a''%"), ("hot tea", "b")):
        values = f"('{body}', 1, '{key}', gen_random_uuid(), 'x', '2024-01-01')"
        harness.execute(f"INSERT INTO {quoted(name)} VALUES {values}")
    harness.ok("attach", quoted(name), "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    answer_queries(harness, "soup")
    hybrid, words = (f"qwen_embed.{quoted(name + suffix)}" for suffix in ("_hybrid", "_words"))
    for call in ("'soup'", "'soup', NULL::public.halfvec", "'soup', 5"):
        assert harness.rows(f"SELECT * FROM {hybrid}({call})")[0][1] == "a'%"
    assert harness.rows(f"SELECT score, \"query\", score_ > 0 FROM {words}('soup')") == [(1, "a'%", True)]
    harness.ok("detach", name, "--yes")
    functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace"
    assert [one for (one,) in harness.rows(functions) if one.endswith(("_words", "_hybrid")) or one == "words_1"] == []


@versions_and_layouts
@pytest.mark.long
def test_words_stay_with_vectors_through_alter_and_repair(harness: Harness, layout: str) -> None:
    harness.articles("cold soup", "hot tea")
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    before = words_of(harness)
    harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER COLUMN body TYPE varchar(100)")
    harness.execute("ALTER TABLE articles ADD COLUMN other text UNIQUE; UPDATE articles SET other = 'o' || id")
    harness.execute("ALTER TABLE articles ALTER other SET NOT NULL")
    harness.ok("alter", "articles", "--rekey", "--key", "other")
    assert list(words_of(harness).values()) == list(before.values())
    harness.once()
    assert harness.rows("SELECT other FROM qwen_embed.articles_words('soup')") == [("o1",)]
    assert index_is_valid(harness)
    number = harness.embedding().live.id
    harness.execute("DROP FUNCTION qwen_embed.articles_hybrid(text, integer, integer, integer, float8, float8)")
    harness.execute(f"DROP VIEW _qwen_embed.words_{number} CASCADE")
    assert "articles_hybrid(text,integer" in harness.cli("doctor").output.replace(", ", ",")
    harness.ok("verify", "articles", "--repair")
    assert harness.rows("SELECT other FROM qwen_embed.articles_words('soup')") == [("o1",)]
    harness.execute(f"ALTER TABLE {harness.internal('store')} DROP COLUMN words CASCADE")
    harness.ok("verify", "articles", "--repair")
    harness.once()
    assert list(words_of(harness).values()) == list(before.values())
    assert harness.rows("SELECT other FROM qwen_embed.articles_words('soup')") == [("o1",)]
    assert index_is_valid(harness)
    assert harness.ok("verify", "articles") is not None


@both_versions
def test_init_removes_what_a_dump_of_the_schema_alone_has_of_words(harness: Harness) -> None:
    harness.articles("soup")
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.execute("DELETE FROM _qwen_embed.embedding")
    harness.ok("init")
    left = (
        "SELECT relname FROM pg_class WHERE relnamespace IN ('_qwen_embed'::regnamespace, 'qwen_embed'::regnamespace)"
    )
    assert [name for (name,) in harness.rows(left) if name.endswith("_1") or "words" in name] == []
    harness.ok("attach", "articles", "--text", "body", "--words", "english")


@versions_and_layouts
def test_the_statements_of_an_embedding_without_words_have_no_part_for_them(harness: Harness, layout: str) -> None:
    harness.articles("soup")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    names = names_of(harness.embedding())
    for name in (names.layout.write, names.layout.clear, names.layout.create_store):
        assert not re.search("words|document", as_text(statement(name, names)))


def test_sql_attach_prints_words_without_a_connection(harness: Harness) -> None:
    table = ("sql", "attach", "shop.articles", "--key", "id bigint", "--columns", "body text", "--text", "body")
    model = ("--model", "Qwen/Qwen3-Embedding-0.6B", "--dimensions", "1024")
    printed = harness.ok(*table, *model, "--words", "german")
    assert "words tsvector" in printed
    assert "words_query(''pg_catalog.german''" in printed
    assert "words tsvector" not in harness.ok(*table, *model)
    said = harness.refused(*table, *model, "--words", "own")
    assert said == "--words own: without a connection, write it with its schema: public.own"
