"""Where a long document is divided: at paragraphs, sentences or words, by Unicode's rules (UAX #29). Pure.

Every character that is not white space is in some chunk. Only the server counts tokens (chunking.py). Here they are
estimated by proportion, so a chunk may come out too long; the caller then divides it again."""

import math
from collections.abc import Iterable, Iterator

from semantic_text_splitter import TextSplitter

from pg_qwen_embed.domain.change import Span

FILL = 0.9  # share of a chunk that is filled: its text may have more tokens than the document has on average
SLACK = 1.15  # chunks end at boundaries, so parts of equal size would leave a short rest
WINDOW = 4  # chunks divided together: without sentences, the splitter's time grows with the square of the length


def divide(text: str, span: Span, *, tokens: int, most: int, overlap: int) -> list[Span]:
    """Divide a span of `tokens` tokens into chunks that should have at most `most` tokens each.

    Each chunk repeats up to `overlap` tokens of the one before it. A span of two characters or more becomes several
    chunks, or a shorter one."""
    begin, end = span
    length = end - begin
    parts = max(2, math.ceil(tokens / (most * FILL)))
    full = most * FILL * length / tokens  # characters
    size = max(1, int(min(full, SLACK * length / parts, length - 1)))
    repeated = min(int(overlap * length / tokens), size // 2)
    return [(begin + a, begin + b) for a, b in _spans(text[begin:end], size, repeated)]


def _spans(text: str, size: int, overlap: int) -> Iterator[Span]:
    splitter = TextSplitter(size, overlap=overlap)
    position = 0
    while position < len(text):
        following = position + WINDOW * size
        found = [(position + n, position + n + len(own)) for n, own in splitter.chunk_indices(text[position:following])]
        if following < len(text) and found and found[-1][0] > position:
            following = found.pop()[0]  # it may continue behind the window
        yield from ((a, b) for a, b in found if not text[a:b].isspace())
        position = following


def in_order(spans: Iterable[Span]) -> list[Span]:
    """The spans in order of their beginnings, without those that lie within another."""
    found: list[Span] = []
    for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not found or end > found[-1][1]:
            found.append((begin, end))
    return found
