"""The words of a document and of a query: what `attach --words` keeps, and what searches parse.

Both functions are here, and nowhere else, so that documents and queries are divided into the same words. PostgreSQL has no
parser for scripts that write no blanks between words: with `cjk` each pair of their neighbouring characters is a word
(docs/decisions/0031-words.md)."""

from alembic import op

from pg_qwen_embed.postgres import queries

revision = "0012"
down_revision = "0011"

# Chinese, Japanese, Korean and Thai: letters, and the marks that belong to them.
SCRIPTS = (
    r"\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"  # Korean
    r"\u3005-\u3007\u3031-\u3035\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Japanese
    r"\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters, Bopomofo
)

# A run of characters ABC becomes the words A AB BC C: the pairs, and at both ends the character alone.
WORDS = rf"""
    CREATE FUNCTION _qwen_embed.words(configuration text, document text) RETURNS tsvector
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        beginning text := left(document, 200000);
    BEGIN
        FOR attempt IN 1 .. 12 LOOP
            BEGIN
                IF configuration = 'cjk' THEN
                    RETURN to_tsvector('pg_catalog.simple', regexp_replace(
                        regexp_replace(normalize(beginning, NFKC), '([{SCRIPTS}]+)', ' \1 ', 'g'),
                        '([{SCRIPTS}])', '\1 \1', 'g'));
                END IF;
                RETURN to_tsvector(configuration::regconfig, beginning);
            EXCEPTION
                WHEN program_limit_exceeded THEN  -- a tsvector has 1 MB at most
                    beginning := left(beginning, length(beginning) / 2);
                WHEN undefined_object OR invalid_schema_name THEN
                    RETURN NULL;  -- the configuration was dropped
                WHEN OTHERS THEN
                    EXIT;
            END;
        END LOOP;
        RETURN '';
    END $$
"""

# A query of plain words wants any of them: documents with more of them rank higher. With a quote or a minus it is taken as
# websearch_to_tsquery() takes it, and wants all of its parts.
ANY = "regexp_replace(("
ANY_END = ")::text, CASE WHEN any_word THEN ' (&|<->|<[0-9]+>) ' ELSE '$.' END, ' | ', 'g')::tsquery"

# The pairs AB BC of a run ABC; of a single character, every word that begins with it. \x01 and \x02 enclose a run, so that
# the characters at its ends can be told. Outside of quotes a run after a minus is excluded as a whole.
WORDS_QUERY = rf"""
    CREATE FUNCTION qwen_embed.words_query(configuration text, query text) RETURNS tsquery
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        pieces text[];
        piece text;
        any_word boolean;
    BEGIN
        IF query !~ '\S' THEN
            RAISE EXCEPTION 'the query is blank: there is nothing to search for' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        query := left(query, 10000);
        any_word := query !~ '"|(^|\s)-\S';
        IF configuration <> 'cjk' THEN
            RETURN {ANY}websearch_to_tsquery(configuration::regconfig, query){ANY_END};
        END IF;
        pieces := string_to_array(translate(normalize(query, NFKC), E'\x01\x02', '  '), '"');
        FOR n IN 1 .. cardinality(pieces) LOOP
            piece := regexp_replace(pieces[n], '([{SCRIPTS}]+)', E'\x01\\1\x02', 'g');
            piece := regexp_replace(piece, '([{SCRIPTS}])', '\1 \1', 'g');
            piece := regexp_replace(piece, E'\x01. ', E'\x01', 'g');
            piece := regexp_replace(piece, E'([^\x01]) .\x02', E'\\1\x02', 'g');
            IF n % 2 = 1 THEN
                piece := regexp_replace(piece, E'(^|\\s)-\x01([^\x02]*)\x02', E'\\1-"\\2" ', 'g');
            END IF;
            pieces[n] := translate(piece, E'\x01\x02', '  ');
        END LOOP;
        RETURN {ANY}regexp_replace(websearch_to_tsquery('pg_catalog.simple', array_to_string(pieces, '"'))::text,
                              '''([{SCRIPTS}])''', '''\1'':*', 'g'){ANY_END};
    END $$
"""
COMMENTS = {
    "_qwen_embed.words(text, text)": "The words of a document; NULL where the configuration was dropped",
    "qwen_embed.words_query(text, text)": "The words that a query in the syntax of websearch_to_tsquery() wants",
}


def upgrade() -> None:
    with queries.as_owner(op.get_bind().connection.driver_connection):
        op.execute(WORDS)
        op.execute(WORDS_QUERY)
        for function, purpose in COMMENTS.items():
            op.execute(f"COMMENT ON FUNCTION {function} IS '{purpose}'")


def downgrade() -> None:
    for function in COMMENTS:
        op.execute(f"DROP FUNCTION {function}")
