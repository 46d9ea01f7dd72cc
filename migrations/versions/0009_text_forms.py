"""The text of values of types whose text depends on settings of the session, the same in every session.

Not every type has its own function: the one for any type takes composite types, ranges and arrays too. It is written in
PL/pgSQL, which costs less than SQL here (docs/decisions/0024-text-forms.md)."""

from alembic import op

revision = "0009"
down_revision = "0008"

SETTINGS = """
    SET search_path = pg_catalog, pg_temp SET "DateStyle" = 'ISO, YMD' SET "TimeZone" = 'UTC'
    SET "IntervalStyle" = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C'
"""
FORMS = (  # parameter, expression, settings
    # By the output function of its type: a cast can be anybody's.
    ("anyelement", "concat(value)", SETTINGS),
    ("double precision", "value::text", "SET extra_float_digits = 1"),
    ("real", "value::text", "SET extra_float_digits = 1"),
    ("money", "value::numeric::text", "SET lc_monetary = 'C'"),
)


def upgrade() -> None:
    for parameter, expression, settings in FORMS:
        op.execute(f"""
            CREATE FUNCTION _qwen_embed.text_of(value {parameter}) RETURNS text
            LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE {settings}
            AS $$ BEGIN RETURN {expression}; END $$
        """)
        op.execute(
            f"COMMENT ON FUNCTION _qwen_embed.text_of({parameter}) IS "
            "'A value as it stands in a document, whatever the session is set to'"
        )


def downgrade() -> None:
    for parameter, _, _ in FORMS:
        op.execute(f"DROP FUNCTION _qwen_embed.text_of({parameter})")
