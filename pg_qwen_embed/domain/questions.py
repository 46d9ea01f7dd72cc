"""Questions with known answers: made of the rows themselves, or given as pairs or judgments. Pure.

A known-item question has one right row: its title, or the first sentence of its document. What is asked is taken out of the
document, so that it cannot be found by its letters alone. Equal questions become one, whose rows are all right; and rows with
one document are all right where one of them is."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TITLES = ("title", "name", "subject")  # columns that are taken for a title, in this order
LONGEST = 300  # characters of a question that is made
SHORTEST_REST = 40  # characters that are left of a document, so that there is something to find
FEWEST_WORDS = 3
FEWEST_CHARACTERS = 6  # of a script that writes no blanks between words
_ENDS = re.compile(r"(?<=[.!?])\s|(?<=[。！？])|\n")
_UNDIVIDED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class Question:
    """grades: of documents by their numbers; above 0 is right."""

    text: str
    grades: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """A row as it takes part: its document as it is embedded, and the question that is made of it; None: there is none."""

    document: str
    question: str | None = None


def by_title(document: str | None, title: str | None) -> Item | None:
    """The item of a row with a title; None for one without a document. The title is taken out of the document."""
    question = " ".join((title or "").split())
    if not document or not document.strip():
        return None
    if not _is_question(question) or len(question) > LONGEST:
        return Item(document)
    left = _without(document, question)
    return Item(left, question) if _is_enough(left) else Item(document)


def by_first_sentence(document: str | None) -> Item | None:
    """The item of a row without a title: its first sentence is the question, and the rest the document."""
    if not document or not document.strip():
        return None
    text = document.strip()
    end = _ENDS.search(text)
    question = " ".join(text[: end.start()].split()) if end else ""
    if not end or len(question) > LONGEST or not _is_question(question):
        return Item(document)
    left = _without(text[end.end() :], question).strip()
    return Item(left, question) if _is_enough(left) else Item(document)


def known_items(items: Sequence[Item]) -> list[Question]:
    """The questions of these rows, in the order of the rows. Each is asked once."""
    same: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        same.setdefault(item.document, []).append(number)
    right: dict[str, dict[int, int]] = {}
    for item in items:
        if item.question is not None:
            right.setdefault(item.question, {}).update(dict.fromkeys(same[item.document], 1))
    return [Question(text, grades) for text, grades in right.items()]


def judged(pairs: Iterable[tuple[str, int, int]]) -> list[Question]:
    """The questions of judgments (question, number of the document, grade). One without a right document is left out."""
    grades: dict[str, dict[int, int]] = {}
    for text, document, grade in pairs:
        own = grades.setdefault(text, {})
        own[document] = max(grade, own.get(document, grade))
    return [Question(text, own) for text, own in grades.items() if max(own.values()) > 0]


def drawn(count: int, most: int, seed: int) -> list[int]:
    """Positions of `most` out of `count`, always the same for the same seed."""
    return sorted(int(n) for n in np.random.default_rng(seed).permutation(count)[:most])


def title_column(columns: Iterable[str], embedded: Iterable[str]) -> str | None:
    """The column that is taken for a title: one of TITLES that is no part of the document."""
    own = set(columns) - set(embedded)
    return next((name for name in TITLES if name in own), None)


def _without(document: str, question: str) -> str:
    """The document without the question, wherever and in whichever case it stands, with any white space between its words."""
    pattern = r"\s+".join(map(re.escape, question.split()))
    return re.sub(pattern, " ", document, flags=re.IGNORECASE)


def _is_question(text: str) -> bool:
    return len(text.split()) >= FEWEST_WORDS or len(_UNDIVIDED.findall(text)) >= FEWEST_CHARACTERS


def _is_enough(text: str) -> bool:
    return len(text.strip()) >= SHORTEST_REST or len(_UNDIVIDED.findall(text)) >= SHORTEST_REST // 4
