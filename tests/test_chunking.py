"""Long documents divided into chunks: several vectors a row, all of one version, and a row found by its best one."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Rig, both_versions, eventually
from stand_in import END
from test_version_guard import Hand, two_hands

from pg_qwen_embed import Client, chunking
from pg_qwen_embed.store import LONGEST_DOCUMENT

TOKENS = 64  # of a chunk: the stand-in's tokens are bytes, and one that its tokenizer adds
ROOM = TOKENS - 1
ENGLISH = "".join(f"Sentence {n} of this text says so. " + "\n\n" * (n % 4 == 0) for n in range(12))


def attach(rig: Rig, *arguments: str) -> None:
    rig.ok("attach", "articles", "--text", "body", "--chunk-tokens", str(TOKENS), *arguments)


def filled(rig: Rig, *bodies: str | None) -> Rig:
    rig.articles(*bodies)
    attach(rig)
    rig.once()
    return rig


def chunks(rig: Rig) -> list[tuple[int, int, int, int]]:
    """Key, number and span of every chunk in the store."""
    return rig.rows(f"SELECT k1, chunk, lower(span), upper(span) FROM {rig.machinery('store')} ORDER BY 1, 2")


def assert_in_step(rig: Rig) -> None:
    """At rest: every chunk has the vector of its text, and together they are the document."""
    assert rig.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    rows = rig.rows("SELECT body, chunk_text, embedding::text, stale, lower(span), upper(span) FROM qwen_embed.articles")
    for body, text, vector, stale, begin, end in rows:
        assert (text, stale) == (body[begin:end], False)
        assert len(text.encode()) <= ROOM
        np.testing.assert_allclose(json.loads(vector), rig.server.vector(text), atol=2e-3, err_msg=text)
    for body, spans in rig.rows(
        "SELECT body, array_agg(ARRAY[lower(span), upper(span)] ORDER BY chunk) FROM qwen_embed.articles GROUP BY id, body"
    ):
        assert_covered(body, spans)
    wanted = [(row,) for row in sorted(id_ for id_, body in rig.rows("SELECT id, body FROM articles") if (body or "").strip())]
    assert rig.rows("SELECT DISTINCT id FROM qwen_embed.articles ORDER BY 1") == wanted


def assert_covered(text: str, spans: list[tuple[int, int]]) -> None:
    covered = {n for begin, end in spans for n in range(begin, end)}
    assert all(character.isspace() for n, character in enumerate(text) if n not in covered)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(spans))
    assert all(text[begin:end].strip() for begin, end in spans)


@both_versions
def test_long_document_has_a_vector_for_each_of_its_chunks(rig: Rig) -> None:
    filled(rig, ENGLISH, "short", None, "  ")
    numbers = [chunk for key, chunk, *_ in chunks(rig) if key == 1]
    assert len(numbers) > 5
    assert numbers == [*range(1, len(numbers) + 1)]
    assert rig.rows("SELECT chunk, span::text, chunk_text FROM qwen_embed.articles WHERE id = 2") == [(1, "[0,5)", "short")]
    assert_in_step(rig)
