"""Declare an embedding on a PostgreSQL table, almost as you would declare an index, and its vectors follow the text.

The names in `__all__` are the public API. Other modules may change between versions."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

    __version__: str

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

# Where each name is, if not in domain/errors.py. It is imported when it is used: the command line does not need them all.
_MODULES = {
    "AsyncClient": "pg_qwen_embed.search.async_client",
    "Client": "pg_qwen_embed.search.client",
    "Hit": "pg_qwen_embed.domain.report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("pg-qwen-embed")
    else:
        value = getattr(importlib.import_module(_MODULES.get(name, "pg_qwen_embed.domain.errors")), name)
    globals()[name] = value
    return value
