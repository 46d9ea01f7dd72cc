"""The ledger balances in any order of reads and writes, and a scan records only pages that are written."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.worker.ledger import Ledger, Room
from pg_qwen_embed.worker.scanner import Scan
from pg_qwen_embed.worker.work import Cleared, Embedded, Request, ScanPage, SourceTruncated, pieces_of, rows_of

texts = st.one_of(st.none(), st.text(max_size=5))


def change(number: int, text: str | None, entries: int) -> Change:
    seqs = tuple(range(100 * number, 100 * number + entries))
    return Change((number,), number, seqs, None if text is None else b"fingerprint", text or "", len(text or ""))


@given(st.lists(st.tuples(texts, st.integers(0, 3), st.booleans())), st.randoms(use_true_random=False))
def test_accounts_are_even_when_everything_is_settled_in_any_order(
    rows: list[tuple[str | None, int, bool]], rng
) -> None:  # type: ignore[no-untyped-def]
    held, page = Ledger(), ScanPage((0,), 0, 0)
    taken = [(change(n, text, entries), page if scanned else None) for n, (text, entries, scanned) in enumerate(rows)]
    for one, of in taken:
        held.take([one], of)
        page.left += of is not None
    assert held.documents == len(rows)
    assert held.live == sum(of is None for _, of in taken)
    assert held.seqs == {seq for one, _ in taken for seq in one.seqs}
    rng.shuffle(taken)
    for one, of in taken:
        assert not held.empty
        held.settle([one], of)
    assert held.empty
    assert (held.live, held.size, page.left) == (0, 0, 0)
    assert held.settled_entries == sum(len(one.seqs) for one, _ in taken)


def test_key_of_a_failure_is_retried_once_at_a_time() -> None:
    held, one = Ledger(), change(1, "text", 1)
    held.retrying.add(one.key)
    held.take([one], None)
    held.settle([one], None)
    assert not held.retrying


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_scan_records_pages_in_order_and_only_those_that_are_written(sizes: list[int], rng) -> None:  # type: ignore[no-untyped-def]
    scan = Scan(after=None, began=0.0)
    pages = [scan.add((n,), size, left=size) for n, size in enumerate(sizes)]
    scan.exhausted = True
    work = [page for page in pages for _ in range(page.left)]
    rng.shuffle(work)
    recorded: list[ScanPage] = []
    for page in [None, *work]:
        if page is not None:
            page.left -= 1
        written = scan.written()
        assert all(not page.left for page in written)
        scan.drop(written)
        recorded += written
        assert recorded == pages[: len(recorded)]
        assert scan.finished == (len(recorded) == len(pages))
    assert recorded == pages
    assert scan.after == [str(len(sizes) - 1)]


def test_outcome_comes_apart_into_one_of_each_change() -> None:
    changes = [change(n, "text", 1) for n in range(3)]
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    apart = pieces_of(Embedded(Request(changes, None), vectors))
    assert [rows_of(piece) for piece in apart] == [1, 1, 1]
    assert [piece.request.changes[0] for piece in apart if isinstance(piece, Embedded)] == changes
    assert (
        np.concatenate([piece.embeddings for piece in apart if isinstance(piece, Embedded)]).tolist()
        == vectors.tolist()
    )
    assert pieces_of(Cleared(changes)) == [Cleared([one]) for one in changes]
    assert pieces_of(Cleared([])) == [Cleared([])]
    assert pieces_of(SourceTruncated(3, (1, 2), (b"one", b"two"))) == [SourceTruncated(3, (1, 2), (b"one", b"two"))]


def test_a_backfill_fills_only_the_room_that_live_changes_leave() -> None:
    held, page = Ledger(), ScanPage((0,), 0, 0)
    room = Room(held, documents=lambda: 10, size=1000)
    held.take([change(n, "text", 1) for n in range(10)], page)
    assert (room.for_changes(), room.for_backfill()) == (True, False)
    held.take([change(n, "text", 1) for n in range(10, 20)], None)
    assert (room.for_changes(), room.for_backfill()) == (False, False)
    held.settle([change(n, "text", 1) for n in range(10, 20)], None)
    assert room.for_changes()


def test_room_ends_with_the_bytes_as_well() -> None:
    held = Ledger()
    room = Room(held, documents=lambda: 10, size=8)
    held.take([change(1, "four", 1)], None)
    assert room.for_changes()
    held.take([change(2, "four", 1)], None)
    assert not room.for_changes()
    assert not room.for_backfill()
