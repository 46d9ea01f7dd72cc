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
