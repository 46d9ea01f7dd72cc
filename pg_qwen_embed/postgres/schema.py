"""The fixed part of the database, as SQLAlchemy describes it: the result of all migrations.

The tables of a generation are not here: `attach` creates them, with the key types of their source."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, OID, REAL, REGCLASS

from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA

metadata = sa.MetaData(schema=INTERNAL_SCHEMA)

_NOW = sa.func.now()

embedding = sa.Table(
    "embedding",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("source", REGCLASS, nullable=False),
    sa.Column("key", ARRAY(sa.Text), nullable=False),
    sa.Column("column_name", sa.Text, nullable=False),
    sa.Column("instruction", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    sa.Column("source_oid", OID, nullable=False),
    sa.Column("source_name", sa.Text, nullable=False),
    sa.Column("column_numbers", JSONB, nullable=False),
    sa.Column("view", JSONB, nullable=False),
    comment="One row per embedding: its source, and how queries are put to it",
)

generation = sa.Table(
    "generation",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("embedding_id", sa.Integer, sa.ForeignKey(embedding.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="live"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    sa.Column("partitions", ARRAY(OID)),
    sa.Column("spec", JSONB, nullable=False),
    sa.Column("grants", JSONB),
    sa.Column("check_drift", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("term", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("fit", sa.LargeBinary),
    sa.Column("fitted_on", sa.Integer),
    sa.CheckConstraint("state IN ('live', 'building', 'retired')", name="generation_state"),
    sa.Index("generation_one_live", "embedding_id", unique=True, postgresql_where=sa.text("state = 'live'")),
    sa.Index("generation_one_building", "embedding_id", unique=True, postgresql_where=sa.text("state = 'building'")),
    comment="One row per physical version of an embedding; its id names its outbox, store, failure table and triggers",
)

backfill = sa.Table(
    "backfill",
    metadata,
    sa.Column("generation_id", sa.Integer, sa.ForeignKey(generation.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("cursor", ARRAY(sa.Text)),
    sa.Column("rows_done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rows_total", sa.BigInteger),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    sa.CheckConstraint("state IN ('none', 'pending', 'running', 'indexing', 'done')", name="backfill_state"),
    comment="One row per generation: its backfill, and the key up to which every vector is written",
)

query_secret = sa.Table(
    "query_secret",
    metadata,
    sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True, server_default=sa.true()),
    sa.Column("secret", BYTEA, nullable=False),
    prefixes=["UNLOGGED"],
    comment="The key of requests for vectors of queries, for the owner and the worker alone",
)

query_cache = sa.Table(
    "query_cache",
    metadata,
    sa.Column("key", BYTEA, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("vector", ARRAY(REAL), nullable=False),
    sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    sa.Index("query_cache_key", "key"),
    sa.Index("query_cache_made_at", "made_at"),
    comment="The last vectors of queries, by a hash of generation, instruction and text",
)

query_error = sa.Table(
    "query_error",
    metadata,
    sa.Column("nonce", BYTEA, primary_key=True),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    prefixes=["UNLOGGED"],
    comment="Why a request has no vector; kept for a minute",
)

ann_index = sa.Table(
    "ann_index",
    metadata,
    sa.Column(
        "generation_id",
        sa.Integer,
        sa.ForeignKey(generation.c.id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("wanted", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("measured_index", OID),
    sa.Column("measured_at", sa.DateTime(timezone=True)),
    sa.Column("ef_search", sa.Integer),
    sa.Column("recall", sa.Double),
    sa.Column("queries", sa.Integer),
    sa.Column("looked_for", sa.Integer),
    sa.Column("not_found", sa.Integer),
    comment="One row per generation whose index was dropped or measured: how widely a search must look in it",
)

instruction = sa.Table(
    "instruction",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("instruction", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    comment="The instructions that were added to the pool; those that are shipped are in the package",
)

evaluation = sa.Table(
    "evaluation",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column(
        "embedding_id", sa.Integer, sa.ForeignKey(embedding.c.id, ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    sa.Column("result", JSONB, nullable=False),
    comment="What evaluations of an embedding found: figures, differences and a recommendation",
)
