"""Text queries in SQL for tests that are not about them: the function that a worker answers, or one that looks known answers up."""

from harness import Harness

from pg_qwen_embed import Client

LOOKS_UP = """
CREATE TABLE IF NOT EXISTS public.known_queries (embedding text, query text, vector {halfvec}, PRIMARY KEY (embedding, query));
CREATE FUNCTION qwen_embed.embed_query(embedding text, query text) RETURNS {halfvec} LANGUAGE sql STABLE
RETURN (SELECT k.vector FROM public.known_queries k WHERE k.embedding = $1 AND k.query = $2);
"""


def can_be_asked(harness: Harness, embedding: str, *texts: str) -> None:
    """From here on these texts can be searched for in SQL. A worker must run where the real function is there."""
    there = "SELECT to_regprocedure('qwen_embed.embed_query(text, text)') IS NOT NULL"
    if harness.value(there) and not harness.value("SELECT to_regclass('public.known_queries') IS NOT NULL"):
        return
    halfvec = harness.value("SELECT oid::regtype::text FROM pg_type WHERE typname = 'halfvec'")
    if not harness.value(there):
        harness.execute(LOOKS_UP.format(halfvec=halfvec))
    with Client(harness.url, server_url=harness.server.url) as client:
        for text in texts:
            vector = str(client.embed_query(embedding, text).tolist())
            harness.execute(
                f"INSERT INTO public.known_queries VALUES (%s, %s, %s::{halfvec}) ON CONFLICT DO NOTHING",
                embedding,
                text,
                vector,
            )
