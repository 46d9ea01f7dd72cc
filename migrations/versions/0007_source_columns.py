"""Which columns of its source an embedding uses, by number, which its view shows, and who may read its objects.

PostgreSQL keeps the number of a column that is renamed. A dump that is restored elsewhere numbers columns again, so the
numbers count only together with the table's oid; otherwise the columns of our triggers do. `grants` are the rights to
view and store as they were last seen, to be given again when the objects must be created again. `check_drift` asks the
worker to compare all rows with their vectors, because the source was altered while nothing followed it. An embedding that
exists already keeps the view that it has: every column, and a vector with its length."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, OID

revision = "0007"
down_revision = "0006"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    op.add_column("embedding", sa.Column("source_oid", OID), schema=SCHEMA)
    op.add_column("embedding", sa.Column("source_name", sa.Text), schema=SCHEMA)
    op.add_column("embedding", sa.Column("column_numbers", JSONB), schema=SCHEMA)
    op.add_column("embedding", sa.Column("view", JSONB), schema=SCHEMA)
    op.add_column("generation", sa.Column("grants", JSONB), schema=SCHEMA)
    op.add_column(
        "generation", sa.Column("check_drift", sa.Boolean, nullable=False, server_default=sa.false()), schema=SCHEMA
    )
    op.execute("""
        UPDATE _qwen_embed.embedding e SET
            source_oid = e.source::oid,
            source_name = coalesce(
                (SELECT format('%I.%I', n.nspname, c.relname)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = e.source::oid), ''),
            column_numbers = coalesce(
                (SELECT jsonb_object_agg(a.attname, a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = e.source::oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
            view = jsonb_build_object(
                'columns', coalesce(
                    (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                     WHERE a.attrelid = to_regclass(format('qwen_embed.%I', e.name)) AND a.attnum > 0
                       AND a.attname NOT IN (e.column_name, 'stale')
                       AND (g.spec->>'chunking' IS NULL OR a.attname NOT IN ('chunk', 'span', 'chunk_text'))), '[]'),
                'names', '{}'::jsonb, 'sized', true)
        FROM _qwen_embed.generation g WHERE g.embedding_id = e.id AND g.state = 'live'
    """)
    _number_renamed_columns()
    for column in ("source_oid", "source_name", "column_numbers", "view"):
        op.alter_column("embedding", column, nullable=False, schema=SCHEMA)
    op.execute("""
        CREATE FUNCTION _qwen_embed.key_now(generation integer, record text) RETURNS text
        LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
        RETURN (
            SELECT string_agg(format('%s.%I', record, a.attname), ', ' ORDER BY k.position)
            FROM _qwen_embed.generation g
            JOIN _qwen_embed.embedding e ON e.id = g.embedding_id
            CROSS JOIN LATERAL unnest(e.key) WITH ORDINALITY AS k(name, position)
            JOIN pg_attribute a ON a.attrelid = e.source::oid AND NOT a.attisdropped
                AND a.attnum = CASE
                    WHEN e.source_oid = e.source::oid THEN (e.column_numbers->>k.name)::smallint
                    ELSE coalesce(
                        (SELECT t.tgattr[k.position::int - 1] FROM pg_trigger t
                         WHERE t.tgrelid = e.source::oid AND t.tgname = format('qwen_embed_key_change_%s', g.id)),
                        (SELECT n.attnum FROM pg_attribute n
                         WHERE n.attrelid = e.source::oid AND n.attname = k.name AND NOT n.attisdropped))
                    END
            WHERE g.id = generation
        )
    """)
    op.execute("""
        COMMENT ON FUNCTION _qwen_embed.key_now(integer, text)
        IS 'pg_qwen_embed: what the key columns are called now, for a trigger that was made before they were renamed'
    """)


def _number_renamed_columns() -> None:
    """A column that was renamed since attach keeps its place in the trigger for UPDATE, in the order of the template."""
    op.execute("""
        UPDATE _qwen_embed.embedding e SET column_numbers = e.column_numbers || found.numbers
        FROM (SELECT g.embedding_id, jsonb_object_agg(c.name, t.tgattr[c.position::int - 1]) AS numbers
              FROM _qwen_embed.generation g
              CROSS JOIN LATERAL (
                  SELECT p.part->>'column' AS name, row_number() OVER (ORDER BY min(p.position)) AS position
                  FROM jsonb_array_elements(g.spec->'template'->'parts') WITH ORDINALITY AS p(part, position)
                  WHERE jsonb_typeof(p.part) = 'object' GROUP BY p.part->>'column') c
              JOIN pg_trigger t ON t.tgname = format('qwen_embed_update_%s', g.id) AND t.tgparentid = 0
              WHERE t.tgattr[c.position::int - 1] IS NOT NULL
              GROUP BY g.embedding_id) found
        WHERE found.embedding_id = e.id
    """)
    op.execute("""
        UPDATE _qwen_embed.embedding e SET column_numbers = e.column_numbers || found.numbers
        FROM (SELECT e.id, jsonb_object_agg(k.name, i.indkey[k.position::int - 1]) AS numbers
              FROM _qwen_embed.embedding e
              JOIN pg_index i ON i.indrelid = e.source::oid AND i.indisprimary AND i.indnkeyatts = cardinality(e.key)
              CROSS JOIN LATERAL unnest(e.key) WITH ORDINALITY AS k(name, position)
              WHERE NOT e.column_numbers ?& e.key
              GROUP BY e.id) found
        WHERE found.id = e.id
    """)


def downgrade() -> None:
    op.execute("DROP FUNCTION _qwen_embed.key_now(integer, text)")
    op.drop_column("generation", "check_drift", schema=SCHEMA)
    op.drop_column("generation", "grants", schema=SCHEMA)
    for column in ("view", "column_numbers", "source_name", "source_oid"):
        op.drop_column("embedding", column, schema=SCHEMA)
