"""The kinds of index: what is built, that searches use it and rank by whole vectors, and how it is kept, dropped and measured."""

import json
import re
import signal
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from harness import LAYOUTS, READER, Harness, as_role, both_versions, eventually
from numpy.typing import NDArray

from pg_qwen_embed.domain.vectors import normalise
from pg_qwen_embed.postgres import index_check as measuring
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

KINDS = {
    "hnsw": "USING hnsw (embedding halfvec_cosine_ops)",
    "hnsw:m=8,ef_construction=40": "(m='8', ef_construction='40')",
    "hnsw-binary": "bit_hamming_ops",
    "hnsw-prefix:16": "subvector",
    "ivfflat": "USING ivfflat (embedding halfvec_cosine_ops) WITH (lists='1')",
}


BEGIN = {"name": "articles", "instruction": "", "ef_search": 1, "given": False, "has_condition": False}


def attached(harness: Harness, rows: int, *options: str) -> None:
    """A table whose rows have their vectors, and an index if there is to be one."""
    harness.articles(*[f"article {n}" for n in range(1, rows + 1)])
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()


def definition(harness: Harness) -> str | None:
    found = harness.rows(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE pg_get_indexdef(indexrelid) ~ 'USING (hnsw|ivfflat)'"
    )
    return re.sub(r"\bpublic\.", "", found[0][0]) if found else None


def search_plan(harness: Harness) -> str:
    """The plan of the statement of `search`, under its own settings."""
    names = names_of(harness.embedding())
    vector = json.dumps(harness.server.vector("article 5", harness.embedding().live.spec.dimensions).tolist())
    with harness.connection.transaction():
        harness.connection.execute(statement("begin_search", names), BEGIN)
        harness.connection.execute("SET LOCAL enable_seqscan = off")
        harness.connection.execute("SET LOCAL enable_sort = off")  # the candidates are the whole table
        query = b"EXPLAIN " + statement(names.layout.search, names).as_bytes(harness.connection)
        return "\n".join(line for (line,) in harness.connection.execute(query, {"query": vector, "limit": 10}))


def reported(harness: Harness) -> dict[str, object]:
    (one,) = json.loads(harness.ok("index", "list", "articles", "--json"))
    return dict(one)


@both_versions
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_each_kind_is_built_used_and_right(harness: Harness, kind: str, layout: str) -> None:
    exact = ["--index", "none", "--name", "exact", "--column", "whole"]
    harness.articles(*[f"article {n}" for n in range(1, 81)])
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout], "--index", kind)
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout], *exact)
    harness.once()
    built = definition(harness)
    assert built is not None
    assert KINDS[kind].replace("embedding halfvec", "embedding halfvec") in built
    if layout != "chunked":
        plan = search_plan(harness)
        assert re.search(r"Index Scan using \S*store_1_(hnsw|ivfflat)", plan), plan
    for text in ("article 7", "article 50"):
        found = json.loads(harness.ok("search", "articles", text, "--limit", "12", "--json"))
        wanted = json.loads(harness.ok("search", "exact", text, "--limit", "12", "--json"))
        assert [hit["distance"] for hit in found] == pytest.approx([hit["distance"] for hit in wanted], abs=1e-6)
        assert [hit["row"]["id"] for hit in found][:1] == [hit["row"]["id"] for hit in wanted][:1]
    harness.ok("detach", "exact", "--yes")
    harness.ok("detach", "articles", "--yes")
    assert definition(harness) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_a_dropped_index_stays_away_until_it_is_created(harness: Harness, kind: str) -> None:
    attached(harness, 30, "--index", kind)
    assert reported(harness)["state"] == "valid"
    assert "every search is exact" in harness.ok("index", "drop", "articles")
    assert definition(harness) is None
    harness.execute("INSERT INTO articles SELECT i, 'article ' || i FROM generate_series(31, 40) i")
    harness.once()
    assert definition(harness) is None
    assert "none, as was chosen" in harness.ok("status")
    assert not [line for line in harness.cli("doctor").output.splitlines() if "index none" in line and "ok" not in line]
    harness.ok("index", "create", "articles")
    assert KINDS[kind] in str(definition(harness))
    assert "has its index already" in harness.refused("index", "create", "articles")


# Measured indexes.


def filled(harness: Harness, vectors: NDArray[np.float32], *options: str) -> None:
    """An embedding whose store has these vectors: no server has made them."""
    count, dimensions = vectors.shape
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text)")
    harness.execute(f"INSERT INTO articles SELECT i, 'article ' || i FROM generate_series(1, {count}) i")
    harness.ok("attach", "articles", "--text", "body", "--dimensions", str(dimensions), "--no-backfill", *options)
    store = harness.internal("store")
    with (
        harness.connection.cursor() as cursor,
        cursor.copy(f"COPY {store} (k1, version, fingerprint, embedding) FROM STDIN") as copy,
    ):
        for number, vector in enumerate(vectors, 1):
            copy.write_row((number, 1, b"x", str(vector.tolist())))
    harness.execute(f"ANALYZE {store}")


def in_clusters(count: int, dimensions: int = 16) -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, dimensions))
    vectors = centres[rng.integers(40, size=count)] + 0.3 * rng.standard_normal((count, dimensions))
    return normalise(vectors.astype(np.float32))


@both_versions
@pytest.mark.long
def test_a_check_finds_the_smallest_ef_search_that_is_enough_and_searches_use_it(harness: Harness) -> None:
    filled(harness, in_clusters(3000))
    assert harness.value("SELECT qwen_embed.ef_search('articles')") == 100
    harness.ok("index", "create", "articles")
    found = json.loads(harness.ok("index", "check", "articles", "--queries", "40", "--recall", "0.9", "--json"))
    reached = [point["width"] for point in found["points"] if point["recall"] >= 0.9]
    assert found["width"] == min(reached)
    assert found["recall"] >= 0.9
    assert [point["width"] for point in found["points"]] == [
        10,
        20,
        40,
        60,
        80,
        100,
        150,
        200,
        300,
        400,
        600,
        800,
        1000,
    ]
    assert harness.value("SELECT qwen_embed.ef_search('articles')") == found["width"]
    assert f"recall@10 {found['recall']:.3f} at ef_search {found['width']}" in harness.ok("status")
    (status,) = json.loads(harness.ok("status", "--json"))
    assert (status["ef_search"], status["recall"]) == (found["width"], found["recall"])
    names = names_of(harness.embedding())
    with harness.connection.transaction():
        harness.connection.execute(statement("begin_search", names), BEGIN)
        assert harness.value("SELECT current_setting('hnsw.ef_search')") == str(max(40, found["width"]))
    table = harness.ok("index", "check", "articles", "--queries", "5")
    assert re.search(r"ef_search +10 +recall [01]\.\d{4} +median +\d", table), table
    assert re.search(r"exact +recall 1\.0000", table)


@pytest.mark.long
def test_rows_that_the_graph_has_no_way_to_are_seen(harness: Harness) -> None:
    """Five rows among thousands that are nearly identical."""
    rng = np.random.default_rng(1)
    one = normalise(rng.standard_normal((1, 16), dtype=np.float32))
    near = normalise(one + 1e-3 * rng.standard_normal((5000, 16), dtype=np.float32))
    real = normalise(rng.standard_normal((5, 16), dtype=np.float32))
    vectors = np.concatenate([real, near])
    filled(harness, vectors)
    harness.ok("index", "create", "articles")
    found = json.loads(harness.ok("index", "check", "articles", "--queries", "20", "--json"))
    print(found)
    nearest = "SELECT k1 FROM _qwen_embed.store_1 ORDER BY embedding <=> %s::halfvec LIMIT 1"
    harness.execute("SET enable_seqscan = off")
    missed = sum(harness.value(nearest, str(vector.tolist())) != n for n, vector in enumerate(real, 1))
    assert missed
    assert found["not_found"] >= missed


@pytest.mark.long
def test_the_worker_measures_the_index_that_it_has_built(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measuring, "GENTLE", replace(measuring.GENTLE, share=1.0, queries=10, looked_for=30))
    caplog.set_level("INFO", "pg_qwen_embed.worker")
    filled(harness, in_clusters(2500))
    with harness.worker_here():
        eventually(lambda: reported(harness)["recall"] is not None, 60)
    assert "index_measured" in caplog.text
    found = reported(harness)
    assert found["recall"] >= 0.98  # type: ignore[operator]
    assert found["looked_for"] == 30
    assert "recall@10" in harness.ok("index", "list")


def test_any_role_with_usage_on_the_schema_may_ask_for_ef_search(harness: Harness) -> None:
    attached(harness, 3)
    harness.execute("INSERT INTO _qwen_embed.ann_index (generation_id, ef_search) VALUES (1, 77)")
    with psycopg.connect(as_role(harness.url, READER)) as reader:
        for path in ("public", "pg_temp"):
            reader.execute(f"SET search_path = {path}")
            assert reader.execute("SELECT qwen_embed.ef_search('articles')").fetchone() == (77,)
        assert reader.execute("SELECT qwen_embed.ef_search('no such')").fetchone() == (100,)
        assert reader.execute("SELECT qwen_embed.ef_search(NULL)").fetchone() == (100,)


# More than 4,000 dimensions.


@pytest.mark.parametrize("kind", ["hnsw-binary", "hnsw-prefix:64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_vectors_of_more_than_4000_dimensions_have_a_compressed_index(harness: Harness, layout: str, kind: str) -> None:
    harness.server.dimensions = 4096
    harness.articles(*[f"article {n}" for n in range(1, 31)])
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout], "--index", kind)
    assert harness.embedding().live.spec.dimensions == 4096
    harness.once()
    assert reported(harness)["state"] == "valid"
    (hit, *_) = json.loads(harness.ok("search", "articles", "article 7", "--json"))
    assert hit["row"]["body"] == "article 7"
    harness.assert_in_step()


def test_a_kind_that_cannot_hold_the_vectors_is_refused(harness: Harness) -> None:
    harness.articles("one")
    harness.server.dimensions = 4096
    attach = ("attach", "articles", "--text", "body")
    refused = harness.refused(*attach, "--dimensions", "4096")
    assert refused.startswith("4096 dimensions: an index on halfvec holds 1 to 4000")
    assert "--index hnsw-binary" in refused
    assert "1 to 4000" in harness.refused(*attach, "--dimensions", "4096", "--index", "ivfflat")
    assert "the prefix is 1 to 512" in harness.refused(*attach, "--dimensions", "512", "--index", "hnsw-prefix:600")
    for text in (
        "hsnw",
        "hnsw-prefix",
        "hnsw:lists=4",
        "hnsw:m",
        "hnsw:m=1000",
        "ivfflat:lists=0",
        "hnsw:m=40",
        "hnsw-prefix:x",
    ):
        assert f"--index {text}" in harness.refused(*attach, "--dimensions", "512", "--index", text)
    harness.ok(*attach)  # a model of more dimensions is shortened to those that the index holds
    assert harness.embedding().live.spec.dimensions == 4000


# Builds.


@pytest.mark.long
def test_another_kind_takes_the_place_of_the_present_one(harness: Harness) -> None:
    attached(harness, 40)
    for kind in ("hnsw-binary", "ivfflat:lists=2", "hnsw-prefix:8", "hnsw"):
        said = harness.ok("index", "rebuild", "articles", "--index", kind)
        assert kind in said
        assert "valid" in said
        assert str(harness.embedding().live.spec.index) == kind
        assert harness.value("SELECT count(*) FROM pg_indexes WHERE indexdef ~ 'USING (hnsw|ivfflat)'") == 1
        plan = search_plan(harness)
        assert re.search(r"Index Scan using \S*store_1_(hnsw|ivfflat) ", plan), plan
        harness.execute("INSERT INTO articles SELECT max(id) + 1, 'new ' || max(id) FROM articles")
        harness.once()
        assert json.loads(harness.ok("search", "articles", "article 7", "--json"))[0]["row"]["body"] == "article 7"
    assert "has no index; add --index hnsw" in harness.refused("index", "rebuild", "articles", "--index", "none")


@both_versions
@pytest.mark.parametrize("layout", ["table", "column"])
def test_a_build_that_is_interrupted_leaves_nothing_behind(harness: Harness, layout: str) -> None:
    attached(harness, 30, *LAYOUTS[layout], "--index", "none")
    older = harness.connect()
    older.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")  # the build waits for its end
    older.execute("TABLE articles")
    command = harness.process("index", "rebuild", "articles", "--index", "hnsw", fork=True)
    left = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    eventually(lambda: harness.value(left))
    busy = harness.refused("index", "create", "articles", "--index", "hnsw")
    assert re.search(r"the session \d+ \(pg_qwen_embed index: articles\) builds or drops its index", busy)
    command.popen.send_signal(signal.SIGINT)
    building = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'CREATE INDEX' AND state = 'active' AND pid <> pg_backend_pid()"
    eventually(lambda: not harness.value(building))
    older.execute("COMMIT")
    assert command.popen.wait(20) != 0
    assert "Traceback" not in command.said
    assert definition(harness) is None
    harness.ok("index", "rebuild", "articles", "--index", "hnsw")
    assert definition(harness)


def test_what_a_killed_rebuild_has_left_is_dropped_by_the_worker(harness: Harness) -> None:
    attached(harness, 10)
    harness.execute("CREATE INDEX store_1_hnsw_next ON _qwen_embed.store_1 USING hnsw (embedding halfvec_cosine_ops)")
    harness.once()
    assert harness.rows("SELECT indexname FROM pg_indexes WHERE indexdef ~ 'USING hnsw'") == [("store_1_hnsw",)]
    assert reported(harness)["state"] == "valid"


@pytest.mark.long
def test_an_ivfflat_index_is_built_again_when_its_table_has_outgrown_it(harness: Harness) -> None:
    filled(harness, in_clusters(200), "--index", "ivfflat")
    harness.once()
    assert "lists='1'" in str(definition(harness))
    harness.execute(
        "INSERT INTO _qwen_embed.store_1 SELECT k1 + 1000 * i, 1, false, 'x', embedding FROM _qwen_embed.store_1, "
        "generate_series(1, 29) i"
    )
    harness.execute("ANALYZE _qwen_embed.store_1")
    harness.once()
    assert "lists='6'" in str(definition(harness))
    assert harness.value("SELECT count(*) FROM pg_indexes WHERE indexdef ~ 'USING ivfflat'") == 1


def test_queries_of_a_check_come_from_a_file(harness: Harness) -> None:
    attached(harness, 30)
    file = harness.folder / "queries.txt"
    file.write_text("article 3\n\narticle 4\narticle 3\n")
    plot = harness.folder / "plot.svg"
    found = json.loads(
        harness.ok("index", "check", "articles", "--queries", str(file), "--json", "--plot", str(plot), "--k", "3")
    )
    assert (found["queries"], found["k"], found["recall"]) == (2, 3, 1.0)
    assert plot.read_text().count("<circle") == len(found["points"]) + 1
    file.write_text("\n \n")
    assert "it has 0 queries" in harness.refused("index", "check", "articles", "--queries", str(file))
    assert "cannot be read" in harness.refused("index", "check", "articles", "--queries", str(harness.folder / "none"))
    assert "give 1 to 10,000" in harness.refused("index", "check", "articles", "--queries", "0")
    assert "cannot be written" in harness.refused(
        "index", "check", "articles", "--queries", "3", "--json", "--plot", "/no/such/x"
    )
    harness.ok("index", "drop", "articles")
    assert "every search is exact; build it" in harness.refused("index", "check", "articles")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["hnsw-binary", "hnsw-prefix:16", "ivfflat"])
@pytest.mark.long
def test_functions_search_by_the_index_and_rank_by_whole_vectors(harness: Harness, layout: str, kind: str) -> None:
    attached(harness, 60, *LAYOUTS[layout], "--index", kind)
    vector = json.dumps(harness.server.vector("article 7").tolist())
    exact = harness.rows(f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> '{vector}' LIMIT 5")
    harness.execute(
        "SET enable_seqscan = off; SET enable_sort = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
    )
    harness.execute("SET search_path = pg_temp")
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname ~ 'store_1_(hnsw|ivfflat)'"
    flush = "SELECT pg_stat_force_next_flush()"
    before = harness.value(scans)
    found = harness.rows(f"SELECT id, distance FROM qwen_embed.articles('{vector}'::public.halfvec, 5)")
    assert [(id_,) for id_, _ in found] == exact
    assert [distance for _, distance in found] == sorted(distance for _, distance in found)
    harness.execute(flush)
    assert harness.value(scans) > before
    assert len(harness.rows(f"SELECT FROM qwen_embed.articles('{vector}'::public.halfvec, 60)")) == 60
    assert len(harness.rows("SELECT FROM qwen_embed.articles_like(7, 5)")) == 5
    assert harness.rows("SELECT FROM qwen_embed.articles_duplicates(1.0)")
    if kind != "ivfflat":
        plain = f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> '{vector}'::public.halfvec LIMIT 5"
        assert f"cannot use an index of kind {kind.partition(':')[0]}" in harness.cli("doctor", "--query", plain).output
        harness.execute("DROP FUNCTION qwen_embed.near_1")
        assert "the function qwen_embed.near_1" in harness.ok("status")
        assert "near_1" in harness.ok("verify", "articles", "--repair")
        assert harness.rows(f"SELECT id FROM qwen_embed.articles('{vector}'::public.halfvec, 5)") == exact
