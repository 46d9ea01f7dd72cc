"""`doctor --query`: it says whether a query uses the index, and why not; each sentence is compared with the plan."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness

pytestmark = pytest.mark.long

ROWS = 3000
VECTOR = "'[" + ",".join(["0.25"] * 16) + "]'"
FROM = "FROM articles a JOIN qwen_embed.articles e USING (id)"
STORES = {16: [], 18: ["--store", "column"]}


@pytest.fixture(scope="module", params=STORES)
def large(
    request: pytest.FixtureRequest, clusters: Callable[[int], Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    """3,000 rows with vectors and an index. Tests must not change it."""
    with clusters(request.param).database() as url, FakeSGLang().running() as server, ExitStack() as stack:
        harness = Harness(url, server, Path(tmp_path_factory.mktemp("large")), stack)
        harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, views int)")
        harness.execute(f"INSERT INTO articles SELECT n, 'text ' || n, n % 10 FROM generate_series(1, {ROWS}) n")
        harness.ok("attach", "articles", "--text", "body", *STORES[request.param])
        harness.once()
        harness.execute("VACUUM ANALYZE")
        yield harness


def uses_index(harness: Harness, query: str) -> bool:
    return "_hnsw" in "\n".join(line for (line,) in harness.rows(f"EXPLAIN {query}"))


def said(harness: Harness, query: str) -> str:
    return harness.ok("doctor", "--query", query)


USED = {
    "joined": f"SELECT a.id {FROM} ORDER BY e.embedding <=> {VECTOR} LIMIT 10",
    "from the view": f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> {VECTOR}::halfvec LIMIT 10",
    "by a vector": f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> {VECTOR}::vector LIMIT 10",
    "by its alias": f"SELECT id, embedding <=> {VECTOR} AS distance FROM qwen_embed.articles ORDER BY distance LIMIT 10",
    "by a subselect": "SELECT id FROM qwen_embed.articles ORDER BY embedding <=>"
    f" (SELECT {VECTOR}::halfvec) LIMIT 10",
    "lateral": f"SELECT q.n, h.id FROM (VALUES (1, {VECTOR}::halfvec)) q(n, v) CROSS JOIN LATERAL"
    " (SELECT id FROM qwen_embed.articles e ORDER BY e.embedding <=> q.v LIMIT 5) h",
}  # fmt: skip


@pytest.mark.parametrize("form", USED)
@pytest.mark.long
def test_query_that_uses_the_index_is_said_to(large: Harness, form: str) -> None:
    assert uses_index(large, USED[form])
    assert said(large, USED[form]).startswith("ok       query: articles: it uses the index ")
    assert "warning" not in said(large, USED[form])


NOT_USED = {
    "descending": (f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> {VECTOR} DESC LIMIT 10", "orders descending"),
    "similarity": (f"SELECT id, 1 - (embedding <=> {VECTOR}) AS score FROM qwen_embed.articles ORDER BY score DESC LIMIT 10",
                   "the distance is part of an expression"),
    "negated": (f"SELECT id FROM qwen_embed.articles ORDER BY -(embedding <=> {VECTOR}) DESC LIMIT 10",
                "the distance is part of an expression"),
    "rounded": (f"SELECT id FROM qwen_embed.articles ORDER BY round((embedding <=> {VECTOR})::numeric, 3) LIMIT 10",
                "the distance is part of an expression"),
    "another operator": (f"SELECT id FROM qwen_embed.articles ORDER BY embedding <-> {VECTOR} LIMIT 10",
                         "it orders by <->, the operator of L2 distance, and the index is for <=>"),
    "inner product": (f"SELECT id FROM qwen_embed.articles ORDER BY embedding <#> {VECTOR} LIMIT 10", "it orders by <#>"),
    "no limit": (f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> {VECTOR}", "it has no LIMIT"),
    "cast": (f"SELECT id FROM qwen_embed.articles ORDER BY embedding::vector <=> {VECTOR} LIMIT 10",
             "it casts the vectors to another type"),
    "outer join": (f"SELECT a.id FROM articles a LEFT JOIN qwen_embed.articles e USING (id) ORDER BY e.embedding <=> {VECTOR}"
                   " LIMIT 10", "on the nullable side of an outer join"),
    "function": (f"SELECT id FROM qwen_embed.articles ORDER BY cosine_distance(embedding, {VECTOR}::halfvec) LIMIT 10",
                 "it calls the function cosine_distance(), and an index serves an operator"),
    "another order": (f"SELECT a.id {FROM} ORDER BY a.views, e.embedding <=> {VECTOR} LIMIT 10",
                      "it orders by something else before the distance"),
    "no order": ("SELECT id, embedding FROM qwen_embed.articles LIMIT 10", "it does not order by a distance"),
    "distinct": (f"SELECT DISTINCT ON (a.views) a.views, a.id {FROM} ORDER BY a.views, e.embedding <=> {VECTOR} LIMIT 3",
                 "it orders by something else before the distance"),
    "grouped": (f"SELECT a.views, min(e.embedding <=> {VECTOR}) AS distance {FROM} GROUP BY 1 ORDER BY 2 LIMIT 3",
                "grouped, united or made distinct"),
}  # fmt: skip


@pytest.mark.parametrize("form", NOT_USED)
def test_query_that_cannot_use_the_index_is_told_why(large: Harness, form: str) -> None:
    query, words = NOT_USED[form]
    assert not uses_index(large, query)
    text = said(large, query)
    assert words in text
    assert "it uses the index" not in text
    assert text.count("warning") == (2 if form == "negated" else 1) or form in ("similarity",)


def test_filter_and_a_large_limit_are_warned_of_unless_the_scan_is_iterative(large: Harness) -> None:
    name = large.value("SELECT current_database()")
    filtered = f"SELECT a.id {FROM} WHERE a.views <> 3 ORDER BY e.embedding <=> {VECTOR} LIMIT 10"
    many = f"SELECT a.id {FROM} ORDER BY e.embedding <=> {VECTOR} LIMIT 60"
    for query in (filtered, many):
        assert uses_index(large, query)
    assert "it may return fewer rows than there are" in said(large, filtered)
    assert "its LIMIT of 60 is above hnsw.ef_search: the index returns 40 rows" in said(large, many)
    large.execute(f"ALTER DATABASE {name} SET hnsw.iterative_scan = 'strict_order'")
    try:
        for query in (filtered, many):
            assert "warning" not in said(large, query)
    finally:
        large.execute(f"ALTER DATABASE {name} RESET hnsw.iterative_scan")


def test_planner_that_prefers_to_compare_the_vectors_is_no_fault(large: Harness) -> None:
    query = f"SELECT a.id {FROM} WHERE a.id = ANY ('{{1,2,3}}') ORDER BY e.embedding <=> {VECTOR} LIMIT 3"
    assert not uses_index(large, query)
    text = said(large, query)
    assert text.startswith("ok ")
    assert "PostgreSQL compares all vectors, or those that the filter leaves" in text


def test_function_of_an_embedding_is_recognised(large: Harness) -> None:
    assert "the function of that name uses the index" in said(
        large, f"SELECT * FROM qwen_embed.articles({VECTOR}::halfvec, 5)"
    )


def test_parameters_may_stand_in_the_query(large: Harness) -> None:
    assert "it uses the index" in said(large, f"SELECT a.id {FROM} ORDER BY e.embedding <=> $1::halfvec LIMIT 10")
    assert "orders by <->" in said(large, f"SELECT a.id {FROM} ORDER BY e.embedding <-> $1 LIMIT 10")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "the query is empty"),
        ("  -- a comment", "the query is empty"),
        ("DELETE FROM articles", "begins with DELETE"),
        ("ANALYZE SELECT 1", "begins with ANALYZE"),
        ("(ANALYZE) DELETE FROM articles", "begins with ANALYZE"),
        ("SELECT 1; DELETE FROM articles", "does not plan the query: cannot insert multiple commands"),
        ("WITH x AS (DELETE FROM articles RETURNING *) SELECT * FROM x", "the query changes rows"),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT 'a%s' FROM", "does not plan the query: syntax error"),
    ],
)
def test_anything_but_one_select_is_rejected_with_a_sentence(large: Harness, query: str, words: str) -> None:
    assert words in large.refused("doctor", "--query", query)
    assert large.value("SELECT count(*) FROM articles") == ROWS


def test_other_queries_read_no_vectors(large: Harness) -> None:
    for query in ("SELECT 1", "TABLE articles", "/* x */ -- y\n (SELECT 'DESC %d')"):
        assert "it reads no vectors of an embedding" in said(large, query)


def test_query_without_an_index_is_told_so(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.ok("worker", "--once")
    text = said(harness, f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> {VECTOR} LIMIT 10")
    assert "it does not use the index: there is none yet; see: pg-qwen-embed status articles" in text
