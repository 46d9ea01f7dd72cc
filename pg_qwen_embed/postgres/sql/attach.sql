-- name: limit_lock_wait
-- Creating a trigger waits for the writers in flight, and new writers wait behind it: not for long.
SELECT set_config('lock_timeout', %(timeout)s, true);

-- name: register_embedding
INSERT INTO _qwen_embed.embedding (name, source, key, column_name, instruction)
VALUES (%(name)s, %(source)s::oid::regclass, %(key)s, %(column)s, %(instruction)s)
RETURNING id;

-- name: register_generation
INSERT INTO _qwen_embed.generation (embedding_id, state, spec) VALUES (%(embedding_id)s, %(state)s, %(spec)s)
RETURNING id;

-- name: register_backfill
INSERT INTO _qwen_embed.backfill (generation_id, state) VALUES (%(generation_id)s, %(state)s);

-- name: create_outbox
-- Append-only: writers never meet each other or the worker here. TRUNCATE appends one entry without a key.
CREATE TABLE {outbox} (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at timestamptz NOT NULL DEFAULT now(),
    {nullable_key_columns}
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- name: comment_outbox
COMMENT ON TABLE {outbox} IS {comment};

-- name: create_store_table
-- embedding and fingerprint are NULL for a row whose document is blank: the version still guards against an older vector.
CREATE TABLE {store} (
    {key_columns},
    version bigint NOT NULL,
    truncated boolean NOT NULL DEFAULT false,
    fingerprint bytea,
    embedding {halfvec}({dimensions}),
    PRIMARY KEY ({keys})
);

-- name: create_store_chunked
-- A row has its chunks 1 to `chunks`, all of one version; a blank one has the first, without an embedding. span: of the
-- document's characters, from 0.
CREATE TABLE {store} (
    {key_columns},
    chunk integer NOT NULL,
    chunks integer NOT NULL DEFAULT 1,
    span int4range,
    version bigint NOT NULL,
    fingerprint bytea,
    embedding {halfvec}({dimensions}),
    PRIMARY KEY ({keys}, chunk)
);

-- name: set_store_storage
ALTER TABLE {store} ALTER COLUMN embedding SET STORAGE {storage};

-- name: create_store_column
-- The vectors are in the source; here is what guards them.
CREATE TABLE {store} (
    {key_columns},
    version bigint NOT NULL,
    truncated boolean NOT NULL DEFAULT false,
    fingerprint bytea,
    PRIMARY KEY ({keys})
);

-- name: add_source_column
ALTER TABLE {source} ADD COLUMN {column} {halfvec}({dimensions});

-- name: comment_source_column
COMMENT ON COLUMN {source}.{column} IS {comment};

-- name: comment_store
COMMENT ON TABLE {store} IS {comment};

-- name: create_failure
CREATE TABLE {failure} (
    {key_columns},
    version bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    error text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz,
    PRIMARY KEY ({keys})
);

-- name: comment_failure
COMMENT ON TABLE {failure} IS {comment};

-- name: create_document_function
-- The one place that says what the document of a row is. BEGIN ATOMIC is parsed now and kept by column number: renaming
-- a column does not reach it, and a planner inlines it.
CREATE FUNCTION {document_function}(t {source}) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC SELECT {template}; END;

-- name: create_key_function
-- One key column of a row, likewise: a trigger that named the column would fail the application's INSERT once it is
-- renamed.
CREATE FUNCTION {key_function}(t {source}) RETURNS {type}
LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT {key_column}; END;

-- name: comment_row_function
COMMENT ON FUNCTION {function}({source}) IS {comment};

-- name: drop_row_function
DROP FUNCTION IF EXISTS {function};

-- name: create_follow_function
-- SECURITY DEFINER: the application's role needs nothing but its own table.
CREATE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body};

-- name: follow_body
-- The gate: a worker that sleeps holds it, and only then is it worth a NOTIFY, which serialises commits.
BEGIN
    {append};
    IF NOT pg_try_advisory_xact_lock_shared({gate_lock}, {id}) THEN
        PERFORM pg_notify('qwen_embed', {id_text});
    END IF;
    RETURN NULL;
END

-- name: append_changed_rows
INSERT INTO {outbox} ({keys}) SELECT {key_of_row:ROW(r.*)} FROM changed_rows r

-- name: append_row
INSERT INTO {outbox} ({keys}) VALUES ({key_of_row:new})

-- name: append_old_row
INSERT INTO {outbox} ({keys}) VALUES ({key_of_row:old})

-- name: append_both_keys
INSERT INTO {outbox} ({keys}) VALUES ({key_of_row:old}), ({key_of_row:new})

-- name: append_truncation
INSERT INTO {outbox} DEFAULT VALUES

-- name: revoke_function
-- Firing a trigger needs no right to its function; putting it on another table does.
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;

-- name: comment_function
COMMENT ON FUNCTION {function}() IS {comment};

-- name: create_insert_trigger
CREATE TRIGGER {trigger} AFTER INSERT ON {source}
REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();

-- name: create_insert_row_trigger
-- On a partitioned source: statement triggers miss what is aimed at a partition.
CREATE TRIGGER {trigger} AFTER INSERT ON {source} FOR EACH ROW EXECUTE FUNCTION {function}();

-- name: create_update_trigger
-- The column list makes an UPDATE of something else cost next to nothing; the condition spares one that changes nothing.
-- PostgreSQL reads the condition anew for every statement, which costs more than to evaluate it: a change of the key is
-- left to a trigger of its own.
CREATE TRIGGER {trigger} AFTER {of_columns} ON {source}
FOR EACH ROW WHEN ({text_changed}) EXECUTE FUNCTION {function}();

-- name: create_key_trigger
-- A row that got another key left its vector behind under the old one, and has none under the new.
CREATE TRIGGER {trigger} AFTER {of_columns} ON {source}
FOR EACH ROW WHEN ({key_changed}) EXECUTE FUNCTION {function}();

-- name: create_delete_trigger
CREATE TRIGGER {trigger} AFTER DELETE ON {source}
REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();

-- name: create_delete_row_trigger
CREATE TRIGGER {trigger} AFTER DELETE ON {source} FOR EACH ROW EXECUTE FUNCTION {function}();

-- name: create_truncate_trigger
CREATE TRIGGER {trigger} AFTER TRUNCATE ON {source} FOR EACH STATEMENT EXECUTE FUNCTION {function}();

-- name: enable_trigger_always
-- Also for rows that logical replication or a restore with session_replication_role = replica brings.
ALTER TABLE {source} ENABLE ALWAYS TRIGGER {trigger};

-- name: comment_trigger
COMMENT ON TRIGGER {trigger} ON {source} IS {comment};

-- name: create_view_on_table
-- INNER JOIN: with the vector on the nullable side of an outer join the index would not be used.
CREATE VIEW {view} WITH (security_invoker = true) AS
SELECT {source_columns:t}, s.embedding AS {column},
       s.fingerprint IS DISTINCT FROM _qwen_embed.fingerprint({document:t}) AS stale
FROM {source} t JOIN {store} s ON ({source_key:t}) = ({key:s})
WHERE s.embedding IS NOT NULL;

-- name: create_view_on_column
CREATE VIEW {view} WITH (security_invoker = true) AS
SELECT {source_columns:t}, t.{column},
       s.fingerprint IS DISTINCT FROM _qwen_embed.fingerprint({document:t}) AS stale
FROM {source} t JOIN {store} s ON ({source_key:t}) = ({key:s})
WHERE t.{column} IS NOT NULL;

-- name: create_view_on_chunked
-- One row for each chunk. Its text is that of the document of now, so a stale one has none.
CREATE VIEW {view} WITH (security_invoker = true) AS
SELECT {source_columns:t}, s.chunk, s.span,
       CASE WHEN s.fingerprint = _qwen_embed.fingerprint({document:t})
            THEN substr({document:t}, lower(s.span) + 1, upper(s.span) - lower(s.span)) END AS chunk_text,
       s.embedding AS {column},
       s.fingerprint IS DISTINCT FROM _qwen_embed.fingerprint({document:t}) AS stale
FROM {source} t JOIN {store} s ON ({source_key:t}) = ({key:s})
WHERE s.embedding IS NOT NULL;

-- name: create_search_function
-- The plan is one that gives its first rows soon. Operators and functions are named with their schema: to set search_path
-- costs 5 % of a query.
CREATE FUNCTION {view}(query {halfvec}, rows integer DEFAULT 10) RETURNS SETOF {view}
LANGUAGE plpgsql STABLE STRICT ROWS 10
SET cursor_tuple_fraction = 0
SET hnsw.iterative_scan = 'off'
SET hnsw.max_scan_tuples = 2147483647
AS {body};

-- name: search_body
-- Chunks by their distance: the first of a row is its best. The nearest hnsw.ef_search chunks do nearly always; if not, an
-- iterative scan goes on (which costs 15 % more). It may end before the chunks do, for its memory is bounded: then all the rows
-- that are left are looked at.
#variable_conflict use_variable
DECLARE
    nearest CURSOR FOR SELECT e.* FROM {view} e ORDER BY e.{column} {distance} query;
    others CURSOR (besides pg_catalog.text[]) FOR
        SELECT b.*
        FROM (SELECT DISTINCT ON ({source_key:e}) e.* FROM {view} e
              WHERE ROW({source_key:e})::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (besides)
              ORDER BY {source_key:e}, e.{column} {distance} query) b
        ORDER BY b.{column} {distance} query;
    done pg_catalog.text[] := '{{}}';
BEGIN
    FOR attempt IN 1 .. 2 LOOP
        FOR c IN nearest LOOP
            EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) rows;
            CONTINUE WHEN ROW({source_key:c})::pg_catalog.text OPERATOR(pg_catalog.=) ANY (done);
            done := pg_catalog.array_append(done, ROW({source_key:c})::pg_catalog.text);
            RETURN NEXT c;
        END LOOP;
        EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) rows;
        PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'strict_order', true);
    END LOOP;
    IF pg_catalog.cardinality(done) OPERATOR(pg_catalog.<) rows THEN
        FOR c IN others (done) LOOP
            EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) rows;
            done := pg_catalog.array_append(done, ROW({source_key:c})::pg_catalog.text);
            RETURN NEXT c;
        END LOOP;
    END IF;
END

-- name: comment_search_function
COMMENT ON FUNCTION {view}({halfvec}, integer) IS {comment};

-- name: drop_search_function
DROP FUNCTION IF EXISTS {view}({halfvec}, integer);

-- name: comment_view
COMMENT ON VIEW {view} IS {comment};

-- name: drop_view
DROP VIEW IF EXISTS {view};

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {source};

-- name: drop_function
DROP FUNCTION IF EXISTS {function}();

-- name: drop_table
DROP TABLE IF EXISTS {table};

-- name: drop_source_column
ALTER TABLE {source} DROP COLUMN IF EXISTS {column};

-- name: unregister_embedding
-- Generations and their backfills go with it (ON DELETE CASCADE).
DELETE FROM _qwen_embed.embedding WHERE name = %(name)s;
