-- Searching among the rows that meet a condition, and without an index.
-- A condition sees the common table expressions before it. So their names are none of an application's tables.

-- name: rows_to_filter
-- The source's rows, each with whether it meets the condition. The condition sees the columns of the source alone.
SELECT {own_name}.*, ({own_condition}
) AS {chosen_column} FROM {source} AS {own_name}

-- name: rows_filtered
-- The source's rows that meet the condition. The planner may use an index of the application's for it.
SELECT {own_name}.*, true AS {chosen_column} FROM {source} AS {own_name} WHERE ({own_condition}
)

-- name: candidates_in_store
-- What can be found, for layouts whose vectors are in the store: key, chunk, vector, and whether the row is chosen.
SELECT {key:s}, {chunk_number} AS chunk, s.embedding AS vector, t.{chosen_column} AS chosen
FROM ({filtered_rows}) t JOIN {store} s ON {same_key:source_key:t=key:s}
WHERE s.embedding IS NOT NULL

-- name: candidates_in_source
-- The same for layout `column`.
SELECT {source_key_as:t}, 1 AS chunk, t.{source_column} AS vector, t.{chosen_column} AS chosen
FROM ({filtered_rows}) t
WHERE t.{source_column} IS NOT NULL

-- name: exact_rows
-- Compares every vector of the chosen rows. OFFSET 0 keeps the planner from the index.
SELECT * FROM (SELECT {key:c}, c.chunk, c.vector {distance} %(query)s::{halfvec} AS distance
               FROM ({candidates}) c WHERE c.chosen OFFSET 0) m
ORDER BY m.distance LIMIT %(limit)s

-- name: exact_chunks
-- The same for documents in chunks: each row with its nearest chunk.
SELECT * FROM (SELECT DISTINCT ON ({key:c}) {key:c}, c.chunk, c.vector {distance} %(query)s::{halfvec} AS distance
               FROM ({candidates}) c WHERE c.chosen
               ORDER BY {key:c}, c.vector {distance} %(query)s::{halfvec}) m
ORDER BY m.distance LIMIT %(limit)s

-- name: found_rows
-- The rows of what was found, nearest first.
SELECT f.distance, {source_columns:t}
FROM qwen_embed_found f JOIN {source} t ON {same_key:source_key:t=key:f}
ORDER BY f.distance

-- name: found_chunks
-- The same for documents in chunks, each with its chunk.
SELECT f.distance, {source_columns:t}, e.{own:chunk}, e.{own:span}, e.{own:chunk_text}
FROM qwen_embed_found f
JOIN {source} t ON {same_key:source_key:t=key:f}
JOIN {view} e ON {same_key:view_key:e=key:f} AND e.{own:chunk} = f.chunk
ORDER BY f.distance

-- name: search_exact
-- Finds the nearest rows without the index.
WITH qwen_embed_found AS MATERIALIZED ({exact_search})
{found_hits};

-- name: decide_filtered
-- Decides how the search that follows finds rows that meet a condition: by the index, or by comparing all that meet it.
-- A sample of the source tells how many do; it is the same sample each time. The index has to look at `limit` divided by
-- their share; at several times as many, and at hnsw.ef_search at least, so that it misses few of the nearest. What it
-- does for one of them takes as long as several comparisons; to look at all rows for those that meet the condition takes
-- time too. The index may look at as many as would be worth it if it found nothing, so that
-- together with what follows then it takes twice as long at most. Of a compressed index as many candidates are ranked as without
-- a condition; they are counted before hnsw.ef_search is set. An index of lists is left out.
SELECT set_config('pg_qwen_embed.by_index', (d.worth > d.looks AND {finds_filtered} AND EXISTS (
           SELECT FROM pg_index i WHERE i.indexrelid = to_regclass({index_text}) AND i.indisvalid))::text, true),
       set_config('hnsw.max_scan_tuples', least(2147483647, ceil(greatest(d.worth, 1)))::int8::text, true),
       set_config('pg_qwen_embed.candidates', {candidates_filtered}::text, true),
       set_config('hnsw.ef_search', coalesce(%(ef_search)s::int4, least(1000, ceil(d.looks))::int4)::text, true)
FROM (SELECT greatest(coalesce(nullif(current_setting('hnsw.ef_search', true), ''), '40')::float8,
                      {looks_filtered} * s.looked / greatest(s.chosen, 0.5)) AS looks,
             r.count * (s.chosen / greatest(s.looked, 1) + %(reading)s) / %(costs)s AS worth
      FROM (SELECT count(*)::float8 AS looked, count(*) FILTER (WHERE ({own_condition}
                   ))::float8 AS chosen
            FROM {source} AS {own_name}
            TABLESAMPLE SYSTEM ((SELECT least(100, 100.0 * %(sample)s / greatest(c.reltuples, 1))
                                 FROM pg_class c WHERE c.oid = {literal:indexed}::regclass)) REPEATABLE (0)) s,
           (SELECT greatest(c.reltuples, 0)::float8 AS count FROM pg_class c WHERE c.oid = {literal:indexed}::regclass) r) d;

-- name: take_rows
-- The nearest of what the index found, for layouts with one vector a row.
SELECT n.* FROM qwen_embed_nearest n ORDER BY n.distance LIMIT %(limit)s

-- name: take_chunks
-- The same for documents in chunks: each row with its nearest chunk.
SELECT m.* FROM (SELECT DISTINCT ON ({key:n}) n.* FROM qwen_embed_nearest n ORDER BY {key:n}, n.distance) m
ORDER BY m.distance LIMIT %(limit)s

-- name: search_filtered
-- Finds the nearest rows that meet a condition, as was decided before. Where the index finds fewer rows than `limit`, there
-- may be more: then all are compared. CASE hides from the planner how many rows meet the condition: it would leave the
-- index where it expects few.
WITH qwen_embed_nearest AS MATERIALIZED (
    SELECT {key:c}, c.chunk, c.vector {distance} %(query)s::{halfvec} AS distance
    FROM ({candidates_to_filter}) c
    WHERE current_setting('pg_qwen_embed.by_index') = 'true' AND CASE WHEN c.vector IS NOT NULL THEN c.chosen END
    ORDER BY {near_filtered}
    LIMIT {limit_filtered}
), qwen_embed_best AS MATERIALIZED (
    {best_hits}
), qwen_embed_found AS MATERIALIZED (
    SELECT b.* FROM qwen_embed_best b WHERE (SELECT count(*) FROM qwen_embed_best) >= %(limit)s
    UNION ALL
    (SELECT a.* FROM ({exact_search}) a WHERE (SELECT count(*) FROM qwen_embed_best) < %(limit)s)
)
{found_hits};
