"""The whole way of a user: attach, backfill, change, search, verify, detach."""

import json
from dataclasses import dataclass

import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed import Client


@dataclass(frozen=True)
class Case:
    """A source. key: the condition that finds a row. keys: the values of that condition for five rows."""

    table: str
    columns: str
    key: str
    keys: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    text: str = "body"
    name: str = "articles"


_UUIDS = tuple(f"'0000000{n}-0000-4000-8000-000000000000'" for n in range(1, 6))
CASES = {
    "bigint": Case("articles", "id bigint PRIMARY KEY, body text", "id", ("1", "2", "-3", "4000000000", "5")),
    "uuid": Case("articles", "id uuid PRIMARY KEY, body text", "id", _UUIDS),
    "text": Case("articles", "id text PRIMARY KEY, body text", "id", ("'a'", "'B b'", "''", "'é''\"'", "'{1,2}'")),
    "composite": Case(
        "articles", "a int, b text, c date, body text, PRIMARY KEY (c, a, b)", "(a, b, c)",
        ("(1, 'x', '2020-01-01'::date)", "(1, 'y', '2020-01-01')", "(2, 'x', '2020-01-01')", "(1, '', '2021-12-31')",
         "(-1, 'x', 'infinity')"),
    ),
    "odd names": Case(
        'app."Wéird Täble"', '"Kéy ""1""" int PRIMARY KEY, "bödy {x}" text, "select" text', '"Kéy ""1"""',
        ("1", "2", "3", "4", "5"), text='"bödy {x}"', name="Wéird Täble",
    ),
    "in a column": Case(
        "articles", "id bigint PRIMARY KEY, body text", "id", ("1", "2", "3", "4", "5"), ("--store", "column")
    ),
    "in a column, composite": Case(
        'app."Wéird Täble"', 'a int, "B" text, body text, PRIMARY KEY ("B", a)', '(a, "B")',
        ("(1, 'x')", "(1, 'y')", "(2, 'x')", "(1, '')", "(-1, 'x')"), ("--store", "column", "--column", "Vectör"),
        name="Wéird Täble",
    ),
}  # fmt: skip


@both_versions
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_vectors_follow_the_text_from_attach_to_detach(harness: Harness, case: Case) -> None:
    harness.execute("CREATE SCHEMA app")
    harness.execute(f"CREATE TABLE {case.table} ({case.columns}, views int DEFAULT 0)")
    harness.execute(f"CREATE INDEX ON {case.table} (views)")
    columns = f"{case.key.strip('()')}, {case.text}"
    for n, key in enumerate(case.keys[:3]):
        harness.execute(f"INSERT INTO {case.table} ({columns}) VALUES ({key.strip('()')}, 'text {n}')")
    before = harness.dump()

    harness.ok("attach", case.table, "--text", case.text.strip('"').replace('""', '"'), *case.arguments)
    worker = harness.worker()
    eventually(lambda: harness.settled(case.name))
    harness.assert_in_step(case.text, case.name)

    first, second, third, fourth, fifth = case.keys
    harness.execute(f"UPDATE {case.table} SET {case.text} = 'changed' WHERE {case.key} = {first}")
    harness.execute(f"DELETE FROM {case.table} WHERE {case.key} = {second}")
    harness.execute(f"INSERT INTO {case.table} ({columns}) VALUES ({fourth.strip('()')}, 'new')")
    _change_key(harness, case, third, fifth)
    eventually(lambda: harness.settled(case.name))
    harness.assert_in_step(case.text, case.name)
    assert {text for text, _ in harness.vectors(case.text, case.name)} == {"changed", "new", "text 2"}

    found = json.loads(harness.ok("search", case.name, "changed", "--limit", "2", "--json"))
    assert len(found) == 2
    assert found[0]["distance"] == pytest.approx(0, abs=2e-3)
    assert "changed" in found[0]["row"].values()
    with Client(harness.url, server_url=harness.server.url) as client:
        hits = client.search(case.name, "new", limit=1)
    assert "new" in hits[0].row.values()

    _undo(harness, case)
    eventually(lambda: harness.settled(case.name))
    assert worker.end() == 0
    harness.ok("detach", case.name, "--yes")
    assert harness.dump() == before


def _change_key(harness: Harness, case: Case, old: str, new: str) -> None:
    columns = case.key.strip("()")
    values = new.strip("()")
    harness.execute(
        f"UPDATE {case.table} SET ({columns}) = ROW({values}) WHERE {case.key} = {old}"
        if "," in columns
        else f"UPDATE {case.table} SET {columns} = {values} WHERE {case.key} = {old}"
    )


def _undo(harness: Harness, case: Case) -> None:
    """The rows as they were, so that the dumps can be compared."""
    columns = f"{case.key.strip('()')}, {case.text}"
    harness.execute(f"TRUNCATE {case.table}")
    for n, key in enumerate(case.keys[:3]):
        harness.execute(f"INSERT INTO {case.table} ({columns}) VALUES ({key.strip('()')}, 'text {n}')")


def test_status_as_json_tells_everything(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    (one,) = json.loads(harness.ok("status", "--json"))
    lag = one.pop("lag_seconds")
    progress = one.pop("backfill")
    assert one.items() >= {
        "name": "articles", "source": "public.articles", "model": "stand-in", "dimensions": 16, "rows": 2,
        "vectors": 2, "pending": 1, "failures": 0, "index": "valid", "leader": None,
    }.items()  # fmt: skip
    assert 0 < lag < 20
    assert (progress["state"], progress["rows_done"], progress["rows_total"]) == ("done", 2, 2)
    assert progress["started_at"] <= progress["finished_at"]


def test_the_note_of_an_administrator_is_shown_by_status(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--comment", "ask the search team before detaching")
    (one,) = json.loads(harness.ok("status", "--json"))
    assert one["spec"]["comment"] == "ask the search team before detaching"


def test_verify_exits_1_while_a_vector_is_behind_its_text(harness: Harness) -> None:
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body")
    assert harness.drift() == (1, {"missing": 3, "stale": 0, "orphaned": 0})
    harness.once()
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    harness.execute("DELETE FROM articles WHERE id = 2")
    assert harness.drift() == (1, {"missing": 0, "stale": 1, "orphaned": 1})
    assert harness.cli("verify", "articles").stdout == "articles: 0 missing, 1 stale, 1 orphaned\n"
    harness.once()
    harness.assert_in_step()
