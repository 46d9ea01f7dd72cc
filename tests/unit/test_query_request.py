"""A request that a session places in its locks is read only by who knows the secret, and only in that session."""

import re
import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.query_request import Placed, QueryRequest, digest, read
from pg_qwen_embed.postgres.locks import BELL, DOOR, HEADER, SLOT, WORDS, Lock
from pg_qwen_embed.postgres.sql import files

SECRET, INSTRUCTION = sha256(b"secret").digest(), "Find it"


def placed(
    text: str, *, pid: int = 4711, generation: int = 3, secret: bytes = SECRET, nonce: bytes = b"8 bytes."
) -> Placed:
    """As sql/query.sql places it."""
    payload = struct.pack(">i", generation) + digest(INSTRUCTION)[:8] + text.encode()
    bound = struct.pack(">i", pid) + nonce
    checksum = sha256(secret + b"\x02" + sha256(bound + payload).digest()).digest()[:8]
    padded = payload + bytes(-len(payload) % 4)
    stream = b"".join(
        sha256(secret + b"\x01" + bound + struct.pack(">i", n)).digest() for n in range(len(padded) // 32 + 1)
    )
    encrypted = bytes(one ^ other for one, other in zip(padded, stream, strict=False))
    written = nonce + checksum + encrypted
    return Placed(pid, 1, len(payload), struct.unpack(f">{len(written) // 4}I", written))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=250), st.integers(1, 2**31 - 1))
def test_a_request_is_read_as_it_was_placed(text: str, pid: int) -> None:
    found = read(placed(text, pid=pid), SECRET)
    assert found == QueryRequest(pid, b"8 bytes.", 3, digest(INSTRUCTION)[:8], text)
    assert found.is_made_for(INSTRUCTION)
    assert not found.is_made_for("Find another")
    assert found.key(INSTRUCTION) != found.key("Find another")


@given(st.integers(0, 7), st.integers(1, 2**32 - 1))
def test_a_request_with_another_word_is_none(position: int, change: int) -> None:
    good = placed("how do I reset my password")
    words = list(good.words or ())
    words[position] ^= change
    assert read(replace(good, words=words), SECRET) is None


@pytest.mark.parametrize("change", [{"pid": 4712}, {"length": 37}, {"length": 39}, {"length": 5000}, {"words": ()}])
def test_a_request_that_was_copied_or_shortened_is_none(change: dict[str, int]) -> None:
    good = placed("how do I reset my password")
    assert read(good, SECRET) is not None
    assert read(replace(good, **change), SECRET) is None  # type: ignore[arg-type]


def test_a_request_of_another_secret_is_none() -> None:
    assert read(placed("text", secret=b"guessed"), SECRET) is None


@given(st.integers(-10, 5000), st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_locks_of_other_origin_are_no_request(length: int, words: list[int]) -> None:
    assert read(Placed(1, 2, length, words), SECRET) is None


def test_the_numbers_of_the_locks_are_those_of_the_statements_and_no_two_are_the_same() -> None:
    bodies = " ".join(one.text for file in files() if file.name == "query.sql" for one in file.statements)
    own = (BELL, SLOT, DOOR, WORDS, HEADER, Lock.ANSWERS)
    assert {int(number) for number in re.findall(r"\b136\d{7}\b", bodies)} == {*own, Lock.LEADER}
    assert len({*Lock, *own}) == len(Lock) + len(own) - 1
