"""Which documents go into one request. Pure.

Documents of similar length go together, so that a long one does not delay many short ones on the server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BYTES_PER_TOKEN = 3.0  # a cautious guess, for Chinese as for English, where the server does not count
SHARE = 0.1  # weight of each answer in the estimate
FEWEST_BYTES, MOST_BYTES = 1.0, 16.0  # bounds of bytes per token, against a server that counts nonsense


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest request. Tokens are estimated from the text's bytes."""

    documents: int = 64
    tokens: int = 32_768


@dataclass(slots=True)
class TokenRatio:
    """Bytes per token, as the server counts tokens."""

    bytes_per_token: float = BYTES_PER_TOKEN

    def counted(self, size: int, documents: int, tokens: int) -> None:
        """An answer: the documents together have `size` bytes and `tokens` tokens, one token per document for its end."""
        if tokens > documents:
            found = min(MOST_BYTES, max(FEWEST_BYTES, size / (tokens - documents)))
            self.bytes_per_token += SHARE * (found - self.bytes_per_token)


def pack(lengths: Sequence[int], limits: Limits, bytes_per_token: float) -> Iterator[list[int]]:
    """Positions in `lengths` (bytes), grouped into requests. A document over the budget goes alone."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    request: list[int] = []
    tokens = 0.0
    for position in order:
        cost = lengths[position] / bytes_per_token + 1
        if request and (len(request) == limits.documents or tokens + cost > limits.tokens):
            yield request
            request, tokens = [], 0.0
        request.append(position)
        tokens += cost
    if request:
        yield request
