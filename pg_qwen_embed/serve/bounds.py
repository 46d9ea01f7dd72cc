"""What one request may cost a server: bounds that are checked before anything is tokenized. Pure.

They are wider than what pg_qwen_embed sends: 64 texts of 500,000 characters at most. A tokenizer takes up to 430 bytes
and 4 microseconds for a character (of Chinese, say), and cannot be interrupted."""

from collections.abc import Iterator, Sequence

MAX_BODY = 16 << 20  # bytes
MAX_BODIES = 256 << 20  # bytes of all requests that are not answered
MAX_INPUTS = 2048  # of a request, as OpenAI's own service
MAX_CHARACTERS = 1 << 19  # of a text
MAX_TOKENS = 1 << 20  # token ids of a request
PART_CHARACTERS = 1 << 18  # of the texts that are embedded without a pause; one long text may be more


def excess_of_texts(texts: Sequence[str], context_length: int | None = None) -> str | None:
    """The sentence about too many texts, or about the first that is too long; None: neither.

    context_length: of the model, in tokens; None: the texts are only tokenized."""
    if len(texts) > MAX_INPUTS:
        return f"The request has {len(texts)} inputs; this server takes at most {MAX_INPUTS} inputs in a request."
    longest = max(map(len, texts), default=0)
    if longest <= MAX_CHARACTERS:
        return None
    limit = f"{MAX_CHARACTERS} characters, the most that this server tokenizes"
    if context_length is not None:
        limit = f"the model's context length ({context_length} tokens)"
    first = next(len(text) for text in texts if len(text) > MAX_CHARACTERS)
    return f"The input ({first} characters) is longer than {limit}."


def excess_of_tokens(rows: Sequence[Sequence[int]]) -> str | None:
    """The sentence about too many token ids, or too many lists of them; None: neither."""
    count = sum(map(len, rows))
    if len(rows) <= MAX_INPUTS and count <= MAX_TOKENS:
        return None
    return (
        f"The request has {count} token ids in {len(rows)} lists; "
        f"this server takes at most {MAX_TOKENS} in {MAX_INPUTS} lists."
    )


def parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, divided so that other requests can be answered between two parts."""
    begin = size = 0
    for end, text in enumerate(texts):
        if end > begin and size + len(text) > PART_CHARACTERS:
            yield texts[begin:end]
            begin, size = end, 0
        size += len(text)
    yield texts[begin:]
