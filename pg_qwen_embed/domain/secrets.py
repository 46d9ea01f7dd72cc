"""Secrets: passwords and keys, which no message may show. Pure.

They are found by value, in each form in which a server or a library could repeat them, so it does not matter where a
message comes from."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

HIDDEN = "***"
SHORTEST = 4  # characters; a shorter value is a part of ordinary words
CERTAIN = 8  # characters of a value that is no part of a name by coincidence


class Secrets:
    """`hidden(text)` is the text without them. longest: characters of the longest form."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        read = {text for value in values for text in (value, _as_latin(value))}
        forms = {form for text in read for form in _forms(text) if len(form) >= SHORTEST}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if forms else None
        self.longest = len(longest_first[0]) if forms else 0
        self._long = [form for form in longest_first if len(form) >= CERTAIN]

    def __repr__(self) -> str:
        return "Secrets()"

    def hidden(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def within(self, name: str) -> bool:
        """Whether a name holds one of them that is too long for a coincidence."""
        return any(form in name for form in self._long)


def _as_latin(value: str) -> str:
    """As a server reads a header that takes its bytes for Latin-1."""
    return value.encode(errors="surrogatepass").decode("latin-1")


def _forms(value: str) -> Iterator[str]:
    if len(value.strip()) < SHORTEST:
        return
    raw = value.encode(errors="surrogatepass")
    yield from (value, value.strip(), " ".join(value.split()), repr(value)[1:-1], html.escape(value))
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield from (quote(raw), quote(raw, safe=""), quote_plus(raw))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode().rstrip("=")


def basic(user: str, password: str) -> str:
    """The value of an Authorization header with user and password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
