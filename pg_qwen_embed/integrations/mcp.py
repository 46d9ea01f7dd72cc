"""An MCP server on stdio: tools with which an agent finds embeddings, searches them, and reads rows.

What the tools may read is in reading.py. This file describes them to an agent, and makes every failure a sentence."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import psycopg
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from pg_qwen_embed.domain.errors import Error
from pg_qwen_embed.domain.secrets import Secrets
from pg_qwen_embed.domain.vectors import as_literal
from pg_qwen_embed.integrations.reading import Found, Reading
from pg_qwen_embed.postgres.connection import first_line
from pg_qwen_embed.search.client import Client

P = ParamSpec("P")
R = TypeVar("R")

_INSTRUCTIONS = (
    "Search rows of PostgreSQL tables by meaning. Call list_embeddings first: it says what can be searched, and by which "
    "columns a search can be narrowed."
)
_READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class Filter(BaseModel):
    """A condition on a column. Values are compared as the column's type."""

    column: str = Field(description="one of the filters that list_embeddings names")
    op: Literal["=", "!=", "<", "<=", ">", ">=", "in"] = "="
    value: Any = Field(default=None, description="a value; a list for `in`; null with = or != for missing values")


def server(reading: Reading, client: Client, secrets: Secrets) -> MCPServer:
    """The server, with its tools."""
    found: MCPServer = MCPServer("pg_qwen_embed", instructions=_INSTRUCTIONS, log_level="WARNING")

    def tool(function: Callable[P, R]) -> Callable[P, R]:
        found.add_tool(_in_sentences(function, secrets), annotations=_READ_ONLY)
        return function

    @tool
    def list_embeddings() -> list[dict[str, Any]]:
        """The embeddings that can be searched: table, key, columns of a result, and filters with their types."""
        return reading.embeddings()

    @tool
    def search(
        embedding: Annotated[str, Field(description="the name of an embedding, from list_embeddings")],
        text: Annotated[str, Field(description="what to search for, in any language the model knows")],
        limit: Annotated[int, Field(description=f"number of rows, at most {reading.limits.rows}")] = 10,
        filters: Annotated[list[Filter] | None, Field(description="conditions that all rows must meet")] = None,
        mode: Annotated[
            Literal["vector", "words", "hybrid"], Field(description="by meaning, by the words themselves, or by both")
        ] = "vector",
    ) -> dict[str, Any]:
        """Rows that fit a text, best first: by meaning a smaller distance is better, by words a higher score."""
        conditions = [one.model_dump() for one in filters or ()]

        def find() -> Found:
            vector = as_literal(client.embed_query(embedding, text)) if mode != "words" else None
            if mode == "vector" and vector is not None:
                return reading.search(embedding, vector, limit, conditions)
            return reading.search_by_words(embedding, text, vector, limit, conditions)

        return _answer(_of_one_generation(reading, embedding, find))

    @tool
    def read_rows(
        embedding: Annotated[str, Field(description="the name of an embedding, from list_embeddings")],
        keys: Annotated[
            list[Any], Field(description="a key each; an object with all its columns if there are several")
        ],
    ) -> dict[str, Any]:
        """Rows of the embedding's table by their keys."""
        return _answer(reading.rows(embedding, keys))

    return found


def _of_one_generation(reading: Reading, name: str, find: Callable[[], Found]) -> Found:
    """What was found while no other generation became live: then the vector of the query and those of the rows fit."""
    while True:
        live = reading.generation(name)
        try:
            found = find()
        except psycopg.Error:
            if reading.generation(name) == live:
                raise
        else:
            if reading.generation(name) == live:
                return found


def _answer(found: Found) -> dict[str, Any]:
    if found.complete:
        return {"rows": found.rows}
    return {
        "rows": found.rows,
        "note": "more rows were found than an answer may hold; narrow the search, or read fewer",
    }


def _in_sentences(function: Callable[P, R], secrets: Secrets) -> Callable[P, R]:
    @wraps(function)
    def run(*args: P.args, **values: P.kwargs) -> R:
        try:
            return function(*args, **values)
        except Error as error:
            raise ToolError(secrets.hidden(str(error))) from None
        except psycopg.Error as error:
            raise ToolError(secrets.hidden(f"PostgreSQL: {first_line(error)}")) from None

    return run
