-- The ANN index of a generation, built while the worker writes, and measured against exact search.

-- name: plan_build
-- What a build is planned by: shared_buffers and maintenance_work_mem in MiB, and how many vectors there are. It reads
-- the whole table, as the build does.
SELECT pg_size_bytes(current_setting('shared_buffers')) >> 20, pg_size_bytes(current_setting('maintenance_work_mem')) >> 20,
       (SELECT count(*) FROM {indexed} v WHERE {kept:v} IS NOT NULL);

-- name: prepare_index_session
-- Settings for an index build. It reads the store alone, and event triggers of the application may read views.
-- Parallel workers are planned by the size of the heap, and vectors in TOAST leave a tiny heap: so the smallest size
-- is 1 page.
SELECT set_config('maintenance_work_mem', %(memory)s, false), set_config('min_parallel_table_scan_size', '1', false),
       set_config('max_parallel_maintenance_workers', %(workers)s, false), set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '0', false),
       (SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind');

-- name: try_index_lock
-- Tries to become the one session that builds or drops the index of a generation. The session keeps it until it ends.
SELECT pg_try_advisory_lock(%(lock)s, {id});

-- name: index_session
-- The session that holds that lock.
SELECT a.pid, a.application_name
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid::bigint = %(lock)s AND l.objid::bigint = {id}
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
LIMIT 1;

-- name: create_index
-- Builds the index, on the store or on the source. CONCURRENTLY: the worker and the application keep writing.
-- It may not run in a transaction. It waits for every transaction that was open before it. A build that was
-- interrupted leaves an invalid index.
CREATE INDEX CONCURRENTLY {index} ON {indexed} USING {index_method} ({index_expression} {operator_class}){storage_parameters};

-- name: drop_index
-- Drops the index: an invalid one that an interrupted build has left, or one that gives way to a large backlog.
-- CONCURRENTLY: nobody waits for it. It waits for every transaction that uses the table.
DROP INDEX CONCURRENTLY IF EXISTS {index_in_schema};

-- name: rename_index
-- Gives an index another name. Nobody waits for it: the lock is one that readers and writers do not need.
ALTER INDEX IF EXISTS {index_in_schema} RENAME TO {index};

-- name: build_progress
-- How far the build of a session is. It may change its phase at any time.
SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index WHERE pid = %(pid)s;

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
-- vectors for one, about how many there are, and how many changes and rows of a backfill wait to be written; whether the
-- index is wanted, whether it was measured, for how many vectors and with how many lists it was built, and whether a
-- rebuild that ended early has left another one.
-- Counts end at their bounds, so that this stays cheap: the vectors are estimated from the size of the table.
SELECT s.state, coalesce(obj_description(to_regclass(%(index)s), 'pg_class') = {comment}, false) AS ours,
       (SELECT count(*) FROM (SELECT FROM {store} WHERE fingerprint IS NOT NULL LIMIT %(index_from)s) n) >= %(index_from)s AS needed,
       v.vectors,
       (SELECT count(*) FROM (SELECT FROM {outbox} LIMIT %(most)s) o)
       + coalesce((SELECT greatest(0, b.rows_total - v.vectors) FROM _qwen_embed.backfill b
                   WHERE b.generation_id = {id} AND b.state IN ('pending', 'running')), 0) AS backlog,
       coalesce((SELECT a.wanted FROM _qwen_embed.ann_index a WHERE a.generation_id = {id}), true) AS wanted,
       EXISTS (SELECT FROM _qwen_embed.ann_index a
               WHERE a.generation_id = {id} AND a.measured_index = to_regclass(%(index)s)::oid) AS measured,
       v.analysed,
       (SELECT o.option_value::int FROM pg_class c CROSS JOIN LATERAL pg_options_to_table(c.reloptions) o
        WHERE c.oid = to_regclass(%(index)s) AND o.option_name = 'lists') AS lists,
       to_regclass(%(next_index)s) IS NOT NULL AND s.state <> 'building'
       AND NOT EXISTS (SELECT FROM pg_locks l
                       WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid::bigint = %(lock)s AND l.objid::bigint = {id}
                         AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) AS leftover
FROM ({index_state}) s
CROSS JOIN (SELECT (pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)) / %(row_size)s AS vectors,
                   greatest(c.reltuples, 0)::bigint AS analysed
            FROM pg_class c WHERE c.oid = {literal:store}::regclass) v;

-- name: describe_index
-- The index as `index list` shows it: its state and size, about how many vectors its table has, and what was measured.
SELECT s.state, pg_relation_size(to_regclass(%(index)s)) AS size,
       (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = to_regclass(%(index)s)) AS vectors,
       coalesce(a.wanted, true) AS wanted, a.recall, qwen_embed.ef_search(%(name)s) AS ef_search, a.looked_for, a.not_found,
       a.measured_at
FROM ({index_state}) s LEFT JOIN _qwen_embed.ann_index a ON a.generation_id = {id};

-- name: want_index
-- Records whether the worker builds the index. What was measured of the one before does not hold for the next.
INSERT INTO _qwen_embed.ann_index (generation_id, wanted) VALUES ({id}, %(wanted)s)
ON CONFLICT (generation_id) DO UPDATE SET wanted = excluded.wanted, measured_index = NULL, measured_at = NULL, ef_search = NULL,
       recall = NULL, queries = NULL, looked_for = NULL, not_found = NULL;

-- name: note_index
-- Records the kind of the index of a generation. It is the one property of a spec that can change: it changes no vector.
UPDATE _qwen_embed.generation SET spec = jsonb_set(spec, ARRAY['index'], to_jsonb(%(index)s::text)) WHERE id = {id};

-- name: record_index_check
-- Records what was measured. Nothing is recorded for a generation that was dropped meanwhile.
INSERT INTO _qwen_embed.ann_index (generation_id, measured_index, measured_at, ef_search, recall, queries, looked_for, not_found)
SELECT g.id, to_regclass(%(index)s), now(), %(ef_search)s, %(recall)s, %(queries)s, %(looked_for)s, %(not_found)s
FROM _qwen_embed.generation g WHERE g.id = {id}
ON CONFLICT (generation_id) DO UPDATE SET measured_index = excluded.measured_index, measured_at = excluded.measured_at,
       ef_search = excluded.ef_search, recall = excluded.recall, queries = excluded.queries,
       looked_for = excluded.looked_for, not_found = excluded.not_found;

-- name: sample_vectors
-- Vectors from blocks of the table that are drawn at random: all of them, if the table is small.
SELECT {kept:v} FROM {indexed} v
    TABLESAMPLE SYSTEM ((SELECT least(100, 110.0 * %(most)s / greatest(1, c.reltuples)) FROM pg_class c
                         WHERE c.oid = {literal:indexed}::regclass))
WHERE {kept:v} IS NOT NULL LIMIT %(most)s;

-- name: nearest_by_index
-- The distances that a search by the index finds, nearest first, and the distance of the query's vector to itself.
-- Plans that scan the table are off in this session.
SELECT c.distance, %(query)s::{halfvec} {distance} %(query)s::{halfvec}
FROM (SELECT {kept:v} {distance} %(query)s::{halfvec} AS distance FROM {indexed} v WHERE {kept:v} IS NOT NULL
      ORDER BY {near:v} LIMIT {candidates}) c
ORDER BY 1 LIMIT %(limit)s;

-- name: nearest_exactly
-- The distances that an exact search finds, nearest first. Adding 0 keeps PostgreSQL from an index.
-- It reads every vector.
SELECT {kept:v} {distance} %(query)s::{halfvec} FROM {indexed} v WHERE {kept:v} IS NOT NULL
ORDER BY ({kept:v} {distance} %(query)s::{halfvec}) + 0 LIMIT %(limit)s;

-- name: set_search_width
-- Sets for this session how widely a search looks in the index, and that it goes on until it has found LIMIT rows.
SELECT set_config({width_setting}, %(width)s, false), set_config({iterative_setting}, {iterative_scan}, false);

-- name: limit_statement
-- Bounds how long a statement of this session may take, in milliseconds; 0: as long as it wants.
SELECT set_config('statement_timeout', %(timeout)s, false);
