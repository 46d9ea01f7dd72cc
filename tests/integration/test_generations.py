"""Another generation: started next to the live one, made live, rolled back and dropped, with no moment without vectors."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import READER, Harness, eventually, together
from other_model import OtherModel

from pg_qwen_embed import Client
from pg_qwen_embed.admin import generations as admin

LAYOUTS = {"table": (), "chunked": ("--chunk-tokens", "16"), "column": ("--store", "column")}
DERIVED = ("table", "chunked")  # layouts whose shorter vectors are made in the database


def generations(harness: Harness, name: str = "articles") -> dict[str, Any]:
    """What `generation status` says of each generation, by its state."""
    return {one["state"]: one for one in json.loads(harness.ok("generation", "status", name, "--json"))}


def is_built(harness: Harness, name: str = "articles") -> bool:
    building = generations(harness, name)["building"]
    return bool(building["backfill"]["state"] == "done" and not building["pending"])


def attached(harness: Harness, *options: str, rows: int = 30) -> None:
    harness.articles(*(f"article {n}" for n in range(1, rows + 1)))
    harness.ok("attach", "articles", "--text", "body", *options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fewer_dimensions_become_live_and_back_without_the_server(harness: Harness, layout: str) -> None:
    attached(harness, *LAYOUTS[layout])
    harness.once()
    before = harness.catalog()
    asked = len(harness.server.texts)
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    assert (len(harness.server.texts) == asked) == (layout in DERIVED)
    assert is_built(harness)
    harness.ok("generation", "complete", "articles")
    harness.assert_in_step()
    assert {state: one["spec"]["dimensions"] for state, one in generations(harness).items()} == {
        "live": 8,
        "retired": 16,
    }
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 3")
    harness.once()
    harness.assert_in_step()
    harness.ok("generation", "rollback", "articles")
    harness.assert_in_step()
    assert harness.embedding().live.spec.dimensions == 16
    harness.ok("generation", "drop", "articles", "--yes")
    assert list(generations(harness)) == ["live"]
    harness.assert_in_step()
    assert [one for one in harness.catalog() if one[0] == "column"] == [one for one in before if one[0] == "column"]


@pytest.mark.parametrize(("before", "after"), [("table", "chunked"), ("chunked", "table"), ("column", "chunked")])
def test_chunks_come_and_go_with_a_generation(harness: Harness, before: str, after: str) -> None:
    attached(harness, *LAYOUTS[before])
    harness.execute(f"GRANT SELECT ON qwen_embed.articles TO {READER}")
    harness.once()
    harness.ok("generation", "start", "articles", "--chunk-tokens", "16" if after == "chunked" else "0")
    harness.once()
    for command in ("complete", "rollback", "rollback"):
        harness.ok("generation", command, "articles")
        harness.execute("UPDATE articles SET body = body || '!' WHERE id < 5")
        harness.once()
        assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
        assert harness.value("SELECT has_table_privilege(%s, 'qwen_embed.articles', 'SELECT')", READER)
        assert status(harness)["missing"] == []
        columns = set(harness.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'qwen_embed.articles'::regclass"))
        assert (("chunk",) in columns) == (harness.embedding().live.layout == "chunked")
    assert harness.embedding().live.layout == after


def test_what_depends_on_the_view_survives_a_generation_of_the_same_columns(harness: Harness) -> None:
    attached(harness)
    harness.once()
    harness.execute("CREATE VIEW near AS SELECT id, embedding FROM qwen_embed.articles")
    harness.execute("REVOKE EXECUTE ON FUNCTION qwen_embed.articles_like(bigint, integer) FROM PUBLIC")
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    harness.ok("generation", "complete", "articles")
    assert harness.value("SELECT vector_dims(embedding::vector) FROM near LIMIT 1") == 8
    assert not harness.value(
        "SELECT has_function_privilege(%s, 'qwen_embed.articles_like(bigint, integer)', 'EXECUTE')", READER
    )
    harness.ok("generation", "drop", "articles", "--yes")
    harness.ok("generation", "start", "articles", "--chunk-tokens", "16")
    harness.once()
    before = harness.catalog()
    said = harness.refused("generation", "complete", "articles")
    assert "view near depends on" in said or "depends on its view" in said
    assert harness.catalog() == before


def test_nothing_is_left_of_any_generation_after_detach(harness: Harness) -> None:
    harness.articles("one", "two")
    before = harness.catalog()
    harness.ok("attach", "articles", "--text", "body", "--words", "simple")
    harness.once()
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.ok("generation", "start", "articles", "--chunk-tokens", "16")
    harness.ok("detach", "articles", "--yes")
    assert harness.catalog() == before


def test_a_dropped_generation_leaves_what_was_there_before_it(harness: Harness) -> None:
    attached(harness, "--index", "hnsw-prefix:8")
    harness.once()
    before = harness.catalog()
    harness.ok("generation", "start", "articles", "--index", "hnsw", "--dimensions", "8")
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.ok("generation", "rollback", "articles")
    harness.ok("generation", "drop", "articles", "--yes")
    assert harness.catalog() == before


def test_what_cannot_be_done_is_one_sentence_with_the_next_command(harness: Harness) -> None:
    attached(harness)
    said = harness.refused("generation", "complete", "articles")
    assert said.endswith("no generation that is being built; start one: pg-qwen-embed generation start articles")
    assert "no retired generation" in harness.refused("generation", "rollback", "articles")
    assert "pg-qwen-embed detach articles" in harness.refused("generation", "drop", "articles", "--yes")
    assert "nothing would differ" in harness.refused("generation", "start", "articles", "--dimensions", "16")
    assert 'has no column "absent"' in harness.refused("generation", "start", "articles", "--text", "absent")
    assert "pg-qwen-embed attach" not in harness.refused("generation", "start", "nothing", "--dimensions", "8")
    live = harness.embedding().live.id
    harness.ok("generation", "start", "articles", "--dimensions", "8", "--text", "views")
    said = harness.refused("generation", "complete", "articles")
    assert "is not ready: its backfill is pending" in said
    assert "start a worker: pg-qwen-embed worker" in said
    assert "is being built; to give it up run" in harness.refused(
        "generation", "start", "articles", "--dimensions", "4"
    )
    assert f"generation {live} of articles is live" in harness.refused(
        "generation", "drop", "articles", "--generation", str(live), "--yes"
    )
    assert "has no generation 99" in harness.refused("generation", "drop", "articles", "--generation", "99", "--yes")
    harness.once()
    harness.ok("generation", "complete", "articles")
    assert "make generation" in harness.refused("generation", "complete", "articles")
    harness.ok("generation", "start", "articles", "--dimensions", "4")
    harness.once()
    assert "drop it first" in harness.refused("generation", "complete", "articles")
    assert "add --generation" in harness.refused("generation", "drop", "articles", "--yes")


def test_documents_that_only_the_next_generation_rejects_hinder_it(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, title text)")
    harness.execute("INSERT INTO articles VALUES (1, 'good', 'POISON'), (2, 'good too', 'fine')")
    harness.ok("attach", "articles", "--text", "body")
    harness.server.poison = "POISON"
    harness.once()
    harness.ok("generation", "start", "articles", "--text", "title")
    harness.once()
    said = harness.refused("generation", "complete", "articles")
    number = str(generations(harness)["building"]["id"])
    assert "1 of its documents are failures, and 0 of the live generation" in said
    assert f"run: pg-qwen-embed failures list articles --generation {number}" in said
    assert "id=1" in harness.ok("failures", "list", "articles", "--generation", number)
    assert harness.ok("failures", "list", "articles") == "articles: no failures\n"
    harness.server.poison = None
    harness.ok("failures", "retry", "articles", "--generation", number)
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.assert_in_step("title")


def test_a_post_processing_comes_and_goes_with_a_generation(harness: Harness) -> None:
    attached(harness, rows=200)
    harness.once()
    harness.ok("generation", "start", "articles", "--post", "center")
    harness.once()
    harness.ok("generation", "complete", "articles")
    assert str(harness.embedding().live.spec.post) == "center of 16"
    assert harness.drift()[0] == 0
    total = harness.value("SELECT sum(embedding) <-> '[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]' FROM qwen_embed.articles")
    assert total < 20  # of 200 unit vectors: they point everywhere
    harness.ok("generation", "rollback", "articles")
    harness.assert_in_step()
    harness.ok("generation", "drop", "articles", "--yes")
    harness.execute("DELETE FROM articles WHERE id > 20")
    assert "add --post none" in harness.refused("generation", "start", "articles", "--post", "whiten")


def test_a_generation_that_is_not_ready_becomes_live_by_force(harness: Harness) -> None:
    attached(harness)
    harness.once()
    harness.ok("generation", "start", "articles", "--text", "views")
    harness.ok("generation", "complete", "articles", "--force")
    assert harness.value("SELECT count(*) FROM qwen_embed.articles") == 0
    harness.once()
    harness.assert_in_step("views::text")


@pytest.mark.parametrize("layout", DERIVED)
def test_start_goes_on_where_it_was_interrupted(harness: Harness, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attached(harness, *LAYOUTS[layout])
    harness.once()
    asked = len(harness.server.texts)
    with monkeypatch.context() as patch:
        patch.setattr(admin, "derive", lambda *_: None)  # as if it was killed before
        harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    harness.execute("DELETE FROM articles WHERE id = 2")
    assert "run the same generation start again" in harness.refused("generation", "complete", "articles")
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    assert set(harness.server.texts[asked:]) == {"changed"}
    harness.ok("generation", "complete", "articles")
    harness.assert_in_step()


def test_derived_vectors_are_those_of_the_server_within_half_precision(harness: Harness) -> None:
    attached(harness)
    harness.once()
    harness.ok("generation", "start", "articles", "--dimensions", "5")
    harness.ok("generation", "complete", "articles", "--force")
    found = harness.vectors()
    assert len(found) == 30
    for text, vector in found:
        np.testing.assert_allclose(vector, harness.server.vector(text, 5), atol=1e-3)


def test_a_transaction_that_began_before_a_change_of_generation_gets_no_vector_of_the_former(harness: Harness) -> None:
    attached(harness)
    query = "SELECT id FROM qwen_embed.articles ORDER BY embedding <=> qwen_embed.embed_query('articles', 'article 3') LIMIT 1"
    with harness.worker_here():
        eventually(harness.settled)
        assert harness.rows(query) == [(3,)]  # its vector is kept
        harness.ok("generation", "start", "articles", "--dimensions", "8")
        eventually(lambda: is_built(harness))
        early = harness.connect(autocommit=False)
        early.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        early.execute("SELECT count(*) FROM articles")
        harness.ok("generation", "complete", "articles")
        with pytest.raises(
            psycopg.errors.SerializationFailure, match="another generation since this transaction began"
        ):
            early.execute(query)
        early.rollback()
        assert harness.rows(query) == [(3,)]


def test_a_transaction_keeps_the_generation_that_it_has_asked_until_it_ends(harness: Harness) -> None:
    attached(harness)
    with harness.worker_here():
        eventually(harness.settled)
        harness.ok("generation", "start", "articles", "--dimensions", "8")
        eventually(lambda: is_built(harness))
        open_ = harness.connect(autocommit=False)
        (vector,) = open_.execute("SELECT qwen_embed.embed_query('articles', 'article 3')::text").fetchone() or ("",)
        completing = threading.Thread(target=harness.ok, args=("generation", "complete", "articles"))
        completing.start()
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'qwen_embed.articles'::regclass)"
        eventually(lambda: harness.value(waits))
        rows = open_.execute(
            "SELECT id FROM qwen_embed.articles ORDER BY embedding <=> %s LIMIT 1", (vector,)
        ).fetchall()
        assert rows == [(3,)]
        open_.commit()
        completing.join()
        assert harness.embedding().live.spec.dimensions == 8


CALLS = {
    "vector": "SELECT count(*) FROM qwen_embed.articles((SELECT embedding FROM qwen_embed.articles WHERE id = 3), 5)",
    "like": "SELECT count(*) FROM qwen_embed.articles_like(3, 5)",
    "duplicates": "SELECT count(*) >= 0 FROM qwen_embed.articles_duplicates(2, 5)",
    "words": "SELECT count(*) FROM qwen_embed.articles_words('article', 5)",
    "hybrid": "SELECT count(*) FROM qwen_embed.articles_hybrid('article', NULL::halfvec, 5)",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_functions_that_wait_for_a_change_of_generation_answer_by_the_next_one(harness: Harness, layout: str) -> None:
    attached(harness, *LAYOUTS[layout], "--words", "simple")
    harness.once()
    harness.ok("generation", "start", "articles", "--template", "an {body}")
    harness.once()
    reader = harness.connect(autocommit=False)
    reader.execute("SELECT FROM qwen_embed.articles LIMIT 1")
    sessions = {name: harness.connect() for name in CALLS}
    expected = {
        name: session.execute(CALLS[name]).fetchall() for name, session in sessions.items()
    }  # compiles the bodies
    completing = threading.Thread(target=harness.ok, args=("generation", "complete", "articles"))
    completing.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'qwen_embed.articles'::regclass"
    eventually(lambda: harness.value(waiting) == 1)
    found: dict[str, Any] = {}

    def call(name: str) -> None:
        try:
            found[name] = sessions[name].execute(CALLS[name]).fetchall()
        except psycopg.Error as error:
            found[name] = str(error)

    calling = [threading.Thread(target=call, args=(name,)) for name in CALLS]
    for thread in calling:
        thread.start()
    eventually(lambda: harness.value(waiting) == 1 + len(CALLS))
    reader.commit()
    for thread in (completing, *calling):
        thread.join()
    assert found == expected
    assert harness.embedding().live.spec.template.columns == ("body",)
    assert generations(harness)["live"]["id"] > generations(harness)["retired"]["id"]


def test_commands_at_once_leave_one_live_generation(harness: Harness) -> None:
    attached(harness)
    harness.once()
    together([lambda: harness.cli("generation", "start", "articles", "--text", "views") and None] * 3)
    assert len(generations(harness)) == 2
    harness.once()
    together([lambda: harness.cli("generation", "complete", "articles") and None] * 3)
    assert set(generations(harness)) == {"live", "retired"}
    harness.assert_in_step("views::text")
    together([
        lambda: harness.cli("generation", "rollback", "articles") and None,
        lambda: harness.cli("generation", "drop", "articles", "--yes") and None,
        lambda: harness.cli("generation", "start", "articles", "--dimensions", "8") and None,
    ])  # fmt: skip
    harness.once()
    assert sum(one["state"] == "live" for one in generations(harness).values()) == 1
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})


ODD = {
    "composite": (
        "t",
        "(lang text, id int, body text, PRIMARY KEY (lang, id))",
        "VALUES ('de', 1, 'a'), ('en', 1, 'b')",
        (),
    ),
    "uuid": (
        "t",
        "(id uuid PRIMARY KEY, body text)",
        "SELECT gen_random_uuid(), 'text ' || n FROM generate_series(1, 5) n",
        (),
    ),
    "odd names": ('"We""ird %s Name"', '("k ey %" text PRIMARY KEY, body text)', "VALUES ('a', 'x'), ('b%', 'y')", ()),
    "partitioned": ("t", "(id int PRIMARY KEY, body text) PARTITION BY RANGE (id)", "VALUES (1, 'a'), (2, 'b')", ()),
    "words": ("t", "(id int PRIMARY KEY, body text)", "VALUES (1, 'a cat'), (2, 'a dog')", ("--words", "english")),
}


@pytest.mark.parametrize("kind", ODD)
def test_generations_change_whatever_the_key_and_the_names_are(harness: Harness, kind: str) -> None:
    table, columns, rows, options = ODD[kind]
    harness.execute(f"CREATE TABLE {table} {columns}")
    if kind == "partitioned":
        harness.execute(f"CREATE TABLE t1 PARTITION OF {table} FOR VALUES FROM (0) TO (100)")
    harness.execute(f"INSERT INTO {table} {rows}")
    harness.ok("attach", table, "--text", "body", "--name", "e", *options)
    harness.once()
    harness.ok("generation", "start", "e", "--dimensions", "8")
    harness.execute(f"UPDATE {table} SET body = body || '!'")
    harness.once()
    for command in ("complete", "rollback", "rollback"):
        harness.ok("generation", command, "e")
        harness.assert_in_step(name="e")
        assert status(harness, "e")["missing"] == []
    harness.ok("generation", "drop", "e", "--yes")
    harness.execute(f"DELETE FROM {table} WHERE body LIKE 'a%'")
    harness.once()
    harness.assert_in_step(name="e")


def test_a_generation_embeds_columns_by_their_present_names(harness: Harness) -> None:
    attached(harness, rows=3)
    harness.execute("ALTER TABLE articles RENAME COLUMN body TO content")
    harness.execute("ALTER TABLE articles ADD COLUMN title text DEFAULT 'a title'")
    harness.once()
    harness.ok("generation", "start", "articles", "--template", "{title}: {content}")
    harness.execute("ALTER TABLE articles RENAME COLUMN title TO heading")
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.execute("UPDATE articles SET heading = 'another title' WHERE id = 2")
    harness.once()
    harness.assert_in_step("heading || ': ' || content")


def test_an_altered_table_and_a_repair_keep_every_generation(harness: Harness) -> None:
    attached(harness, rows=5)
    harness.once()
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER COLUMN body TYPE varchar(300)")
    harness.once()
    building = generations(harness)["building"]["id"]
    harness.execute(f"DROP TRIGGER qwen_embed_update_{building} ON articles")
    harness.execute("UPDATE articles SET body = 'unseen' WHERE id = 1")
    harness.once()
    assert harness.drift()[1] == {"missing": 0, "stale": 1, "orphaned": 0}
    harness.ok("verify", "articles", "--repair")
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.ok("verify", "articles")
    harness.assert_in_step()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_key_is_followed_by_every_generation(harness: Harness, layout: str) -> None:
    attached(harness, *LAYOUTS[layout], rows=5)
    harness.once()
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    asked = len(harness.server.texts)
    harness.execute("ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (id, views)")
    harness.ok("alter", "articles", "--rekey")
    harness.once()
    assert len(harness.server.texts) == asked
    harness.execute("INSERT INTO articles VALUES (1, 'of the same id', 7)")
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.assert_in_step()
    harness.ok("generation", "rollback", "articles")
    harness.assert_in_step()


def test_what_was_dropped_of_a_generation_that_is_not_live_is_reported_and_restored(harness: Harness) -> None:
    attached(harness, rows=5)
    harness.once()
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    building = generations(harness)["building"]["id"]
    harness.execute(f"DROP TABLE _qwen_embed.store_{building} CASCADE")
    (other,) = status(harness)["others"]
    assert other["problem"] == "its store was dropped"
    assert "it is not followed: its store was dropped" in harness.ok("status", "articles")
    assert "was dropped" in harness.refused("generation", "complete", "articles")
    assert "not followed: its store was dropped" in harness.ok("generation", "status", "articles")
    assert "was dropped" in harness.refused("generation", "complete", "articles", "--force")
    harness.ok("verify", "articles", "--repair")
    harness.once()
    harness.ok("generation", "complete", "articles")
    harness.assert_in_step()


def status(harness: Harness, name: str = "articles") -> dict[str, Any]:
    (one,) = json.loads(harness.ok("status", name, "--json"))
    found: dict[str, Any] = one
    return found


def test_a_column_of_vectors_has_one_next_to_it_while_a_generation_is_built(harness: Harness) -> None:
    attached(harness, "--store", "column", rows=5)
    with OtherModel().running() as other:
        harness.environment["PG_QWEN_EMBED_SERVER_URL"] = f"{harness.server.url},{other.url}"
        harness.once()
        harness.ok("generation", "start", "articles", "--model", "other")
        harness.once()
        both = "SELECT embedding::text, embedding_2::text FROM articles WHERE id = 2"
        ((first, second),) = harness.rows(both)
        harness.execute("UPDATE articles SET views = 3 WHERE id = 2")
        assert harness.rows(both) == [(first, second)]
        np.testing.assert_allclose(json.loads(second), other.vector("article 2"), atol=2e-3)
        harness.ok("generation", "complete", "articles")
        assert harness.rows("SELECT embedding::text FROM qwen_embed.articles WHERE id = 2") == [(second,)]
        with Client(harness.url, server_url=f"{harness.server.url},{other.url}") as client:
            (hit,) = client.search("articles", "article 2", limit=1)
            assert hit.row == {"id": 2, "body": "article 2", "views": 3}
        assert status(harness)["missing"] == []
        harness.ok("generation", "drop", "articles", "--yes")
        harness.server = other
        harness.assert_in_step()
        harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER COLUMN body TYPE varchar(99)")
        harness.once()
        harness.assert_in_step()
        harness.ok("detach", "articles", "--yes")
        columns = harness.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'articles'::regclass AND attnum > 0 "
                               "AND NOT attisdropped")  # fmt: skip
        assert {name for (name,) in columns} == {"id", "body", "views"}


STABLE, ROWS = 15, 25  # rows whose text stays, and all of them
QUERIES = ("article 3", "title 7", "anything else")


def document(template: str, key: int) -> str:
    return f"title {key}" if template == "title" else f"article {key}"


@dataclass
class Traffic:
    """Writes and queries at once, until it ends. An answer must be what one of the generations would give, as a whole."""

    harness: Harness
    servers: dict[str, FakeSGLang]
    known: list[tuple[str, int, str]] = field(default_factory=list)  # model, dimensions, template
    wrong: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def expected(self, one: tuple[str, int, str], query: str) -> dict[int, float]:
        model, dimensions, template = one
        vector = self.servers[model].vector
        own = vector(query, dimensions)
        return {key: 1 - float(own @ vector(document(template, key), dimensions)) for key in range(1, STABLE + 1)}

    def check(self, way: str, query: str, rows: list[tuple[int, float]]) -> None:
        found = {key: distance for key, distance in rows if key <= STABLE}
        fits = [
            one
            for one in list(self.known)
            if found.keys() == (wanted := self.expected(one, query)).keys()
            and all(abs(found[key] - wanted[key]) < 5e-3 for key in wanted)
        ]
        self.answers[way] += 1
        if not fits:
            off = [
                max(abs(found.get(k, 9) - v) for k, v in self.expected(one, query).items()) for one in list(self.known)
            ]
            self.wrong.append(f"{way}: {query!r}: off by {off} from {self.known}")

    def write(self) -> None:
        with psycopg.connect(self.harness.url, autocommit=True) as connection:
            for n in count():
                if self.over.wait(0.02):
                    return
                key = STABLE + 1 + n % (ROWS - STABLE)
                connection.execute("UPDATE articles SET body = %s, title = %s WHERE id = %s", (f"b{n}", f"t{n}", key))

    def ask(self, way: str, query: str) -> None:
        try:
            with psycopg.connect(self.harness.url, autocommit=True) as connection:
                connection.execute("SET hnsw.iterative_scan = strict_order")  # dead vectors count otherwise
                for n in count():
                    if self.over.wait(0.01):
                        return
                    text = QUERIES[n % len(QUERIES)]
                    self.check(way, text, connection.execute(query, {"text": text, "k": ROWS}).fetchall())
        except psycopg.Error as error:
            self.wrong.append(f"{way}: {error}")

    def search(self) -> None:
        try:
            with Client(self.harness.url, server_url=",".join(one.url for one in self.servers.values())) as client:
                for n in count():
                    if self.over.wait(0.02):
                        return
                    text = QUERIES[n % len(QUERIES)]
                    hits = client.search("articles", text, limit=ROWS)
                    self.check("client", text, [(int(str(hit.row["id"])), hit.distance) for hit in hits])
        except Exception as error:
            self.wrong.append(f"client: {error!r}")

    @contextmanager
    def running(self) -> Iterator[None]:
        work = [self.write, self.search, *(partial(self.ask, way, query) for way, query in WAYS.items())]
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()


WAYS = {
    "view": """SELECT e.id, e.embedding <=> qwen_embed.embed_query('articles', %(text)s) AS distance
               FROM qwen_embed.articles e ORDER BY 2 LIMIT %(k)s""",
    "function": "SELECT id, distance FROM qwen_embed.articles(%(text)s, %(k)s)",
    "function of a vector": """SELECT id, distance
                               FROM qwen_embed.articles(qwen_embed.embed_query('articles', %(text)s), %(k)s)""",
}


@pytest.mark.long
@pytest.mark.parametrize("postgres_version", [16, 18], indirect=True)
def test_no_query_fails_or_mixes_two_generations_while_they_change(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, title text)")
    harness.many(
        "INSERT INTO articles VALUES (%s, %s, %s)", [(n, f"article {n}", f"title {n}") for n in range(1, ROWS + 1)]
    )
    harness.server.dimensions = 256
    harness.ok("attach", "articles", "--text", "body")
    with OtherModel(dimensions=256).running() as other:
        harness.environment["PG_QWEN_EMBED_SERVER_URL"] = f"{harness.server.url},{other.url}"
        worker = harness.worker("--poll", "0.2")
        eventually(harness.settled)
        traffic = Traffic(harness, {"stand-in": harness.server, "other": other}, [("stand-in", 256, "body")])
        with traffic.running():
            steps = (
                (("--dimensions", "128"), ("stand-in", 128, "body")),
                (("--model", "other", "--dimensions", "128"), ("other", 128, "body")),
                (("--text", "title"), ("other", 128, "title")),
            )
            for options, properties in steps:
                harness.ok("generation", "start", "articles", *options)
                if options[0] == "--model":  # a worker is killed, and the server of the next model is away
                    other.fault = "503"
                    worker.popen.kill()
                    worker.popen.wait()
                    worker = harness.worker("--poll", "0.2")
                    eventually(lambda: generations(harness)["building"]["leader"])
                    other.fault = None
                eventually(lambda: generations(harness)["building"]["backfill"]["state"] == "done")
                traffic.known.append(properties)
                harness.ok("generation", "complete", "articles")
                answered(traffic)
                harness.ok("generation", "rollback", "articles")
                answered(traffic)
                harness.ok("generation", "rollback", "articles")
                answered(traffic)
                harness.ok("generation", "drop", "articles", "--yes")
                del traffic.known[:-1]
                assert traffic.wrong == []
        assert traffic.wrong == []
        eventually(harness.settled)
        assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
        harness.server = other
        harness.assert_in_step("title")


def answered(traffic: Traffic) -> None:
    """Wait until each way has been used some times more."""
    before = Counter(traffic.answers)
    ways = [*WAYS, "client"]
    eventually(lambda: traffic.wrong or all(traffic.answers[way] > before[way] + 10 for way in ways))
