"""Truncation: documents that are longer than the model takes are found before they are sent, and truncated on our side.

The pooled token is the last one, which the tokenizer adds. A server that truncates removes it, and embeds something
else (cosine 0.87 to the right vector). A document that fits the model but not the server's memory hangs for ever. So
the server's own tokenizer truncates the document to what fits with that token behind it."""

import unicodedata
from collections.abc import Mapping, Sequence

from pg_qwen_embed.domain.errors import DocumentRejected
from pg_qwen_embed.inference.sglang import EmbeddingServer

SPECIAL_TOKENS = 2  # the most that a tokenizer adds to a text
REPLACEMENT = "\ufffd"  # what a tokenizer decodes half a character to


async def too_long(server: EmbeddingServer, texts: Sequence[str], longest: int | None) -> dict[int, int]:
    """Positions of the texts that are longer than the server takes, each with its number of tokens.

    longest: tokens; None: nothing is counted. Only texts that might be too long are sent to the tokenizer.
    Raises DocumentRejected, ServerUnavailable."""
    if longest is None:
        return {}
    # At most four bytes per character, and three times as many after composition: short texts need no closer check.
    candidates = [n for n, text in enumerate(texts) if 12 * len(text) + SPECIAL_TOKENS > longest]
    candidates = [n for n in candidates if _most_tokens(texts[n]) > longest]
    found = await server.tokenize([texts[n] for n in candidates], special=True) if candidates else []
    return {n: len(tokens) for n, tokens in zip(candidates, found, strict=True) if len(tokens) > longest}


async def truncate(
    server: EmbeddingServer, texts: Sequence[str], too_long: Mapping[int, int], longest: int
) -> dict[int, str]:
    """The beginnings of the texts that are too long, by position: as much of each as fits into `longest` tokens.

    Raises DocumentRejected if nothing fits or the beginning is blank, and ServerUnavailable."""
    positions = list(too_long)
    bare = await server.tokenize([texts[n] for n in positions], special=False) if positions else []
    lengths = dict(zip(positions, map(len, bare), strict=True))
    tokens = {n: own[:longest] for n, own in zip(positions, bare, strict=True)}
    del bare  # a million tokens are 40 MB
    room = {n: longest - (too_long[n] - lengths[n]) for n in positions}
    found: dict[int, str] = {}
    while positions:
        if min(room[n] for n in positions) <= 0:
            raise DocumentRejected(f"the document cannot be truncated to {longest:,} tokens")
        decoded = await server.detokenize([tokens[n][: room[n]] for n in positions])
        for n, text in zip(positions, decoded, strict=True):
            found[n] = _beginning(texts[n], text, room[n] / lengths[n])
        # Tokens of a text's beginning need not be the beginning of its tokens: count again.
        again = await server.tokenize([found[n] for n in positions], special=True)
        over = {n: len(own) - longest for n, own in zip(positions, again, strict=True) if len(own) > longest}
        positions = list(over)
        room |= {n: room[n] - many for n, many in over.items()}
    if not all(text.strip() for text in found.values()):
        raise DocumentRejected(f"the first {longest:,} tokens of the document are blank")
    return found


def _beginning(text: str, decoded: str, share: float) -> str:
    """The beginning of `text` that was decoded from its first tokens, without half a character at its end.

    share: of the text's tokens. It decides where a tokenizer does not decode to the text that it has read."""
    composed = unicodedata.normalize("NFC", text)
    for beginning in (decoded, decoded.rstrip(REPLACEMENT)):
        if composed.startswith(beginning):
            return beginning
    return composed[: int(len(composed) * share)]


def _most_tokens(text: str) -> int:
    """An upper bound: a tokenizer of bytes makes at most one token per byte, after composition of characters (NFC)."""
    return len(unicodedata.normalize("NFC", text).encode()) + SPECIAL_TOKENS
