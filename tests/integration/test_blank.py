"""Documents of nothing but white space: no vector, and never a request."""

import hashlib

import psycopg
import pytest
from harness import Cluster, Harness, both_versions
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.change import change_of

SPACES = [chr(n) for n in range(0x110000) if chr(n).isspace()]
BLANK = [None, "", *SPACES, *(space * 70 for space in SPACES), " \t\n\u3000\xa0", "".join(SPACES)]
NOT_BLANK = ["\u200b", "\ufeff", "\u180e", "\u3000x\u3000", " " * 100 + "x", "\u2800", "\x7f"]


def test_there_are_29_characters_of_white_space() -> None:
    assert len(SPACES) == 29


@both_versions
def test_a_blank_document_gets_no_vector_in_a_backfill_and_is_not_sent(harness: Harness) -> None:
    harness.articles(*BLANK, *NOT_BLANK)
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert sorted(harness.server.texts) == sorted(NOT_BLANK)
    assert len(harness.vectors()) == len(NOT_BLANK)
    harness.assert_in_step()


@both_versions
@pytest.mark.parametrize("store", ["table", "column"])
def test_a_document_that_becomes_blank_loses_its_vector(harness: Harness, store: str) -> None:
    harness.articles(*(f"text {n}" for n in range(len(BLANK))))
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.once()
    harness.server.texts.clear()
    harness.many("UPDATE articles SET body = %s WHERE id = %s", [(blank, n) for n, blank in enumerate(BLANK, 1)])
    harness.once()
    assert harness.vectors() == []
    assert harness.server.texts == []
    assert harness.count("outbox") == 0
    harness.assert_in_step()
    harness.execute("UPDATE articles SET body = 'text again'")
    harness.once()
    assert len(harness.vectors()) == len(BLANK)
    harness.assert_in_step()


def test_a_document_of_columns_that_are_all_null_is_none(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, body text)")
    harness.execute("INSERT INTO articles VALUES (1, NULL, NULL), (2, 'title', NULL), (3, NULL, 'body'), (4, 'a', 'b')")
    harness.ok("attach", "articles", "--template", r"{{{title}}}:\n{body}.", "--name", "one")
    harness.ok("attach", "articles", "--text", "title", "--text", "body", "--name", "two")
    harness.once()
    assert sorted(harness.server.texts) == ["a\n\nb", "body", "title", "{a}:\nb.", "{title}:\n.", "{}:\nbody."]


texts = st.text(st.one_of(st.sampled_from(SPACES), st.characters(exclude_categories=["Cs"], exclude_characters="\0")))


@both_versions
def test_the_fingerprint_of_the_database_is_the_workers(postgres: Cluster) -> None:
    with postgres.database() as url, psycopg.connect(url, autocommit=True) as connection:

        @given(st.lists(texts))
        def check(documents: list[str]) -> None:
            query = "SELECT array_agg(_qwen_embed.fingerprint(d) ORDER BY n) FROM unnest(%s::text[]) WITH ORDINALITY u(d, n)"
            (found,) = connection.execute(query, [documents]).fetchone() or ()
            expected = [
                hashlib.sha256(document.encode()).digest()[:16] if document.strip() else None for document in documents
            ]
            assert (found or []) == expected
            assert [change_of((), 0, (), None, document).fingerprint for document in documents] == expected

        check()
