"""Text queries in SQL for tests of other things: a worker that answers them."""

import psycopg
from harness import Harness, eventually


def can_be_asked(harness: Harness, embedding: str) -> None:
    """From here on texts can be searched for in SQL."""
    harness.worker()
    eventually(lambda: harness.settled(embedding) and _answers(harness, embedding))


def _answers(harness: Harness, embedding: str) -> bool:
    try:
        return bool(harness.value("SELECT qwen_embed.embed_query(%s, 'a text') IS NOT NULL", embedding))
    except psycopg.Error:
        return False
