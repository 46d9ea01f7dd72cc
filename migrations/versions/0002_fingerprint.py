"""The fingerprint function: by fingerprints a stored vector is compared with the current document."""

from alembic import op

revision = "0002"
down_revision = "0001"

# The 29 characters that Python's str.strip() removes: a document of nothing else has no vector.
BLANK_SQL = (
    r"E'\u0009\u000A\u000B\u000C\u000D\u001C\u001D\u001E\u001F\u0020\u0085\u00A0\u1680\u2000\u2001\u2002\u2003"
    r"\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u2028\u2029\u202F\u205F\u3000'"
)


def upgrade() -> None:
    op.execute(f"""
        CREATE FUNCTION _qwen_embed.fingerprint(document text) RETURNS bytea
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
        BEGIN
            -- The first characters nearly always decide, and a long text is not walked through for nothing.
            IF pg_catalog.btrim(pg_catalog.left(document, 64), {BLANK_SQL}) OPERATOR(pg_catalog.=) ''
               AND pg_catalog.btrim(document, {BLANK_SQL}) OPERATOR(pg_catalog.=) '' THEN
                RETURN NULL;
            END IF;
            RETURN pg_catalog.substr(pg_catalog.sha256(pg_catalog.convert_to(document, 'UTF8')), 1, 16);
        END
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION _qwen_embed.fingerprint(text) IS "
        "'The first 16 bytes of the document''s SHA-256; NULL for a document that is NULL or blank'"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION _qwen_embed.fingerprint(text)")
