"""Long documents in chunks: several vectors per row, all of one version, and a row found by its best chunk."""

import asyncio
import json
import unicodedata
from collections.abc import Awaitable, Callable
from itertools import pairwise

import numpy as np
import pytest
from harness import Harness, both_versions, eventually, quoted
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed import Client
from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.domain.spec import Chunking
from pg_qwen_embed.domain.version import READS
from pg_qwen_embed.inference import boundaries, chunking
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.store import LONGEST_DOCUMENT, Store

TOKENS = 64  # of a chunk: the fake SGLang's tokens are bytes, plus one that its tokenizer adds
ROOM = TOKENS - 1
NOTHING = {"missing": 0, "stale": 0, "orphaned": 0}
ENGLISH = "".join(f"Sentence {n} of this text says so. " + "\n\n" * (n % 4 == 0) for n in range(12))


def attach(harness: Harness, *arguments: str) -> None:
    harness.ok("attach", "articles", "--text", "body", "--chunk-tokens", str(TOKENS), *arguments)


def fill(harness: Harness, *bodies: str | None) -> None:
    harness.articles(*bodies)
    attach(harness)
    harness.once()


def chunks(harness: Harness) -> list[tuple[int, int, int, int]]:
    """Key, number and span of every chunk in the store."""
    return harness.rows(f"SELECT k1, chunk, lower(span), upper(span) FROM {harness.internal('store')} ORDER BY 1, 2")


def assert_in_step(harness: Harness) -> None:
    """Wait until all is at rest: every chunk has the vector of its text, and together they are the document."""
    assert harness.drift() == (0, NOTHING)
    rows = harness.rows(
        "SELECT body, chunk_text, embedding::text, stale, lower(span), upper(span)"
        " FROM articles JOIN qwen_embed.articles e USING (id)"
    )
    for body, text, vector, stale, begin, end in rows:
        assert (text, stale) == (body[begin:end], False)
        assert len(unicodedata.normalize("NFC", text).encode()) <= ROOM
        np.testing.assert_allclose(json.loads(vector), harness.server.vector(text), atol=2e-3, err_msg=text)
    for body, spans in harness.rows(
        "SELECT body, array_agg(ARRAY[lower(span), upper(span)] ORDER BY chunk)"
        " FROM articles JOIN qwen_embed.articles e USING (id) GROUP BY id, body"
    ):
        assert_covered(body, spans)
    wanted = sorted(key for key, body in harness.rows("SELECT id, body FROM articles") if (body or "").strip())
    assert harness.rows("SELECT DISTINCT id FROM qwen_embed.articles ORDER BY 1") == [(key,) for key in wanted]


def assert_covered(text: str, spans: list[tuple[int, int]]) -> None:
    covered = {n for begin, end in spans for n in range(begin, end)}
    assert all(character.isspace() for n, character in enumerate(text) if n not in covered)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(spans))
    assert all(text[begin:end].strip() for begin, end in spans)


@both_versions
def test_long_document_has_a_vector_for_each_of_its_chunks(harness: Harness) -> None:
    fill(harness, ENGLISH, "short", None, "  ")
    numbers = [chunk for key, chunk, *_ in chunks(harness) if key == 1]
    assert len(numbers) > 5
    assert numbers == [*range(1, len(numbers) + 1)]
    assert harness.rows("SELECT chunk, span::text, chunk_text FROM qwen_embed.articles WHERE id = 2") == [
        (1, "[0,5)", "short")
    ]
    assert_in_step(harness)


@pytest.mark.parametrize(
    "text",
    [
        "水は方円の器に随う。人は善悪の友による。" * 10,
        "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 10,
        "no sentence at all " * 40,
        "x" * 500,
        "a\n\n" + "é" * 300 + "\u0958" * 100,
        "\x1c" * 300 + "a" + "\u3000" * 300 + "b",
        "👩‍👩‍👧‍👦" * 40,
    ],
)
@pytest.mark.long
def test_documents_of_every_script_are_divided_and_covered(harness: Harness, text: str) -> None:
    fill(harness, text)
    assert all(chunk.strip() for chunk in harness.server.texts)
    assert_in_step(harness)


def test_sentences_stay_whole_where_they_fit(harness: Harness) -> None:
    fill(harness, ENGLISH, "水は方円の器に随う。人は善悪の友による。" * 10)
    assert all(text.endswith((".", "。")) for text in harness.server.texts)


def test_chunks_overlap_by_as_much_as_was_asked_for(harness: Harness) -> None:
    harness.articles("word " * 100)
    attach(harness, "--chunk-overlap", "20")
    harness.once()
    spans = [(begin, end) for _, _, begin, end in chunks(harness)]
    assert all(10 <= one[1] - other[0] <= 20 for one, other in list(pairwise(spans))[:-1])
    assert_in_step(harness)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("UPDATE articles SET body = 'short now' WHERE id = 1", 2),
        ("UPDATE articles SET body = body || body || body WHERE id = 1", 2),
        ("UPDATE articles SET body = ' ' WHERE id = 1", 2),
        ("UPDATE articles SET body = NULL WHERE id = 1", 2),
        ("DELETE FROM articles WHERE id = 1", 1),
        ("UPDATE articles SET id = 9 WHERE id = 1", 2),
        ("TRUNCATE articles", 0),
        ("TRUNCATE articles; INSERT INTO articles VALUES (1, 'back')", 1),
    ],
)
def test_change_of_a_row_leaves_no_chunk_too_many(harness: Harness, change: str, left: int) -> None:
    fill(harness, ENGLISH, ENGLISH.upper())
    harness.execute(change)
    harness.once()
    assert_in_step(harness)
    assert harness.value(f"SELECT count(DISTINCT k1) FROM {harness.internal('store')}") == left
    assert (
        harness.rows(
            f"SELECT k1 FROM {harness.internal('store')} GROUP BY k1 HAVING count(*) <> max(chunks) OR count(*) <> max(chunk)"
        )
        == []
    )


def test_change_of_another_column_embeds_nothing(harness: Harness) -> None:
    fill(harness, ENGLISH)
    harness.server.texts.clear()
    harness.execute("UPDATE articles SET views = 7")
    harness.once()
    assert harness.server.texts == []
    assert_in_step(harness)


def test_rows_that_have_their_chunks_are_not_embedded_again_by_another_scan(harness: Harness) -> None:
    fill(harness, ENGLISH, "short", " ")
    harness.server.texts.clear()
    with harness.worker_here():
        harness.ok("backfill", "articles")
    assert harness.server.texts == []
    assert harness.value("SELECT rows_done FROM _qwen_embed.backfill") == 3
    assert_in_step(harness)


# Late answers


class ManualWriters:
    """Two workers without loops: both have read, and write when they are told to, in chunks of ten characters."""

    def __init__(self, harness: Harness, store: Store, connection: AsyncConnection) -> None:
        self.harness, self.store, self.connection = harness, store, connection

    async def read(self) -> list[Change]:
        version = await self.store.begin_term(self.connection) * READS
        page = await self.store.read_outbox(
            self.connection, version=version, after=0, in_flight=set(), entries=100, keys=100
        )
        return page.changes

    async def write(self, changes: list[Change]) -> None:
        cut = [(c, tuple((n, min(n + 10, len(c.document))) for n in range(0, len(c.document), 10))) for c in changes]
        vectors = [self.harness.server.vector(c.document[begin:end]) for c, spans in cut for begin, end in spans]
        whole = [change._replace(spans=spans) for change, spans in cut]
        await self.store.write(self.connection, whole, [np.stack(vectors)])

    async def clear(self, changes: list[Change]) -> None:
        await self.store.clear(self.connection, changes)


def play(harness: Harness, script: Callable[[ManualWriters, ManualWriters], Awaitable[None]]) -> None:
    async def work() -> None:
        store = Store(harness.embedding().target, harness.value("SELECT 'halfvec'::regtype::oid"))
        async with await connect_async(harness.url, "slow") as one, await connect_async(harness.url, "quick") as two:
            await script(ManualWriters(harness, store, one), ManualWriters(harness, store, two))

    asyncio.run(work())


@pytest.fixture
def written(harness: Harness) -> Harness:
    harness.articles()
    attach(harness)
    harness.execute("INSERT INTO articles VALUES (1, 'an old text that has several chunks')")
    return harness


@both_versions
@pytest.mark.parametrize("new", ["short", "a new text", "a new text that has more chunks than the old text had"])
def test_slow_writer_cannot_add_chunks_to_a_newer_document(written: Harness, new: str) -> None:
    async def script(slow: ManualWriters, quick: ManualWriters) -> None:
        old = await slow.read()
        written.execute("UPDATE articles SET body = %s", new)
        await quick.write(await quick.read())
        await slow.write(old)

    play(written, script)
    assert_in_step(written)
    assert written.count("outbox") == 0


@pytest.mark.parametrize("change", ["DELETE FROM articles", "UPDATE articles SET body = ''"])
def test_slow_writer_cannot_bring_back_the_chunks_of_what_has_gone(written: Harness, change: str) -> None:
    async def script(slow: ManualWriters, quick: ManualWriters) -> None:
        old = await slow.read()
        written.execute(change)
        await quick.clear(await quick.read())
        await slow.write(old)

    play(written, script)
    assert written.value("SELECT count(*) FROM qwen_embed.articles") == 0
    assert_in_step(written)


def test_slow_clear_cannot_remove_the_chunks_of_a_row_that_came_back(written: Harness) -> None:
    async def script(slow: ManualWriters, quick: ManualWriters) -> None:
        written.execute("UPDATE articles SET body = ''")
        blank = await slow.read()
        written.execute("UPDATE articles SET body = 'and here is the text again'")
        await quick.write(await quick.read())
        await slow.clear(blank)

    play(written, script)
    assert written.count("store") == 3
    assert_in_step(written)


def test_one_key_twice_in_a_write_has_the_chunks_of_its_newest_text(written: Harness) -> None:
    async def script(slow: ManualWriters, quick: ManualWriters) -> None:
        old = await slow.read()
        written.execute("UPDATE articles SET body = 'new'")
        await slow.write([*old, *(await quick.read())])

    play(written, script)
    assert written.count("store") == 1
    assert_in_step(written)


@both_versions
@pytest.mark.parametrize("newer_first", [True, False])
def test_two_writes_of_a_row_at_once_leave_the_chunks_of_the_newer(written: Harness, newer_first: bool) -> None:
    async def script(slow: ManualWriters, quick: ManualWriters) -> None:
        old = await slow.read()
        written.execute("UPDATE articles SET body = 'a new text'")
        new = await quick.read()
        first, second = (new, old) if newer_first else (old, new)
        async with slow.connection.transaction():
            await slow.write(first)
            waiting = asyncio.create_task(quick.write(second))
            locked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not written.value(locked):  # noqa: ASYNC110  # no event for it
                await asyncio.sleep(0.01)
        await waiting

    play(written, script)
    assert written.count("store") == 1
    assert_in_step(written)


# The server


def test_rejected_chunk_makes_its_row_one_failure_and_the_others_have_their_vectors(harness: Harness) -> None:
    harness.server.poison = "Sentence 7"
    fill(harness, ENGLISH, "short", ENGLISH.lower())
    (failure,) = json.loads(harness.ok("failures", "list", "articles", "--json"))
    assert failure["key"] == {"id": 1}
    assert {key for key, *_ in chunks(harness)} == {2, 3}
    harness.server.poison = None
    harness.ok("failures", "retry", "articles")
    harness.once()
    assert_in_step(harness)


def test_row_that_postgres_rejects_leaves_the_others_their_own_chunks(harness: Harness) -> None:
    harness.articles(ENGLISH, ENGLISH.lower(), ENGLISH.upper(), "short")
    attach(harness)
    harness.execute(f"ALTER TABLE {harness.internal('store')} ADD CHECK (k1 <> 2)")
    harness.once()
    (failure,) = json.loads(harness.ok("failures", "list", "articles", "--json"))
    assert failure["key"] == {"id": 2}
    harness.execute("DELETE FROM articles WHERE id = 2")
    harness.once()
    assert_in_step(harness)


def test_document_of_many_chunks_goes_in_requests_of_the_usual_size(harness: Harness) -> None:
    fill(harness, ENGLISH * 30)
    assert harness.count("store") > 150
    assert max(len(request["input"]) for request in harness.server.requests) <= 64
    assert_in_step(harness)


@pytest.mark.long
def test_document_of_more_chunks_than_the_server_takes_at_once_is_no_failure(harness: Harness) -> None:
    harness.server.most_inputs = 3
    fill(harness, ENGLISH)
    assert json.loads(harness.ok("failures", "list", "articles", "--json")) == []
    assert_in_step(harness)


@pytest.mark.long
def test_server_that_is_overloaded_now_and_then_makes_no_failure_of_a_document_of_many_chunks(harness: Harness) -> None:
    harness.server.overloaded_every = 4
    harness.articles(*(f"Sentence {n} of many. " * 3000 for n in range(2)))
    attach(harness)
    harness.once()
    assert harness.count("failure") == 0
    assert_in_step(harness)


def test_server_that_takes_less_than_a_chunk_gets_less(harness: Harness) -> None:
    harness.server.context_length = 40
    fill(harness, ENGLISH)
    assert max(len(text) for text in harness.server.texts) <= 32
    assert_in_step(harness)


def test_server_without_a_tokenizer_gets_chunks_by_a_guess(harness: Harness) -> None:
    harness.server.tokenizes = False
    harness.server.context_length = 1 << 20
    harness.articles(ENGLISH, "short")
    attach(harness)
    harness.once()
    assert len(harness.server.texts) > 3
    assert max(len(text) for text in harness.server.texts) <= 3 * TOKENS
    assert harness.drift() == (0, NOTHING)


def test_document_too_long_for_us_to_carry_is_a_failure_that_says_so(harness: Harness) -> None:
    fill(harness, "x" * (LONGEST_DOCUMENT + 1), "short")
    (failure,) = json.loads(harness.ok("failures", "list", "articles", "--json"))
    assert failure["error"].startswith("the document has more than 500,000 characters, the most that are divided into")
    assert harness.server.texts == ["short"]


# Searching


def nearest(harness: Harness, query: str) -> list[tuple[int, int]]:
    """Each row with its best chunk, found by comparing all chunks."""
    return harness.rows(
        "SELECT id, chunk FROM (SELECT DISTINCT ON (id) id, chunk, embedding <=> %s::halfvec AS distance"
        " FROM qwen_embed.articles ORDER BY id, distance) best ORDER BY distance",
        str(harness.server.vector(query).tolist()),
    )


def asked(harness: Harness, query: str, rows: int) -> list[tuple[int, int]]:
    vector = str(harness.server.vector(query).tolist())
    return harness.rows("SELECT id, chunk FROM qwen_embed.articles(%s::halfvec, %s)", vector, rows)


def read_by_index(harness: Harness) -> int:
    """How many chunks the ANN index has returned so far."""
    harness.execute("SELECT pg_stat_force_next_flush()")
    found: int = harness.value("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE indexrelname ~ '_hnsw$'")
    return found


@pytest.fixture
def searched(harness: Harness) -> Harness:
    fill(harness, *(ENGLISH.replace("this", f"text {n}") for n in range(30)), "short", None)
    return harness


@both_versions
def test_rows_are_found_by_their_best_chunk_through_the_index(searched: Harness) -> None:
    searched.execute("SET enable_seqscan = off")
    assert asked(searched, "query", 10) == nearest(searched, "query")[:10]
    assert read_by_index(searched) >= 10
    assert asked(searched, "query", 100) == nearest(searched, "query")
    assert len(nearest(searched, "query")) == 31


@pytest.mark.long
@both_versions
def test_planner_takes_the_index_by_itself_where_there_are_many_chunks(harness: Harness) -> None:
    fill(harness)
    harness.execute("INSERT INTO articles SELECT n, 'text' FROM generate_series(1, 3000) n")
    harness.execute(
        f"INSERT INTO {harness.internal('store')} SELECT n, chunk, 3, '[0,4)', 1, 'x',"
        " ARRAY(SELECT random() - 0.5 + 0 * n * chunk FROM generate_series(1, 16))::real[]::halfvec"
        " FROM generate_series(1, 3000) n, generate_series(1, 3) chunk"
    )
    harness.execute(f"ANALYZE articles, {harness.internal('store')}")
    harness.execute("SET cursor_tuple_fraction = 1")  # whatever the session prefers
    assert len(asked(harness, "query", 10)) == 10
    assert 10 <= read_by_index(harness) < 1000


def test_rows_are_found_by_their_best_chunk_without_an_index(searched: Harness) -> None:
    searched.execute(f"DROP INDEX {searched.internal('store')}_hnsw")
    assert asked(searched, "query", 10) == nearest(searched, "query")[:10]
    assert asked(searched, "query", 100) == nearest(searched, "query")


@pytest.mark.parametrize("memory", ["64kB", "4MB"])
def test_row_whose_chunks_are_all_nearest_hides_no_other(searched: Harness, memory: str) -> None:
    searched.execute("UPDATE articles SET body = (SELECT string_agg(body, ' ') FROM articles) WHERE id = 1")
    searched.once()
    noise = np.random.default_rng(1).normal(0, 0.01, (searched.count("store"), 16))
    vectors = [(str((searched.server.vector("query") + own).tolist()), n) for n, own in enumerate(noise)]
    searched.many(f"UPDATE {searched.internal('store')} SET embedding = %s WHERE k1 = 1 AND chunk = %s", vectors)
    searched.execute("SET enable_seqscan = off")
    searched.execute(f"SET work_mem = '{memory}'")
    found = [key for key, _ in asked(searched, "query", 5)]
    assert searched.value(f"SELECT count(*) FROM {searched.internal('store')} WHERE k1 = 1") > 250
    assert found == [1, *(key for key, _ in nearest(searched, "query") if key != 1)][:5]
    assert len({key for key, _ in asked(searched, "query", 31)}) == 31
    assert read_by_index(searched) > 250 or memory == "64kB"


def test_search_shows_the_best_chunk_of_each_row(searched: Harness) -> None:
    best = nearest(searched, "query")[:3]
    with Client(searched.url, server_url=searched.server.url) as client:
        hits = client.search("articles", "query", 3)
    assert [(hit.row["id"], hit.row["chunk"]) for hit in hits] == best
    for hit in hits:
        assert list(hit.row) == ["id", "body", "views", "chunk", "span", "chunk_text"]
        assert str(hit.row["chunk_text"]) in str(hit.row["body"])
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    (first, *_) = searched.ok("search", "articles", "query", "--limit", "3").splitlines()
    assert f"chunk={best[0][1]}  span=[" in first
    assert "chunk_text=" in first
    assert json.loads(searched.ok("search", "articles", "query", "--json"))[0]["row"]["chunk"] == best[0][1]


def test_chunk_of_a_text_that_has_changed_since_is_stale_and_has_no_text(harness: Harness) -> None:
    fill(harness, ENGLISH)
    harness.execute("UPDATE articles SET body = 'changed'")
    assert harness.rows("SELECT DISTINCT stale, chunk_text FROM qwen_embed.articles") == [(True, None)]


@pytest.mark.superuser
def test_search_function_has_the_rights_of_who_calls_it_and_trusts_no_search_path(searched: Harness) -> None:
    vector = str(searched.server.vector("query").tolist())
    call = f"SELECT id FROM qwen_embed.articles('{vector}'::public.halfvec) LIMIT 1"
    searched.execute("CREATE FUNCTION cardinality(text[]) RETURNS int LANGUAGE sql AS 'SELECT 1 / 0'")
    for path in ("''", "public, pg_catalog"):
        searched.execute(f"SET search_path = {path}")
        assert len(searched.rows(call)) == 1
    searched.execute("CREATE ROLE reader")
    try:
        searched.execute("GRANT USAGE ON SCHEMA qwen_embed TO reader")
        searched.execute("GRANT SELECT ON qwen_embed.articles TO reader")
        searched.execute("SET ROLE reader")
        with pytest.raises(Exception, match="permission denied for table"):
            searched.rows(call)
    finally:
        searched.execute("RESET ROLE")
        searched.execute("DROP OWNED BY reader; DROP ROLE reader")


# Drift


@both_versions
@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("DELETE FROM {store} WHERE k1 = 1 AND chunk = 1", {"missing": 1}),
        ("DELETE FROM {store} WHERE k1 = 1 AND chunk = 3", {"missing": 1}),
        ("DELETE FROM {store} WHERE k1 = 1 AND chunk = (SELECT max(chunk) FROM {store} WHERE k1 = 1)", {"missing": 1}),
        ("DELETE FROM {store} WHERE k1 = 1", {"missing": 1}),
        ("UPDATE {store} SET version = -1 WHERE k1 = 1 AND chunk = 2", {"missing": 1}),
        ("UPDATE {store} SET k1 = 9 WHERE k1 = 1", {"missing": 1, "orphaned": 1}),
        ("UPDATE {store} SET k1 = 9 WHERE k1 = 1 AND chunk = 2", {"missing": 1, "orphaned": 1}),
        ("UPDATE {store} SET k1 = 3, chunk = 2 WHERE k1 = 1 AND chunk = 2", {"missing": 1, "stale": 1}),
        ("INSERT INTO {store} SELECT 2, 2, 1, span, version, fingerprint, embedding FROM {store} WHERE k1 = 2",
         {"missing": 1}),
        ("UPDATE {store} SET fingerprint = 'x' WHERE k1 = 1", {"stale": 1}),
    ],
)  # fmt: skip
@pytest.mark.long
def test_verify_finds_chunks_that_are_missing_or_too_many_and_a_repair_repairs_them(
    harness: Harness, harm: str, found: dict[str, int]
) -> None:
    fill(harness, ENGLISH, "short", " ")
    assert_in_step(harness)
    harness.execute(harm.format(store=harness.internal("store")))
    assert harness.drift() == (1, NOTHING | found)
    enqueued = json.loads(harness.ok("verify", "articles", "--repair", "--json"))["enqueued"]
    assert enqueued["missing_or_stale"] + enqueued["orphaned"] == sum(found.values())
    harness.once()
    assert_in_step(harness)
    assert harness.value(f"SELECT count(*) FROM {harness.internal('store')} WHERE k1 = 9") == 0


def test_status_counts_rows_and_chunks(harness: Harness) -> None:
    fill(harness, ENGLISH, "short")
    harness.execute("INSERT INTO articles VALUES (3, ' ')")
    harness.once()
    (one,) = json.loads(harness.ok("status", "articles", "--json"))
    assert (one["rows"], one["vectors"], one["chunks"], one["truncated"]) == (3, 2, harness.count("store") - 1, 0)
    assert f"vectors 2 in {one['chunks']} chunks" in harness.ok("status", "articles")


# Attach and detach


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chunk-tokens", "5"], "chunks of 5 tokens are too short"),
        (["--chunk-tokens", "64", "--chunk-overlap", "33"], "may overlap by 0 to 32, not by 33"),
        (["--chunk-tokens", "64", "--chunk-overlap", "-1"], "may overlap by 0 to 32, not by -1"),
        (["--chunk-overlap", "8"], "add --chunk-tokens"),
        (["--chunk-tokens", "64", "--store", "column"], "leave --store column out"),
        (["--chunk-tokens", "64", "--too-long", "fail"], "leave --too-long out"),
        (["--chunk-tokens", "64", "--column", "span"], 'two columns "span"'),
    ],
)
def test_attach_rejects_chunks_that_cannot_be_with_one_sentence(
    harness: Harness, arguments: list[str], words: str
) -> None:
    harness.articles()
    assert words in harness.refused("attach", "articles", "--text", "body", *arguments)


def test_detach_leaves_nothing_of_chunks_behind(harness: Harness) -> None:
    harness.articles(ENGLISH)
    before = harness.catalog()
    attach(harness)
    harness.once()
    harness.ok("detach", "articles", "--yes")
    assert harness.catalog() == before


def test_names_of_every_kind_can_have_chunks(harness: Harness) -> None:
    name = 'o"d %s\\d'
    harness.execute("CREATE TABLE t (c uuid, query text, rows citext, PRIMARY KEY (c, rows))".replace("citext", "text"))
    harness.execute("INSERT INTO t VALUES (gen_random_uuid(), %s, 'a,b'), (gen_random_uuid(), 'short', '')", ENGLISH)
    arguments = ["--text", "query", "--name", name, "--column", "e", "--chunk-tokens", str(TOKENS)]
    assert "CREATE OR REPLACE FUNCTION" in harness.ok("attach", "t", *arguments, "--dry-run")
    harness.ok("attach", "t", *arguments)
    harness.once()
    vector = str(harness.server.vector("query").tolist())
    found = harness.connection.execute(
        f"SELECT c, rows FROM qwen_embed.{quoted(name)}('{vector}'::halfvec, 5)".encode()
    ).fetchall()
    assert sorted(found) == sorted(harness.rows("SELECT c, rows FROM t"))
    assert harness.drift(name) == (0, NOTHING)
    harness.ok("detach", name, "--yes")


def test_document_of_more_chunks_than_are_kept_is_a_failure_that_says_so(harness: Harness) -> None:
    harness.articles("short", "word " * 20_000)
    harness.ok("attach", "articles", "--text", "body", "--chunk-tokens", "16")
    harness.once()
    (error,) = harness.rows(f"SELECT error FROM {harness.internal('failure')}")[0]
    assert "at most 4,096 are kept; attach with more --chunk-tokens" in error
    assert [key for key, *_ in chunks(harness)] == [1]


def test_key_of_an_extensions_type_can_be_searched(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id vector(2) PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles VALUES ('[1,2]', 'one'), ('[3,4]', %s)", ENGLISH)
    attach(harness)
    harness.once()
    found = harness.rows(
        "SELECT id::text FROM qwen_embed.articles((SELECT embedding FROM qwen_embed.articles LIMIT 1), 5)"
    )
    assert sorted(found) == [("[1,2]",), ("[3,4]",)]


def test_client_notices_that_an_embedding_was_attached_anew_with_chunks_and_without(harness: Harness) -> None:
    harness.articles(*(f"{n} {ENGLISH}" for n in range(3)))
    with Client(harness.url, server_url=harness.server.url) as client:
        for more in ((), ("--chunk-tokens", str(TOKENS)), ()):
            harness.ok("attach", "articles", "--text", "body", *more)
            harness.once()
            assert sorted(hit.row["id"] for hit in client.search("articles", "x", 10)) == [1, 2, 3]
            harness.ok("detach", "articles", "--yes")


def test_key_column_that_is_renamed_is_followed(harness: Harness) -> None:
    fill(harness, ENGLISH, "short")
    harness.execute("ALTER TABLE articles RENAME id TO number")
    harness.execute("UPDATE articles SET body = %s", ENGLISH.upper())
    harness.once()
    assert harness.drift() == (0, NOTHING)
    assert sorted(key for key, _ in asked(harness, "query", 5)) == [1, 2]


# Dividing


@given(st.text(min_size=2, max_size=400), st.integers(1, 60), st.integers(0, 30), st.integers(1, 4))
def test_chunks_cover_the_text_and_are_shorter_than_it(text: str, most: int, overlap: int, tokens: int) -> None:
    spans = boundaries.divide(text, (0, len(text)), tokens=tokens * len(text), most=most, overlap=overlap)
    assert all(0 <= begin < end <= len(text) and end - begin < len(text) for begin, end in spans)
    assert_covered(text, boundaries.in_order(spans))


def test_chunk_that_lies_within_another_is_left_out() -> None:
    assert boundaries.in_order([(5, 7), (2, 8), (5, 12), (0, 10), (0, 4)]) == [(0, 10), (5, 12)]


class Bytes:
    """A server that counts tokens like the fake SGLang."""

    async def tokenize(self, texts: list[str], *, special: bool) -> list[list[int]]:
        return [[*unicodedata.normalize("NFC", text).encode(), *[256] * special] for text in texts]


@given(st.text(min_size=1, max_size=300), st.integers(16, 60), st.integers(0, 30), st.booleans())
def test_no_chunk_is_longer_than_was_asked_for_and_none_lies_in_another(
    text: str, tokens: int, overlap: int, counts: bool
) -> None:
    longest = 1000 if counts else None
    (spans,) = asyncio.run(chunking.split(Bytes(), [text + "x"], Chunking(tokens, min(overlap, tokens // 2)), longest))
    assert_covered(text + "x", spans)
    if counts:
        pieces = [(text + "x")[begin:end] for begin, end in spans]
        assert all(len(unicodedata.normalize("NFC", piece).encode()) < tokens for piece in pieces)


def test_long_text_without_a_sentence_is_divided_in_time() -> None:
    text = "漢" * 1_500_000  # at once it would take longer than a test may
    spans = boundaries.divide(text, (0, len(text)), tokens=len(text), most=512, overlap=0)
    assert_covered(text, spans)


@both_versions
def test_chunks_follow_a_live_worker(harness: Harness) -> None:
    harness.articles(ENGLISH)
    attach(harness)
    harness.worker()
    eventually(harness.settled)
    for body in ("short", ENGLISH * 3, " ", "", ENGLISH.swapcase()):
        harness.execute("UPDATE articles SET body = %s WHERE id = 1", body)
        harness.execute("INSERT INTO articles SELECT max(id) + 1, %s FROM articles", body)
    eventually(harness.settled)
    assert_in_step(harness)
