"""Which documents go into one request. Pure.

Documents of similar length go together, so that a long one does not hold up many short ones on the server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BYTES_PER_TOKEN = 3.0  # a cautious guess, for Chinese as for English; the server counts exactly


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest request. Tokens are estimated from the text's bytes."""

    documents: int = 64
    tokens: int = 32_768


def pack(lengths: Sequence[int], limits: Limits) -> Iterator[list[int]]:
    """Positions in `lengths` (bytes), grouped into requests. A document over the budget goes alone."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    request: list[int] = []
    tokens = 0.0
    for position in order:
        cost = lengths[position] / BYTES_PER_TOKEN + 1
        if request and (len(request) == limits.documents or tokens + cost > limits.tokens):
            yield request
            request, tokens = [], 0.0
        request.append(position)
        tokens += cost
    if request:
        yield request
