"""Searching among the rows that meet a condition: as many rows as there are, the nearest ones, in every layout."""

from collections.abc import Callable

import pytest
from harness import LAYOUTS, Harness

from pg_qwen_embed import Client

ROWS = 3000


def client(harness: Harness) -> Client:
    return Client(harness.url, server_url=harness.server.url)


def fill(harness: Harness, layout: str, table: str = "articles") -> None:
    """likes: a permutation of 0 .. ROWS - 1; every third title is NULL."""
    harness.execute(
        f'CREATE TABLE {table} (id bigint PRIMARY KEY, body text, likes int NOT NULL, title text, "Odd % name" int)'
    )
    harness.execute(
        f"""INSERT INTO {table} SELECT n, 'text ' || n, n * 7 %% {ROWS}, CASE WHEN n %% 3 > 0 THEN 'a%%b' END, n
                        FROM generate_series(1, {ROWS}) n""".replace("%%", "%")
    )
    harness.ok("attach", table, "--name", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()


@pytest.fixture(scope="module")
def never() -> None:
    """Nothing."""


def expected(harness: Harness, query: str, chosen: Callable[[int], bool], limit: int) -> list[int]:
    """The ids of the nearest rows by the server's own vectors."""
    own = harness.server.vector(query)
    ids = [n for n in range(1, ROWS + 1) if chosen(n)]
    found = {n: 1 - float(own @ harness.server.vector(f"text {n}")) for n in ids}
    return sorted(found, key=found.__getitem__)[:limit]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_selectivity_gets_as_many_rows_as_there_are_and_the_nearest(harness: Harness, layout: str) -> None:
    fill(harness, layout)
    with client(harness) as asking:
        for most in (ROWS, ROWS // 2, ROWS // 10, ROWS // 100, 5, 0):

            def chosen(n: int, most: int = most) -> bool:
                return n * 7 % ROWS < most

            for limit in (10, 100):
                wanted = expected(harness, "text 5", chosen, limit)
                for options in ({}, {"exact": True}, {"ef_search": 400}):
                    hits = asking.search(
                        "articles", "text 5", limit, where="likes < %(most)s", params={"most": most}, **options
                    )
                    assert len(hits) == min(limit, most), (most, limit, options)
                    assert all(hit.row["likes"] < most for hit in hits)
                    ids = [hit.row["id"] for hit in hits]
                    assert len(set(ids)) == len(ids)
                    assert len(set(ids) & set(wanted)) >= 0.95 * len(ids), (most, limit, options)
                    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
