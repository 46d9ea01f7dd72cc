-- What `status` and `verify` count, and how `search` queries.

-- name: read_status
-- The status of one generation: counts, lag, backfill, leader, model mismatch, and what blocks vacuum.
-- Counts are exact below a million rows and the planner's estimate above. A lock that a role holds which may not write the
-- registry is no worker's: strangers_with_locks has those.
SELECT r.rows, v.vectors, v.truncated, v.chunks,
       (SELECT count(*) FROM {outbox}) AS pending,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - (SELECT min(o.changed_at) FROM {outbox} o))), 0)::float8
           AS lag_seconds,
       (SELECT count(*) FROM {failure}) AS failures,
       b.state, b.rows_done, b.rows_total, b.started_at, b.finished_at,
       (SELECT format('%%s (pid %%s%%s)', a.application_name, a.pid, ', ' || host(a.client_addr))
        FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid = %(leader_lock)s::bigint::oid AND l.objid = %(id)s::oid AND l.objsubid = 2 AND l.granted
          AND has_table_privilege(a.usesysid, '_qwen_embed.generation'::regclass, 'UPDATE')
        LIMIT 1) AS leader,
       EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
               WHERE l.locktype = 'advisory'
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND l.classid = %(mismatch_lock)s::bigint::oid AND l.objid = %(id)s::oid AND l.objsubid = 2
                 AND l.granted AND has_table_privilege(a.usesysid, '_qwen_embed.generation'::regclass, 'UPDATE'))
           AS model_mismatch,
       (SELECT format('pid %%s (%%s), in a transaction for %%s s', a.pid, a.application_name,
                      round(extract(epoch FROM clock_timestamp() - a.xact_start)))
        FROM pg_stat_activity a
        WHERE a.backend_xmin IS NOT NULL AND a.xact_start < clock_timestamp() - make_interval(secs => %(old)s)
          AND a.datname = current_database() AND a.pid <> pg_backend_pid()
        ORDER BY age(a.backend_xmin) DESC LIMIT 1) AS vacuum_blocked_by
FROM _qwen_embed.backfill b
CROSS JOIN LATERAL (SELECT CASE WHEN c.reltuples < 1e6 THEN (SELECT count(*) FROM {source})
                                ELSE c.reltuples::bigint END AS rows
                    FROM pg_class c WHERE c.oid = {literal:source}::regclass) r
CROSS JOIN LATERAL ({stored}) v
WHERE b.generation_id = %(id)s;

-- name: count_triggers
-- How many of a generation's triggers are there as `attach` creates them: enabled always, by row or by statement, with this
-- body, with a column list only where no BEFORE trigger may change another column, and with a condition that compares
-- as many columns and rows. PostgreSQL keeps the condition as a tree, in which 'DISTINCTEXPR' is IS DISTINCT FROM.
SELECT count(*)
FROM (SELECT format(':funcid %%s ', 'pg_catalog.record_image_ne'::regproc::oid) AS call) r
CROSS JOIN unnest(%(triggers)s::text[], %(bodies)s::text[], %(whatever_columns)s::boolean[], %(by_row)s::boolean[],
            %(columns_compared)s::int[], %(rows_compared)s::int[])
     AS e(name, body, whatever_columns, by_row, columns_compared, rows_compared)
JOIN pg_trigger g ON g.tgrelid = {literal:source}::regclass AND g.tgname = e.name AND g.tgenabled = 'A'
                 AND (g.tgattr = '' OR NOT e.whatever_columns) AND (g.tgtype & 1 = 1) = e.by_row
                 AND (g.tgqual IS NULL) = (e.columns_compared + e.rows_compared = 0)
                 AND (g.tgqual IS NULL
                      OR (regexp_count(g.tgqual::text, 'DISTINCTEXPR '), regexp_count(g.tgqual::text, r.call))
                         = (e.columns_compared, e.rows_compared))
                 AND NOT EXISTS (SELECT FROM pg_depend d
                                 WHERE d.classid = 'pg_trigger'::regclass AND d.objid = g.oid AND {foreign_object})
JOIN pg_proc p ON p.oid = g.tgfoid AND p.prosrc = e.body;

-- name: foreign_object
-- Whether what `d` depends on is a function or an operator of somebody's in place of PostgreSQL's: a release that did not
-- pin its search_path may have found it. Functions of casts and operators of indexes belong to types. Part of
-- count_triggers and look_at_interface.
(d.refclassid = 'pg_proc'::regclass
     AND EXISTS (SELECT FROM pg_proc o WHERE o.oid = d.refobjid
                 AND o.proname IN ('concat', 'concat_ws', 'num_nonnulls', 'substr', 'lower', 'upper'))
 OR d.refclassid = 'pg_operator'::regclass AND NOT EXISTS (SELECT FROM pg_amop o WHERE o.amopopr = d.refobjid))
AND NOT EXISTS (SELECT FROM pg_depend x
                WHERE x.classid = d.refclassid AND x.objid = d.refobjid AND x.deptype = 'e')

-- name: look_at_interface
-- The public interface as it is: the view's columns, whether it has the reader's rights, whether it still calls a
-- function that takes a whole row, whether the document function calls text_of(), which functions are not as created,
-- whether there are others of the embedding, and whether the view or the document function calls what is somebody else's.
SELECT (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = v.view AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       coalesce((SELECT c.reloptions @> ARRAY['security_invoker=true'] FROM pg_class c WHERE c.oid = v.view), false)
           AS security_invoker,
       EXISTS (SELECT FROM pg_proc p JOIN pg_type y ON y.oid = p.proargtypes[0] AND y.typrelid <> 0
               WHERE p.pronamespace = '_qwen_embed'::regnamespace AND p.pronargs = 1
                 AND p.proname ~ '^(document_{id}|key_{id}_[0-9]+)$') AS superseded,
       EXISTS (SELECT FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
               JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid AND f.proname = 'text_of'
               WHERE p.pronamespace = '_qwen_embed'::regnamespace AND p.proname = 'document_{id}') AS calls_text_of,
       ARRAY(SELECT f.signature FROM unnest(%(functions)s::text[], %(bodies)s::text[]) AS f(signature, body)
             LEFT JOIN pg_proc p ON p.oid = to_regprocedure(f.signature)
             WHERE p.oid IS NULL OR p.prosrc <> f.body OR p.prosecdef OR p.provolatile <> 's' OR NOT p.proretset
                   OR NOT starts_with(coalesce(obj_description(p.oid, 'pg_proc'), ''), {comment_start})) AS functions,
       EXISTS (SELECT FROM pg_proc p WHERE {is_function} AND p.oid <> ALL (ARRAY(
                   SELECT coalesce(to_regprocedure(f.signature)::oid, 0) FROM unnest(%(functions)s::text[]) AS f(signature))))
           AS other_functions,
       EXISTS (SELECT FROM pg_proc p
               WHERE p.pronamespace = 'qwen_embed'::regnamespace AND p.proname = 'distance_{id}') AS distance_function,
       EXISTS (SELECT FROM pg_proc p
               WHERE p.pronamespace = 'qwen_embed'::regnamespace AND p.proname = 'near_{id}') AS near_function,
       EXISTS (SELECT FROM pg_depend d
               WHERE {foreign_object}
                 AND (d.classid = 'pg_proc'::regclass
                      AND d.objid IN (SELECT p.oid FROM pg_proc p WHERE p.proname = 'document_{id}'
                                      AND p.pronamespace = '_qwen_embed'::regnamespace)
                      OR d.classid = 'pg_rewrite'::regclass
                      AND d.objid IN (SELECT w.oid FROM pg_rewrite w WHERE w.ev_class = v.view))) AS calls_others
FROM (SELECT c.oid AS view, c.reltype AS type FROM (SELECT to_regclass({literal:view}) AS oid) n
      LEFT JOIN pg_class c ON c.oid = n.oid AND c.relkind = 'v') v;

-- name: look_at_guards
-- The store and the failure table, as far as their row-level security is not as `attach` makes it: on, forced exactly if
-- that of the source is, and with a policy for every command and role that depends on these columns of the source.
SELECT c.oid::regclass::text
FROM pg_class s
CROSS JOIN (VALUES ({literal:store}), ({literal:failure})) AS own(name)
JOIN pg_class c ON c.oid = to_regclass(own.name)
WHERE s.oid = {literal:source}::regclass
  AND NOT (c.relrowsecurity AND c.relforcerowsecurity = (s.relrowsecurity AND s.relforcerowsecurity)
           AND EXISTS (SELECT FROM pg_policy p
                       WHERE p.polrelid = c.oid AND p.polname = 'rows_of_the_source' AND p.polcmd = '*' AND p.polpermissive
                         AND p.polroles = ARRAY[0]::oid[]
                         AND NOT EXISTS (SELECT FROM unnest(%(columns)s::int[]) AS n(number)
                                         WHERE NOT EXISTS (SELECT FROM pg_depend d
                                                           WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                                                             AND d.refclassid = 'pg_class'::regclass
                                                             AND d.refobjid = s.oid AND d.refobjsubid = n.number))))
ORDER BY own.name DESC;

-- name: stored_plain
-- How many vectors there are, and how many are truncated, for layouts `table` and `column`. Part of read_status.
SELECT CASE WHEN c.reltuples < 1e6 THEN (SELECT count(*) FROM {store} WHERE fingerprint IS NOT NULL)
            ELSE c.reltuples::bigint END AS vectors,
       CASE WHEN c.reltuples < 1e6 THEN (SELECT count(*) FROM {store} WHERE truncated)
            ELSE (c.reltuples * coalesce((
                SELECT s.most_common_freqs[array_position(s.most_common_vals::text::boolean[], true)]
                FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
                WHERE n.oid = c.relnamespace AND s.tablename = c.relname AND s.attname = 'truncated'
            ), 0))::bigint END AS truncated,
       NULL::bigint AS chunks
FROM pg_class c WHERE c.oid = {literal:store}::regclass

-- name: stored_chunked
-- How many rows have vectors, and how many chunks there are, for layout `chunked`. Every row has a first chunk. Part
-- of read_status.
SELECT CASE WHEN c.reltuples < 1e6 THEN (SELECT count(*) FROM {store} WHERE chunk = 1 AND fingerprint IS NOT NULL)
            ELSE (c.reltuples * coalesce((
                SELECT s.most_common_freqs[array_position(s.most_common_vals::text::integer[], 1)]
                FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
                WHERE n.oid = c.relnamespace AND s.tablename = c.relname AND s.attname = 'chunk'
            ), 1))::bigint END AS vectors,
       0::bigint AS truncated,
       CASE WHEN c.reltuples < 1e6 THEN (SELECT count(*) FROM {store} WHERE fingerprint IS NOT NULL)
            ELSE c.reltuples::bigint END AS chunks
FROM pg_class c WHERE c.oid = {literal:store}::regclass

-- name: all_chunks
-- The chunks of one row as one row. `whole`: no chunk is missing and there is no surplus chunk. Part of repair_page
-- and count_drift.
max(s.version) AS version,
(array_agg(s.fingerprint) FILTER (WHERE s.fingerprint IS NOT NULL))[1] AS fingerprint,
coalesce(count(*) = max(s.chunk) AND max(s.chunks) = max(s.chunk) AND min(s.version) = max(s.version){no_words_missing}, true) AS whole

-- name: stored_by_row_plain
-- The store, one row for each row of the source, for layouts `table` and `column`. Part of count_drift.
{store}

-- name: stored_by_row_chunked
-- The store, one row for each row of the source, for layout `chunked`. Part of count_drift.
(SELECT {key:s}, {all_chunks} FROM {store} s GROUP BY {key:s})

-- name: count_drift
-- Counts the rows whose vector is missing, stale or orphaned, by fingerprint.
-- It reads the whole source and makes every document.
SELECT count(*) FILTER (WHERE d.here AND d.fingerprint IS NOT NULL
                          AND (s.fingerprint IS NULL OR NOT d.has_vector OR NOT {whole})) AS missing,
       count(*) FILTER (WHERE d.here AND s.fingerprint IS NOT NULL AND d.has_vector
                          AND s.fingerprint IS DISTINCT FROM d.fingerprint
                          AND ({whole} OR d.fingerprint IS NULL)) AS stale,
       count(*) FILTER (WHERE d.here IS NULL AND s.fingerprint IS NOT NULL) AS orphaned
FROM (SELECT {source_key_as:t}, true AS here, _qwen_embed.fingerprint({document:t}) AS fingerprint, {has_vector} AS has_vector
      FROM {source} t) d
FULL JOIN {stored_by_row} s ON {same_key:key:d=key:s};

-- name: count_drift_of_page
-- The same for one page of the source, in key order, for a source with a document that cannot be read. Returns the
-- last key too.
WITH page AS MATERIALIZED (
    SELECT {source_key_as:t}, {has_vector} AS has_vector,
           CASE WHEN %(documents)s THEN _qwen_embed.fingerprint({document:t}) END AS fingerprint
    FROM {source} t WHERE {beyond} ORDER BY {source_key:t} LIMIT %(rows)s
)
SELECT count(*) FILTER (WHERE p.fingerprint IS NOT NULL AND (s.fingerprint IS NULL OR NOT p.has_vector OR NOT {whole})) AS missing,
       count(*) FILTER (WHERE s.fingerprint IS NOT NULL AND p.has_vector AND s.fingerprint IS DISTINCT FROM p.fingerprint
                          AND ({whole} OR p.fingerprint IS NULL)) AS stale,
       (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1) AS last
FROM page p LEFT JOIN {stored_of_page};

-- name: count_orphans
-- Counts the rows of the store that the source does not have. No document is read.
SELECT count(*)
FROM (SELECT {distinct} {key:s} FROM {store} s
      WHERE s.fingerprint IS NOT NULL AND NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:s})) o;

-- name: search
-- The nearest rows of the source, each after its distance, for layout `table`.
-- The index is used for this form only: ORDER BY the bare expression of the index, ascending, with a LIMIT. What it
-- finds is ordered by the distance of the whole vectors.
SELECT c.*
FROM (SELECT {kept:s} {distance} %(query)s::{halfvec}, {source_columns:t}
      FROM {source} t JOIN {store} s ON {same_key:source_key:t=key:s}
      WHERE s.embedding IS NOT NULL
      ORDER BY {near:s} LIMIT {candidates}) c
ORDER BY 1 LIMIT %(limit)s;

-- name: search_column
-- The same for layout `column`.
SELECT c.*
FROM (SELECT {kept:t} {distance} %(query)s::{halfvec}, {source_columns:t}
      FROM {source} t
      WHERE t.{source_column} IS NOT NULL
      ORDER BY {near:t} LIMIT {candidates}) c
ORDER BY 1 LIMIT %(limit)s;

-- name: search_chunks
-- The nearest rows, each with its distance and its nearest chunk, by the embedding's own function.
SELECT e.distance, {source_columns:t}, e.{own:chunk}, e.{own:span}, e.{own:chunk_text}
FROM {view}(%(query)s::{halfvec}, %(limit)s::integer) e({keys}, distance, {own:chunk}, {own:span}, {own:chunk_text})
JOIN {source} t ON {same_key:source_key:t=key:e};

-- name: begin_search
-- Settings of a search, until its transaction ends; and whether the client still knows the embedding as it is: its live
-- generation, its instruction, the kind of its index, and its table, which may have got a column. They are one statement, so that a search needs one answer of the database.
-- The iterative scan lets an index scan continue until LIMIT rows are found (pgvector 0.8.0 or later). Without it a limit
-- above hnsw.ef_search, or a filter, returns fewer rows than there are. A larger ef_search of the session's own counts.
-- Searches that read the view or a function lock the view before the registry is read: what follows is of one generation.
-- A condition is written as for a session of this role: names are looked up in PostgreSQL's own schema, and then in those
-- of the role. The plan depends on its values.
SELECT EXISTS (SELECT FROM _qwen_embed.embedding e
               JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.state = 'live'
               WHERE e.name = %(name)s AND g.id = {id} AND e.instruction = %(instruction)s
                     AND coalesce(g.spec->>'index', 'hnsw') = {kind_text}
                     AND e.source::oid = to_regclass({literal:source})::oid
                     AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = e.source::oid
                                     AND a.attnum > {last_column} AND NOT a.attisdropped)){view_is_held},
       set_config({iterative_setting}, {iterative_scan}, true),
       set_config({width_setting}, greatest(%(ef_search)s::int4, CASE WHEN NOT %(given)s::boolean THEN greatest(
           nullif(current_setting({width_setting}, true), '')::int4, qwen_embed.ef_search(%(name)s)) END)::text, true),
       CASE WHEN %(has_condition)s::boolean THEN set_config('search_path', concat_ws(', ', 'pg_catalog',
           nullif(coalesce(current_setting('pg_qwen_embed.search_path', true), current_setting('search_path')), '')), true) END,
       CASE WHEN %(has_condition)s::boolean THEN set_config('plan_cache_mode', 'force_custom_plan', true) END;
