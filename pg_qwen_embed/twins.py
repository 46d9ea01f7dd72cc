"""Identical documents under way at the same time: one of them is embedded, the others take its outcome. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.work import Change, Embedded, Outcome, Refused, Request, WalkPage, pieces_of

Twin = tuple[Change, WalkPage | None]


@dataclass(slots=True)
class Twins:
    """What waits for an outcome, by document. A live change waits for another live one only: a backfill's may be late."""

    _waiting: dict[tuple[bytes | None, bool], list[Twin]] = field(default_factory=dict)

    def first(self, changes: Sequence[Change], page: WalkPage | None) -> list[Change]:
        """Those whose document is not under way; it is now. The others will be in what `settled` returns."""
        found = []
        for change in changes:
            document = change.fingerprint, page is None
            if document in self._waiting:
                self._waiting[document].append((change, page))
            else:
                self._waiting[document] = []
                found.append(change)
        return found

    def settled(self, outcome: Embedded | Refused) -> list[Outcome]:
        """This outcome, and the same one for each twin."""
        live = outcome.request.page is None
        waiting = [self._waiting.pop((change.fingerprint, live), []) for change in outcome.request.changes]
        if not any(waiting):
            return [outcome]
        pieces = zip(pieces_of(outcome), waiting, strict=True)
        return [outcome, *(_of_twin(piece, *twin) for piece, twins in pieces for twin in twins)]


def _of_twin(piece: Outcome, change: Change, page: WalkPage | None) -> Outcome:
    match piece:
        case Embedded(Request([done]), embeddings):
            return Embedded(Request([change._replace(cut=done.cut, spans=done.spans)], page), embeddings)
        case Refused(_, sentence):
            return Refused(Request([change], page), sentence)
        case _:
            raise AssertionError("only what was sent has twins")
