-- What `attach` creates and `detach` drops. postgres/ddl.py and postgres/triggers.py say in which order.

-- name: limit_lock_wait
-- Bounds how long the transaction waits for a lock.
-- A lock request that waits holds up everyone behind it: new writers wait behind a CREATE TRIGGER that waits for the
-- writers in flight.
SELECT set_config('lock_timeout', %(timeout)s, true);

-- name: register_embedding
-- Adds an embedding to the registry, and returns its id.
INSERT INTO _qwen_embed.embedding (name, source, key, column_name, instruction, source_oid, source_name, column_numbers, view)
SELECT %(name)s, c.oid::regclass, %(key)s, %(column)s, %(instruction)s, c.oid, format('%%I.%%I', n.nspname, c.relname),
       %(column_numbers)s, %(view)s
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(source)s::oid
RETURNING id;

-- name: register_generation
-- Adds a generation to the registry, and returns its id. The id names the outbox, store, failure table and triggers.
INSERT INTO _qwen_embed.generation (embedding_id, state, spec) VALUES (%(embedding_id)s, %(state)s, %(spec)s)
RETURNING id;

-- name: register_backfill
-- Records the first state of a generation's backfill: `pending`, or `none` for attach --no-backfill.
INSERT INTO _qwen_embed.backfill (generation_id, state) VALUES (%(generation_id)s, %(state)s);

-- name: create_outbox
-- The outbox: append-only, so that writers never wait for each other or for the worker. A TRUNCATE appends one entry
-- without a key.
-- `seq` is not unique: an application may not fail because the sequence was set back by a restore or a setval.
-- Vacuum comes early and works without pauses, because a read passes over the dead entries that it has not removed.
CREATE TABLE {outbox} (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    changed_at timestamptz NOT NULL DEFAULT now(),
    {nullable_key_columns}
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- name: index_outbox
-- The order in which the outbox is read. Numbers are not expected twice, so PostgreSQL need not look for duplicates
-- when a page of the index is full.
CREATE INDEX {outbox_index} ON {outbox} (seq) WITH (deduplicate_items = off);

-- name: identify_entries
-- Lets an entry be deleted where a publication FOR ALL TABLES has the outbox in it: the outbox has no key.
ALTER TABLE {outbox} REPLICA IDENTITY FULL;

-- name: comment_outbox
-- Describes the outbox in the database.
COMMENT ON TABLE {outbox} IS {comment};

-- name: create_store_table
-- The store of layout `table`: the vector of each row, with the version and the fingerprint that it was made from.
-- embedding and fingerprint are NULL for a blank row. Its version still guards against an older vector.
CREATE TABLE {store} (
    {key_columns},
    version bigint NOT NULL,
    truncated boolean NOT NULL DEFAULT false,
    fingerprint bytea,
    embedding {halfvec}({dimensions}),{words_column}
    PRIMARY KEY ({keys})
);

-- name: create_store_chunked
-- The store of layout `chunked`: a row has its chunks 1 to `chunks`, all of one version. span: characters of the
-- document, from 0.
-- A blank row has its first chunk only, without an embedding. Its version still guards against an older vector.
-- chunk_fingerprint is that of the chunk's own text: a chunk whose text is found again keeps its vector.
CREATE TABLE {store} (
    {key_columns},
    chunk integer NOT NULL,
    chunks integer NOT NULL DEFAULT 1,
    span int4range,
    version bigint NOT NULL,
    fingerprint bytea,
    embedding {halfvec}({dimensions}),
    chunk_fingerprint bytea,{words_column}
    PRIMARY KEY ({keys}, chunk)
);

-- name: set_store_storage
-- Chooses how vectors are stored: PLAIN inside the page up to 1300 dimensions, and EXTERNAL (TOAST, uncompressed)
-- above.
-- Vectors do not compress; a query that must fetch each of them from TOAST is slower.
ALTER TABLE {store} ALTER COLUMN embedding SET STORAGE {storage};

-- name: create_store_column
-- The store of layout `column`: the version and the fingerprint of each vector. The vectors themselves are in the
-- source.
CREATE TABLE {store} (
    {key_columns},
    version bigint NOT NULL,
    truncated boolean NOT NULL DEFAULT false,
    fingerprint bytea,{words_column}
    PRIMARY KEY ({keys})
);

-- name: add_source_column
-- Adds the column of vectors to the source, for attach --store column.
-- ACCESS EXCLUSIVE on the source until the commit. Nothing is rewritten, because the column is NULL at first.
ALTER TABLE {source} ADD COLUMN {source_column} {halfvec}({dimensions});

-- name: comment_source_column
-- Describes the column of vectors in the database.
COMMENT ON COLUMN {source}.{source_column} IS {comment};

-- name: comment_store
-- Describes the store in the database.
COMMENT ON TABLE {store} IS {comment};

-- name: create_failure
-- The failures: one row for each key whose document the server rejects, or that PostgreSQL cannot read or write, with
-- the sentence of either. next_attempt_at is NULL for a parked one.
-- A domain may come to reject a key that is there: here the key has the base type.
CREATE TABLE {failure} (
    {failed_key_columns},
    version bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    error text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz,
    PRIMARY KEY ({keys})
);

-- name: comment_failure
-- Describes the failure table in the database.
COMMENT ON TABLE {failure} IS {comment};

-- name: enable_row_security
-- Hides the rows of a store or a failure table from every role but its owner, that owner's members and roles with
-- BYPASSRLS; create_policy says what others see. FORCE hides them from the owner as well, as the source does then.
-- ACCESS EXCLUSIVE on the table until the commit.
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY;

-- name: create_policy
-- Shows a role the rows of a store or a failure table whose source rows that role may read: all of them while no
-- row-level security of the source holds for it, else those that the source's policies show. It is looked at in every
-- query, so a change of the source's policies holds at once.
-- The columns in EXISTS are those that make the document: a role without SELECT on the key and on these is denied, not
-- shown nothing. OFFSET 0 keeps the planner from reading the whole source for every query.
CREATE POLICY rows_of_the_source ON {table} USING (
    (SELECT NOT pg_catalog.row_security_active({literal:source}::pg_catalog.regclass))
    OR EXISTS (SELECT {document_columns} FROM {source} t WHERE {same_row}{row_by_row})
);

-- name: comment_policy
-- Describes the policy in the database.
COMMENT ON POLICY rows_of_the_source ON {table} IS {comment};

-- name: drop_policy
-- Drops the policy of a store or a failure table. Row-level security stays, so that others see nothing.
-- ACCESS EXCLUSIVE on the table until the commit.
DROP POLICY IF EXISTS rows_of_the_source ON {table};

-- name: grant_store
-- Lets every role read the store through the view, as far as the policy shows it: readers need a right to the view and to
-- the source only. It may be granted only to a store with row-level security.
GRANT SELECT ON {store} TO PUBLIC;

-- name: create_document_function
-- The one definition of a row's document. BEGIN ATOMIC is parsed now, so no search_path can change what it calls. A
-- planner inlines it.
-- It takes the template's columns, never the row: a parsed body that uses a table's row type makes ALTER TABLE .. ADD
-- COLUMN .. DEFAULT fail in PostgreSQL releases with the fix of CVE-2026-6460. A composite type is passed as text for the
-- same reason.
CREATE OR REPLACE FUNCTION {document_function}({document_parameters}) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC SELECT {template}; END;

-- name: comment_document_function
-- Describes the document function in the database.
COMMENT ON FUNCTION {document_function}({document_types}) IS {comment};

-- name: drop_row_functions
-- Drops the document function of a generation, in every form that a release has given it, and the key functions of
-- release 0.1.
DO $$
DECLARE own regprocedure;
BEGIN
    FOR own IN SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace('_qwen_embed')
               AND proname ~ '^(document_{id}|key_{id}_[0-9]+)$' LOOP
        EXECUTE format('DROP FUNCTION %%s', own);
    END LOOP;
END $$;

-- name: drop_superseded_functions
-- Drops the functions of release 0.1 that take a row of the source. Nothing calls them once the view and the triggers
-- are those of this release.
DO $$
DECLARE own regprocedure;
BEGIN
    FOR own IN SELECT p.oid FROM pg_proc p JOIN pg_type y ON y.oid = p.proargtypes[0] AND y.typrelid <> 0
               WHERE p.pronamespace = to_regnamespace('_qwen_embed') AND p.pronargs = 1
               AND p.proname ~ '^(document_{id}|key_{id}_[0-9]+)$' LOOP
        EXECUTE format('DROP FUNCTION %%s', own);
    END LOOP;
END $$;

-- name: create_follow_function
-- The function of one trigger.
-- SECURITY DEFINER: the application's role needs no right to the outbox. The search_path is fixed, so that the
-- caller cannot put objects of its own in front.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body};

-- name: follow_body
-- The body of a trigger function: append to the outbox, then signal the worker.
-- `probe` names the key and the outbox and reads nothing. It fails once a key column was renamed or the outbox dropped.
-- Then the key's present names are looked up; if that fails too, the row becomes drift, and the application's statement
-- goes on. The append itself has no exception block: each would use up a transaction id.
DECLARE
    by_name boolean := true;
BEGIN
    BEGIN
        {probe};
    EXCEPTION WHEN OTHERS THEN
        by_name := false;
        BEGIN
            {append_renamed};
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END;
    IF by_name THEN
        {append};
    END IF;
    {signal};
    RETURN NULL;
END

-- name: signal_worker
-- Tries the gate, which a worker that sleeps holds. NOTIFY serialises commits, so it is sent only when the gate is held.
-- A NOTIFY that finds its queue full would fail the transaction: the worker polls then. Part of follow_body.
    IF NOT pg_try_advisory_xact_lock_shared({gate_lock}, {id}) THEN
        IF pg_notification_queue_usage() < 0.9 THEN
            PERFORM pg_notify('qwen_embed', {id_text});
        END IF;
    END IF;

-- name: no_signal
-- In its place where the triggers send no notification: a transaction that has sent one cannot be prepared.
NULL

-- name: append_changed_rows
-- Appends the keys of all rows of one INSERT or DELETE. Part of follow_body.
INSERT INTO {outbox} ({keys}) SELECT {source_key:r} FROM changed_rows r

-- name: probe_changed_rows
-- Fails where append_changed_rows would, for a key column or an outbox that is not there, or a key column of another kind
-- of type. Part of follow_body.
-- A constant of type regclass is looked up again once its table was dropped, and costs nothing until then.
PERFORM {key_probe:r}, {literal:outbox}::regclass FROM changed_rows r LIMIT 0

-- name: append_renamed_changed_rows
-- The same as append_changed_rows, by the present names of the key columns. Part of follow_body.
EXECUTE 'INSERT INTO {outbox} ({keys}) SELECT ' || _qwen_embed.key_now({id}, 'r') || ' FROM changed_rows r'

-- name: append_row
-- Appends the key of the new row. Part of follow_body.
INSERT INTO {outbox} ({keys}) VALUES ({source_key:new})

-- name: probe_row
-- Fails where append_row would, for a key column or an outbox that is not there. Part of follow_body.
-- A simple expression, which PL/pgSQL evaluates without the executor. It looks a field up only where its value is used.
by_name := num_nulls({key_probe:new}, {literal:outbox}::regclass) >= 0

-- name: append_renamed_row
-- The same as append_row, by the present names of the key columns. Part of follow_body.
EXECUTE 'INSERT INTO {outbox} ({keys}) SELECT ' || _qwen_embed.key_now({id}, '($1)') USING new

-- name: append_old_row
-- Appends the key of a deleted row, on a source that is partitioned or subscribed to. Part of follow_body.
INSERT INTO {outbox} ({keys}) VALUES ({source_key:old})

-- name: probe_old_row
-- Fails where append_old_row would, for a key column or an outbox that is not there. Part of follow_body.
by_name := num_nulls({key_probe:old}, {literal:outbox}::regclass) >= 0

-- name: append_renamed_old_row
-- The same as append_old_row, by the present names of the key columns. Part of follow_body.
EXECUTE 'INSERT INTO {outbox} ({keys}) SELECT ' || _qwen_embed.key_now({id}, '($1)') USING old

-- name: append_both_keys
-- Appends the old and the new key of a row whose key changed. Part of follow_body.
INSERT INTO {outbox} ({keys}) VALUES ({source_key:old}), ({source_key:new})

-- name: append_renamed_both_keys
-- The same as append_both_keys, by the present names of the key columns. Part of follow_body.
EXECUTE 'INSERT INTO {outbox} ({keys}) SELECT ' || _qwen_embed.key_now({id}, '($1)') || ' UNION ALL SELECT '
    || _qwen_embed.key_now({id}, '($2)') USING old, new

-- name: append_truncation
-- Appends one entry without a key: the source was truncated. Part of follow_body.
INSERT INTO {outbox} DEFAULT VALUES

-- name: probe_outbox
-- Fails where append_truncation would, for an outbox that is not there. Part of follow_body.
by_name := num_nulls({literal:outbox}::regclass) >= 0

-- name: append_nothing
-- Nothing else can be done for a TRUNCATE. Part of follow_body.
NULL

-- name: revoke_function
-- Takes from PUBLIC the right to a trigger function.
-- A trigger fires without that right. With it, a role could put the function on another table, and append to this
-- outbox.
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;

-- name: comment_function
-- Describes a trigger function in the database.
COMMENT ON FUNCTION {function}() IS {comment};

-- name: create_insert_trigger
-- Follows INSERT, with one call for each statement.
-- SHARE ROW EXCLUSIVE on the source, as for every trigger: it waits for the writers in flight, and new writers wait
-- until the commit.
CREATE TRIGGER {trigger} AFTER INSERT ON {source}
REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();

-- name: create_insert_row_trigger
-- Follows INSERT on a source that is partitioned or subscribed to, with one call for each row.
-- A statement trigger would miss a statement that is aimed at a partition, and a row that logical replication brings.
CREATE TRIGGER {trigger} AFTER INSERT ON {source} FOR EACH ROW EXECUTE FUNCTION {function}();

-- name: create_update_trigger
-- Follows UPDATE of the template's columns. The column list makes an UPDATE of other columns cost next to nothing.
-- The condition ignores one that changes no text.
-- PostgreSQL reads the condition again for every statement, which costs more than to evaluate it. A change of the
-- key therefore has a trigger of its own.
CREATE TRIGGER {trigger} AFTER {of_columns} ON {source}
FOR EACH ROW WHEN ({text_changed}) EXECUTE FUNCTION {function}();

-- name: create_key_trigger
-- Follows UPDATE of the key. The vector stays behind under the old key, and the new key has none.
CREATE TRIGGER {trigger} AFTER {of_columns} ON {source}
FOR EACH ROW WHEN ({key_changed}) EXECUTE FUNCTION {function}();

-- name: create_delete_trigger
-- Follows DELETE, with one call for each statement.
CREATE TRIGGER {trigger} AFTER DELETE ON {source}
REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}();

-- name: create_delete_row_trigger
-- Follows DELETE on a source that is partitioned or subscribed to, with one call for each row.
CREATE TRIGGER {trigger} AFTER DELETE ON {source} FOR EACH ROW EXECUTE FUNCTION {function}();

-- name: create_truncate_trigger
-- Follows TRUNCATE.
-- It does not fire for a TRUNCATE that is aimed at one partition; `verify --repair` finds the orphans.
CREATE TRIGGER {trigger} AFTER TRUNCATE ON {source} FOR EACH STATEMENT EXECUTE FUNCTION {function}();

-- name: enable_trigger_always
-- Lets a trigger fire also for rows that logical replication brings, or a restore with session_replication_role =
-- replica.
-- Only the owner of the table may run it.
ALTER TABLE {source} ENABLE ALWAYS TRIGGER {trigger};

-- name: comment_trigger
-- Describes a trigger in the database.
COMMENT ON TRIGGER {trigger} ON {source} IS {comment};

-- name: drop_trigger
-- Drops one trigger.
-- ACCESS EXCLUSIVE on the source until the commit: readers wait too.
DROP TRIGGER IF EXISTS {trigger} ON {source};

-- name: drop_function
-- Drops one trigger function, after its trigger.
DROP FUNCTION IF EXISTS {function}();

-- name: drop_table
-- Drops the outbox, the store or the failure table of a generation.
-- It waits for an index that is being built on it, and for every reader.
DROP TABLE IF EXISTS {table};

-- name: drop_source_column
-- Drops the column of vectors from the source, for layout `column`.
-- ACCESS EXCLUSIVE on the source until the commit. Only the catalog changes; the space is free again after the rows
-- were rewritten.
ALTER TABLE {source} DROP COLUMN IF EXISTS {source_column};

-- name: unregister_embedding
-- Removes an embedding from the registry. Its generations and their backfills go with it (ON DELETE CASCADE).
DELETE FROM _qwen_embed.embedding WHERE name = %(name)s;
