"""The words of documents: kept beside the vectors by the worker, of the same version, in every layout."""

import pytest
from harness import LAYOUTS, Harness, both_versions, versions_and_layouts


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


EMBED_QUERY = """CREATE FUNCTION qwen_embed.embed_query(embedding text, query text) RETURNS {type} LANGUAGE sql STABLE
    AS $$ SELECT vector::{type} FROM embedded WHERE embedded.query = $2 $$"""


def answer_queries(harness: Harness, *queries: str, type_: str = "public.halfvec") -> None:
    """Let embed_query() answer these queries as a worker would."""
    harness.execute("CREATE TABLE IF NOT EXISTS public.embedded (query text, vector text)")
    harness.execute("GRANT SELECT ON public.embedded TO PUBLIC")
    vectors = [(query, str(harness.server.vector(query).tolist())) for query in queries]
    harness.many("INSERT INTO public.embedded VALUES (%s, %s)", vectors)
    if not harness.value("SELECT to_regprocedure('qwen_embed.embed_query(text, text)')"):
        harness.execute(EMBED_QUERY.format(type=type_).replace("FROM embedded", "FROM public.embedded"))


SOUPS = ("Cold soups for summer", "A soup of beans", "Bread and butter", "How to reset a password", "Summer in the Alps")


@versions_and_layouts
def test_hybrid_finds_rows_by_their_words_and_by_their_vectors(harness: Harness, layout: str) -> None:
    harness.articles(*SOUPS, None)
    harness.ok("attach", "articles", "--text", "body", "--words", "english", *LAYOUTS[layout])
    harness.once()
    answer_queries(harness, "soup for the summer", "Bread and butter", "the")
    found = harness.rows("SELECT id, score, vector_rank, text_rank, distance FROM qwen_embed.articles_hybrid('soup for the summer')")
    assert {row[0] for row in found} == {1, 2, 3, 4, 5}, "every row has a vector"
    assert [row[0] for row in found[:1]] == [1], "it has both words"
    assert {row[0]: row[3] for row in found if row[3]} == {1: 1, 2: 2, 5: 3}
    assert sorted(row[2] for row in found) == [1, 2, 3, 4, 5]
    exact = dict(harness.rows("SELECT id, embedding <=> (SELECT vector::halfvec FROM embedded WHERE query LIKE 'soup%%') FROM qwen_embed.articles"))
    assert {row[0]: row[4] for row in found} == pytest.approx(exact)
    for key, score, by_vector, by_words, _ in found:
        expected = 1 / (5 + by_vector) + (1.5 / (5 + by_words) if by_words else 0)
        assert score == pytest.approx(expected), key
    first = harness.rows("SELECT id, vector_rank, text_rank FROM qwen_embed.articles_hybrid('Bread and butter', 1)")
    assert first == [(3, 1, 1)]
    only_vector = harness.rows("SELECT text_rank FROM qwen_embed.articles_hybrid('the')")
    assert only_vector == [(None,)] * 5, "a query of stop words has no words"
    only_words = harness.rows("SELECT id, vector_rank, text_rank, distance FROM qwen_embed.articles_hybrid('soups', NULL::halfvec)")
    assert sorted(only_words) == sorted([(1, None, only_words[[r[0] for r in only_words].index(1)][2], None), (2, None, only_words[[r[0] for r in only_words].index(2)][2], None)])
    assert [row[0] for row in harness.rows("SELECT * FROM qwen_embed.articles_words('bread butter -alps')")] == [3]
