"""Declare an embedding on a PostgreSQL table, almost as you would declare an index, and its vectors follow the text."""

from importlib.metadata import version

from pg_qwen_embed.search.client import Client

__all__ = ["Client", "__version__"]
__version__ = version("pg-qwen-embed")
