"""A change: a key to bring up to date, with its document and version. Pure."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

LONGEST_DOCUMENT = 500_000  # characters; 32,768 tokens of any natural text have fewer
LONGEST_FOR_WORDS = 200_000  # characters of a document whose words are kept; a tsvector has 1 MB at most
Key = tuple[Any, ...]
Span = tuple[int, int]  # character offsets in a document, from 0: the first, and the one after the last


class Change(NamedTuple):  # one per row: a dataclass takes three times as long to create
    """A key to bring up to date: its document, its version, and the outbox entries that it settles.

    Document and entries come from one snapshot, whose order among others the version tells (version.py). fingerprint: None
    if the document is NULL or blank, or the row is gone; then the key has no vector."""

    key: Key
    version: int
    seqs: Sequence[int]
    fingerprint: bytes | None
    document: str
    size: int  # of the document, in bytes of UTF-8
    here: bool = True  # whether the row exists; without a fingerprint it is blank if so, and gone if not
    attempts: int = 0  # how often the server has rejected this version
    spans: tuple[Span, ...] = ()  # of its chunks, if the document is divided; each chunk has a vector
    truncated: bool = False  # the vector is of the document's beginning: it is longer than the model takes
    row_ids: Sequence[bytes] = ()  # of the entries in the outbox: a number alone does not identify an entry


def change_of(
    key: Key,
    version: int,
    seqs: Sequence[int],
    known: bytes | None,
    document: str | None,
    here: bool = True,
    attempts: int = 0,
    row_ids: Sequence[bytes] = (),
) -> Change:
    """A change with the fingerprint of its document.

    known: the fingerprint, if `document` is only the beginning of the document. Otherwise it is computed here as the
    function `_qwen_embed.fingerprint` does: the first 16 bytes of the SHA-256; None for a blank document."""
    if known is None and (document is None or not document.strip()):
        return Change(key, version, seqs, None, "", 0, here, attempts, row_ids=row_ids)
    encoded = (document or "").encode()
    found = known or fingerprint(encoded)
    return Change(key, version, seqs, found, document or "", len(encoded), here, attempts, row_ids=row_ids)


def fingerprint(encoded: bytes) -> bytes:
    """The fingerprint of a text, given in UTF-8."""
    return hashlib.sha256(encoded).digest()[:16]


def size_of(changes: Sequence[Change]) -> int:
    """The size of their documents in bytes."""
    return sum([change.size for change in changes])


def entries_of(changes: Sequence[Change]) -> list[int]:
    """The outbox entries that these changes settle."""
    return list(chain.from_iterable([change.seqs for change in changes]))


def row_ids_of(changes: Sequence[Change]) -> list[bytes]:
    """The row ids of those entries, in the same order."""
    return list(chain.from_iterable([change.row_ids for change in changes]))
