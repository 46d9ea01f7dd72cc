"""A chunk whose text did not change keeps its vector: only the others are embedded when their document changes."""

import pytest
from harness import Harness, both_versions, eventually
from test_chunking import ENGLISH, assert_in_step, attach, chunks

PARAGRAPHS = [f"Paragraph {n} has its own sentence, and nothing more." for n in range(8)]  # a chunk each


def document(**changed: str) -> str:
    """The paragraphs, some of them replaced: `p3="another text"`."""
    return "\n\n".join(changed.get(f"p{n}", text) for n, text in enumerate(PARAGRAPHS))


def filled(harness: Harness, *bodies: str, key: str = "bigint") -> None:
    harness.execute(f"CREATE TABLE articles (id {key} PRIMARY KEY, body text)")
    harness.many("INSERT INTO articles VALUES (%s, %s)", list(enumerate(bodies, 1)))
    attach(harness)
    harness.once()
    harness.server.texts.clear()


@both_versions
@pytest.mark.parametrize("key", ["bigint", "text", "numeric"])
@pytest.mark.long
def test_only_the_chunk_that_changed_is_embedded(harness: Harness, key: str) -> None:
    filled(harness, document(), key=key)
    assert len(chunks(harness)) == len(PARAGRAPHS)
    harness.execute("UPDATE articles SET body = %s", document(p3="Another text, which is about as long as it was."))
    harness.once()
    assert [text.strip() for text in harness.server.texts] == ["Another text, which is about as long as it was."]
    assert_in_step(harness)


def test_a_chunk_that_moves_within_its_document_keeps_its_vector(harness: Harness) -> None:
    filled(harness, document())
    harness.execute("UPDATE articles SET body = %s", "\n\n".join([*PARAGRAPHS[4:], "", *PARAGRAPHS[:4]]))
    harness.once()
    assert len(harness.server.texts) <= 2
    assert_in_step(harness)


def test_a_document_of_which_every_chunk_is_known_is_written_without_the_server(harness: Harness) -> None:
    filled(harness, document())
    harness.execute("UPDATE articles SET body = %s", document().replace("\n\n", "\n\n\n"))
    harness.once()
    assert harness.server.texts == []
    assert_in_step(harness)


@pytest.mark.parametrize(
    "between",
    [
        "UPDATE articles SET body = ' '",  # blank: the chunks are gone
        "DELETE FROM articles",
        "TRUNCATE articles",
    ],
)
def test_chunks_that_are_gone_are_embedded_again(harness: Harness, between: str) -> None:
    filled(harness, document())
    harness.execute(between)
    harness.once()
    harness.execute(
        "INSERT INTO articles VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body", document()
    )
    harness.once()
    assert len(harness.server.texts) == len(PARAGRAPHS)
    assert_in_step(harness)


def test_chunks_written_by_a_release_that_kept_no_fingerprint_are_embedded_again(harness: Harness) -> None:
    filled(harness, document())
    harness.execute(f"UPDATE {harness.internal('store')} SET chunk_fingerprint = NULL")
    harness.execute("UPDATE articles SET body = %s", document(p7="The last one is another now, and is longer."))
    harness.once()
    assert len(harness.server.texts) == len(PARAGRAPHS)
    harness.server.texts.clear()
    harness.execute("UPDATE articles SET body = %s", document())
    harness.once()
    assert len(harness.server.texts) == 1
    assert_in_step(harness)


@both_versions
def test_versions_in_flight_that_reuse_chunks_of_each_other_leave_the_newest_document(harness: Harness) -> None:
    """The older version waits for the server with the chunks that it has reused, while the newer one is written."""
    filled(harness, document())
    worker = harness.worker()
    eventually(harness.settled)
    old, new = "An older text, which the server holds for long.", "A newer text, which is written at once and stays."
    with harness.server.hold(lambda texts: any(old in text for text in texts)):
        harness.execute(
            "UPDATE articles SET body = %s", document(p2=old, p6="Something else that the older version says.")
        )
        eventually(lambda: harness.server.waiting)
        harness.execute("UPDATE articles SET body = %s", document(p2=new))
        eventually(lambda: harness.value("SELECT bool_and(NOT stale) FROM qwen_embed.articles"))
    eventually(harness.settled)
    assert_in_step(harness)
    assert [text for text in harness.server.texts if text.strip() == PARAGRAPHS[0]] == []
    assert worker.popen.poll() is None


def test_chunks_of_a_row_that_cannot_be_recalled_are_embedded(harness: Harness) -> None:
    filled(harness, ENGLISH)
    before = len(chunks(harness))
    harness.execute("UPDATE articles SET body = body || %s", "One sentence more.")
    outbox = harness.internal("store")
    harness.execute(f"UPDATE {outbox} SET chunk_fingerprint = 'another'")
    harness.once()
    assert len(harness.server.texts) >= before
    assert_in_step(harness)
