"""`init`: the fixed part of the database, and after an upgrade the objects of each embedding as this release has them."""

from pg_qwen_embed.admin import restore
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.postgres import catalog, migrate
from pg_qwen_embed.postgres.connection import connect


def init(database_url: str) -> list[str]:
    """Bring the database up to date; idempotent. Returns lines for a person to read. Raises SetupError."""
    said = migrate.init(database_url)
    with connect(database_url, "pg_qwen_embed init") as connection:
        for one in catalog.registered(connection):
            if one.problem is None:
                said += _restored(database_url, one.embedding.name)
    return said


def _restored(database_url: str, name: str) -> list[str]:
    """A connection of its own for each: what one lacks does not keep the others back."""
    with connect(database_url, "pg_qwen_embed init") as connection:
        try:
            parts = restore.restore(connection, name).parts
        except UsageError as error:
            return [f"warning: {error}"]
    return [f"{name}: created again: {', '.join(parts)}"] if parts else []
