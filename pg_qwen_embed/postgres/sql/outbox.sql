-- What the worker reads: changed keys from the outbox, and pages of the source for a backfill.

-- name: read_outbox
-- Changed keys after the read position, with the document of the same snapshot. Its number and its row id (ctid and
-- xmin, in binary) identify an entry.
-- A full page has keys beyond it: the read position moves to the `first` of its last row only. Sequence numbers
-- become visible out of order: see "The low watermark" in docs/architecture.md. NOT IN is hashed. It also hides an
-- entry whose number is in flight for another one; a later read finds that.
-- A page ends before the documents exceed `size` bytes: the keys that do not fit come without theirs. With `documents`
-- false no document is read: one of them cannot be.
WITH entry AS (
    SELECT o.seq, tidsend(o.ctid) || xidsend(o.xmin) AS row_id, {key:o}
    FROM {outbox} o
    WHERE o.seq > %(after)s AND o.seq NOT IN (SELECT unnest(%(in_flight)s::bigint[]))
    ORDER BY o.seq
    LIMIT %(entries)s
), changed AS (
    SELECT {keys}, max(seq) AS last, min(seq) AS first, array_agg(seq) AS seqs, array_agg(row_id) AS row_ids
    FROM entry
    GROUP BY {keys}
    ORDER BY first
    LIMIT %(keys)s
)
SELECT d.last, d.first, d.seqs, d.row_ids, {fits:d}, CASE WHEN {fits:d} THEN {known_fingerprint:d} END,
       CASE WHEN {fits:d} THEN {document_text:d} END, d.here, {key_out:d}
FROM (SELECT c.last, c.first, c.seqs, c.row_ids, d.document, {row_exists:t} AS here, {key:c},
             sum({sent_size:d}) OVER (ORDER BY c.first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
      FROM changed c
      LEFT JOIN {source} t ON {same_key:source_key:t=key:c}
      CROSS JOIN LATERAL (SELECT CASE WHEN %(documents)s THEN {document:t} END AS document OFFSET 0) d) d
ORDER BY d.first;

-- name: outbox_ends
-- The first entry after the read position and the newest entry; both 0 if there is none.
SELECT coalesce((SELECT o.seq FROM {outbox} o WHERE o.seq > %(after)s ORDER BY o.seq LIMIT 1), 0),
       coalesce((SELECT max(o.seq) FROM {outbox} o), 0);

-- name: prepare_compaction
-- Settings of the transaction that compacts an outbox: it reads all of it, so it may scan and hash. It has its id
-- before it appends: the low watermark rests on that order.
SELECT set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true),
       set_config('work_mem', '64MB', true), pg_current_xact_id();

-- name: compact_outbox
-- Puts one new entry in place of all entries of a key, where there are several: what is left costs one embedding a
-- key. It compacts one part of the keys, so that no transaction is long.
-- Nothing is lost, whatever order the numbers have. Nobody has read the new entry yet, and whoever reads it sees what
-- the deleted ones announced: they were committed before this snapshot. What is in flight stays: a write that
-- acknowledges the same entries could deadlock. A TRUNCATE has no key, and stays.
WITH repeated AS (
    SELECT {key:e}, min(e.changed_at) AS changed_at, min(e.seq) AS first
    FROM {outbox} e
    WHERE e.seq NOT IN (SELECT unnest(%(in_flight)s::bigint[])) AND e.k1 IS DISTINCT FROM NULL
      AND (%(parts)s = 1 OR (hashtext(ROW({key:e})::text)::bigint + 2147483648) %% %(parts)s = %(part)s)
    GROUP BY {key:e}
    HAVING count(*) > 1
), deleted AS (
    DELETE FROM {outbox} o USING repeated r
    WHERE {same_key:key:o=key:r} AND o.seq NOT IN (SELECT unnest(%(in_flight)s::bigint[]))
    RETURNING 1
), appended AS (
    INSERT INTO {outbox} (changed_at, {keys}) SELECT r.changed_at, {key:r} FROM repeated r ORDER BY r.first
    RETURNING seq
)
SELECT (SELECT count(*) FROM deleted), count(*), coalesce(max(seq), 0) FROM appended;

-- name: has_work
-- Part of a UNION over many generations: those whose outbox has an entry, being embedded or not, or that have a
-- failure whose time has come.
-- Entries that an old snapshot still sees must be passed over: some 70 ms for a million.
SELECT {id} WHERE EXISTS (SELECT FROM {outbox}) OR EXISTS (SELECT FROM {failure} WHERE next_attempt_at <= now())

-- name: read_snapshot
-- Two marks for the low watermark. The xmin of the snapshot counts for what is read after it in the same
-- transaction. The new transaction id counts for what was read before.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
       pg_current_xact_id()::text::bigint AS transaction_id;

-- name: read_last_seq
-- The last number of the outbox's sequence, 0 before the first. NULL: this role may not read it.
SELECT CASE WHEN has_sequence_privilege(s.oid, 'SELECT, USAGE')
            THEN coalesce(pg_sequence_last_value(s.oid::regclass), 0) END
FROM (SELECT pg_get_serial_sequence({literal:outbox}, 'seq')::regclass::oid AS oid) s;

-- name: begin_term
-- Gives a leader its term, from which the versions of its reads are made (domain/version.py). It is above every term
-- before: by the registry if the clock was set back, by the clock if an older registry was restored.
-- It runs after the leader lock was taken and before the first read: a vector that the leader before read cannot win
-- against one of this leader.
UPDATE _qwen_embed.generation
SET term = greatest(term + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
WHERE id = %(id)s
RETURNING term;

-- name: read_backfill_state
-- The state of a backfill, and the key up to which every vector is written.
SELECT state, cursor FROM _qwen_embed.backfill WHERE generation_id = %(id)s;

-- name: pending_backfills
-- Which of these generations wait for a backfill to start.
SELECT generation_id FROM _qwen_embed.backfill WHERE state = 'pending' AND generation_id = ANY (%(ids)s::int[]);

-- name: read_backfill
-- The next page of the source in key order: a keyset scan. A row that has a version is not embedded again, because
-- the outbox follows it. `size` and `documents` are those of read_outbox.
SELECT d.present, {fits:d}, CASE WHEN {fits:d} THEN {known_fingerprint:d} END,
       CASE WHEN {fits:d} THEN {document_text:d} END, {key_out:d}
FROM (SELECT s.version IS NOT NULL AS present, d.document, {source_key_as:t},
             sum({sent_size:d}) OVER (ORDER BY {source_key:t} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
      FROM (SELECT t.* FROM {source} t WHERE {beyond} ORDER BY {source_key:t} LIMIT %(rows)s) t
      LEFT JOIN {store} s ON {same_key:key:s=source_key:t} AND {first_chunk}
      CROSS JOIN LATERAL (SELECT CASE WHEN s.version IS NULL AND %(documents)s THEN {document:t} END AS document OFFSET 0) d) d
ORDER BY {key:d};

-- name: beyond
-- Rows after the last key of the page before. Part of read_backfill and repair_page.
{later_key:source_key:t>after}

-- name: start_backfill
-- Marks a backfill as running, and records how many rows it has: exact for a small source, the planner's estimate
-- for a large one, or a guess from its size.
UPDATE _qwen_embed.backfill
SET state = 'running', started_at = coalesce(started_at, now()),
    rows_total = (SELECT CASE WHEN sum(pg_table_size(c.oid)) < 1e8 THEN (SELECT count(*) FROM {source})
                              WHEN sum(c.reltuples) > 0 THEN sum(c.reltuples)::bigint
                              ELSE (sum(pg_table_size(c.oid)) / 500)::bigint END
                  FROM pg_class c
                  WHERE c.oid = {literal:source}::regclass
                     OR c.oid IN (SELECT p.relid FROM pg_partition_tree({literal:source}::regclass) p))
WHERE generation_id = %(id)s;

-- name: advance_backfill
-- Records the key up to which the backfill is written, and how many rows more.
-- It runs only after the vectors of every row up to that key are written: after a crash the scan continues there.
UPDATE _qwen_embed.backfill SET cursor = %(cursor)s, rows_done = rows_done + %(rows)s WHERE generation_id = %(id)s;

-- name: finish_backfill
-- Moves a backfill from one state to the next. It changes nothing if the backfill was started again meanwhile.
UPDATE _qwen_embed.backfill
SET state = %(state)s, finished_at = CASE WHEN %(state)s = 'done' THEN now() END
WHERE generation_id = %(id)s AND state = %(from)s;

-- name: restart_backfill
-- Asks for another backfill. It changes nothing while one is pending, running or indexing.
UPDATE _qwen_embed.backfill
SET state = 'pending', cursor = NULL, rows_done = 0, rows_total = NULL, started_at = NULL, finished_at = NULL
WHERE generation_id = %(id)s AND state IN ('none', 'done');

-- name: read_lag
-- How many entries wait, and the age of the oldest in seconds: once a minute while no server answers.
-- It reads the whole outbox.
SELECT count(*), coalesce(greatest(0, extract(epoch FROM clock_timestamp() - min(o.changed_at))), 0)::float8
FROM {outbox} o;
