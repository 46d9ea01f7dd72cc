"""A database made by the previous release: `init` upgrades it, nothing is embedded again, and pending changes are followed.

tools/make_release_fixture.py made the fixture with that release."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Cluster, Harness, both_versions, eventually
from recorder import Recorder

from tools.make_release_fixture import ATTACHED, TABLES

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "release_0.1.0.sql"
PENDING = [  # the documents that changed while no worker ran
    "Call us before you open the housing.",
    "Cats\n\nThe cat sits on the cold step.",
    "Keep the receipt for five years.",
    "Product: A bowl of glass",
    "Product: A chair of pine",
    "Rain\n\nTake an umbrella.",
]
VECTORS = {  # by embedding: a short key and the vector
    "notes": "SELECT tenant || id, embedding::text FROM qwen_embed.notes",
    "catalogue": "SELECT right(sku::text, 1), meaning::text FROM qwen_embed.catalogue",
    "manuals": "SELECT concat(id, '.', chunk), embedding::text FROM qwen_embed.manuals",
}
VECTOR = "'[" + ",".join(["0.25"] * 16) + "]'::halfvec"
UNCHANGED = {"notes": {"b1", "b3"}, "catalogue": {"1"}, "manuals": {"1.1", "1.2", "1.3"}}
CHANGED = {"notes": {"a1", "a3"}, "catalogue": {"2", "6"}, "manuals": {"2.1", "5.1"}}


@pytest.fixture
def recorder(bare: Harness) -> Iterator[Recorder]:
    """A recording proxy in front of the packaged server, whose model the previous release used."""
    serving = bare.process("serve", "--port", "0", fork=True)
    found = eventually(lambda: re.search(r"on (http://\S+/v1)", serving.said))
    with Recorder(found[1]).running() as recorder:
        bare.environment["PG_QWEN_EMBED_SERVER_URL"] = recorder.url
        yield recorder


@pytest.fixture
def released(bare: Harness, recorder: Recorder) -> Harness:
    """The database as the previous release left it."""
    psql = Path(bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / "psql"
    options = ["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--output", bare.folder / "loaded"]
    subprocess.run([psql, *options, "--file", FIXTURE, bare.url], check=True)
    return bare


@both_versions
def test_upgrade_keeps_the_vectors_and_follows_what_is_pending(released: Harness, recorder: Recorder) -> None:
    before = vectors(released)
    released.ok("init")
    released.once()
    assert sorted(recorder.texts) == PENDING
    after = vectors(released)
    for name in ATTACHED:
        assert after[name].keys() == UNCHANGED[name] | CHANGED[name]
        assert {key for key, vector in after[name].items() if vector == before[name].get(key)} == UNCHANGED[name]
        assert_at_rest(released, name, failures=int(name == "catalogue"))


@both_versions
def test_upgraded_failure_ends_with_its_row(released: Harness) -> None:
    released.ok("init")
    released.execute("DELETE FROM products WHERE description LIKE 'b %'")
    released.once()
    for name in ATTACHED:
        assert_at_rest(released, name, failures=0)


@both_versions
def test_upgraded_database_is_followed_on(released: Harness, recorder: Recorder) -> None:
    """The triggers are those of the previous release, or those that `init` has replaced them by."""
    released.ok("init")
    released.once()
    recorder.texts.clear()
    released.execute("UPDATE notes SET body = 'A', id = 9 WHERE (tenant, id) = ('b', 1)")
    released.execute("TRUNCATE products")
    released.execute("UPDATE manuals SET body = 'B' WHERE id = 1")
    released.once()
    assert sorted(recorder.texts) == ["B", "Bread\n\nA"]
    keys = {name: set(found) for name, found in vectors(released).items()}
    assert keys == {"notes": {"a1", "a3", "b3", "b9"}, "catalogue": set(), "manuals": {"1.1", "2.1", "5.1"}}
    for name in ATTACHED:
        assert_at_rest(released, name, failures=0)


@both_versions
def test_detach_after_an_upgrade_leaves_what_a_fresh_init_leaves(released: Harness, postgres: Cluster) -> None:
    released.ok("init")
    for name in ATTACHED:
        released.ok("detach", name, "--yes")
    with postgres.database() as url:
        fresh = Harness(url, released.server, released.folder, released.stack)
        fresh.execute(TABLES)
        assert released.catalog() == fresh.catalog()


def vectors(harness: Harness) -> dict[str, dict[str, str]]:
    return {name: dict(harness.rows(query)) for name, query in VECTORS.items()}


def assert_at_rest(harness: Harness, name: str, *, failures: int) -> None:
    """Nothing is pending, stale or orphaned, only failures lack a vector, and the triggers are those of this release."""
    (status,) = json.loads(harness.ok("status", name, "--json"))
    assert (status["pending"], status["failures"], status["backfill"]["state"]) == (0, failures, "done")
    assert (status["broken_triggers"], status["problem"]) == (0, None)
    assert harness.drift(name)[1] == {"missing": failures, "stale": 0, "orphaned": 0}


@pytest.mark.parametrize("revision", ["0009", "0010", "0011"])
@pytest.mark.long
def test_words_are_kept_and_searched_on_after_an_upgrade(harness: Harness, revision: str) -> None:
    """Of a database with words, before the objects that this release has for them: nothing is embedded again."""
    create = 'CREATE SCHEMA "Own %"; CREATE TEXT SEARCH CONFIGURATION "Own %"."words" (COPY = english)'
    harness.execute(create)
    harness.articles("Cold soups for summer", "\u51b7\u6c64", "Bread and butter", None)
    worded = {"articles": ["--words", "Own %.words"], "chunked": ["--words", "cjk", "--chunk-tokens", "64"],
              "in_column": ["--words", "simple", "--store", "column", "--index", "hnsw-binary"]}  # fmt: skip
    for name, options in worded.items():
        harness.ok("attach", "articles", "--text", "body", "--name", name, "--column", f"v_{name}", *options)
    harness.once()

    def found() -> dict[str, Any]:
        calls = {
            f"{name}_words('{query}')": "id, score" for name in worded for query in ("soup soups", "\u51b7", "bread")
        }
        calls |= {f"{name}_hybrid('soups', query_vector => {VECTOR})": "*" for name in worded}
        return {call: harness.rows(f"SELECT {columns} FROM qwen_embed.{call}") for call, columns in calls.items()}

    before, embedded, made = found(), len(harness.server.texts), harness.catalog()
    assert all(before[f"{name}_words('soup soups')"] for name in ("articles", "in_column"))
    assert [key for key, _ in before["chunked_words('\u51b7')"]] == [2]
    harness.downgrade(revision)
    harness.execute("UPDATE articles SET body = 'Hot soups' WHERE id = 3")
    harness.execute("UPDATE articles SET body = 'Bread and butter' WHERE id = 3")
    harness.ok("init")
    assert found() == before
    assert harness.catalog() == made
    harness.once()
    assert len(harness.server.texts) <= embedded + len(worded)  # the row that changed, and changed back
    assert found() == before
    for name in worded:
        assert harness.drift(name) == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    assert "not as created" not in harness.cli("doctor").output


def test_functions_of_words_that_an_earlier_release_has_made_are_made_again_by_init(harness: Harness) -> None:
    harness.articles("Cold soups for summer", "Bread and butter")
    harness.ok("attach", "articles", "--text", "body", "--words", "english", "--index", "hnsw-prefix:8")
    harness.once()
    made = harness.catalog()
    bodies = "SELECT oid::regprocedure::text, prosrc FROM pg_proc WHERE proname ~ '^articles' ORDER BY 1"
    before = harness.rows(bodies)
    for signature, _ in before:
        harness.execute(f"ALTER FUNCTION qwen_embed.{signature.removeprefix('qwen_embed.')} VOLATILE")
    harness.execute("DROP FUNCTION qwen_embed.words_1(integer)")
    said = harness.ok("init")
    assert "articles: created again: " in said
    assert harness.catalog() == made
    assert harness.rows(bodies) == before
    assert harness.rows("SELECT id FROM qwen_embed.articles_words('soup')") == [(1,)]
