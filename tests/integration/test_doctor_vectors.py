"""`doctor --vectors`: rows whose vector is odd, with their keys, in every layout."""

import json
from typing import Any

import pytest
from harness import LAYOUTS, Harness, versions_and_layouts


def found(harness: Harness, *options: str, name: str = "articles") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(harness.cli("doctor", "--vectors", name, "--json", *options).stdout)
    return listed


def texts(harness: Harness, *options: str, name: str = "articles") -> list[str]:
    return [one["text"] for one in found(harness, *options, name=name)]


def spoil(harness: Harness, layout: str, *ids: int, vector: str) -> None:
    if layout == "column":
        for id_ in ids:
            harness.bypass(f"UPDATE articles SET embedding = '{vector}' WHERE id = {id_}")
    else:
        store = harness.internal("store")
        harness.execute(f"UPDATE {store} SET embedding = %s::halfvec WHERE k1 = ANY (%s)", vector, list(ids))


@pytest.mark.superuser
@versions_and_layouts
def test_odd_rows_are_listed_with_their_keys(harness: Harness, layout: str) -> None:
    harness.articles(*(f"article {n}" for n in range(1, 601)))
    harness.execute("UPDATE articles SET body = ' ' WHERE id = 2")
    harness.execute("UPDATE articles SET body = NULL WHERE id = 599")
    harness.execute("UPDATE articles SET body = '?!' WHERE id = 3")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()
    assert texts(harness) == [
        "2 rows: the document is blank, so the row has no vector: id=2, id=599",
        "1 row: the document has 2 characters or fewer: id=3",
        "looked at 598 vectors of 600 rows",
    ]
    spoil(harness, layout, 10, vector=str([0.25] * 16))
    spoil(harness, layout, 11, vector=str([0.5, -0.5] + [0] * 14))
    spoil(harness, layout, 500, 501, 502, vector=str([0, 1] + [0] * 14))
    listed = found(harness)
    assert [one["text"] for one in listed][2:] == [
        "1 row: the length of the vector is not 1: id=11",
        "1 row: all numbers of the vector are nearly the same: id=10",
        "3 rows: different documents have the same vector: id=500, id=501, id=502",
        "looked at 598 vectors of 600 rows",
    ]
    assert [one["state"] for one in listed] == ["warning", "warning", "wrong", "warning", "warning", "ok"]
    result = harness.cli("doctor", "--vectors", "articles")
    assert result.exit_code == 1
    assert "wrong    articles: 1 row: the length of the vector is not 1: id=11" in result.stdout


def test_its_time_is_bounded(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(2, 40000) n")
    (listed,) = found(harness, "--seconds", "0.1")
    assert listed["state"] == "warning"
    assert listed["text"].endswith("and then the time was up")
    assert listed["advice"] == "look for longer with --seconds"


def test_keys_of_several_columns_with_odd_names_are_shown(harness: Harness) -> None:
    harness.execute('CREATE TABLE articles (lang text, "N%" uuid, "Te xt" text, PRIMARY KEY ("N%", lang))')
    harness.execute("""INSERT INTO articles VALUES ('d''e', '00000000-0000-0000-0000-000000000001', '')""")
    harness.ok("attach", "articles", "--text", "Te xt")
    harness.once()
    assert texts(harness)[0] == (
        "1 row: the document is blank, so the row has no vector: (N%=00000000-0000-0000-0000-000000000001, lang=d'e)"
    )


def test_what_is_not_attached_and_two_checks_at_once_are_one_sentence(harness: Harness) -> None:
    assert 'there is no embedding "articles"' in harness.refused("doctor", "--vectors", "articles")
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    assert texts(harness) == ["looked at 0 vectors of 1 row"]
    assert "two checks" in harness.refused("doctor", "--vectors", "articles", "--query", "SELECT 1")
