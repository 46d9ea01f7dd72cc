"""For SQLAlchemy: an embedding of a mapped class. See docs/sqlalchemy.md."""

from pg_qwen_embed.integrations.sqlalchemy import Embedded, HalfVec, embedding_of

__all__ = ["Embedded", "HalfVec", "embedding_of"]
