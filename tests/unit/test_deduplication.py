"""Identical documents in flight: one is sent, and each of the others gets the same outcome, once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.worker.deduplication import Deduplicator
from pg_qwen_embed.worker.work import Embedded, Rejected, Request, ScanPage

PAGE = ScanPage((0,), 0, 0)


def change(number: int, text: str) -> Change:
    return Change((number,), number, (number,), text.encode(), text, 1)


batches = st.lists(st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.booleans(), st.booleans()))


@given(batches, st.booleans())
def test_every_change_comes_out_once_with_the_vector_of_its_own_document(
    taken: list[tuple[list[str], bool, bool]], refused: bool
) -> None:
    duplicates, sent, put, out, number = Deduplicator(), [], [], [], 0
    for texts, scanned, answered in taken:
        changes = [change(number + n, text) for n, text in enumerate(texts)]
        number += len(texts)
        put += changes
        page = PAGE if scanned else None
        if first := duplicates.first(changes, page):
            sent.append(Request(first, page))
        if answered and sent:
            out += settle(duplicates, sent.pop(0), refused)
    for request in sent:
        out += settle(duplicates, request, refused)
    assert sorted(one.key for one, _ in out) == [one.key for one in put]
    assert all(found == one.document for one, found in out)


def settle(duplicates: Deduplicator, request: Request, refused: bool) -> list[tuple[Change, str]]:
    """The outcomes: each change, and the document whose outcome it got."""
    documents = [one.document for one in request.changes]
    assert len(set(documents)) == len(documents)
    if refused:
        assert len({one.key for one in request.changes}) == len(request.changes)
        settled = [duplicates.settled(Rejected(Request([one], request.page), one.document)) for one in request.changes]
        return [
            (one, outcome.sentence)
            for outcomes in settled
            for outcome in outcomes
            if isinstance(outcome, Rejected)
            for one in outcome.request.changes
        ]
    vectors = np.array([[ord(text)] for text in documents], dtype=np.float32)
    return [
        (one, chr(int(vector[0])))
        for outcome in duplicates.settled(Embedded(request, vectors))
        if isinstance(outcome, Embedded)
        for one, vector in zip(outcome.request.changes, outcome.embeddings, strict=True)
    ]


def test_a_live_change_does_not_wait_for_a_backfill() -> None:
    duplicates = Deduplicator()
    assert duplicates.first([change(1, "same")], PAGE)
    assert duplicates.first([change(2, "same")], None)
    assert not duplicates.first([change(3, "same")], None)
