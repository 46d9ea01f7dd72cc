-- name: prepare_index_session
-- Parallel workers are planned by the size of the heap, and TOASTed vectors leave a tiny one.
SELECT set_config('maintenance_work_mem', %(memory)s, false), set_config('min_parallel_table_scan_size', '1', false),
       set_config('max_parallel_maintenance_workers', %(workers)s, false), set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '0', false);

-- name: create_index_on_store
-- CONCURRENTLY: the worker goes on writing. No transaction may be open around it.
CREATE INDEX CONCURRENTLY {index} ON {store} USING hnsw (embedding {operator_class});

-- name: create_index_on_column
CREATE INDEX CONCURRENTLY {index} ON {source} USING hnsw ({column} {operator_class});

-- name: drop_index
-- What a build that was cut short has left.
DROP INDEX CONCURRENTLY IF EXISTS {index_in_schema};

-- name: comment_index
COMMENT ON INDEX {index_in_schema} IS {comment};

-- name: analyze
ANALYZE {table};

-- name: index_state
-- none | building | invalid | valid
SELECT CASE WHEN i.indexrelid IS NULL THEN 'none'
            WHEN EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = i.indrelid) THEN 'building'
            WHEN NOT i.indisvalid THEN 'invalid' ELSE 'valid' END AS state
FROM (SELECT to_regclass(%(index)s) AS oid) n LEFT JOIN pg_index i ON i.indexrelid = n.oid;
