-- What the worker writes. Each write acknowledges its outbox entries in the same statement. In all of them `a` is
-- the batch as it is bound, `v` or `c` each key once with its newest version, `n` the rows that are written, `s` the
-- store, `f` the failures, `entry` the outbox entries.

-- name: settled
-- The outbox entries of the batch, by number and row id. Part of the statements that acknowledge.
-- A sequence that was set back gives a number twice, an outbox that was emptied gives a number and a ctid twice, and
-- VACUUM FULL moves entries: what does not match stays, and is read again. IS TRUE keeps the row ids in a hash table:
-- as a join they would be looked up one by one.
seq = ANY (%(seqs)s::bigint[])
    AND (tidsend(ctid) || xidsend(xmin) IN (SELECT unnest(%(row_ids)s::bytea[]))) IS TRUE

-- name: lock_store_shared
-- The lock of a write that only adds or replaces vectors. Such writes run side by side, because the version guard
-- orders them.
SELECT pg_advisory_xact_lock_shared(%(lock)s, %(id)s);

-- name: lock_store_exclusive
-- The lock of a write that removes vectors, writes chunks or records failures. It must see what the writes before it
-- wrote, and be seen by those after it.
-- If its snapshot and theirs overlapped, a vector could appear for a row that has gone. It waits up to 50 s, because
-- a write of many vectors may last.
SELECT set_config('lock_timeout', '50s', true), pg_advisory_xact_lock(%(lock)s, %(id)s);

-- name: write_table
-- Writes vectors and acknowledges their entries in one statement, for layout `table`. It joins the source, so a row
-- that was deleted meanwhile gets no vector. It compares versions, so a slow worker cannot overwrite a newer vector.
-- A key may come twice: the newest counts.
-- `v` is used once: what is used twice is materialized, vectors included. With `--words` the words of the same document
-- are written next to the vector.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(fingerprints)s::bytea[],
                         %(truncated)s::boolean[], %(embeddings)s::{halfvec}[]{documents_bound})
             AS a({keys}, version, fingerprint, truncated, embedding{document_name})
), v AS (
    SELECT DISTINCT ON ({key_casts}) {key_values}, a.version, a.fingerprint, a.truncated, a.embedding{document_of:a}
    FROM a ORDER BY {key_casts}, a.version DESC
), written AS (
    INSERT INTO {store} AS s ({keys}, version, fingerprint, truncated, embedding{words_name})
    SELECT {key:v}, v.version, v.fingerprint, v.truncated, v.embedding{words_of:v}
    FROM v JOIN {source} t ON {same_key:source_key:t=key:v}
    ORDER BY {key:v}
    ON CONFLICT ({keys}) DO UPDATE
    SET version = excluded.version, fingerprint = excluded.fingerprint, truncated = excluded.truncated,
        embedding = excluded.embedding{words_excluded}
    WHERE s.version < excluded.version
    RETURNING 1
), cleared_failures AS (
    DELETE FROM {failure} f USING unnest({key_arrays}, %(versions)s::bigint[]) AS a({keys}, version)
    WHERE EXISTS (SELECT FROM {failure}) AND {same_key:key:f=key_casts} AND f.version <= a.version
), acknowledged AS (
    DELETE FROM {outbox} WHERE {settled}
)
SELECT count(*) FROM written;

-- name: write_chunked
-- The same for layout `chunked`: all chunks of a row, or none.
-- It runs under lock_store_exclusive, so the version that it compares with is the last one written: an older
-- document with more chunks leaves no surplus chunk. With `--words` the first chunk has the words of the whole document.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(fingerprints)s::bytea[], %(counts)s::bigint[]{documents_bound})
         WITH ORDINALITY AS a({keys}, version, fingerprint, chunks{document_name}, position)
), v AS (
    SELECT DISTINCT ON ({key_casts}) {key_values}, a.version, a.fingerprint, a.chunks, a.position{document_of:a}
    FROM a ORDER BY {key_casts}, a.version DESC
), n AS (
    SELECT {key:v}, v.version, v.fingerprint, v.chunks, v.position{document_of:v} FROM v JOIN {source} t ON {same_key:source_key:t=key:v}
    WHERE NOT EXISTS (SELECT FROM {store} s WHERE {same_key:key:s=key:v} AND s.version >= v.version)
), surplus_chunks AS (
    DELETE FROM {store} s USING n WHERE {same_key:key:s=key:n} AND s.chunk > n.chunks
), written AS (
    INSERT INTO {store} AS s ({keys}, chunk, chunks, span, version, fingerprint, chunk_fingerprint, embedding{words_name})
    SELECT {key:n}, p.chunk, n.chunks, int4range(p.begins::int, p.ends::int), n.version, n.fingerprint, p.fingerprint,
           p.embedding{words_of_first_chunk}
    FROM n JOIN unnest(%(positions)s::bigint[], %(chunks)s::bigint[], %(begins)s::bigint[], %(ends)s::bigint[],
                       %(chunk_fingerprints)s::bytea[], %(embeddings)s::{halfvec}[])
                AS p(position, chunk, begins, ends, fingerprint, embedding) USING (position)
    ON CONFLICT ({keys}, chunk) DO UPDATE
    SET chunks = excluded.chunks, span = excluded.span, version = excluded.version, fingerprint = excluded.fingerprint,
        chunk_fingerprint = excluded.chunk_fingerprint, embedding = excluded.embedding{words_excluded}
    RETURNING 1
), cleared_failures AS (
    DELETE FROM {failure} f USING v WHERE {same_key:key:f=key:v} AND f.version <= v.version
), acknowledged AS (
    DELETE FROM {outbox} WHERE {settled}
)
SELECT count(*) FROM written;

-- name: read_chunks
-- The chunks of rows that have changed, each with the fingerprint of its own text: one that is found again in the new
-- document is not embedded again.
-- A vector depends on nothing but the text and the model, so it stays right however old the snapshot is. The write
-- of the new document has its version guard as always.
SELECT s.chunk_fingerprint, s.embedding
FROM (SELECT DISTINCT {key_values} FROM unnest({key_arrays}) AS a({keys})) k
JOIN {store} s ON {same_key:key:s=key:k}
WHERE s.chunk_fingerprint IS NOT NULL AND s.embedding IS NOT NULL;

-- name: write_column
-- The same into a column of the source, for layout `column`. `entry` says which outbox entries belong to which
-- position.
-- Rows are locked in key order. A row that the application has locked is left for later, and its position is
-- returned. The worker never waits for the application, so it cannot deadlock with it.
-- `own_path`: the row triggers of the source look names up as the role would. This statement has been parsed before.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(fingerprints)s::bytea[],
                         %(truncated)s::boolean[], %(embeddings)s::{halfvec}[]{documents_bound})
         WITH ORDINALITY AS a({keys}, version, fingerprint, truncated, embedding{document_name}, position)
), v AS (
    SELECT DISTINCT ON ({key_casts}) {key_values}, a.version, a.fingerprint, a.truncated, a.embedding{document_of:a}
    FROM a ORDER BY {key_casts}, a.version DESC
), n AS (
    SELECT {source_key_as:t} FROM {source} t JOIN v ON {same_key:source_key:t=key:v}
    ORDER BY {source_key:t} FOR NO KEY UPDATE OF t SKIP LOCKED
), noted AS (
    INSERT INTO {store} AS s ({keys}, version, fingerprint, truncated{words_name})
    SELECT {key:v}, v.version, v.fingerprint, v.truncated{words_of:v} FROM v JOIN n ON {same_key:key:n=key:v}
    ON CONFLICT ({keys}) DO UPDATE
    SET version = excluded.version, fingerprint = excluded.fingerprint, truncated = excluded.truncated{words_excluded}
    WHERE s.version < excluded.version
    RETURNING {key:s}
), own_path AS MATERIALIZED (
    SELECT set_config('search_path', coalesce(current_setting('pg_qwen_embed.search_path', true),
                                              current_setting('search_path')), true)
), written AS (
    UPDATE {source} t SET {source_column} = v.embedding
    FROM v JOIN noted s ON {same_key:key:s=key:v} CROSS JOIN own_path
    WHERE {same_key:source_key:t=key:v}
), cleared_failures AS (
    DELETE FROM {failure} f USING v JOIN n ON {same_key:key:n=key:v}
    WHERE {same_key:key:f=key:v} AND f.version <= v.version
), locked AS (
    SELECT p.position
    FROM (SELECT {key_values}, a.position FROM a) p
    JOIN {source} t ON {same_key:source_key:t=key:p}
    LEFT JOIN n ON {same_key:key:n=key:p}
    WHERE n.k1 IS NOT DISTINCT FROM NULL
), acknowledged AS (
    DELETE FROM {outbox} o
    USING unnest(%(seqs)s::bigint[], %(row_ids)s::bytea[], %(positions)s::bigint[]) AS entry(seq, row_id, position)
    WHERE o.seq = entry.seq AND tidsend(o.ctid) || xidsend(o.xmin) = entry.row_id
      AND entry.position NOT IN (SELECT position FROM locked)
)
SELECT position FROM locked;

-- name: clear_table
-- Settles keys that need no vector, for layout `table`: the row has gone, or its document is blank. A row that had
-- gone and is there again is left alone, because it has an entry of its own.
-- A blank row keeps its version. Otherwise an older vector that is still on its way would be written.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(here)s::boolean[]) AS a({keys}, version, here)
), c AS (
    SELECT DISTINCT ON ({key_casts}) {key_values}, a.version, a.here FROM a ORDER BY {key_casts}, a.version DESC
), blank AS (
    INSERT INTO {store} AS s ({keys}, version)
    SELECT {key:c}, c.version FROM c JOIN {source} t ON {same_key:source_key:t=key:c} WHERE c.here ORDER BY {key:c}
    ON CONFLICT ({keys}) DO UPDATE SET version = excluded.version, truncated = false, fingerprint = NULL, embedding = NULL{words_removed}
    WHERE s.version < excluded.version
), removed AS (
    DELETE FROM {store} s USING c
    WHERE {same_key:key:s=key:c} AND s.version < c.version
      AND NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:c})
), cleared_failures AS (
    DELETE FROM {failure} f USING c WHERE {same_key:key:f=key:c} AND f.version <= c.version
)
DELETE FROM {outbox} WHERE {settled};

-- name: clear_chunked
-- The same for layout `chunked`. A blank row keeps its first chunk, for its version.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(here)s::boolean[]) AS a({keys}, version, here)
), c AS (
    SELECT DISTINCT ON ({key_casts}) {key_values}, a.version, a.here FROM a ORDER BY {key_casts}, a.version DESC
), n AS (
    SELECT {key:c}, c.version FROM c JOIN {source} t ON {same_key:source_key:t=key:c}
    WHERE c.here AND NOT EXISTS (SELECT FROM {store} s WHERE {same_key:key:s=key:c} AND s.version >= c.version)
), surplus_chunks AS (
    DELETE FROM {store} s USING n WHERE {same_key:key:s=key:n} AND s.chunk > 1
), blank AS (
    INSERT INTO {store} AS s ({keys}, chunk, version)
    SELECT {key:n}, 1, n.version FROM n
    ON CONFLICT ({keys}, chunk) DO UPDATE
    SET chunks = 1, span = NULL, version = excluded.version, fingerprint = NULL, chunk_fingerprint = NULL, embedding = NULL{words_removed}
), removed AS (
    DELETE FROM {store} s USING c
    WHERE {same_key:key:s=key:c} AND s.version < c.version
      AND NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:c})
), cleared_failures AS (
    DELETE FROM {failure} f USING c WHERE {same_key:key:f=key:c} AND f.version <= c.version
)
DELETE FROM {outbox} WHERE {settled};

-- name: clear_column
-- The same for layout `column`.
-- A row that the application has locked is left for later, as in write_column.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(here)s::boolean[])
         WITH ORDINALITY AS a({keys}, version, here, position)
), p AS (
    SELECT {key_values}, a.version, a.here, a.position FROM a
), c AS (
    SELECT DISTINCT ON ({key:p}) {key:p}, p.version, p.here FROM p ORDER BY {key:p}, p.version DESC
), n AS (
    SELECT {source_key_as:t} FROM {source} t JOIN c ON {same_key:source_key:t=key:c} WHERE c.here
    ORDER BY {source_key:t} FOR NO KEY UPDATE OF t SKIP LOCKED
), blank AS (
    INSERT INTO {store} AS s ({keys}, version)
    SELECT {key:c}, c.version FROM c JOIN n ON {same_key:key:n=key:c}
    ON CONFLICT ({keys}) DO UPDATE SET version = excluded.version, truncated = false, fingerprint = NULL{words_removed}
    WHERE s.version < excluded.version
    RETURNING {key:s}
), own_path AS MATERIALIZED (
    SELECT set_config('search_path', coalesce(current_setting('pg_qwen_embed.search_path', true),
                                              current_setting('search_path')), true)
), erased AS (
    UPDATE {source} t SET {source_column} = NULL FROM blank s CROSS JOIN own_path WHERE {same_key:source_key:t=key:s}
), removed AS (
    DELETE FROM {store} s USING c
    WHERE {same_key:key:s=key:c} AND s.version < c.version
      AND NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:c})
), cleared_failures AS (
    DELETE FROM {failure} f USING c WHERE {same_key:key:f=key:c} AND f.version <= c.version
), locked AS (
    SELECT p.position FROM p JOIN {source} t ON {same_key:source_key:t=key:p} LEFT JOIN n ON {same_key:key:n=key:p}
    WHERE p.here AND n.k1 IS NOT DISTINCT FROM NULL
), acknowledged AS (
    DELETE FROM {outbox} o
    USING unnest(%(seqs)s::bigint[], %(row_ids)s::bytea[], %(positions)s::bigint[]) AS entry(seq, row_id, position)
    WHERE o.seq = entry.seq AND tidsend(o.ctid) || xidsend(o.xmin) = entry.row_id
      AND entry.position NOT IN (SELECT position FROM locked)
)
SELECT position FROM locked;

-- name: clear_source_truncated
-- Settles a TRUNCATE. Vectors and failures that are older than the TRUNCATE and have no row are removed.
WITH removed AS (
    DELETE FROM {store} s
    WHERE s.version < %(version)s AND NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:s})
), cleared_failures AS (
    DELETE FROM {failure} f
    WHERE f.version < %(version)s AND NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:f})
)
DELETE FROM {outbox} WHERE {settled};

-- name: record_failures
-- Records the documents that the server rejects, with its sentences, and acknowledges their entries, so that nothing
-- waits behind them. A failure is not recorded when a newer version has been written meanwhile.
-- It runs under lock_store_exclusive: a newer document written at the same time would not see this failure, and
-- would not be seen by it.
WITH a AS (
    SELECT * FROM unnest({key_arrays}, %(versions)s::bigint[], %(attempts)s::int[], %(errors)s::text[],
                         %(retry_afters)s::float8[]) AS a({keys}, version, attempts, error, retry_after)
), c AS (
    SELECT DISTINCT ON ({key_casts}) {key_values}, a.version, a.attempts, a.error, a.retry_after
    FROM a ORDER BY {key_casts}, a.version DESC
), failed AS (
    INSERT INTO {failure} AS f ({keys}, version, attempts, error, next_attempt_at)
    SELECT {key:c}, c.version, c.attempts, c.error, now() + make_interval(secs => c.retry_after)
    FROM c JOIN {source} t ON {same_key:source_key:t=key:c}
    WHERE NOT EXISTS (SELECT FROM {store} s WHERE {same_key:key:s=key:c} AND s.version > c.version)
    ON CONFLICT ({keys}) DO UPDATE
    SET version = excluded.version, attempts = excluded.attempts, error = excluded.error, last_at = now(),
        first_at = CASE WHEN f.version = excluded.version THEN f.first_at ELSE now() END,
        next_attempt_at = excluded.next_attempt_at
    WHERE f.version <= excluded.version
)
DELETE FROM {outbox} WHERE {settled};

-- name: read_failures
-- Failures whose time has come, with the current document. A newer change of the row is in the outbox as well, and
-- wins by its version. `size` and `documents` are those of read_outbox.
SELECT d.version, d.attempts, {fits:d}, CASE WHEN {fits:d} THEN {known_fingerprint:d} END,
       CASE WHEN {fits:d} THEN {document_text:d} END, d.here, {key_out:d}
FROM (SELECT f.version, f.attempts, f.next_attempt_at, d.document, {row_exists:t} AS here, {key:f},
             sum({sent_size:d}) OVER (ORDER BY f.next_attempt_at, {key:f}
                                      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
      FROM (SELECT * FROM {failure} f WHERE next_attempt_at <= now() ORDER BY next_attempt_at, {key:f} LIMIT %(rows)s) f
      LEFT JOIN {source} t ON {same_key:source_key:t=key:f}
      CROSS JOIN LATERAL (SELECT CASE WHEN %(documents)s THEN {document:t} END AS document OFFSET 0) d) d
ORDER BY d.next_attempt_at, {key:d};

-- name: list_failures
-- The failures of a generation, all or that of one key, the latest first.
SELECT f.attempts, f.error, f.first_at, f.last_at, f.next_attempt_at, {key:f}
FROM {failure} f WHERE {chosen} ORDER BY f.last_at DESC, {key:f};

-- name: retry_failures
-- Makes failures due at once, parked ones too, and wakes the worker unless the queue of notifications is nearly full.
WITH due AS (
    UPDATE {failure} f SET next_attempt_at = now(), attempts = 0 WHERE {chosen} RETURNING 1
)
SELECT count(*), CASE WHEN pg_notification_queue_usage() < 0.9 THEN pg_notify('qwen_embed', %(id)s::text) END FROM due;

-- name: discard_failures
-- Deletes failures. A row keeps the vector that it had, if any, until it changes.
WITH gone AS (DELETE FROM {failure} f WHERE {chosen} RETURNING 1) SELECT count(*) FROM gone;
