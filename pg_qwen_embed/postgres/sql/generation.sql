-- Another generation of an embedding: registered, derived from the live one, made live, and dropped.

-- name: register_next_generation
-- Adds another generation to the embedding of one, and returns its id.
INSERT INTO _qwen_embed.generation (embedding_id, state, spec)
SELECT g.embedding_id, %(state)s, %(spec)s FROM _qwen_embed.generation g WHERE g.id = %(of)s
RETURNING id;

-- name: set_generation_state
-- Makes a generation live, or retires it. One at most is live: the live one is retired first.
UPDATE _qwen_embed.generation SET state = %(state)s WHERE id = %(id)s;

-- name: inherit_grants
-- Gives a generation the recorded rights of another: those to view and functions stay as they are when it becomes live.
UPDATE _qwen_embed.generation g SET grants = o.grants
FROM _qwen_embed.generation o WHERE g.id = %(id)s AND o.id = %(of)s;

-- name: unregister_generation
-- Removes a generation from the registry, with its backfill and what was measured of its index (ON DELETE CASCADE).
DELETE FROM _qwen_embed.generation WHERE id = %(id)s;

-- name: generation_is_there
-- Whether a generation is registered.
SELECT EXISTS (SELECT FROM _qwen_embed.generation WHERE id = %(id)s);

-- name: generation_size
-- How many bytes the tables of a generation and its index have, and what time it is. The vectors of layout `column` are part of the source: only
-- their index counts.
SELECT (SELECT sum(pg_total_relation_size(to_regclass(n.name)))
        FROM (VALUES ({literal:store}), ({literal:outbox}), ({literal:failure})) AS n(name))
       + CASE WHEN {literal:indexed} <> {literal:store} THEN coalesce(pg_relation_size(to_regclass({index_text})), 0) ELSE 0 END,
       clock_timestamp();

-- name: derive_table
-- Makes the vectors of one page from the longer ones of the live generation, for layout `table`. The page comes in key order.
-- A row whose document has changed since is left to the backfill. It runs under lock_store_shared, taken before: a write that
-- removes waits for it, or was seen by it. Version 0 loses to every change that follows.
WITH page AS MATERIALIZED (
    SELECT {key:s} FROM {longer} s WHERE {beyond} ORDER BY {key:s} LIMIT %(rows)s
), derived AS (
    INSERT INTO {store} ({keys}, version, fingerprint, truncated, embedding{words_name})
    SELECT {key:s}, 0, s.fingerprint, s.truncated, {shortened}{former_words:s}
    FROM page p JOIN {longer} s ON {same_key:key:s=key:p} JOIN {source} t ON {same_key:source_key:t=key:p}
    WHERE s.embedding IS NOT NULL AND s.fingerprint = _qwen_embed.fingerprint({document:t})
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM derived), (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1);

-- name: derive_chunked
-- The same for layout `chunked`: all chunks of a row, unless it has some already. It runs under lock_store_exclusive.
WITH page AS MATERIALIZED (
    SELECT DISTINCT {key:s} FROM {longer} s WHERE {beyond} ORDER BY {key:s} LIMIT %(rows)s
), derived AS (
    INSERT INTO {store} ({keys}, chunk, chunks, span, version, fingerprint, chunk_fingerprint, embedding{words_name})
    SELECT {key:s}, s.chunk, s.chunks, s.span, 0, s.fingerprint, s.chunk_fingerprint, {shortened}{former_words:s}
    FROM page p JOIN {longer} s ON {same_key:key:s=key:p} JOIN {source} t ON {same_key:source_key:t=key:p}
    WHERE s.embedding IS NOT NULL AND s.fingerprint = _qwen_embed.fingerprint({document:t})
          AND NOT EXISTS (SELECT FROM {store} o WHERE {same_key:key:o=key:p})
    ON CONFLICT DO NOTHING
    RETURNING chunk
)
SELECT (SELECT count(*) FROM derived WHERE chunk = 1),
       (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1);
