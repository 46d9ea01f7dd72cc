-- name: draw_transaction_id
-- First in its transaction: the floor rests on whoever appends to an outbox having its transaction id by then. Nobody would find
-- again what a crash took back, so this waits for the disk.
SELECT set_config('synchronous_commit', 'on', true), pg_current_xact_id();

-- name: repair_page
-- One page of the source in key order: rows whose vector is missing or stale are enqueued. Their rows are locked first,
-- as a writer of the row would: else an entry drawn here could outrank a change that was made before and commits later.
-- Rows locked by the application are left for another time, and counted; failures wait for their own time, unless they
-- are parked.
WITH page AS MATERIALIZED (
    SELECT {source_key_as:t}, _qwen_embed.fingerprint({document:t}) AS fingerprint, {has_vector} AS has_vector
    FROM {source} t WHERE {beyond} ORDER BY {source_key:t} LIMIT %(rows)s
), wrong AS (
    SELECT {key:p} FROM page p LEFT JOIN {stored_of_page}
    WHERE (p.fingerprint IS DISTINCT FROM s.fingerprint OR (p.fingerprint IS NOT NULL AND NOT p.has_vector) OR NOT {whole})
      AND (%(missing)s OR s.version IS NOT NULL)
      AND NOT EXISTS (SELECT FROM {failure} f WHERE ({key:f}) = ({key:p}) AND f.next_attempt_at IS NOT NULL)
), n AS (
    SELECT {source_key_as:t} FROM {source} t JOIN wrong p ON ({source_key:t}) = ({key:p}) FOR SHARE OF t SKIP LOCKED
), enqueued AS (
    INSERT INTO {outbox} ({keys}) SELECT {key:n} FROM n RETURNING 1
)
SELECT (SELECT count(*) FROM enqueued), (SELECT count(*) FROM wrong) - (SELECT count(*) FROM n),
       (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1);

-- name: repair_orphans_page
-- One page of the store in key order: vectors whose row has gone are enqueued, and the worker removes them.
WITH page AS MATERIALIZED (
    SELECT {distinct} {key:s} FROM {store} s WHERE {beyond} ORDER BY {key:s} LIMIT %(rows)s
), enqueued AS (
    INSERT INTO {outbox} ({keys})
    SELECT {key:p} FROM page p WHERE NOT EXISTS (SELECT FROM {source} t WHERE ({source_key:t}) = ({key:p}))
    RETURNING 1
)
SELECT (SELECT count(*) FROM enqueued), 0::bigint,
       (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1);

-- name: stored_of_page_plain
{store} s ON ({key:s}) = ({key:p})

-- name: stored_of_page_chunked
LATERAL (SELECT {all_chunks} FROM {store} s WHERE ({key:s}) = ({key:p})) s ON true

-- name: store_beyond
({key:s}) > ({after})

-- name: ring
-- What a trigger does at its end: notify if the worker sleeps.
SELECT CASE WHEN NOT pg_try_advisory_xact_lock_shared(%(gate)s, %(id)s) THEN pg_notify('qwen_embed', %(id)s::text) END;

-- name: table_of_trigger
SELECT n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.oid = %(trigger)s;

-- name: has_rows
SELECT EXISTS (SELECT FROM {table});

-- name: note_partitions
UPDATE _qwen_embed.generation SET partitions = %(partitions)s::oid[] WHERE id = %(id)s;

-- name: vacuum_outbox
-- Without truncating the file: that would lock writers out.
VACUUM (TRUNCATE off) {outbox};
