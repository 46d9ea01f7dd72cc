-- Expressions for the queries of other libraries, which make the rest of the statement themselves.

-- name: prepared_query
-- The vector of a query, in a subquery that PostgreSQL evaluates once, before it reads the index. It sets what an index of
-- either method shall do until the transaction ends: enough candidates are kept, and the scan goes on until the limit is reached,
-- in up to 64 times work_mem, because a filter may leave few rows that the planner expects many of.
-- set_config is not safe for parallel plans, so a comparison of all vectors uses one process.
(SELECT CASE WHEN pg_catalog.num_nulls(
    pg_catalog.set_config('hnsw.iterative_scan', 'strict_order', true),
    pg_catalog.set_config('hnsw.max_scan_tuples', '2147483647', true),
    pg_catalog.set_config('hnsw.scan_mem_multiplier', '64', true), pg_catalog.set_config('hnsw.ef_search', {ef_search}, true),
    pg_catalog.set_config('ivfflat.iterative_scan', 'relaxed_order', true),
    pg_catalog.set_config('ivfflat.probes', {ef_search}, true)) OPERATOR(pg_catalog.=) 0 THEN {vector} END);

-- name: measured_ef_search
-- How widely a search looks in the index of an embedding, as it was measured.
qwen_embed.ef_search({embedding})::pg_catalog.text;

-- name: vector_of_text
-- The vector of a text, as a worker answers it.
qwen_embed.embed_query({embedding}, %s::pg_catalog.text);

-- name: nearest_chunk
-- The chunk of the same row that is nearest to the query.
(SELECT b.{chunk} FROM {view} b WHERE {same_row} ORDER BY b.{column} {operator} {query}, b.{chunk} LIMIT 1);

-- name: is_nearest_chunk
-- Whether a chunk is the nearest one of its row. In a CASE, PostgreSQL expects half of the chunks to pass, and reads the
-- index; with `=` alone it expects so few that it compares all chunks of all rows.
(CASE WHEN {chunk} = {nearest} THEN true ELSE false END);

-- name: search_for_tool
-- The nearest rows that pass the filters of a tool, each value as JSON. The values of filters are bound.
SELECT e.{column} {distance} {query}, {shown}
FROM {source} t JOIN {view} e ON {same_key:source_key:t=view_key:e}
WHERE {condition}
ORDER BY 1
LIMIT %(limit)s;

-- name: search_compressed_for_tool
-- The same by the function of an embedding whose index is compressed: it takes candidates from the index, and ranks them. With
-- filters it compares the rows that pass them.
SELECT e.{distance_column}, {shown}
FROM {view}(%(query)s::{halfvec}, %(limit)s::integer{among}) e
JOIN {source} t ON {same_key:source_key:t=view_key:e}
ORDER BY 1;

-- name: keys_for_tool
-- The keys of the rows that pass the filters, for that function.
ARRAY(SELECT {one} FROM {source} t WHERE {condition} ORDER BY {source_key:t})

-- name: search_by_words_for_tool
-- The same by a function of the embedding that ranks rows by words, or by words and vector. The filters see the rows that
-- it returns.
SELECT e.score, {shown}
FROM {function}({arguments}) e ({found_key}, score) JOIN {source} t ON {same_row}
WHERE {condition}
ORDER BY e.score DESC
LIMIT %(limit)s;

-- name: read_for_tool
-- Rows of the source by their keys, each value as JSON.
SELECT {shown} FROM {source} t WHERE {condition} LIMIT %(limit)s;
