"""The results of evaluations in the registry: kept, and listed."""

import psycopg

from pg_qwen_embed.domain.evaluation import Evaluation, Kept
from pg_qwen_embed.postgres import catalog, evaluation
from pg_qwen_embed.postgres.connection import Connection, first_line

MOST = 20  # that are listed


def keep(connection: Connection, found: Evaluation) -> str | None:
    """Keep what was found. Returns why it is not kept: the role may only read, for instance."""
    try:
        evaluation.keep(connection, found.origin.embedding, found.to_json())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        return first_line(error)
    return None


def history(connection: Connection, name: str, most: int = MOST) -> list[Kept]:
    """The evaluations of an embedding, the latest first. Raises UsageError for one that is not there."""
    catalog.require_initialised(connection)
    catalog.find(connection, name)
    return evaluation.kept(connection, name, most)
