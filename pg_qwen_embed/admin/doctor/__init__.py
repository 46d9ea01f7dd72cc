"""`doctor`: check everything that must be right before vectors can follow text, and say what to do where it is not.

Each check yields findings, and none stops the others. Nothing is changed."""

import asyncio
from dataclasses import replace

from pg_qwen_embed.admin.doctor.database import look_at_database
from pg_qwen_embed.admin.doctor.findings import Finding, State
from pg_qwen_embed.admin.doctor.query import diagnose_query
from pg_qwen_embed.admin.doctor.server import look_at_servers
from pg_qwen_embed.admin.doctor.vectors import diagnose_vectors
from pg_qwen_embed.settings import Settings

__all__ = ["Finding", "State", "diagnose", "diagnose_query", "diagnose_vectors"]


def diagnose(settings: Settings) -> list[Finding]:
    """Findings on the settings, the database with its embeddings, and the servers. Raises nothing for what is wrong there."""
    found, embeddings = look_at_database(settings.database_url)
    keys = [_look_at_key(one) for one in settings.servers]
    found = [*keys, *found, *asyncio.run(look_at_servers(settings, embeddings))]
    hidden = settings.secrets.hidden
    return [replace(one, text=hidden(one.text), advice=hidden(one.advice)) for one in found]


def _look_at_key(settings: Settings) -> Finding:
    url = settings.shown_server_url
    local = url.startswith(("http://127.", "http://localhost", "http://[::1]"))
    if settings.api_key and url.startswith("http://") and not local:
        return Finding("settings", State.WARNING, f"the API key travels to {url} unencrypted",
                       "put TLS in front of the server, and write https:// in PG_QWEN_EMBED_SERVER_URL")  # fmt: skip
    return Finding("settings", State.OK, f"server {url}, {'an' if settings.api_key else 'no'} API key")
