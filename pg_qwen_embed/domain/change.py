"""A change: a key to bring up to date, with its document and version. Pure."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

LONGEST_DOCUMENT = 500_000  # characters; 32,768 tokens of any text that is read are fewer
Key = tuple[Any, ...]
Span = tuple[int, int]  # characters of a document, from 0, the second one not included


class Change(NamedTuple):  # there is one for each row: a dataclass takes three times as long to make
    """A key to bring up to date: the document of the snapshot that gave the version, and the entries it settles.

    Without a fingerprint the document is NULL or blank, or the row has gone: there is no vector to be."""

    key: Key
    version: int
    seqs: Sequence[int]
    fingerprint: bytes | None
    document: str
    size: int  # of the document in UTF-8, in bytes
    here: bool = True  # whether the row was there; blank if so, and gone if not
    attempts: int = 0  # how often the server has refused this version
    spans: tuple[Span, ...] = ()  # of its chunks, when it is divided: each has a vector
    truncated: bool = False  # the vector is that of the document's beginning: it is longer than the model takes


def change_of(
    key: Key,
    version: int,
    seqs: Sequence[int],
    known: bytes | None,
    document: str | None,
    here: bool = True,
    attempts: int = 0,
) -> Change:
    """known: the fingerprint, where the document is not the whole one; else it is made here, the first 16 bytes of the SHA-256,
    as by the function `fingerprint` in the database."""
    if known is None and (document is None or not document.strip()):
        return Change(key, version, seqs, None, "", 0, here, attempts)
    encoded = (document or "").encode()
    found = known or hashlib.sha256(encoded).digest()[:16]
    return Change(key, version, seqs, found, document or "", len(encoded), here, attempts)


def entries_of(changes: Sequence[Change]) -> list[int]:
    """The entries of the outbox that they settle."""
    return list(chain.from_iterable([change.seqs for change in changes]))
