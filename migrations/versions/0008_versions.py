"""Versions come from terms that the registry gives out, not from the outbox's sequence; numbers of entries are not unique.

Chunks get the fingerprint of their own text, so that one that did not change keeps its vector. Chunks that were written
before have none, and are embedded again with the next change of their row.

A downgrade gives pending entries new numbers, above every version that was written: before, the number was the version."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = "_qwen_embed"
READS = 1 << 21  # versions of one term


def upgrade() -> None:
    op.add_column("generation", sa.Column("term", sa.BigInteger, nullable=False, server_default="0"), schema=SCHEMA)
    _lock_outboxes()
    for id_, outbox in _outboxes():
        op.execute(f"ALTER TABLE {outbox} DROP CONSTRAINT outbox_{id_}_pkey")
        op.execute(f"ALTER TABLE {outbox} REPLICA IDENTITY FULL")
        op.execute(f"CREATE INDEX outbox_{id_}_seq ON {outbox} (seq) WITH (deduplicate_items = off)")
        _run(
            """
            UPDATE _qwen_embed.generation
            SET term = coalesce(pg_sequence_last_value(pg_get_serial_sequence(:outbox, 'seq')::regclass), 0) / :reads
            WHERE id = :id
            """,
            id=id_, outbox=outbox, reads=READS,
        )  # fmt: skip

    for store in _chunked_stores():
        op.add_column(store, sa.Column("chunk_fingerprint", sa.LargeBinary), schema=SCHEMA)


def downgrade() -> None:
    for store in _chunked_stores():
        op.drop_column(store, "chunk_fingerprint", schema=SCHEMA)
    _lock_outboxes()
    for id_, outbox in _outboxes():
        _run(
            """
            SELECT setval(s.oid::regclass, greatest((g.term + 1) * :reads, pg_sequence_last_value(s.oid::regclass)))
            FROM _qwen_embed.generation g, (SELECT pg_get_serial_sequence(:outbox, 'seq')::regclass::oid AS oid) s
            WHERE g.id = :id
            """,
            id=id_, outbox=outbox, reads=READS,
        )  # fmt: skip
        op.execute(sa.update(sa.table(f"outbox_{id_}", sa.column("seq"), schema=SCHEMA)).values(seq=sa.text("DEFAULT")))
        op.execute(f"DROP INDEX {SCHEMA}.outbox_{id_}_seq")
        op.execute(f"ALTER TABLE {outbox} REPLICA IDENTITY DEFAULT, ADD PRIMARY KEY (seq)")
    op.drop_column("generation", "term", schema=SCHEMA)


def _lock_outboxes() -> None:
    """All at first, in their order. Less than deadlock_timeout: a transaction that writes two sources is never the victim."""
    op.execute("SET LOCAL lock_timeout = '400ms'")
    for _, outbox in _outboxes():
        op.execute(f"LOCK TABLE {outbox} IN ACCESS EXCLUSIVE MODE")


def _outboxes() -> list[tuple[int, str]]:
    """The outboxes that are there, by generation."""
    found = op.get_bind().execute(
        sa.text(
            "SELECT id FROM _qwen_embed.generation WHERE to_regclass(format('_qwen_embed.outbox_%s', id)) IS NOT NULL "
            "ORDER BY id"
        )
    )
    return [(id_, f"{SCHEMA}.outbox_{id_}") for (id_,) in found]


def _chunked_stores() -> list[str]:
    found = op.get_bind().execute(
        sa.text("""
            SELECT c.relname FROM _qwen_embed.generation g
            JOIN pg_class c ON c.relname = 'store_' || g.id AND c.relnamespace = '_qwen_embed'::regnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'chunks' AND NOT a.attisdropped
        """)
    )
    return [name for (name,) in found]


def _run(statement: str, **values: object) -> None:
    op.get_bind().execute(sa.text(statement), values)
