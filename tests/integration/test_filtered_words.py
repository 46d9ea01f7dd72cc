"""Searching by words, and by words and vectors, among the rows that meet a condition: in every layout, for every role."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import LAYOUTS, READER, Harness, as_role, both_versions, quoted, versions_and_layouts
from proxy import Proxy
from psycopg.conninfo import make_conninfo

from pg_qwen_embed import Client, UsageError
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.postgres.by_words import ByWords
from pg_qwen_embed.postgres.connection import as_text

ROWS = 240
QUERY = "soup"


def client(harness: Harness) -> Client:
    return Client(harness.url, server_url=harness.server.url)


def body(n: int) -> str:
    """Two rows in three have the word, the later ones in longer documents; in chunks each has several."""
    return " ".join((["soup"] if n % 3 else []) + [f"text{n}"] + [f"filler{n} and so on"] * (n // 3))


def fill(harness: Harness, layout: str) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, likes int NOT NULL)")
    harness.many("INSERT INTO articles VALUES (%s, %s, %s)", [(n, body(n), n * 7 % ROWS) for n in range(1, ROWS + 1)])
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()


def by_words(harness: Harness, chosen: Callable[[int], bool]) -> list[int]:
    """The ids with the word, best first: as the function of the embedding ranks all of them."""
    found = harness.rows("SELECT id FROM qwen_embed.articles_words(%s, %s)", QUERY, ROWS)
    return [n for (n,) in found if chosen(n)]


def by_vector(harness: Harness, chosen: Callable[[int], bool]) -> list[tuple[int, float]]:
    query = str(harness.server.vector(QUERY).tolist())
    found = harness.rows(
        "SELECT id, min(embedding OPERATOR(public.<=>) %s::public.halfvec) FROM qwen_embed.articles GROUP BY 1 ORDER BY 2, 1",
        query,
    )
    return [(n, distance) for n, distance in found if chosen(n)]


def ids(hits: list[Hit]) -> list[int]:
    return [hit.row["id"] for hit in hits]


@versions_and_layouts
@pytest.mark.long
def test_words_and_hybrid_return_as_many_rows_as_meet_the_condition_and_the_best(harness: Harness, layout: str) -> None:
    fill(harness, layout)
    with client(harness) as asking:
        for most in (ROWS, ROWS // 2, ROWS // 20, 0):

            def chosen(n: int, most: int = most) -> bool:
                return n * 7 % ROWS < most

            condition: Any = {"where": "likes < %(most)s", "params": {"most": most}}
            words, nearest = by_words(harness, chosen), by_vector(harness, chosen)
            for limit in (10, 150):
                for exact in (False, True):
                    hits = asking.search("articles", QUERY, limit, mode="words", exact=exact, **condition)
                    assert ids(hits) == words[:limit], (most, limit)
                    assert [hit.text_rank for hit in hits] == list(range(1, len(hits) + 1))
                    hits = asking.search("articles", QUERY, limit, mode="hybrid", exact=exact, **condition)
                    assert len(set(ids(hits))) == len(hits) == min(limit, len(nearest)), (most, limit, exact)
                    assert all(chosen(hit.row["id"]) for hit in hits)
                    assert_fused(hits, words, nearest, max(limit, 100), exact=exact)
        exactly = asking.search("articles", QUERY, 10, mode="hybrid", exact=True)
        assert_fused(exactly, by_words(harness, bool), by_vector(harness, bool), 100, exact=True)
        assert ids(asking.search("articles", QUERY, 9, mode="words", exact=True)) == by_words(harness, bool)[:9]


def assert_fused(
    hits: list[Hit], words: list[int], nearest: list[tuple[int, float]], most: int, *, exact: bool
) -> None:
    """Each rank, score and distance is what the two lists say; without the index also no better row is missing."""
    distances = dict(nearest)
    ranks = {n: rank for rank, (n, _) in enumerate(nearest[:most], 1)}
    word_ranks = {n: rank for rank, n in enumerate(words[:most], 1)}
    for hit in hits:
        n = hit.row["id"]
        assert hit.text_rank == word_ranks.get(n)
        assert hit.vector_rank == ranks.get(n) or not exact
        assert hit.distance == pytest.approx(distances[n], abs=2e-3)
        assert hit.score == pytest.approx(score(hit.vector_rank, hit.text_rank))
    found = [hit.score for hit in hits]
    assert found == sorted(found, reverse=True)
    if exact:
        best = sorted((score(ranks.get(n), word_ranks.get(n)) for n in ranks | word_ranks), reverse=True)
        assert found == pytest.approx(best[: len(hits)])


def score(vector_rank: int | None, text_rank: int | None) -> float:
    return (1 / (5 + vector_rank) if vector_rank else 0) + (1.5 / (5 + text_rank) if text_rank else 0)


def test_exact_asks_no_index_of_vectors(harness: Harness) -> None:
    fill(harness, "table")
    searching = ByWords(harness.embedding())
    for where in (None, "true"):
        steps = [as_text(step) for step in searching._steps_among(where, exact=True, by_vector=True)]
        assert not any("by_index" in step for step in steps)
    assert any("by_index" in as_text(step) for step in searching._steps_among("true", exact=False, by_vector=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_rows_beyond_the_50000_that_are_ranked_are_found_if_they_meet_the_condition(
    harness: Harness, layout: str
) -> None:
    fill(harness, layout)
    words = by_words(harness, lambda n: n > 200)
    number = harness.embedding().live.id
    harness.execute(
        f"CREATE OR REPLACE FUNCTION qwen_embed.words_{number}(most integer) RETURNS TABLE (k1 bigint, rank real) "
        "LANGUAGE sql STABLE AS 'SELECT n - 49990, 1::real FROM generate_series(1, 50000) n'"
    )  # as if 50,000 rows had the word, and only ten of them were among those that are wanted
    with client(harness) as asking:
        assert ids(asking.search("articles", QUERY, 20, mode="words", where="id > 200")) == words[:20]
        assert ids(asking.search("articles", QUERY, 20, mode="words", where="id = 1")) == [1]
        hits = asking.search("articles", QUERY, 20, mode="hybrid", where="id > 200")
        assert {hit.row["id"]: hit.text_rank for hit in hits if hit.text_rank}.items() <= {
            n: rank for rank, n in enumerate(words, 1)
        }.items()


@versions_and_layouts
@pytest.mark.long
def test_rows_that_the_policies_hide_are_not_found_by_words_and_a_condition(harness: Harness, layout: str) -> None:
    fill(harness, layout)
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    harness.execute("CREATE POLICY own ON articles TO PUBLIC USING (id > 200)")
    harness.execute(f"GRANT SELECT ON articles TO {READER}")
    harness.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA qwen_embed TO {READER}")
    having = [n for n in range(201, ROWS + 1) if n % 3]
    with Client(as_role(harness.url, READER), server_url=harness.server.url) as asking:
        for mode, all_of_them in (("words", having), ("hybrid", list(range(201, ROWS + 1)))):
            for options in (
                {"where": "true"},
                {"where": "true", "exact": True},
                {"where": "id > 220"},
                {"exact": True},
            ):
                least = 220 if "220" in str(options) else 200
                hits = asking.search("articles", QUERY, ROWS, mode=mode, **options)  # type: ignore[arg-type]
                assert sorted(ids(hits)) == [n for n in all_of_them if n > least], (mode, options)
            assert asking.search("articles", QUERY, where="id <= 200", mode=mode) == []


@both_versions
@pytest.mark.long
def test_a_row_that_only_its_words_have_found_has_its_nearest_chunk(harness: Harness) -> None:
    fill(harness, "chunked")
    query = str(harness.server.vector(QUERY).tolist())
    nearest = dict(
        harness.rows(
            "SELECT DISTINCT ON (id) id, chunk FROM qwen_embed.articles "
            "ORDER BY id, embedding OPERATOR(public.<=>) %s::public.halfvec, chunk",
            query,
        )
    )
    assert len(set(nearest.values())) > 1
    call = "SELECT id, chunk, vector_rank FROM qwen_embed.articles_hybrid(%s, %s::public.halfvec, 100)"
    found = [(n, chunk) for n, chunk, rank in harness.rows(call, QUERY, query) if rank is None]
    assert found
    assert all(chunk == nearest[n] for n, chunk in found)
    with client(harness) as asking:
        for options in ({}, {"exact": True}, {"where": "id > 0"}, {"where": "id > 0", "exact": True}):
            hits = asking.search("articles", QUERY, 100, mode="hybrid", **options)  # type: ignore[arg-type]
            alone = [hit for hit in hits if hit.vector_rank is None]
            assert alone
            assert all(not math.isnan(hit.distance) for hit in alone)
            assert all(hit.row["chunk"] == nearest[hit.row["id"]] and hit.row["chunk_text"] for hit in alone), options
    without = "SELECT DISTINCT chunk FROM qwen_embed.articles_hybrid(%s, NULL::public.halfvec)"
    assert harness.rows(without, QUERY) == [(None,)], "without a vector no chunk is the nearest"


KEYS = (
    'score int, "query" text, "rank" uuid, distance varchar(9), "Text_Rank %s" date, '
    'PRIMARY KEY (score, "query", "rank", distance, "Text_Rank %s")'
)


@versions_and_layouts
def test_words_and_a_condition_go_with_any_name_and_key(harness: Harness, layout: str) -> None:
    name = 'O\'dd "%s" Ü' + "x" * 30
    harness.execute(f"CREATE TABLE {quoted(name)} (body text, {KEYS})")
    for document, key in (("cold soup", "a''%"), ("hot soup", "b"), ("hot tea", "c")):
        values = f"('{document}', 1, '{key}', gen_random_uuid(), 'x', '2024-01-01')"
        harness.execute(f"INSERT INTO {quoted(name)} VALUES {values}")
    harness.ok("attach", quoted(name), "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    given: Any = {"where": '"query" IN (%(one)s, %(other)s) AND score > 0', "params": {"one": "a'%", "other": "c"}}
    with client(harness) as asking:
        assert [hit.row["query"] for hit in asking.search(name, "soup", mode="words", **given)] == ["a'%"]
        for exact in (False, True):
            hits = asking.search(name, "soup", mode="hybrid", exact=exact, **given)
            assert [hit.row["query"] for hit in hits] == ["a'%", "c"]


@pytest.fixture
def small(harness: Harness) -> Iterator[Harness]:
    harness.articles("cold soup", "hot soup", "hot tea")
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.once()
    return harness


def test_what_is_no_condition_is_one_sentence_with_words_too(small: Harness) -> None:
    wrong: tuple[tuple[Any, Any, str], ...] = (
        ("id >", None, "cannot be searched with the condition 'id >': syntax error"),
        ("no_column = 1", None, 'cannot be searched with the condition .* column "no_column" does not exist'),
        ("1 / (id - id) > 0", None, "division by zero"),
        ("id = %(n)s", {}, "needs a value 'n'"),
        (None, {"n": 1}, "there is no condition"),
        ("id > 1; DROP TABLE articles", None, "has a semicolon"),
    )
    with client(small) as asking:
        for mode in ("words", "hybrid"):
            for where, params, words in wrong:
                with pytest.raises(UsageError) as said:
                    asking.search("articles", "soup", where=where, params=params, mode=mode)
                assert re.search(words, str(said.value)), said.value
                assert "\n" not in str(said.value)
            with pytest.raises(UsageError, match=f"mode {mode} takes no ef_search"):
                asking.search("articles", "soup", mode=mode, ef_search=40)
            assert len(asking.search("articles", "soup", where="body LIKE 'hot%%'", params={}, mode=mode)) == (
                1 if mode == "words" else 2
            )


def test_a_condition_sees_the_tables_of_the_application_alone(small: Harness) -> None:
    tables = ("nearest", "best", "found", "ranked", "among", "by_words", "sides")
    for table in tables:
        small.execute(f"CREATE TABLE {table} AS SELECT 2 AS id")
    with client(small) as asking:
        for mode in ("vector", "words", "hybrid"):
            for exact in (False, True):
                for table in tables:
                    where = f"articles.id IN (SELECT f.id FROM {table} f)"
                    hits = asking.search("articles", "soup", where=where, mode=mode, exact=exact)
                    assert ids(hits) == [2], (mode, exact, table)


def test_words_and_a_condition_are_answered_by_the_database_once(small: Harness) -> None:
    proxy = Proxy(f"{small.connection.info.host}/.s.PGSQL.{small.connection.info.port}")
    with proxy.running():
        url = make_conninfo(small.url, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
        with Client(url, server_url=small.server.url) as asking:
            asking.search("articles", "soup")
            for mode in ("words", "hybrid"):
                before = proxy.answers
                assert asking.search("articles", "soup", where="id > 0", mode=mode)
                assert proxy.answers - before == 1


def test_the_command_filters_words_and_hybrid(small: Harness) -> None:
    lines = small.ok("search", "articles", "soup", "--mode", "words", "--where", "id > 1", "--columns", "id")
    assert [line.split()[1] for line in lines.splitlines()] == ["id", "2"]
    lines = small.ok("search", "articles", "soup", "--hybrid", "--where", "id > 1", "--exact", "--columns", "id")
    assert [line.split()[1] for line in lines.splitlines()] == ["id", "2", "3"]
    none = small.cli("search", "articles", "soup", "--mode", "words", "--where", "id = 3")
    assert (none.exit_code, none.stderr) == (0, "articles has no row with these words that meets the condition\n")
