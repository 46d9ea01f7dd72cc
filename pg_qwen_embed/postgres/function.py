"""A function of the public interface: how it is created, and how it is known."""

from dataclasses import dataclass

from psycopg import sql

from pg_qwen_embed.postgres.connection import as_text


@dataclass(frozen=True, slots=True)
class Function:
    """A function that applications call. body: as the catalog has it. types: those of its parameters."""

    create: sql.Composed
    comment: sql.Composed
    body: str
    name: sql.Identifier
    types: sql.Composed

    @property
    def signature(self) -> str:
        """As ::regprocedure reads it."""
        return f"{as_text(self.name)}({as_text(self.types)})"

    @property
    def shown(self) -> str:
        """For a person to read."""
        return self.signature.replace('"', "")
