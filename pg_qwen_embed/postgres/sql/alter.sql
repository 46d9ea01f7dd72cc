-- What `alter` does: the source is altered, or the store is exchanged for one by another key.

-- name: lock_embedding
-- Lets one command at a time create or drop the objects of an embedding.
SELECT pg_advisory_xact_lock(%(lock)s, hashtext(%(name)s));

-- name: change_instruction
-- Puts another instruction in front of queries. Vectors are those of documents, so they stay.
UPDATE _qwen_embed.embedding SET instruction = %(instruction)s WHERE name = %(name)s;

-- name: lock_source
-- Keeps everyone from the source until the transaction ends: nothing is missed while no trigger follows it.
LOCK TABLE {source} IN ACCESS EXCLUSIVE MODE;

-- name: stop_writes
-- Waits for the worker's writes of a generation to end, and lets none begin until the transaction ends. A write has a lock
-- on the store while it waits for one on the source: whoever wants both would wait for it with the source locked.
SELECT pg_advisory_xact_lock(%(lock)s, %(id)s);

-- name: run_command
-- Runs what the administrator wrote. PL/pgSQL takes several statements in one EXECUTE, and none that ends the transaction.
DO {body};

-- name: run_command_body
-- The body of run_command.
BEGIN EXECUTE {command}; END

-- name: note_columns
-- Records the numbers of a source's columns, by their names at attach.
UPDATE _qwen_embed.embedding SET column_numbers = %(column_numbers)s, source_oid = source::oid WHERE name = %(name)s;

-- name: note_source
-- Records another key, or another table with its key.
UPDATE _qwen_embed.embedding
SET source = c.oid::regclass, source_oid = c.oid, source_name = format('%%I.%%I', n.nspname, c.relname), key = %(key)s,
    column_numbers = %(column_numbers)s
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(source)s::oid AND name = %(name)s;

-- name: lock_table
-- Keeps everyone from a table that is to be followed, until the transaction ends.
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;

-- name: keep_former_store
-- Puts the store aside, for its vectors to be copied. Its index would not be used again. Its policy goes, because it
-- depends on the former key: until then nobody but the owner reads it.
DROP POLICY IF EXISTS rows_of_the_source ON {store};
DROP INDEX IF EXISTS _qwen_embed.store_{id}_hnsw, _qwen_embed.store_{id}_ivfflat, _qwen_embed.store_{id}_words;
ALTER TABLE {store} RENAME TO former_{id};
ALTER INDEX _qwen_embed.store_{id}_pkey RENAME TO former_{id}_pkey;

-- name: drop_former_index
-- Drops the index of a table that is not followed any more, for layout `column`: the next table gets one of that name.
DROP INDEX IF EXISTS {index_in_schema};

-- name: copy_former_table
-- Copies vectors from the former store, for layout `table`. A vector of the same document is the right one for a row,
-- whatever the key. It runs under lock_store_exclusive: a row that was deleted meanwhile has an entry that is settled
-- afterwards.
WITH former AS (
    SELECT DISTINCT ON (fingerprint) fingerprint, version, truncated, embedding{words_name}
    FROM {former} WHERE embedding IS NOT NULL ORDER BY fingerprint, version DESC
), copied AS (
    INSERT INTO {store} ({keys}, version, fingerprint, truncated, embedding{words_name})
    SELECT {source_key:t}, s.version, s.fingerprint, s.truncated, s.embedding{former_words:s}
    FROM {source} t JOIN former s ON s.fingerprint = _qwen_embed.fingerprint({document:t})
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM copied;

-- name: copy_former_chunked
-- The same for layout `chunked`: all chunks of a row that had the same document. Rows of one document have equal chunks, so
-- it does not matter whose chunk comes first.
WITH former AS (
    SELECT DISTINCT ON (s.fingerprint) s.*
    FROM {former} s WHERE s.chunk = 1 AND s.embedding IS NOT NULL ORDER BY s.fingerprint, s.version DESC
), copied AS (
    INSERT INTO {store} ({keys}, chunk, chunks, span, version, fingerprint, chunk_fingerprint, embedding{words_name})
    SELECT {source_key:t}, c.chunk, c.chunks, c.span, c.version, c.fingerprint, c.chunk_fingerprint, c.embedding{former_words:c}
    FROM {source} t
    JOIN former s ON s.fingerprint = _qwen_embed.fingerprint({document:t})
    JOIN {former} c ON c.fingerprint = s.fingerprint AND c.version = s.version
    ON CONFLICT DO NOTHING
    RETURNING chunk
)
SELECT count(*) FILTER (WHERE chunk = 1) FROM copied;

-- name: copy_former_column
-- Copies what the former store knows of the vectors, for layout `column`, where both keys are in the source. The vectors
-- stay where they are. A row whose document has changed since is found by its fingerprint.
WITH copied AS (
    INSERT INTO {store} ({keys}, version, fingerprint, truncated{words_name})
    SELECT {source_key:t}, s.version, s.fingerprint, s.truncated{former_words:s}
    FROM {source} t JOIN {former} s ON {same_row}
    WHERE t.{source_column} IS NOT NULL AND s.fingerprint IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM copied;

-- name: restore_backfill
-- Creates the row of a generation's backfill if somebody has deleted it.
INSERT INTO _qwen_embed.backfill (generation_id, state) VALUES (%(id)s, 'pending') ON CONFLICT DO NOTHING;

-- name: begin_backfill_again
-- Lets the worker embed the rows that have no vector, unless attach --no-backfill left them out.
UPDATE _qwen_embed.backfill
SET state = CASE state WHEN 'none' THEN 'none' ELSE 'pending' END, cursor = NULL, rows_done = 0, rows_total = NULL,
    started_at = NULL, finished_at = NULL
WHERE generation_id = %(id)s;
