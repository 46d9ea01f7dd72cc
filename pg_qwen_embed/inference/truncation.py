"""Documents that are longer than the model takes: found before they are sent, and cut on our side.

The token that is pooled is the last one, which the tokenizer adds itself. A server that cuts removes it and embeds
something else (cosine 0.87 to the right vector); a document that fits the model but not the server's memory hangs
there for ever. So the document is cut by the server's own tokenizer to what fits with that token behind it."""

import unicodedata
from collections.abc import Mapping, Sequence

from pg_qwen_embed.domain.errors import DocumentRejected
from pg_qwen_embed.inference.sglang import EmbeddingServer

SPECIAL_TOKENS = 2  # at most, that a tokenizer adds to a text
Tokens = list[int]

REPLACEMENT = "\ufffd"  # half a character, as a tokenizer decodes it


async def too_long(server: EmbeddingServer, texts: Sequence[str], longest: int | None) -> dict[int, Tokens]:
    """Positions of the texts that are longer than the server takes, each with its tokens.

    Only texts that could be are shown to the server. Raises DocumentRejected, ServerUnavailable."""
    if longest is None:
        return {}
    # At most four bytes a character, and three times as many when composed: spares the short ones a closer look.
    doubtful = [n for n, text in enumerate(texts) if 12 * len(text) + SPECIAL_TOKENS > longest]
    doubtful = [n for n in doubtful if _most_tokens(texts[n]) > longest]
    found = await server.tokenize([texts[n] for n in doubtful], special=True) if doubtful else []
    return {n: tokens for n, tokens in zip(doubtful, found, strict=True) if len(tokens) > longest}


async def truncate(
    server: EmbeddingServer, texts: Sequence[str], too_long: Mapping[int, Tokens], longest: int
) -> dict[int, str]:
    """The beginnings of the texts that are too long, by position: as much of each as fits into so many tokens.

    Raises DocumentRejected if there is none, ServerUnavailable."""
    positions = list(too_long)
    bare = await server.tokenize([texts[n] for n in positions], special=False) if positions else []
    tokens = dict(zip(positions, bare, strict=True))
    room = {n: longest - (len(too_long[n]) - len(tokens[n])) for n in positions}
    found: dict[int, str] = {}
    while positions:
        if min(room[n] for n in positions) <= 0:
            raise DocumentRejected(f"the document cannot be cut to {longest:,} tokens")
        decoded = await server.detokenize([tokens[n][: room[n]] for n in positions])
        for n, text in zip(positions, decoded, strict=True):
            found[n] = _beginning(texts[n], text, room[n] / len(tokens[n]))
        # Tokens of a text's beginning need not be the beginning of its tokens: count again.
        again = await server.tokenize([found[n] for n in positions], special=True)
        over = {n: len(own) - longest for n, own in zip(positions, again, strict=True) if len(own) > longest}
        positions = list(over)
        room |= {n: room[n] - many for n, many in over.items()}
    if not all(text.strip() for text in found.values()):
        raise DocumentRejected(f"the first {longest:,} tokens of the document are blank")
    return found


def _beginning(text: str, decoded: str, share: float) -> str:
    """The beginning of a text that these decoded tokens stand for, without half a character at its end.

    share: of the text's tokens; it counts where a tokenizer does not write back what it has read."""
    composed = unicodedata.normalize("NFC", text)
    for beginning in (decoded, decoded.rstrip(REPLACEMENT)):
        if composed.startswith(beginning):
            return beginning
    return composed[: int(len(composed) * share)]


def _most_tokens(text: str) -> int:
    """A tokenizer of bytes makes one token of each at the worst, after it has composed the characters (NFC)."""
    return len(unicodedata.normalize("NFC", text).encode()) + SPECIAL_TOKENS
