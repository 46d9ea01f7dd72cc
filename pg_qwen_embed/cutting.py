"""Documents that are longer than the model takes: found before they are sent, and cut on our side.

The token that is pooled is the last one, which the tokenizer adds itself. A server that cuts removes it and embeds
something else (cosine 0.87 to the right vector); a document that fits the model but not the server's memory hangs
there for ever. So the document is cut by the server's own tokenizer to what fits with that token behind it."""

import unicodedata
from collections.abc import Sequence

from pg_qwen_embed.errors import DocumentRefused
from pg_qwen_embed.sglang import EmbeddingServer, ModelInfo

SPECIAL_TOKENS = 2  # at most, that a tokenizer adds to a text
REPLACEMENT = "\ufffd"  # half a character, as a tokenizer decodes it


async def too_long(server: EmbeddingServer, info: ModelInfo, texts: Sequence[str]) -> dict[int, int]:
    """Positions of the texts that are longer than the server takes, each with its number of tokens.

    Only texts that could be are counted by the server. Raises ServerUnavailable."""
    longest = info.longest
    if longest is None:
        return {}
    doubtful = [n for n, text in enumerate(texts) if _most_tokens(text) > longest]
    if not doubtful:
        return {}
    found = await server.tokenize([texts[n] for n in doubtful], special=True)
    return {n: len(tokens) for n, tokens in zip(doubtful, found, strict=True) if len(tokens) > longest}


async def cut(server: EmbeddingServer, text: str, longest: int) -> str:
    """The beginning of a text that is too long: as much as fits into so many tokens.

    Raises DocumentRefused if there is none, ServerUnavailable."""
    (whole,) = await server.tokenize([text], special=True)
    (tokens,) = await server.tokenize([text], special=False)
    room = longest - (len(whole) - len(tokens))
    while room > 0:
        (beginning,) = await server.detokenize([tokens[:room]])
        beginning = beginning.rstrip(REPLACEMENT)
        # Tokens of a text's beginning need not be the beginning of its tokens: count again.
        (again,) = await server.tokenize([beginning], special=True)
        if len(again) <= longest:
            return beginning
        room -= len(again) - longest
    raise DocumentRefused(f"the document cannot be cut to {longest:,} tokens")


def _most_tokens(text: str) -> int:
    """A tokenizer of bytes makes one token of each at the worst, after it has composed the characters (NFC)."""
    return len(unicodedata.normalize("NFC", text).encode()) + SPECIAL_TOKENS
