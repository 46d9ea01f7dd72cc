"""`evaluate`: what it measures, what it recommends, and what it asks of the server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from harness import LAYOUTS, READER, Harness, as_role, both_versions, versions_and_layouts
from planted_model import ALSO_GOOD, BAD, GOOD, articles, plant

from pg_qwen_embed import Client

PROMPT = "Instruct: "


@pytest.fixture
def planted(harness: Harness) -> Harness:
    plant(harness.server)
    return harness


def filled(harness: Harness, *options: str, rows: int = 120, column: str = "title", name: str = "articles") -> None:
    """A table of titles and texts that is attached, with every vector written."""
    harness.execute(f'CREATE TABLE {name} (id bigint PRIMARY KEY, "{column}" text, body text)')
    harness.many(f"INSERT INTO {name} VALUES (%s, %s, %s)", [(n, *one) for n, one in enumerate(articles(rows), 1)])
    harness.ok("attach", name, "--text", "body", "--instruction", GOOD, *options)
    harness.once()
    sent(harness)


def sent(harness: Harness) -> tuple[list[str], list[str]]:
    """The documents and the queries that the server got since the last call."""
    texts = list(harness.server.texts)
    harness.server.texts.clear()
    return [one for one in texts if not one.startswith(PROMPT)], [one for one in texts if one.startswith(PROMPT)]


def evaluated(harness: Harness, *arguments: str, name: str = "articles") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(harness.ok("evaluate", name, "--json", *arguments))
    return found


def figure(found: dict[str, Any], label: str, metric: str = "ndcg@10") -> float:
    (mean,) = [one["figures"][metric]["mean"] for one in found["variants"] if one["variant"] == label]
    return float(mean)


# What it concludes.


def test_the_better_of_two_planted_instructions_is_recommended_with_the_command_that_applies_it(
    planted: Harness,
) -> None:
    filled(planted)
    planted.ok("alter", "articles", "--instruction", BAD)
    found = evaluated(planted, "--vary", f"instruction={GOOD}", "--vary", "instruction=Do confuse it more")
    assert found["recommendation"] == f'instruction "{GOOD}"'
    assert found["winner"]["held_out"]
    assert found["winner"]["difference"]["questions"] == 60
    assert found["command"] == f"pg-qwen-embed alter articles --instruction '{GOOD}'"
    planted.ok("alter", "articles", "--instruction", GOOD)
    assert planted.embedding().instruction == GOOD
    assert evaluated(planted, "--vary", f"instruction={BAD}")["recommendation"] is None


def test_equal_configurations_are_said_to_show_no_difference(planted: Harness) -> None:
    filled(planted)
    said = planted.ok("evaluate", "articles", "--vary", f"instruction={ALSO_GOOD}")
    assert "no difference seen" in said
    assert "nothing is better than the present embedding" in said
    assert "recommended" not in said


@pytest.mark.long
def test_planted_and_equal_configurations_are_told_in_19_of_20_draws(planted: Harness) -> None:
    plant(planted.server, spoilt=0.9)  # a small difference: some 8 points of nDCG@10
    filled(planted, rows=3000)
    right = wrong = 0
    for seed in range(20):
        draw = ("--sample", "400", "--seed", str(seed))
        planted.ok("alter", "articles", "--instruction", BAD)
        found = evaluated(planted, *draw, "--vary", f"instruction={GOOD}", "--vary", f"instruction={BAD}, or not")
        right += found["recommendation"] == f'instruction "{GOOD}"'
        planted.ok("alter", "articles", "--instruction", GOOD)
        wrong += evaluated(planted, *draw, "--vary", f"instruction={ALSO_GOOD}")["recommendation"] is not None
    assert right >= 19
    assert wrong <= 1


def test_a_person_reads_figures_with_intervals_what_the_sample_can_show_and_whose_they_are(planted: Harness) -> None:
    filled(planted)
    said = planted.ok("evaluate", "articles", "--vary", "dimensions=16,8")
    assert "articles: 120 questions, made of the column title, over 120 of 120 rows" in said
    assert f"Qwen/Qwen3-Embedding-0.6B at {planted.server.url}; percent, with intervals of 95 %" in said
    assert "questions show a difference of" in said
    heads = next(line for line in said.splitlines() if line.startswith(" "))
    assert heads.split("  ") != []
    for head in ("Top-1", "MRR@10", "nDCG@10", "recall@10", "difference of nDCG@10"):
        assert head in heads
    assert "held out: dimensions 16 is best on half of the questions" in said


def test_another_metric_decides_if_it_is_named(planted: Harness) -> None:
    filled(planted)
    found = evaluated(planted, "--vary", "dimensions=8", "--metric", "recall@3")
    assert found["metric"] == "recall@3"
    assert "recall@3" in found["variants"][0]["figures"]
    assert "there is no such metric" in planted.refused("evaluate", "articles", "--metric", "best")


# What it sends.


def test_vectors_of_the_store_are_used_and_a_prefix_is_never_made_again(planted: Harness) -> None:
    filled(planted)
    evaluated(planted, "--vary", "dimensions=8,16,32", "--vary", f"instruction={BAD}")
    documents, queries = sent(planted)
    assert documents == []
    assert sorted(queries) == sorted(
        {f"Instruct: {one}\nQuery:{title}" for one in (GOOD, BAD) for title, _ in articles(120)}
    )
    assert {request.get("dimensions") for request in planted.server.requests[-3:]} == {None}


def test_more_dimensions_than_the_store_has_are_embedded_once(planted: Harness) -> None:
    filled(planted, "--dimensions", "16")
    found = evaluated(planted, "--vary", "dimensions=32,64")
    documents, queries = sent(planted)
    assert (len(documents), len(queries)) == (120, 120)
    assert figure(found, "dimensions 64") > figure(found, "present")


def test_a_row_that_has_changed_is_embedded_and_a_blank_one_takes_no_part(planted: Harness) -> None:
    filled(planted, rows=30)
    planted.execute("UPDATE articles SET body = body || ' and more' WHERE id = 3")
    planted.execute("UPDATE articles SET body = ' ' WHERE id = 4")
    found = evaluated(planted)
    documents, _ = sent(planted)
    assert [text[-9:] for text in documents] == [" and more"]
    assert (found["documents"], found["left_out"]) == (29, 1)


def test_a_dry_run_sends_nothing_and_says_what_would_be_sent(planted: Harness) -> None:
    filled(planted)
    before = len(planted.server.requests)
    said = planted.ok("evaluate", "articles", "--vary", f"instruction={BAD}", "--dry-run")
    assert "0 documents (120 more have their vectors) and 240 queries" in said
    assert "4 requests" in said
    found = json.loads(planted.ok("evaluate", "articles", "--dry-run", "--json"))
    assert (found["known"], found["queries"], found["requests"]) == (120, 120, 2)
    assert len(planted.server.requests) == before
    assert planted.rows("TABLE _qwen_embed.evaluation") == []


def test_a_document_that_the_server_rejects_is_left_out(planted: Harness) -> None:
    filled(planted, "--dimensions", "16", rows=20)
    planted.execute("UPDATE articles SET body = 'poison ' || body WHERE id = 7")
    planted.server.poison = "poison"
    found = evaluated(planted, "--vary", "dimensions=32")
    assert (found["questions"], found["left_out"]) == (20, 1)


def test_a_server_that_is_away_or_has_another_model_is_one_sentence(planted: Harness) -> None:
    filled(planted, rows=20)
    planted.server.model = "another"
    assert "articles was attached with Qwen/Qwen3-Embedding-0.6B" in planted.refused("evaluate", "articles", "--json")
    env: dict[str, str | None] = {"PG_QWEN_EMBED_SERVER_URL": "http://127.0.0.1:9/v1"}
    assert "does not answer" in planted.refused("evaluate", "articles", "--json", env=env)


# Post-processing and the pool of instructions.


@pytest.mark.long
def test_a_post_processing_that_is_tried_is_the_one_that_would_be_attached(planted: Harness) -> None:
    filled(planted, "--dimensions", "16", rows=200)
    tried = ("center", "whiten", "half-whiten", "pca:8")
    found = evaluated(planted, "--vary", f"post={','.join(tried)}")
    assert sent(planted)[0] == []
    for form in tried:
        attach = ("attach", "articles", "--text", "body", "--name", "b", "--instruction", GOOD, "--dimensions", "16")
        planted.ok(*attach, "--post", form)
        planted.once()
        real = evaluated(planted, name="b")
        assert figure(found, f"post {form}") == pytest.approx(figure(real, "present"), abs=0.02)
        sent(planted)
        others = evaluated(planted, "--vary", "post=none", "--vary", "index=hnsw", name="b")
        assert figure(others, "post none") == pytest.approx(figure(found, "present"), abs=0.02)
        assert figure(others, "present") == pytest.approx(figure(real, "present"), abs=0.02)
        assert len(sent(planted)[0]) == 200  # the server's own vectors are not in the store
        planted.ok("detach", "b", "--yes")


def test_a_post_processing_needs_as_many_documents_as_a_fit(planted: Harness) -> None:
    filled(planted, "--dimensions", "16", rows=120)
    said = planted.refused("evaluate", "articles", "--vary", "post=whiten")
    assert "--vary post=whiten: post-processing whiten of 16 dimensions is fitted on 160 documents or more" in said
    assert "there are 120 in the sample; add --sample 320" in said


def test_an_embedding_with_a_post_processing_is_measured_with_it(planted: Harness) -> None:
    filled(planted, "--dimensions", "16", "--post", "pca:8", rows=200)
    found = evaluated(planted, "--vary", f"instruction={BAD}")
    documents, queries = sent(planted)
    assert (documents, len(queries)) == ([], 400)
    assert figure(found, f'instruction "{BAD}"') < figure(found, "present")
    said = planted.refused("evaluate", "articles", "--vary", "dimensions=4")
    assert "articles has the post-processing pca:8; try --vary post=pca:N" in said


def test_instructions_of_the_pool_are_tried_by_their_names(planted: Harness) -> None:
    filled(planted, rows=20)
    planted.ok("instructions", "add", "own", BAD)
    found = evaluated(planted, "--vary", "instruction=@own", "--vary", "instruction=@retrieval")
    assert [one["instruction"] for one in found["variants"]][:2] == [GOOD, BAD]
    assert len(found["variants"]) == 3
    everything = evaluated(planted, "--vary", "instruction=pool")
    listed = json.loads(planted.ok("instructions", "list", "--json"))
    assert {one["instruction"] for one in everything["variants"]} == {GOOD, *(one["instruction"] for one in listed)}
    assert "@nothing" in planted.refused("evaluate", "articles", "--vary", "instruction=@nothing")


# Every layout, key and name.


@versions_and_layouts
def test_every_layout_is_measured_with_the_vectors_that_it_has(planted: Harness, layout: str) -> None:
    filled(planted, *LAYOUTS[layout], "--words", "english")
    found = evaluated(planted, "--vary", "dimensions=8", "--vary", "mode=words,hybrid", "--vary", "index=hnsw,ivfflat")
    assert sent(planted)[0] == []
    present = figure(found, "present")
    assert figure(found, "dimensions 8") < present
    assert figure(found, "index hnsw") == pytest.approx(present, abs=0.02)


def test_what_a_search_finds_is_what_is_measured(planted: Harness) -> None:
    """Among all rows of a table, by vectors, words and both."""
    filled(planted, "--words", "english", rows=60)
    titles = [title for title, _ in articles(60)]
    found = evaluated(planted, "--vary", "mode=words,hybrid")
    with Client(planted.url, server_url=planted.server.url) as client:
        for mode, label in (("vector", "present"), ("words", "mode words"), ("hybrid", "mode hybrid")):
            first = [client.search("articles", title, 10, mode=mode) for title in titles]
            ranks = [[hit.row["id"] for hit in hits] for hits in first]
            own = [1 / np.log2(2 + rank.index(n)) if n in rank else 0.0 for n, rank in enumerate(ranks, 1)]
            assert figure(found, label) == pytest.approx(float(np.mean(own)), abs=1e-9)


@both_versions
def test_keys_of_several_columns_and_odd_names_are_measured(planted: Harness) -> None:
    table, title = 'app."Odd ""T%s"" table"', 'the "title" of 100%'
    planted.execute("CREATE SCHEMA app")
    planted.execute(
        f"""CREATE TABLE {table} ("Lang %" text, "no" uuid, "{title.replace('"', '""')}" text, "b{{od}}y %s" text,
            PRIMARY KEY ("Lang %", "no")) PARTITION BY LIST ("Lang %")"""
    )
    for lang in ("de", "en"):
        planted.execute(f"CREATE TABLE app.part_{lang} PARTITION OF {table} FOR VALUES IN ('{lang}')")
    rows = [(("de", "en")[n % 2], *one) for n, one in enumerate(articles(40))]
    planted.many(
        f"INSERT INTO {table} VALUES (%s, gen_random_uuid(), %s, %s)".replace('T%s"', 'T%%s"').replace(
            '"T%%s""', '"T%%s""'
        ),
        rows,
    )
    planted.ok("attach", table, "--text", "b{od}y %s", "--name", "Odd %s", "--instruction", GOOD)
    planted.once()
    found = evaluated(planted, "--title", title, "--vary", "dimensions=8", "--vary", "index=hnsw", name="Odd %s")
    assert (found["questions"], found["documents"]) == (40, 40)
    assert figure(found, "present") > 0.5


def test_a_title_that_stands_in_the_document_is_kept_out_of_it(planted: Harness) -> None:
    planted.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
    planted.many("INSERT INTO articles VALUES (%s, %s, %s)", [(n, *one) for n, one in enumerate(articles(30), 1)])
    planted.ok("attach", "articles", "--template", "{title}: {body}", "--instruction", GOOD)
    planted.once()
    sent(planted)
    evaluated(planted, "--title", "title")
    documents, queries = sent(planted)
    assert sorted(documents) == sorted(f": {body}" for _, body in articles(30))
    assert len(queries) == 30


def test_without_a_title_the_first_sentence_is_the_question(planted: Harness) -> None:
    planted.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text)")
    planted.many(
        "INSERT INTO articles VALUES (%s, %s)",
        [(n, f"{title}. {body}") for n, (title, body) in enumerate(articles(30), 1)],
    )
    planted.ok("attach", "articles", "--text", "body", "--instruction", GOOD)
    planted.once()
    sent(planted)
    found = evaluated(planted)
    documents, queries = sent(planted)
    assert found["made_of"] == "the first sentence of each document"
    assert sorted(documents) == sorted(body for _, body in articles(30))
    assert sorted(queries) == sorted(f"Instruct: {GOOD}\nQuery:{title}." for title, _ in articles(30))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--title", "subject"), 'has no column "subject" for --title; it has: id, title, body'),
        (("--title", "body"), "--title body: the documents of articles have no other column"),
        (("--vary", "mode=words"), "articles keeps no words; say which ones a search by words shall look for"),
        (
            ("--vary", "dimensions=128"),
            "--vary dimensions=128: Qwen/Qwen3-Embedding-0.6B makes vectors of 64 dimensions",
        ),
        (("--vary", "mode=words", "--words", "klingon"), 'there is no text search configuration "klingon"'),
        (("--vary", "size=1"), "--vary size=1: write instruction=TEXT"),
        (("--judgments", "j.txt"), "cannot be read"),
        (("--queries", "q.csv"), "--queries q.csv: cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(planted: Harness, arguments: tuple[str, ...], sentence: str) -> None:
    planted.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
    planted.execute("INSERT INTO articles VALUES (1, 'how to hold more', 'body')")
    planted.ok("attach", "articles", "--text", "body")
    assert sentence in planted.refused("evaluate", "articles", *arguments)


def test_an_embedding_that_keeps_no_words_is_measured_with_those_that_it_could_keep(planted: Harness) -> None:
    filled(planted, rows=60)
    found = evaluated(planted, "--vary", "mode=words", "--words", "english")
    assert figure(found, "mode words") > 0.5


def test_a_sample_is_the_same_for_the_same_seed(planted: Harness) -> None:
    filled(planted)
    first = evaluated(planted, "--sample", "50", "--seed", "7")
    again = evaluated(planted, "--sample", "50", "--seed", "7")
    other = evaluated(planted, "--sample", "50", "--seed", "8")
    assert first["variants"] == again["variants"]
    assert first["variants"] != other["variants"]
    assert (first["questions"], first["rows"]) == (50, 120)


# Files with questions.


def test_questions_of_a_file_are_asked_over_their_rows_and_drawn_ones(planted: Harness, tmp_path: Path) -> None:
    filled(planted)
    file = tmp_path / "questions.csv"
    file.write_text("query,key\n" + "".join(f"{title},{n}\n" for n, (title, _) in enumerate(articles(25), 1)))
    found = evaluated(planted, "--queries", str(file), "--sample", "50")
    assert (found["questions"], found["made_of"]) == (25, "the given questions")
    assert 50 <= found["documents"] <= 75
    documents, queries = sent(planted)
    assert (documents, len(queries)) == ([], 25)


def test_judgments_of_trec_are_taken_with_keys_of_several_columns(planted: Harness, tmp_path: Path) -> None:
    planted.execute("CREATE TABLE articles (lang text, id uuid, body text, PRIMARY KEY (lang, id))")
    rows = [("de", f"00000000-0000-0000-0000-0000000000{n:02x}", body) for n, (_, body) in enumerate(articles(30))]
    planted.many("INSERT INTO articles VALUES (%s, %s, %s)", rows)
    planted.ok("attach", "articles", "--text", "body", "--instruction", GOOD)
    planted.once()
    queries, judgments = tmp_path / "q.tsv", tmp_path / "qrels"
    queries.write_text("id\tquery\n" + "".join(f"t{n}\t{title}\n" for n, (title, _) in enumerate(articles(30))))
    judgments.write_text(
        "".join(f"t{n} 0 de,{key.upper()} 2\n" for n, (_, key, _) in enumerate(rows)) + f"t0 0 de,{rows[1][1]} 0\n"
    )
    found = evaluated(planted, "--queries", str(queries), "--judgments", str(judgments))
    assert (found["questions"], found["documents"], found["left_out"]) == (30, 30, 0)
    assert figure(found, "present") > 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("query,key\na b c,one\n", "line 2: 'one' is no bigint for the key column id"),
        ("query,key\na b c,99999999999999999999\n", "line 2: 99999999999999999999 is beyond the bigint"),
        ("query,key\na b c,777\n", "none of its 1 keys is that of a row of public.articles with a document"),
    ],
)
def test_a_key_that_names_no_row_is_one_sentence(planted: Harness, tmp_path: Path, text: str, sentence: str) -> None:
    filled(planted, rows=5)
    file = tmp_path / "q.csv"
    file.write_text(text)
    said = planted.refused("evaluate", "articles", "--queries", str(file))
    assert said.startswith(f"--queries {file}")
    assert sentence in said


def test_a_key_that_is_no_value_of_its_type_is_named_with_its_line(planted: Harness, tmp_path: Path) -> None:
    planted.execute("CREATE TABLE articles (id uuid PRIMARY KEY, body text)")
    planted.execute("INSERT INTO articles VALUES ('00000000-0000-0000-0000-000000000001', 'one')")
    planted.ok("attach", "articles", "--text", "body")
    file = tmp_path / "q.csv"
    file.write_text("query,key\na b c,00000000-0000-0000-0000-000000000001\nd e f,seven\n")
    assert "q.csv, line 3: the key seven cannot be read" in planted.refused(
        "evaluate", "articles", "--queries", str(file)
    )


# What is kept.


def test_results_are_kept_until_the_embedding_is_detached(planted: Harness) -> None:
    filled(planted, rows=40)
    assert "no evaluation yet" in planted.ok("evaluate", "articles", "--history")
    evaluated(planted, "--vary", "dimensions=8")
    evaluated(planted, "--metric", "top1")
    said = planted.ok("evaluate", "articles", "--history").splitlines()
    assert "40 questions, Qwen/Qwen3-Embedding-0.6B, top1" in said[0]
    assert said[-1].strip().startswith("dimensions 8")
    first, second = json.loads(planted.ok("evaluate", "articles", "--history", "--json"))
    assert (first["metric"], second["metric"]) == ("top1", "ndcg@10")
    assert second["model"] == "Qwen/Qwen3-Embedding-0.6B"
    planted.ok("detach", "articles", "--yes")
    assert planted.rows("TABLE _qwen_embed.evaluation") == []
    assert 'there is no embedding "articles"' in planted.refused("evaluate", "articles", "--history")


def as_reader(harness: Harness) -> dict[str, str | None]:
    """The environment of a role that may read and nothing else."""
    for grant in harness.ok("sql", "grants", "--role-reader", READER, "--embedding", "articles").splitlines():
        if grant.startswith("GRANT"):
            harness.execute(grant)
    return {"PG_QWEN_EMBED_DATABASE_URL": as_role(harness.url, READER)}


def test_rows_that_policies_hide_from_a_role_take_no_part(planted: Harness) -> None:
    filled(planted, rows=40)
    planted.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    planted.execute(f"CREATE POLICY first_rows ON articles TO {READER} USING (id <= 30)")
    planted.ok("verify", "articles", "--repair")
    result = planted.cli("evaluate", "articles", "--json", env=as_reader(planted))
    found = json.loads(result.stdout)
    assert (found["documents"], found["rows"], found["kept"]) == (30, 30, False)
    assert sent(planted)[0] == []


def test_a_role_without_temporary_tables_is_told_what_it_needs(planted: Harness) -> None:
    filled(planted, rows=20)
    with psycopg.connect(as_role(planted.url, "postgres"), autocommit=True) as connection:
        connection.execute(f"REVOKE TEMPORARY ON DATABASE {connection.info.dbname} FROM PUBLIC")
    said = planted.refused("evaluate", "articles", "--json", "--vary", "index=hnsw", env=as_reader(planted))
    assert "this role needs TEMPORARY on the database" in said
    planted.ok("evaluate", "articles", "--vary", "dimensions=8")


def test_pgvector_may_be_in_any_schema(bare: Harness) -> None:
    plant(bare.server)
    bare.execute('CREATE SCHEMA "ext %s"')
    bare.execute('CREATE EXTENSION vector SCHEMA "ext %s"')
    bare.ok("init")
    filled(bare, rows=60)
    found = evaluated(
        bare, "--vary", "index=hnsw,hnsw-binary,hnsw-prefix:32,ivfflat", "--vary", "mode=hybrid", "--words", "simple"
    )
    for label in ("index hnsw", "index hnsw-prefix:32", "mode hybrid"):
        assert figure(found, label) > 0.5


@pytest.mark.parametrize("mistake", ["RAISE", "bytes"])
def test_a_document_that_postgresql_cannot_make_is_one_sentence(planted: Harness, mistake: str) -> None:
    filled(planted, rows=3)
    function = planted.internal("document")
    body = "convert_from('\\xff', 'UTF8')" if mistake == "bytes" else "(1 / (length($1) - length($1)))::text"
    planted.execute(
        f"CREATE OR REPLACE FUNCTION {function}(body text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT {body} $$"
    )
    assert planted.refused("evaluate", "articles", "--json").startswith("PostgreSQL: ")


def test_a_table_without_rows_makes_no_question(planted: Harness) -> None:
    filled(planted, rows=0)
    assert "the column title makes no question of 0 rows; name another column with --title" in planted.refused(
        "evaluate", "articles"
    )


def test_a_role_that_may_only_read_measures_and_is_told_that_nothing_is_kept(planted: Harness) -> None:
    filled(planted, rows=40)
    result = planted.cli("evaluate", "articles", "--vary", "dimensions=8", env=as_reader(planted))
    assert result.exit_code == 0, result.output
    assert "note: the result is not kept for --history: permission denied" in result.stderr
    assert planted.rows("TABLE _qwen_embed.evaluation") == []
