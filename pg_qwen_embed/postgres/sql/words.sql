-- The words of an embedding: their index, how their drift is found, and the functions that search them.

-- name: words_are_there
-- Whether a row of the store has its words, for layouts `table` and `column`. A configuration that was dropped gives no words
-- to any row, and nothing is repaired then. Part of the statements that look for drift.
(s.fingerprint IS NULL OR s.words IS NOT NULL OR NOT {configuration_exists})

-- name: words_are_there_chunked
-- The same for the chunks of a row: the first one has the words. Part of all_chunks.
 AND NOT (coalesce(bool_or(s.chunk = 1 AND s.fingerprint IS NOT NULL AND s.words IS NULL), false)
          AND {configuration_exists})

-- name: configuration_exists
-- Whether the text search configuration of an embedding is there.
({configuration} = 'cjk'
 OR EXISTS (SELECT FROM pg_ts_config g JOIN pg_namespace n ON n.oid = g.cfgnamespace
            WHERE format('%%I.%%I', n.nspname, g.cfgname) = {configuration}))

-- name: add_words_column
-- Adds the column of words to a store that lost it. The rows are then found as drift, and written again.
-- ACCESS EXCLUSIVE on the store until the commit. Nothing is rewritten, because the column is NULL at first.
ALTER TABLE {store} ADD COLUMN words tsvector;

-- name: text_search_configurations
-- The text search configurations of the database, each with its schema and as it is written in SQL; PostgreSQL's own first.
SELECT n.nspname, g.cfgname, format('%I.%I', n.nspname, g.cfgname)
FROM pg_ts_config g JOIN pg_namespace n ON n.oid = g.cfgnamespace
ORDER BY n.nspname <> 'pg_catalog', n.nspname, g.cfgname;

-- name: create_words_view
-- The rows with the wanted words, for a role that may read every row of the source: for others it has no rows. It reads the
-- store with the rights of its owner. The policy of the store would keep a role from the index of words, because a policy
-- comes before every operator that is not leakproof.
-- security_barrier: nothing that a role writes runs on a row before the condition on its rights. That is why the wanted words
-- come in a setting and not in the query. The best of 50,000 rows are found, so that a word that most rows have costs no more.
CREATE OR REPLACE VIEW {words_view} WITH (security_barrier = true) AS
SELECT {key:s}, pg_catalog.ts_rank(s.words, {wanted}, 1) AS rank
FROM (SELECT {key:w}, w.words FROM {store} w
      WHERE w.words @@ {wanted}
        AND (SELECT pg_catalog.has_table_privilege({literal:source}::pg_catalog.regclass, 'SELECT')
                    AND NOT pg_catalog.row_security_active({literal:source}::pg_catalog.regclass))
      LIMIT 50000) s;

-- name: wanted
-- The words that a search wants, as the functions set them. Part of the statements that find them; evaluated once.
(SELECT NULLIF(pg_catalog.current_setting('pg_qwen_embed.wanted', true), '')::pg_catalog.tsquery)

-- name: comment_words_view
-- Describes that view in the database.
COMMENT ON VIEW {words_view} IS {comment};

-- name: grant_words_view
-- Lets every role read that view: it shows rows to those only that may read them all.
GRANT SELECT ON {words_view} TO PUBLIC;

-- name: drop_words_view
-- Drops the view of the words.
DROP VIEW IF EXISTS {words_view};

-- name: create_ranked_function
-- The rows with the wanted words, the best first: by how often a row has them, and how long it is. Roles that may not read every
-- row get those that the policy of the store shows them; no index is used then. A row that has gone is left out.
-- BEGIN ATOMIC is parsed now: no search_path changes it, and callers need no right to the internal schema.
CREATE OR REPLACE FUNCTION {ranked_function}(most integer) RETURNS TABLE ({ranked_columns})
LANGUAGE sql STABLE ROWS 100 BEGIN ATOMIC
SELECT {key:m}, m.rank
FROM (SELECT s.*
      FROM (SELECT {key:w}, w.rank FROM {words_view} w
            UNION ALL
            SELECT {key:w}, pg_catalog.ts_rank(w.words, {wanted}, 1) FROM {store} w
            WHERE (SELECT NOT pg_catalog.has_table_privilege({literal:source}::pg_catalog.regclass, 'SELECT')
                          OR pg_catalog.row_security_active({literal:source}::pg_catalog.regclass))
              AND w.words @@ {wanted}) s
      ORDER BY s.rank DESC, {key:s} OFFSET 0) m
WHERE EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:m})
ORDER BY m.rank DESC, {key:m} LIMIT $1;
END;

-- name: comment_ranked_function
-- Describes that function in the database.
COMMENT ON FUNCTION {ranked_function}(integer) IS {comment};

-- name: drop_ranked_function
-- Drops the function that ranks rows by their words.
DROP FUNCTION IF EXISTS {ranked_function}(integer);

-- name: create_words_function
-- The rows with the words of a query, best first.
CREATE OR REPLACE FUNCTION {words_function}({words_parameters}) RETURNS TABLE ({words_columns})
LANGUAGE plpgsql STABLE ROWS 10 AS {body};

-- name: comment_words_function
-- Describes that function in the database.
COMMENT ON FUNCTION {words_function}({words_types}) IS {comment};

-- name: words_body
-- The body of that function.
#variable_conflict use_column
<<own>>
DECLARE
    before pg_catalog.text := pg_catalog.current_setting('pg_qwen_embed.wanted', true);
BEGIN
    {enter_words};
    {check_k};
    {check_words_query};
    PERFORM {want};
    RETURN QUERY SELECT {typed_key}, f.rank FROM {ranked_function}($2) f ORDER BY f.rank DESC, {key:f};
    PERFORM {want_no_more};
END

-- name: want
-- Sets the words that a search wants. An error sets the words of before again. Part of the bodies.
pg_catalog.set_config('pg_qwen_embed.wanted', qwen_embed.words_query({configuration}, $1)::pg_catalog.text, true)

-- name: want_no_more
-- Sets the words of before again. Part of the bodies.
pg_catalog.set_config('pg_qwen_embed.wanted', COALESCE(before, ''), true)

-- name: check_words_query
-- No query finds no rows. Part of the bodies.
IF $1 IS NULL THEN
        RETURN;
    END IF;

-- name: create_hybrid_function
-- The rows that vectors and words find together, for a text and its vector.
CREATE OR REPLACE FUNCTION {hybrid_function}({hybrid_parameters}) RETURNS TABLE ({hybrid_columns})
LANGUAGE plpgsql STABLE ROWS 10 AS {body};

-- name: comment_hybrid_function
-- Describes that function in the database.
COMMENT ON FUNCTION {hybrid_function}({hybrid_types}) IS {comment};

-- name: hybrid_body
-- The body of that function: reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009) of the $4 best rows of each
-- side. Without a vector the words alone count. A query of stop words alone has no words: then the vector alone counts.
-- A row that only its words have found gets its distance, and its nearest chunk, afterwards. OFFSET 0 keeps the index out.
#variable_conflict use_column
<<own>>
DECLARE
    before pg_catalog.text := pg_catalog.current_setting('pg_qwen_embed.wanted', true);
    most pg_catalog.int4 := GREATEST($3, $4);
BEGIN
    {enter_hybrid};
    {check_k};
    {check_words_query};
    {check_fusion};
    PERFORM {want};
    RETURN QUERY
        WITH found AS (
            SELECT {key:h}, pg_catalog.row_number() OVER (ORDER BY h.distance, {key:h}) AS by_vector,
                   NULL::pg_catalog.int8 AS by_words, h.distance{chunk_found}
            FROM {view}($2, own.most) h({found_by_vector})
            UNION ALL
            SELECT {key:h}, NULL, pg_catalog.row_number() OVER (ORDER BY h.rank DESC, {key:h}), NULL{no_chunk}
            FROM {ranked_function}(own.most) h
        ), row_of AS (
            SELECT {key:r}, pg_catalog.max(r.by_vector) AS by_vector, pg_catalog.max(r.by_words) AS by_words,
                   pg_catalog.max(r.distance) AS distance{best_chunk}
            FROM found r GROUP BY {key:r}
        ), best AS (
            SELECT f.*, COALESCE($6 OPERATOR(pg_catalog./) ($5 OPERATOR(pg_catalog.+) f.by_vector), 0)
                        OPERATOR(pg_catalog.+) COALESCE($7 OPERATOR(pg_catalog./) ($5 OPERATOR(pg_catalog.+) f.by_words), 0) AS score
            FROM row_of f ORDER BY score DESC, LEAST(f.by_vector, f.by_words), {key:f} LIMIT $3
        )
        SELECT {typed_key}, f.score, f.by_vector, f.by_words, COALESCE(f.distance, n.distance){chunk_of_row}
        FROM best f LEFT JOIN LATERAL (
            SELECT c.* FROM (SELECT {distance_function}(e.{column}, $2), {own_chunk} FROM {view} e
                             WHERE {equal_key:view_key:e=key:f} AND f.distance IS NULL AND $2 IS NOT NULL OFFSET 0) c(distance, chunk)
            ORDER BY c.distance, c.chunk LIMIT 1) n ON true
        ORDER BY f.score DESC, LEAST(f.by_vector, f.by_words), {key:f};
    PERFORM {want_no_more};
END

-- name: check_fusion
-- Rejects what two lists cannot be joined by. Part of the bodies.
IF pg_catalog.num_nulls({candidates_given}, {rrf_k_given}, {weights_given}) OPERATOR(pg_catalog.>) 0
       OR {candidates_given} OPERATOR(pg_catalog.<) 1 OR {rrf_k_given} OPERATOR(pg_catalog.<) 0
       OR LEAST({weights_given}) OPERATOR(pg_catalog.<) 0 THEN
        RAISE EXCEPTION {sentence:candidates must be 1 or more, and rrf_k and the weights 0 or more}
            USING ERRCODE = 'invalid_parameter_value';
    END IF

-- name: create_text_hybrid_function
-- The same for a text, which embed_query() embeds.
CREATE OR REPLACE FUNCTION {hybrid_function}({text_hybrid_parameters}) RETURNS TABLE ({hybrid_columns})
LANGUAGE plpgsql STABLE ROWS 10 AS {body};

-- name: comment_text_hybrid_function
-- Describes that function in the database.
COMMENT ON FUNCTION {hybrid_function}({text_hybrid_types}) IS {comment};

-- name: text_hybrid_body
-- The body of that function. embed_query() is called once; its error is the caller's, who may go on with the words alone.
-- What cannot be searched for is not embedded.
#variable_conflict use_column
BEGIN
    {hold_view};
    {check_k};
    {check_words_query};
    {check_fusion};
    PERFORM qwen_embed.words_query({configuration}, $1);
    RETURN QUERY SELECT f.* FROM {hybrid_function}($1, qwen_embed.embed_query({embedding_name}, $1), $2, $3, $4, $5, $6) f;
END

-- name: create_words_index
-- Builds the index of the words. CONCURRENTLY: the worker keeps writing.
-- It may not run in a transaction, and an interrupted build leaves an invalid index, as for the ANN index.
CREATE INDEX CONCURRENTLY {index} ON {store} USING gin (words);

-- name: look_at_words
-- Whether the text search configuration of an embedding is there, and the state of the index of its words.
SELECT {configuration_exists}, s.state FROM ({index_state}) s;

-- name: look_at_words_interface
-- Whether the view of the words and the function that ranks them are there, and every role may read the view.
SELECT to_regprocedure({literal:ranked_function} || '(integer)') IS NOT NULL
       AND coalesce(has_table_privilege('public', to_regclass({literal:words_view}), 'SELECT'), false);

-- name: search_words
-- The rows with the words of a query, best first, for Client and `search`.
SELECT h.rank, NULL::bigint, h.position, NULL::float8, {source_columns:t}
FROM {words_function}(%(text)s::text, %(limit)s::integer) WITH ORDINALITY h({keys}, rank, position)
JOIN {source} t ON {same_key:source_key:t=key:h} ORDER BY h.position;

-- name: search_hybrid
-- The rows that vectors and words find together, best first, likewise.
SELECT h.score, h.by_vector, h.by_words, h.distance, {source_columns:t}
FROM {hybrid_function}(%(text)s::text, %(query)s::{halfvec}, %(limit)s::integer) WITH ORDINALITY
     h({keys}, score, by_vector, by_words, distance, position)
JOIN {source} t ON {same_key:source_key:t=key:h} ORDER BY h.position;

-- name: search_hybrid_chunks
-- The same for documents in chunks, each with its nearest chunk.
SELECT h.score, h.by_vector, h.by_words, h.distance, {source_columns:t}, e.{own:chunk}, e.{own:span}, e.{own:chunk_text}
FROM {hybrid_function}(%(text)s::text, %(query)s::{halfvec}, %(limit)s::integer) WITH ORDINALITY
     h({keys}, score, by_vector, by_words, distance, chunk, position)
JOIN {source} t ON {same_key:source_key:t=key:h}
LEFT JOIN {view} e ON {same_key:view_key:e=key:h} AND e.{own:chunk} = h.chunk ORDER BY h.position;

-- name: want_words
-- Sets the words that a search wants, until its transaction ends. It goes before the statements below.
SELECT set_config('pg_qwen_embed.wanted', qwen_embed.words_query({configuration}, %(text)s::text)::text, true);

-- name: words_among
-- The rows with the wanted words that meet a condition, as common table expressions of the searches below. The best 50,000
-- rows are ranked by the index first. If that is not all of them, and fewer than `limit` of these meet the condition, there may
-- be more: then all rows that meet it are compared, without the index.
qwen_embed_ranked AS MATERIALIZED (
    SELECT r.* FROM {ranked_function}(50000) r
), qwen_embed_among AS MATERIALIZED (
    SELECT {key:r}, r.rank FROM qwen_embed_ranked r JOIN ({filtered_rows}) t ON {same_key:source_key:t=key:r}
), by_words AS MATERIALIZED (
    SELECT w.* FROM (
        SELECT a.* FROM qwen_embed_among a
        WHERE (SELECT count(*) FROM qwen_embed_ranked) < 50000 OR (SELECT count(*) FROM qwen_embed_among) >= %(limit)s
        UNION ALL
        SELECT {key:s}, ts_rank(s.words, {wanted}, 1)
        FROM ({filtered_rows}) t JOIN {store} s ON {same_key:source_key:t=key:s}
        WHERE (SELECT count(*) FROM qwen_embed_ranked) >= 50000 AND (SELECT count(*) FROM qwen_embed_among) < %(limit)s
              AND s.words @@ {wanted}) w
    ORDER BY w.rank DESC, {key:w} LIMIT %(limit)s
)

-- name: search_words_among
-- The rows with the words of a query that meet a condition, best first, for Client and `search`.
WITH {words_among}
SELECT w.rank, NULL::bigint, row_number() OVER (ORDER BY w.rank DESC, {key:w}), NULL::float8, {source_columns:t}
FROM by_words w JOIN {source} t ON {same_key:source_key:t=key:w} ORDER BY 3;

-- name: fused
-- What vectors and words find together, best first: the end of search_exact and of search_filtered, whose `found` has the rows
-- by vector. Both sides see only rows that meet the condition. It is the fusion of hybrid_body.
, {words_among}, sides AS (
    SELECT {key:f}, row_number() OVER (ORDER BY f.distance, {key:f}) AS by_vector, NULL::int8 AS by_words, f.distance, f.chunk
    FROM qwen_embed_found f
    UNION ALL
    SELECT {key:w}, NULL, row_number() OVER (ORDER BY w.rank DESC, {key:w}), NULL, NULL FROM by_words w
), row_of AS (
    SELECT {key:r}, max(r.by_vector) AS by_vector, max(r.by_words) AS by_words, max(r.distance) AS distance, max(r.chunk) AS chunk
    FROM sides r GROUP BY {key:r}
), best AS (
    SELECT f.*, coalesce(1::float8 / ({rrf_k} + f.by_vector), 0)
                + coalesce({text_weight}::float8 / ({rrf_k} + f.by_words), 0) AS score
    FROM row_of f ORDER BY score DESC, least(f.by_vector, f.by_words), {key:f} LIMIT %(rows)s
)
SELECT b.score, b.by_vector, b.by_words, coalesce(b.distance, n.distance), {source_columns:t}{chunk_shown}
FROM best b JOIN {source} t ON {same_key:source_key:t=key:b}
LEFT JOIN LATERAL (
    SELECT c.* FROM (SELECT e.{column} {distance} %(query)s::{halfvec}, {own_chunk} FROM {view} e
                     WHERE {same_key:view_key:e=key:b} AND b.distance IS NULL OFFSET 0) c(distance, chunk)
    ORDER BY c.distance, c.chunk LIMIT 1) n ON true{with_chunk}
ORDER BY b.score DESC, least(b.by_vector, b.by_words), {key:b}

-- name: with_chunk
-- The nearest chunk of a row, for documents in chunks. Part of fused.
 LEFT JOIN {view} e ON {same_key:view_key:e=key:b} AND e.{own:chunk} = coalesce(b.chunk, n.chunk)
