"""Declare an embedding on a PostgreSQL table, almost as you would declare an index, and its vectors follow the text.

The names in `__all__` are the public API. Other modules may change between versions."""

from importlib.metadata import version

from pg_qwen_embed.domain.errors import (
    DatabaseUnavailable,
    DocumentRejected,
    Error,
    ModelMismatch,
    ModelUnknown,
    ProtocolError,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
    SetupError,
    UsageError,
)
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.search.async_client import AsyncClient
from pg_qwen_embed.search.client import Client

__all__ = [
    "AsyncClient",
    "Client",
    "DatabaseUnavailable",
    "DocumentRejected",
    "Error",
    "Hit",
    "ModelMismatch",
    "ModelUnknown",
    "ProtocolError",
    "ServerFault",
    "ServerOverloaded",
    "ServerUnavailable",
    "SetupError",
    "UsageError",
    "__version__",
]
__version__ = version("pg-qwen-embed")
