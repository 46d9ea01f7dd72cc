"""For Alembic's migrations: `import pg_qwen_embed.alembic` adds operations to `alembic.op`. See docs/sqlalchemy.md."""

from pg_qwen_embed.integrations.alembic import altered, include_name, include_object

__all__ = ["altered", "include_name", "include_object"]
