"""Random texts of all planes of Unicode, as queries and as documents: a right vector, or an error of this package."""

import os
import random
import sys

import numpy as np
import pytest
from harness import Harness

from pg_qwen_embed import Client, DocumentRejected, UsageError
from pg_qwen_embed.domain.texts import is_storable, storable

FEW, MANY = 300, 10_000
PLANES = [range(0x20), range(0x20, 0x7F), range(0x7F, 0xA0), range(0x300, 0x370), range(0x2000, 0x2070),
          range(0x4E00, 0x9FFF), range(0xD800, 0xE000), range(0xFFF0, 0x10000), range(0x1F300, 0x1FAFF),
          range(0x10000, sys.maxunicode + 1)]  # fmt: skip


def texts(count: int) -> list[str]:
    """Mostly short ones; the longest have a million characters."""
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    found = []
    for number in range(count):
        length = 1_000_000 if number % 5000 == 7 else int(chance.paretovariate(0.7)) % 2000
        alphabet = [chr(chance.choice(chance.choice(PLANES))) for _ in range(40)]
        found.append("".join(chance.choices(alphabet, k=length)))
    return found


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_any_text_is_a_query_or_an_error_in_one_sentence(harness: Harness, count: int) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    found, rejected = 0, list[tuple[str, str]]()
    with Client(harness.url, server_url=harness.server.url) as client:
        for text in texts(count):
            try:
                vector = client.embed_query("articles", text)
            except (UsageError, DocumentRejected) as error:
                rejected.append((text, str(error)))
                continue
            np.testing.assert_allclose(vector, harness.server.vector(storable(text)), atol=1e-6)
            found += 1
    assert found > count / 2
    for text, sentence in rejected:
        assert not text.strip() or len(text) > 1000, ascii(text)
        assert len(sentence) < 1000


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_any_text_of_a_row_gets_its_vector_or_is_listed(harness: Harness, count: int) -> None:
    bodies = [text.replace("\0", "\ufffd") for text in texts(count)]
    bodies = [text if is_storable(text) else storable(text) for text in bodies]
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.many("INSERT INTO articles (id, body) VALUES (%s, %s)", list(enumerate(bodies)))
    harness.once()
    assert harness.drift()[0] == 0
    assert harness.count("failure") == 0
    harness.execute("DELETE FROM articles WHERE length(body) > 2000")  # of them the beginning is embedded
    harness.once()
    harness.assert_in_step()
