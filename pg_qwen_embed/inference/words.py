"""A server's own words: one plain sentence from what it answered in place of vectors. Pure.

They never repeat a document and are never markup. Secrets are hidden, and the length is bounded, by the caller."""

import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Any

import orjson

DOCUMENT = "[the document]"
SHORTEST = 8  # characters of a document that is looked for
WINDOW, STEP = 24, 8  # characters: an echo of WINDOW + STEP characters of a document is found
EXAMINED = 2000  # characters of a sentence; the rest is left out
_KEYS = ("message", "detail", "error", "errors", "msg", "error_description", "title", "reason")
_MARKUP = re.compile(r"<!doctype|<\?xml|</?(?:html|head|body|title|h1|h2|p|div|center|span|pre)\b", re.IGNORECASE)
_IN_PART_OF_JSON = re.compile(r'"(?:message|detail|msg|error)"\s*:\s*"((?:[^"\\]|\\.)*)')


def words_of(text: str) -> str:
    """From SGLang's flat error, OpenAI's nested one, FastAPI's `detail`, a page of HTML, or plain text; "": none."""
    try:
        found = next(_sentences(orjson.loads(text.encode(errors="replace"))), "")
    except orjson.JSONDecodeError:
        found = _from_part(text)
    return " ".join((_of_page(found) if _MARKUP.search(found) else found).split())[:EXAMINED]


def _sentences(answer: Any) -> Iterator[str]:
    """Those of the known fields, the outer ones first. FastAPI's `input`, the document, is none of them."""
    if isinstance(answer, str) and answer.strip():
        yield answer
    elif isinstance(answer, list):
        found = [sentence for one in answer[:3] for sentence in _sentences(one)]
        if found:
            yield "; ".join(found)
    elif isinstance(answer, dict):
        for key in _KEYS:
            yield from _sentences(answer.get(key))


def _from_part(text: str) -> str:
    """From an answer of which only the beginning was read, or from plain text. Bytes that are no text have no words."""
    text = text.rstrip("\ufffd")
    if "\ufffd" in text or "\0" in text:
        return ""
    if not text.lstrip().startswith(("{", "[")):
        return text
    found = _IN_PART_OF_JSON.search(text)
    if not found:
        return ""
    try:
        return str(json.loads(f'"{found[1]}"', strict=False))
    except ValueError:
        return found[1]


class _Page(HTMLParser):
    """The title and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self.text: list[str] = []
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("title", "script", "style"):
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.text.append(data)
        elif self._within[-1] == "title":
            self.title.append(data)


def _of_page(page: str) -> str:
    parser = _Page()
    parser.feed(page)
    return " ".join(parser.title).strip() or " ".join(parser.text).strip()


def without_documents(words: str, texts: Sequence[str]) -> str:
    """The words without what they repeat of the texts."""
    for text in texts:
        plain = " ".join(text.split())
        if SHORTEST <= len(plain) < WINDOW + STEP:
            words = words.replace(plain, DOCUMENT)
        elif len(plain) >= WINDOW + STEP:
            words = _without(words, plain)
    return words


def _without(words: str, document: str) -> str:
    kept, begin, position = [], 0, 0
    while position + WINDOW <= len(words):
        at = document.find(words[position : position + WINDOW])
        if at < 0:
            position += STEP
            continue
        first, last = _extended(words, begin, position, document, at)
        kept += [words[begin:first], DOCUMENT]
        begin = position = last
    return "".join([*kept, words[begin:]])


def _extended(words: str, begin: int, position: int, document: str, at: int) -> tuple[int, int]:
    """Where what the words repeat begins and ends, of which WINDOW characters are known."""
    first, before = position, at
    while first > begin and before > 0 and words[first - 1] == document[before - 1]:
        first, before = first - 1, before - 1
    last, after = position + WINDOW, at + WINDOW
    while last < len(words) and after < len(document) and words[last] == document[after]:
        last, after = last + 1, after + 1
    return first, last
