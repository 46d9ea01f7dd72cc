"""Deduplication: of identical documents in flight one is embedded, and the others take its outcome. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.worker.work import Embedded, Outcome, Rejected, Request, ScanPage, pieces_of

Duplicate = tuple[Change, ScanPage | None]
Waiting = dict[bytes | None, list[Duplicate] | None]


@dataclass(slots=True)
class Deduplicator:
    """The duplicates that wait for an outcome, by fingerprint; most documents have none.

    A live change waits only for another live change: the outcome of a backfill may be late."""

    _live: Waiting = field(default_factory=dict)
    _backfill: Waiting = field(default_factory=dict)

    def first(self, changes: Sequence[Change], page: ScanPage | None) -> list[Change]:
        """The changes to embed: their documents were not in flight, and are now. `settled` will return the others."""
        waiting = self._of(page)
        found = []
        for change in changes:
            document = change.fingerprint
            if document not in waiting:
                waiting[document] = None
                found.append(change)
            elif (duplicates := waiting[document]) is None:
                waiting[document] = [(change, page)]
            else:
                duplicates.append((change, page))
        return found

    def settled(self, outcome: Embedded | Rejected) -> list[Outcome]:
        """This outcome, and the same outcome for each duplicate."""
        waiting = self._of(outcome.request.page)
        duplicates = [waiting.pop(change.fingerprint, None) for change in outcome.request.changes]
        if not any(duplicates):
            return [outcome]
        pieces = zip(pieces_of(outcome), duplicates, strict=True)
        return [outcome, *(_of_duplicate(piece, *duplicate) for piece, own in pieces for duplicate in own or ())]

    def _of(self, page: ScanPage | None) -> Waiting:
        return self._live if page is None else self._backfill


def _of_duplicate(piece: Outcome, change: Change, page: ScanPage | None) -> Outcome:
    match piece:
        case Embedded(Request([done]), embeddings):
            return Embedded(Request([change._replace(truncated=done.truncated, spans=done.spans)], page), embeddings)
        case Rejected(_, sentence):
            return Rejected(Request([change], page), sentence)
        case _:
            raise AssertionError("only an outcome of a request has duplicates")
