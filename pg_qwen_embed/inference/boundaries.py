"""Where a long document is divided: at paragraphs, sentences or words, by Unicode's rules. Pure.

Tokens are the server's to count (splitting.py); here they are only a ratio, so a chunk may come out too long, and is
divided again. Every character that is not white space is in some chunk."""

import math
from collections.abc import Iterable, Iterator

from semantic_text_splitter import TextSplitter

from pg_qwen_embed.domain.change import Span

FILL = 0.9  # of a chunk: its tokens may be denser than the document's
SLACK = 1.15  # chunks end at boundaries, so a part of equal size would leave a rest behind
WINDOW = 4  # chunks looked at together: the splitter's work grows with the square where there are no sentences


def divide(text: str, span: Span, *, tokens: int, most: int, overlap: int) -> list[Span]:
    """A span of so many `tokens` as chunks that should have at most `most`, each with the last tokens of the one before
    it as far as `overlap` allows. A span of two characters or more becomes more than one, or shorter."""
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
            following = found.pop()[0]  # it might go on behind the window
        yield from ((a, b) for a, b in found if not text[a:b].isspace())
        position = following


def in_order(spans: Iterable[Span]) -> list[Span]:
    """By their beginnings, without those that lie within another."""
    found: list[Span] = []
    for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not found or end > found[-1][1]:
            found.append((begin, end))
    return found
