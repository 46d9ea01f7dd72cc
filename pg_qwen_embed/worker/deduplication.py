"""Identical documents under way at the same time: one of them is embedded, the others take its outcome. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.worker.work import Embedded, Outcome, Refused, Request, WalkPage, pieces_of

Twin = tuple[Change, WalkPage | None]
Waiting = dict[bytes | None, list[Twin] | None]


@dataclass(slots=True)
class Twins:
    """What waits for an outcome, by fingerprint; most have none. A live change waits for another live one only: a backfill's may
    be late."""

    _live: Waiting = field(default_factory=dict)
    _walked: Waiting = field(default_factory=dict)

    def first(self, changes: Sequence[Change], page: WalkPage | None) -> list[Change]:
        """Those whose document is not under way; it is now. The others will be in what `settled` returns."""
        waiting = self._of(page)
        found = []
        for change in changes:
            document = change.fingerprint
            if document not in waiting:
                waiting[document] = None
                found.append(change)
            elif (twins := waiting[document]) is None:
                waiting[document] = [(change, page)]
            else:
                twins.append((change, page))
        return found

    def settled(self, outcome: Embedded | Refused) -> list[Outcome]:
        """This outcome, and the same one for each twin."""
        waiting = self._of(outcome.request.page)
        twins = [waiting.pop(change.fingerprint, None) for change in outcome.request.changes]
        if not any(twins):
            return [outcome]
        pieces = zip(pieces_of(outcome), twins, strict=True)
        return [outcome, *(_of_twin(piece, *twin) for piece, own in pieces for twin in own or ())]

    def _of(self, page: WalkPage | None) -> Waiting:
        return self._live if page is None else self._walked


def _of_twin(piece: Outcome, change: Change, page: WalkPage | None) -> Outcome:
    match piece:
        case Embedded(Request([done]), embeddings):
            return Embedded(Request([change._replace(cut=done.cut, spans=done.spans)], page), embeddings)
        case Refused(_, sentence):
            return Refused(Request([change], page), sentence)
        case _:
            raise AssertionError("only what was sent has twins")
