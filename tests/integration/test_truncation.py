"""Over-long documents: truncated on our side so that the pooled token stays, or made failures."""

import json

import numpy as np
import pytest
from harness import Harness, eventually

from pg_qwen_embed.domain.change import LONGEST_DOCUMENT
from pg_qwen_embed.postgres import migrate

CONTEXT = 70  # tokens; the server takes CONTEXT - 7, of which its tokenizer adds one
ROOM = CONTEXT - 8  # bytes of a document


@pytest.fixture
def short(harness: Harness) -> Harness:
    harness.server.context_length = CONTEXT
    return harness


def status(harness: Harness) -> dict[str, object]:
    (one,) = json.loads(harness.ok("status", "articles", "--json"))
    found: dict[str, object] = one
    return found


@pytest.mark.parametrize("store", ["table", "column"])
def test_document_that_is_too_long_is_truncated_to_what_the_server_takes(short: Harness, store: str) -> None:
    fits, long, halved = "f" * ROOM, "x" * 200, "a" + "é" * 100
    short.articles(fits, long, halved, "short")
    short.ok("attach", "articles", "--text", "body", "--store", store)
    short.once()
    beginnings = {fits: fits, long: "x" * ROOM, halved: "a" + "é" * ((ROOM - 1) // 2), "short": "short"}
    assert {*short.server.texts} == {*beginnings.values()}
    for text, vector in short.vectors():
        np.testing.assert_allclose(vector, short.server.vector(beginnings[text]), atol=2e-3, err_msg=text)
    assert short.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    assert (status(short)["vectors"], status(short)["truncated"], status(short)["failures"]) == (4, 2, 0)
    assert "vectors 4 (2 truncated)" in short.ok("status", "articles")


@pytest.mark.parametrize("store", ["table", "column"])
@pytest.mark.parametrize("text", ["short", " "])
def test_document_that_is_too_long_no_more_is_not_counted_as_cut(short: Harness, store: str, text: str) -> None:
    short.articles("x" * 200)
    short.ok("attach", "articles", "--text", "body", "--store", store)
    short.once()
    assert status(short)["truncated"] == 1
    short.execute("UPDATE articles SET body = %s", text)
    short.once()
    assert status(short)["truncated"] == 0


def test_document_that_is_too_long_fails_where_that_was_asked_for_and_the_others_do_not(short: Harness) -> None:
    short.articles("short", "x" * 200, "f" * ROOM, "y" * (LONGEST_DOCUMENT + 1))
    short.ok("attach", "articles", "--text", "body", "--too-long", "fail")
    short.once()
    assert {*short.server.texts} == {"short", "f" * ROOM}
    listed = {
        failure["key"]["id"]: failure["error"]
        for failure in json.loads(short.ok("failures", "list", "articles", "--json"))
    }
    assert listed == {
        2: f"the document has 201 tokens, and the server takes {ROOM + 1}",
        4: "the document has more than 500,000 characters, longer than any model takes",
    }
    assert status(short)["truncated"] == 0


def embed_one_beyond_what_we_carry(harness: Harness) -> None:
    harness.server.tokenizes = False
    harness.server.context_length = 1 << 40
    harness.articles("x" * (LONGEST_DOCUMENT + 10))
    harness.ok("attach", "articles", "--text", "body")
    harness.once()


def test_document_too_long_for_us_to_carry_is_truncated_even_where_the_server_knows_no_limit(harness: Harness) -> None:
    embed_one_beyond_what_we_carry(harness)
    assert harness.server.texts == ["x" * LONGEST_DOCUMENT]
    assert status(harness)["truncated"] == 1
    assert harness.rows("SELECT stale FROM qwen_embed.articles") == [
        (False,)
    ]  # the fingerprint is of the whole document


def test_change_behind_what_we_carry_is_seen(harness: Harness) -> None:
    embed_one_beyond_what_we_carry(harness)
    harness.execute("UPDATE articles SET body = body || 'y'")
    assert harness.rows("SELECT stale FROM qwen_embed.articles") == [(True,)]
    harness.once()
    assert harness.rows("SELECT stale FROM qwen_embed.articles") == [(False,)]


@pytest.mark.parametrize("answer", ["403", "400", "nothing", "418"])
def test_server_that_counts_in_another_way_is_used_without_cutting(harness: Harness, answer: str) -> None:
    """A server behind a gateway that lets only /v1 pass, or one that is not SGLang and has its own /tokenize."""
    harness.server.tokenizing = answer
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.assert_in_step()


def test_one_bad_answer_of_the_tokenizer_at_the_start_does_not_end_cutting(short: Harness) -> None:
    short.articles("x" * 200)
    short.ok("attach", "articles", "--text", "body")
    short.server.tokenizing = "500"
    worker = short.worker()
    eventually(lambda: "server_unavailable" in worker.said)
    short.server.tokenizing = ""
    eventually(short.settled)
    assert (status(short)["truncated"], status(short)["failures"]) == (1, 0)


def test_server_that_comes_back_with_a_shorter_limit_is_truncated_for_anew(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    eventually(harness.settled)
    harness.server.context_length = CONTEXT
    harness.execute("INSERT INTO articles VALUES (2, %s)", "x" * 200)
    eventually(lambda: status(harness)["truncated"] == 1)
    assert status(harness)["failures"] == 0


def test_detokenizer_that_is_gone_keeps_no_other_document_waiting(short: Harness) -> None:
    short.articles("short", "x" * 200)
    short.ok("attach", "articles", "--text", "body")
    worker = short.worker()
    eventually(short.settled)
    short.server.detokenizes = False
    short.execute("INSERT INTO articles VALUES (3, 'three'), (4, %s)", "y" * 200)
    eventually(lambda: {"three"} <= {*short.server.texts})
    eventually(short.settled)
    assert status(short)["vectors"] == 3
    assert status(short)["failures"] == 1
    assert worker.end() == 0


def test_text_that_the_tokenizer_does_not_write_back_is_truncated_by_its_own_characters(short: Harness) -> None:
    short.server.decodes_otherwise = True
    short.articles("x" * 200, "é" * 100 + "x" * 300)
    short.ok("attach", "articles", "--text", "body")
    short.once()
    first, second = sorted(short.server.texts)
    assert first == "x" * ROOM
    assert second == "é" * len(second)
    assert ROOM / 2 < len(second.encode()) <= ROOM


def test_replacement_character_of_the_text_itself_is_no_half_character(short: Harness) -> None:
    short.articles("\ufffd" * 100)
    short.ok("attach", "articles", "--text", "body")
    short.once()
    assert short.server.texts == ["\ufffd" * (ROOM // 3)]


def test_document_that_begins_with_too_many_blanks_is_a_failure_that_says_so(short: Harness) -> None:
    short.articles(" " * 100 + "x", "short")
    short.ok("attach", "articles", "--text", "body")
    short.once()
    (failure,) = json.loads(short.ok("failures", "list", "articles", "--json"))
    assert failure["error"] == f"the first {ROOM + 1} tokens of the document are blank"
    assert "short" in short.server.texts


def test_document_that_a_server_without_a_tokenizer_rejects_is_a_failure_with_its_sentence(short: Harness) -> None:
    short.server.tokenizes = False
    short.articles("short", "x" * 200)
    short.ok("attach", "articles", "--text", "body")
    short.once()
    (failure,) = json.loads(short.ok("failures", "list", "articles", "--json"))
    assert "The input (201 tokens) is longer than the model's context length (70 tokens)." in failure["error"]
    assert "short" in short.server.texts


def test_text_that_composing_makes_longer_is_truncated_as_well(short: Harness) -> None:
    text = "\u0958" * 20  # 60 bytes; composed, 120
    short.articles(text)
    short.ok("attach", "articles", "--text", "body")
    short.once()
    assert short.server.texts == ["\u0915\u093c" * (ROOM // 6)]


def test_database_that_an_older_version_has_set_up_is_rejected(bare: Harness) -> None:
    bare.execute("CREATE EXTENSION vector")
    migrate.upgrade(bare.url, migrate.revisions()[-2])
    for command in (["status"], ["attach", "articles", "--text", "body"], ["worker", "--once"]):
        assert "was set up by an older pg_qwen_embed; run: pg-qwen-embed init" in bare.refused(*command)


def test_stores_that_are_there_already_learn_to_count_what_is_cut(short: Harness) -> None:
    short.articles("one")
    short.ok("attach", "articles", "--text", "body")
    short.once()
    short.downgrade("0002")
    short.ok("init")
    short.execute("INSERT INTO articles VALUES (2, %s)", "x" * 200)
    short.once()
    assert (status(short)["vectors"], status(short)["truncated"]) == (2, 1)


def test_request_of_more_than_a_megabyte_is_sent_without_a_warning(harness: Harness) -> None:
    harness.server.context_length = 1 << 40
    harness.articles("文" * 400_000)
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.assert_in_step()
    assert harness.server.texts == ["文" * 400_000]
