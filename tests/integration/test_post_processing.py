"""Post-processing: what is stored and what queries are is the fitted map of the server's vectors, in every layout."""

import asyncio
import json
import signal
from typing import Any

import numpy as np
import psycopg
import pytest
from harness import LAYOUTS, Harness, eventually, versions_and_layouts
from numpy.typing import NDArray
from test_bad_rows import by_cast

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.fit import Fit
from pg_qwen_embed.domain.post import Method, Post
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION
from pg_qwen_embed.integrations import declaring
from pg_qwen_embed.postgres import fits
from pg_qwen_embed.postgres.connection import connect_async

ROWS = 200  # of 16 dimensions, for which 160 documents are enough
HALF = 2e-3  # of a number of at most 1 in half precision, normalised once more


def fitted(harness: Harness, name: str = "articles") -> Fit:
    return Fit.from_bytes(harness.value("SELECT fit FROM _qwen_embed.generation WHERE id = %s", live(harness, name)))


def live(harness: Harness, name: str = "articles") -> int:
    return harness.embedding(name).live.id


def articles(harness: Harness, rows: int = ROWS) -> None:
    harness.articles(*(f"article {n}" for n in range(rows)))


def attach(harness: Harness, *options: str) -> None:
    harness.ok("attach", "articles", "--text", "body", "--prompt-style", "qwen3", *options)


def stored(harness: Harness) -> dict[int, NDArray[np.float32]]:
    rows = harness.rows("SELECT id, embedding::text FROM qwen_embed.articles")
    return {id_: np.array(json.loads(vector), np.float32) for id_, vector in rows}


def expected(harness: Harness, text: str) -> NDArray[np.float32]:
    found: NDArray[np.float32] = fitted(harness).apply(harness.server.vector(text)[np.newaxis])[0]
    return found


def prompt(text: str) -> str:
    return f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:{text}"


def equal(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, atol=HALF)


@versions_and_layouts
@pytest.mark.parametrize("method", ["center", "pca:6", "whiten", "half-whiten"])
def test_documents_and_queries_are_the_fitted_map_of_the_servers_vectors(
    harness: Harness, layout: str, method: str
) -> None:
    articles(harness)
    attach(harness, "--post", method, *LAYOUTS[layout])
    with harness.worker_here():
        eventually(lambda: harness.settled() and len(stored(harness)) == ROWS)
        harness.execute("UPDATE articles SET body = 'changed' WHERE id = 7")
        eventually(harness.settled)
        vectors = stored(harness)
        for id_ in (1, 2, 100, ROWS):
            equal(vectors[id_], expected(harness, f"article {id_ - 1}"))
        equal(vectors[7], expected(harness, "changed"))
        by_sql = json.loads(harness.value("SELECT qwen_embed.embed_query('articles', 'a question')::text"))
        equal(by_sql, expected(harness, prompt("a question")))
    with Client(harness.url, server_url=harness.server.url) as client:
        equal(client.embed_query("articles", "a question"), expected(harness, prompt("a question")))
        equal(client.embed_queries("articles", ["one", "two"])[1], expected(harness, prompt("two")))
        (hit, *_) = client.search("articles", client_vector := client.embed_query("articles", "x"), limit=1)
        assert hit.distance == pytest.approx(min(1 - float(v @ client_vector) for v in vectors.values()), abs=HALF)
    dimensions = 6 if method == "pca:6" else 16
    assert {len(vector) for vector in vectors.values()} == {dimensions}
    (row,) = harness.rows("SELECT post, dimensions FROM qwen_embed.embeddings")
    assert row == (method, dimensions)
    assert f"post-processing {method} of 16 dimensions, fitted on {ROWS} documents" in harness.ok("status", "articles")


def test_a_table_with_too_few_documents_is_refused_and_nothing_is_created(harness: Harness) -> None:
    articles(harness, 159)
    refused = ("attach", "articles", "--text", "body", "--post")
    assert harness.refused(*refused, "whiten") == (
        "articles: post-processing whiten of 16 dimensions is fitted on 160 documents or more (10 for each dimension), and "
        "there are 159; leave --post out, or choose fewer --dimensions, or add --no-backfill: then the worker waits for as many"
    )
    assert "there are: none, center, pca:N, whiten or half-whiten" in harness.refused(*refused, "whitened")
    assert "pca:17 keeps 17 dimensions, and the server's vectors have 16" in harness.refused(*refused, "pca:17")
    assert harness.value("SELECT count(*) FROM _qwen_embed.generation") == 0
    harness.ok(*refused, "whiten", "--dimensions", "15")
    assert harness.embedding().live.spec.post == Post(Method.WHITEN, 15)


def test_without_a_backfill_the_worker_waits_for_enough_documents(harness: Harness) -> None:
    articles(harness, 20)
    attach(harness, "--post", "half-whiten", "--no-backfill")
    with Client(harness.url, server_url=harness.server.url) as client:
        with pytest.raises(UsageError, match="post-processing half-whiten is not fitted yet; a worker does that"):
            client.embed_query("articles", "a question")
        assert "half-whiten of 16 dimensions, not fitted yet" in harness.ok("status", "articles")
        once = harness.process("worker", "--once")
        assert once.popen.wait(20) == 0
        assert "whiten of 16 dimensions is fitted on 160 documents or more" in once.said
        with harness.worker_here(fit_interval=0.05):
            harness.execute("INSERT INTO articles SELECT n, 'more ' || n FROM generate_series(100, 300) n")
            eventually(lambda: len(stored(harness)) == 201)
            equal(stored(harness)[150], expected(harness, "more 150"))
        equal(client.embed_query("articles", "a question"), expected(harness, prompt("a question")))


def test_blank_documents_do_not_count(harness: Harness) -> None:
    articles(harness)
    harness.execute("UPDATE articles SET body = ' ' WHERE id <= 50")
    attach(harness, "--post", "center")
    once = harness.process("worker", "--once")
    assert once.popen.wait(20) == 0
    assert "and there are 150" in once.said
    assert harness.value("SELECT fit IS NULL FROM _qwen_embed.generation")
    harness.execute("UPDATE articles SET body = 'filled ' || id WHERE id <= 10")
    harness.once()
    assert fitted(harness).documents == 160
    equal(stored(harness)[5], expected(harness, "filled 5"))


@pytest.mark.long
def test_a_fit_survives_a_killed_worker_and_a_restart_and_is_made_once(harness: Harness) -> None:
    articles(harness)
    attach(harness, "--post", "whiten")
    with harness.server.hold(lambda texts: "article 5" in texts):
        first = harness.worker()
        eventually(lambda: harness.server.waiting)
        second = harness.worker()
        eventually(lambda: "standing_by" in second.said)
        harness.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
        harness.ok("attach", "others", "--text", "body")  # the registry is read again while a fit is made
        eventually(lambda: "embedding=others" in first.said)
        assert first.said.count("event=fit_begins ") == 1
        assert harness.value("SELECT fit IS NULL FROM _qwen_embed.generation WHERE id = %s", live(harness))
        first.end(signal.SIGKILL)
        eventually(lambda: "fit_begins" in second.said)
    eventually(lambda: len(stored(harness)) == ROWS)
    made = fitted(harness).to_bytes()
    second.end(signal.SIGKILL)
    harness.execute("INSERT INTO articles VALUES (1000, 'later')")
    harness.execute("UPDATE articles SET body = 'other ' || id WHERE id <= 100")
    harness.once()
    assert fitted(harness).to_bytes() == made
    equal(stored(harness)[1000], expected(harness, "later"))
    equal(stored(harness)[9], expected(harness, "other 9"))
    assert second.said.count("event=fitted ") == 1


def test_a_fit_is_never_replaced_in_its_generation(harness: Harness) -> None:
    articles(harness)
    attach(harness, "--post", "pca:4")
    harness.once()
    made, target = fitted(harness), harness.embedding().target

    async def write() -> bool:
        async with await connect_async(harness.url, "test") as connection:
            return await fits.write(connection, target, Fit(made.mean + 1, made.matrix, 9))

    assert not asyncio.run(write())
    assert fitted(harness).to_bytes() == made.to_bytes()
    before = live(harness)
    harness.ok("detach", "articles", "--yes")
    harness.execute("UPDATE articles SET body = 'other ' || id")
    attach(harness, "--post", "pca:4")
    assert live(harness) != before
    harness.once()
    assert fitted(harness).to_bytes() != made.to_bytes()
    equal(stored(harness)[9], expected(harness, "other 9"))


def test_what_the_server_rejects_and_what_cannot_be_read_is_left_out_of_the_fit(harness: Harness) -> None:
    articles(harness)
    harness.execute("UPDATE articles SET body = 'poison' WHERE id = 2")
    harness.server.poison = "poison"
    attach(harness, "--post", "center")
    harness.once()
    assert fitted(harness).documents == ROWS - 1
    assert harness.count("failure") == 1
    assert len(stored(harness)) == ROWS - 1


@pytest.mark.superuser  # creates a cast
def test_a_row_whose_document_cannot_be_read_is_left_out_of_the_fit(harness: Harness) -> None:
    harness.execute("CREATE TYPE size AS ENUM ('small', 'huge')")
    harness.execute("""
        CREATE FUNCTION text_of(size) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF $1 = 'huge' THEN RAISE 'too large' USING ERRCODE = 'program_limit_exceeded'; END IF;
            RETURN enum_out($1); END $$""")
    harness.execute("CREATE CAST (size AS text) WITH FUNCTION text_of(size) AS ASSIGNMENT")
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body size)")
    harness.execute("INSERT INTO articles SELECT n, 'small' FROM generate_series(1, 190) n")
    harness.execute("UPDATE articles SET body = 'huge' WHERE id IN (3, 190)")
    harness.ok("attach", "articles", "--text", "body", "--post", "center")
    by_cast(harness)
    harness.once()
    assert fitted(harness).documents == 188
    assert harness.count("failure") == 2
    assert len(stored(harness)) == 188


def test_a_server_that_is_away_is_waited_for(harness: Harness) -> None:
    articles(harness)
    attach(harness, "--post", "center")
    harness.server.fault = "503"
    with harness.worker_here():
        eventually(lambda: harness.server.requests)
        harness.server.fault = None
        eventually(lambda: len(stored(harness)) == ROWS)
    assert fitted(harness).documents == ROWS


def test_chunks_that_are_kept_and_chunks_that_changed_have_the_same_map(harness: Harness) -> None:
    articles(harness)
    paragraphs = [f"Paragraph {n} has its own sentence, and nothing more." for n in range(4)]
    harness.execute("UPDATE articles SET body = %s WHERE id = 1", "\n\n".join(paragraphs))
    attach(harness, "--post", "whiten", "--chunk-tokens", "64")
    harness.once()
    harness.server.texts.clear()
    paragraphs[2] = "Another text, which is about as long as it was."
    harness.execute("UPDATE articles SET body = %s WHERE id = 1", "\n\n".join(paragraphs))
    harness.once()
    assert len(harness.server.texts) == 1
    for text, vector in harness.rows("SELECT chunk_text, embedding::text FROM qwen_embed.articles WHERE id = 1"):
        equal(json.loads(vector), expected(harness, text))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_odd_names_keys_of_several_columns_and_partitions_are_fitted(harness: Harness, layout: str) -> None:
    partitioned = "" if layout == "column" else " PARTITION BY LIST (lang)"
    harness.execute(
        f'CREATE TABLE "Odd ""% Name" (lang text, "N%" uuid, "Te xt" text, PRIMARY KEY ("N%", lang)){partitioned}'
    )
    if partitioned:
        for lang in ("de", "en"):
            harness.execute(f"""CREATE TABLE odd_{lang} PARTITION OF "Odd ""% Name" FOR VALUES IN ('{lang}')""")
    harness.execute("""INSERT INTO "Odd ""% Name" SELECT (ARRAY['de', 'en'])[1 + n % 2], gen_random_uuid(), 'text ' || n
                       FROM generate_series(1, 170) n""")
    harness.ok("attach", '"Odd ""% Name"', "--text", "Te xt", "--name", "odd", "--post", "pca:5", *LAYOUTS[layout])
    harness.once()
    fit = fitted(harness, "odd")
    assert fit.documents == 170
    rows = harness.rows(
        """SELECT t."Te xt", e.embedding::text FROM "Odd ""% Name" t JOIN qwen_embed.odd e USING ("N%", lang)"""
    )
    assert len(rows) == 170
    for text, vector in rows[:5]:
        equal(json.loads(vector), fit.apply(harness.server.vector(text)[np.newaxis])[0])


def test_the_server_is_asked_for_as_many_dimensions_as_are_fitted(harness: Harness) -> None:
    articles(harness)
    attach(harness, "--post", "pca:3", "--dimensions", "12")
    harness.once()
    assert {request.get("dimensions") for request in harness.server.requests if len(request["input"]) > 1} == {12}
    assert harness.value("SELECT spec->>'post' FROM _qwen_embed.generation") == "pca:3 of 12"
    assert {len(vector) for vector in stored(harness).values()} == {3}
    assert fitted(harness).mean.shape == (12,)
    assert "is attached already, as declared" in harness.ok(
        "attach", "articles", "--text", "body", "--prompt-style", "qwen3", "--post", "pca:3", "--if-not-exists"
    )
    assert "post is 'pca:3 of 12', and was declared as 'center of 12'" in harness.refused(
        "attach",
        "articles",
        "--text",
        "body",
        "--prompt-style",
        "qwen3",
        "--post",
        "center",
        "--dimensions",
        "12",
        "--if-not-exists",
    )
    assert "embeds queries and documents of articles" in harness.cli("doctor").output


def test_a_migration_declares_a_post_processing(harness: Harness) -> None:
    articles(harness)
    with harness.connect(autocommit=False) as connection:
        declaring.attach(connection, "articles", text="body", model="stand-in", dimensions=16, post="pca:7")
        connection.commit()
    assert harness.embedding().live.spec.post == Post(Method.PCA, 16, 7)
    harness.once()
    assert {len(vector) for vector in stored(harness).values()} == {7}


def test_while_a_fit_is_made_queries_get_a_sentence_and_a_worker_that_is_told_to_stop_stops(harness: Harness) -> None:
    articles(harness)
    attach(harness, "--post", "whiten")
    with harness.server.hold(lambda texts: "article 5" in texts):
        worker = harness.worker()
        eventually(lambda: harness.server.waiting)
        assert "post-processing whiten is not fitted yet" in harness.refused("search", "articles", "a question")
        with pytest.raises(psycopg.Error, match="articles: its post-processing is not fitted yet; a worker does that"):
            harness.rows("SELECT qwen_embed.embed_query('articles', 'a question')")
        assert "leader pg_qwen_embed worker: lead and read" in harness.ok("status", "articles")
        harness.execute("INSERT INTO articles VALUES (1000, 'meanwhile')")
        assert worker.end() == 0, worker.said
    assert harness.value("SELECT fit IS NULL FROM _qwen_embed.generation")
    harness.once()
    equal(stored(harness)[1000], expected(harness, "meanwhile"))


def test_an_embedding_that_is_detached_while_it_is_fitted_leaves_nothing(harness: Harness) -> None:
    articles(harness)
    attach(harness, "--post", "whiten")
    with harness.server.hold(lambda texts: "article 5" in texts):
        worker = harness.worker()
        eventually(lambda: harness.server.waiting)
        harness.ok("detach", "articles", "--yes")
        attach(harness, "--post", "center")
        eventually(lambda: worker.said.count("event=fit_begins ") == 2)
    eventually(lambda: len(stored(harness)) == ROWS)
    assert fitted(harness).matrix is None
    equal(stored(harness)[9], expected(harness, "article 8"))
    assert worker.end() == 0, worker.said
