-- The ANN index of a generation, built while the worker writes.

-- name: prepare_index_session
-- Settings for an index build. It reads the store alone, and event triggers of the application may read views.
-- Parallel workers are planned by the size of the heap, and vectors in TOAST leave a tiny heap: so the smallest size
-- is 1 page.
SELECT set_config('maintenance_work_mem', %(memory)s, false), set_config('min_parallel_table_scan_size', '1', false),
       set_config('max_parallel_maintenance_workers', %(workers)s, false), set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '0', false),
       (SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind');

-- name: create_index_on_store
-- Builds the HNSW index on the store. CONCURRENTLY: the worker keeps writing.
-- It may not run in a transaction. It waits for every transaction that was open before it. A build that was
-- interrupted leaves an invalid index.
CREATE INDEX CONCURRENTLY {index} ON {store} USING hnsw (embedding {operator_class});

-- name: create_index_on_column
-- The same on the source, for layout `column`. CONCURRENTLY: the application keeps writing.
CREATE INDEX CONCURRENTLY {index} ON {source} USING hnsw ({column} {operator_class});

-- name: drop_index
-- Drops the index: an invalid one that an interrupted build has left, or one that gives way to a large backlog.
-- CONCURRENTLY: nobody waits for it. It waits for every transaction that uses the table.
DROP INDEX CONCURRENTLY IF EXISTS {index_in_schema};

-- name: deadlock_timeout
-- How many seconds a session waits for a lock before PostgreSQL looks for a deadlock.
SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'deadlock_timeout';

-- name: waits_for_session
-- Whether another session waits for a lock on a table that this one holds. Sessions of a worker can wait.
SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
               WHERE l.locktype = 'relation' AND NOT l.granted AND %(pid)s = ANY (pg_blocking_pids(l.pid))
                     AND a.application_name NOT LIKE 'pg_qwen_embed worker%%');

-- name: comment_index
-- Describes the index in the database.
COMMENT ON INDEX {index_in_schema} IS {comment};

-- name: analyze
-- Gathers statistics of the table with the vectors: `status` estimates from them above a million rows.
ANALYZE {table};

-- name: index_state
-- The state of the index: none, building, invalid or valid.
SELECT CASE WHEN i.indexrelid IS NULL THEN 'none'
            WHEN EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = i.indrelid) THEN 'building'
            WHEN NOT i.indisvalid THEN 'invalid' ELSE 'valid' END AS state
FROM (SELECT to_regclass(%(index)s) AS oid) n LEFT JOIN pg_index i ON i.indexrelid = n.oid;

-- name: look_at_index
-- What the worker decides by: the state of the index, whether the worker has built it, whether there are enough
-- vectors for one, about how many there are, and how many changes and rows of a backfill wait to be written.
-- Counts end at their bounds, so that this stays cheap: the vectors are estimated from the size of the table.
SELECT s.state, coalesce(obj_description(to_regclass(%(index)s), 'pg_class') = {comment}, false) AS ours,
       (SELECT count(*) FROM (SELECT FROM {store} WHERE fingerprint IS NOT NULL LIMIT %(index_from)s) n) >= %(index_from)s AS needed,
       v.vectors,
       (SELECT count(*) FROM (SELECT FROM {outbox} LIMIT %(most)s) o)
       + coalesce((SELECT greatest(0, b.rows_total - v.vectors) FROM _qwen_embed.backfill b
                   WHERE b.generation_id = {id} AND b.state IN ('pending', 'running')), 0) AS backlog
FROM ({index_state}) s
CROSS JOIN (SELECT (pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)) / %(row_size)s AS vectors
            FROM pg_class c WHERE c.oid = {literal:store}::regclass) v;
