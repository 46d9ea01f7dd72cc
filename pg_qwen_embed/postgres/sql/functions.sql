-- The functions of the public interface: search, more like this, and near-duplicates. They run with the rights of who calls
-- them. Parameters are `$1`, `$2` .. in the bodies, which name every operator and function with its schema.

-- name: create_distance_function
-- The distance of an embedding, for its functions. BEGIN ATOMIC keeps the operator by its oid: pgvector may
-- move to another schema. A planner inlines it, so the index is used.
CREATE OR REPLACE FUNCTION {distance_function}(a {halfvec}, b {halfvec}) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT a {distance} b; END;

-- name: comment_distance_function
-- Describes the distance function in the database.
COMMENT ON FUNCTION {distance_function}({halfvec}, {halfvec}) IS {comment};

-- name: drop_distance_function
-- Drops the distance function, after the functions that call it.
DROP FUNCTION IF EXISTS {distance_function}({halfvec}, {halfvec});

-- name: create_near_function
-- By what a compressed index orders the vectors of an embedding, for its functions; what they find is ranked by the
-- distance. A planner inlines it, so the index is used.
CREATE OR REPLACE FUNCTION {own_near_function}(a {halfvec}, b {halfvec}) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT {near_body}; END;

-- name: comment_near_function
-- Describes that function in the database.
COMMENT ON FUNCTION {own_near_function}({halfvec}, {halfvec}) IS {comment};

-- name: drop_near_function
-- Drops that function, after the functions that call it.
DROP FUNCTION IF EXISTS {own_near_function}({halfvec}, {halfvec});

-- name: create_search_function
-- The rows nearest to a vector, nearest first. STABLE, and not parallel: it sets parameters of pgvector for its own scan.
CREATE OR REPLACE FUNCTION {view}({search_parameters}) RETURNS TABLE ({found_columns})
LANGUAGE plpgsql STABLE ROWS 10 AS {body};

-- name: comment_search_function
-- Describes the search function in the database. By its comment a function is known as one of the embedding.
COMMENT ON FUNCTION {view}({search_types}) IS {comment};

-- name: hold_view
-- Waits for a change of generation that has the view, and lets none begin until the transaction ends: what is read from here on
-- belongs to one generation. Part of the bodies; a query parsed before has this lock already, if it names the view.
PERFORM FROM {view} e WHERE false;

-- name: view_is_held
-- The same, as a condition that is true. Part of begin_search.
 AND NOT EXISTS (SELECT FROM {view} e WHERE false)

-- name: enter
-- The same, for a body that names what one generation has. If that is not the live one any more, this body is an old one, which
-- waited for the change: the present one is called in its place. Part of the bodies.
-- PostgreSQL's own cache of names sees what was committed meanwhile, which the snapshot of the statement does not.
PERFORM FROM {view} e WHERE false;
    IF pg_catalog.to_regproc({distance_name}) IS NULL THEN
        IF pg_catalog.current_setting('pg_qwen_embed.again', true) OPERATOR(pg_catalog.=) {id_text} THEN
            RAISE EXCEPTION {function_is_missing}, {distance_name} USING ERRCODE = 'undefined_function';
        END IF;
        PERFORM pg_catalog.set_config('pg_qwen_embed.again', {id_text}, true);
        RETURN QUERY SELECT f.* FROM {again} f;
        PERFORM pg_catalog.set_config('pg_qwen_embed.again', '', true);
        RETURN;
    END IF;

-- name: search_body
-- The body of that function, for a vector a row. Keys in `among` are read by their index, and their vectors compared.
-- Otherwise the index scan is iterative. It may still end before it has found $2 rows, because its memory is bounded or
-- policies hide rows: then all vectors are compared. Settings are put back; an error puts them back too.
#variable_conflict use_column
<<own>>
DECLARE
    scan pg_catalog.text := pg_catalog.current_setting({iterative_setting}, true);
    candidates pg_catalog.text := pg_catalog.current_setting({width_setting}, true);
    complete pg_catalog.bool;
BEGIN
    {enter_search};
    {check_k};
    {check_query};
    {check_among};
    IF {among_given} THEN
        RETURN QUERY
            SELECT d.* FROM (
                SELECT {view_key:e}, {distance_function}(e.{column}, $1) FROM {view} e WHERE {is_among} OFFSET 0) d({keys}, distance)
            ORDER BY d.distance LIMIT $2;
        RETURN;
    END IF;
    PERFORM {use_index}, pg_catalog.set_config({iterative_setting}, {iterative_scan}, true);
    IF $2 OPERATOR(pg_catalog.<=) {few} THEN
        RETURN QUERY {nearest_few};
    ELSE
        RETURN QUERY {nearest_many};
    END IF;
    complete := FOUND;
    PERFORM pg_catalog.set_config({iterative_setting}, scan, true), pg_catalog.set_config({width_setting}, candidates, true);
    IF NOT complete THEN
        RETURN QUERY
            SELECT d.* FROM (SELECT {view_key:e}, {distance_function}(e.{column}, $1) FROM {view} e OFFSET 0) d({keys}, distance)
            ORDER BY d.distance LIMIT $2;
    END IF;
END

-- name: nearest_rows
-- The rows that the index finds, in the order of their distances, if they are $2. Part of search_body.
-- Up to 100 rows are planned as if 100 were wanted: then one plan serves all, and is made once in a session.
WITH nearest ({keys}, distance) AS MATERIALIZED (
            SELECT * FROM (
                SELECT {view_key:e}, {distance_function}(e.{column}, $1) FROM {view} e
                ORDER BY {near_function}(e.{column}, $1) {limit})
        SELECT n.* FROM nearest n
        WHERE (SELECT pg_catalog.count(*) FROM nearest) OPERATOR(pg_catalog.>=) $2 ORDER BY n.distance{ranked}

-- name: near_chunks
-- The candidates of a compressed index among the chunks. Part of search_chunks_body.
(SELECT v.* FROM {view} v ORDER BY {near_function}(v.{column}, $1) LIMIT {limit})

-- name: check_k
-- Rejects a number of rows that is none. Part of the bodies.
IF {k} IS NULL OR {k} OPERATOR(pg_catalog.<) 1 THEN
        RAISE EXCEPTION {sentence:k is %; it must be 1 or more}, {k} USING ERRCODE = 'invalid_parameter_value';
    END IF;

-- name: check_query
-- No query finds no rows; a vector of another length than those of the embedding is rejected, and one without a direction.
-- Part of the bodies.
IF $1 IS NULL THEN
        RETURN;
    END IF;
    IF pg_catalog.cardinality($1::pg_catalog.float4[]) OPERATOR(pg_catalog.<>) {dimensions} THEN
        RAISE EXCEPTION {sentence:the query has % dimensions and the vectors of this embedding have %},
            pg_catalog.cardinality($1::pg_catalog.float4[]), {dimensions} USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF 0 OPERATOR(pg_catalog.=) ALL ($1::pg_catalog.float4[]) THEN
        RAISE EXCEPTION {sentence:the query is a zero vector: it has no direction}
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

-- name: check_among
-- Rejects arrays that are not the columns of one list of keys. Part of the bodies.
IF {among_uneven} THEN
        RAISE EXCEPTION {sentence:the arrays with the columns of the keys must all be given and be of one length}
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

-- name: use_index
-- Lets an index scan collect as many candidates as are wanted, and as many as the embedding needs. Part of the bodies.
pg_catalog.set_config({width_setting}, {width}::pg_catalog.text, true)

-- name: search_chunks_body
-- The body of the search function of a chunked embedding. Chunks come by distance, so the first chunk of a row is its best.
-- The nearest chunks that the index finds at once are enough nearly always. If not, an iterative scan continues, which costs
-- 15 %% more. It may end before the chunks do, because its memory is bounded. Then all remaining rows are compared.
-- So are all rows where more than 1,000 are wanted: each chunk is looked for among the rows that were found, one after another.
-- cursor_tuple_fraction = 0 makes a plan that returns its first rows soon.
#variable_conflict use_column
<<own>>
DECLARE
    scan pg_catalog.text := pg_catalog.current_setting({iterative_setting}, true);
    tuples pg_catalog.text := pg_catalog.current_setting('hnsw.max_scan_tuples', true);
    candidates pg_catalog.text := pg_catalog.current_setting({width_setting}, true);
    fraction pg_catalog.text := pg_catalog.current_setting('cursor_tuple_fraction');
    nearest CURSOR FOR
        SELECT {view_key_as:e}, {distance_function}(e.{column}, $1) AS distance, e.{own:chunk} AS chunk, e.{own:span} AS span,
               e.{own:chunk_text} AS chunk_text, ROW({view_key:e})::pg_catalog.text AS whole
        FROM {chunks_near} e ORDER BY {distance_function}(e.{column}, $1);
    done pg_catalog.text[] := '{{}}';
BEGIN
    {enter_search};
    {check_k};
    {check_query};
    {check_among};
    IF {among_given} THEN
        RETURN QUERY {best_among};
        RETURN;
    END IF;
    PERFORM {use_index}, pg_catalog.set_config({iterative_setting}, 'off', true),
            pg_catalog.set_config('hnsw.max_scan_tuples', '2147483647', true),
            pg_catalog.set_config('cursor_tuple_fraction', '0', true);
    FOR attempt IN 1 .. CASE WHEN $2 OPERATOR(pg_catalog.<=) 1000 THEN 2 ELSE 0 END LOOP
        FOR c IN nearest LOOP
            EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) $2;
            CONTINUE WHEN c.whole OPERATOR(pg_catalog.=) ANY (done);
            done := pg_catalog.array_append(done, c.whole);
            RETURN QUERY SELECT {key:c}, c.distance, c.chunk, c.span, c.chunk_text;
        END LOOP;
        EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) $2;
        PERFORM pg_catalog.set_config({iterative_setting}, {iterative_scan}, true);
    END LOOP;
    PERFORM pg_catalog.set_config({iterative_setting}, scan, true), pg_catalog.set_config({width_setting}, candidates, true),
            pg_catalog.set_config('hnsw.max_scan_tuples', tuples, true),
            pg_catalog.set_config('cursor_tuple_fraction', fraction, true);
    IF pg_catalog.cardinality(done) OPERATOR(pg_catalog.<) $2 THEN
        RETURN QUERY {best_of_others};
    END IF;
END

-- name: best_chunks
-- The nearest rows among those of a condition, each with its best chunk: all their chunks are compared. Part of
-- search_chunks_body.
SELECT {key:b}, b.distance, e.{own:chunk}, e.{own:span}, e.{own:chunk_text}
            FROM (SELECT r.* FROM (SELECT DISTINCT ON ({key:d}) d.* FROM (
                      SELECT {view_key:e}, {distance_function}(e.{column}, $1), e.{own:chunk} FROM {view} e WHERE {condition}
                      OFFSET 0) d({keys}, distance, chunk)
                  ORDER BY {key:d}, d.distance, d.chunk) r
                  ORDER BY r.distance LIMIT $2 OPERATOR(pg_catalog.-) {found}) b
            JOIN {view} e ON {equal_key:view_key:e=key:b} AND e.{own:chunk} OPERATOR(pg_catalog.=) b.chunk
            ORDER BY b.distance

-- name: is_among
-- Whether a row of the view is one of the given keys. NULL is none, and a key that is there twice counts once. Part of the
-- bodies. In FROM, unnest() would divide a composite value.
EXISTS (SELECT FROM (SELECT {among_rows}) a({keys}) WHERE {equal_key:view_key:e=among_key:a})

-- name: is_other
-- Whether a row has not been returned yet. Part of search_chunks_body.
ROW({view_key:e})::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (own.done)

-- name: create_text_search_function
-- The same for a text, which embed_query() embeds.
CREATE OR REPLACE FUNCTION {view}({text_search_parameters}) RETURNS TABLE ({found_columns})
LANGUAGE plpgsql STABLE ROWS 10 AS {body};

-- name: comment_text_search_function
-- Describes that function in the database.
COMMENT ON FUNCTION {view}({text_search_types}) IS {comment};

-- name: text_search_body
-- The body of that function. embed_query() is called once; it is looked up when the function runs.
#variable_conflict use_column
BEGIN
    {hold_view};
    {check_k};
    {check_among};
    IF $1 IS NOT NULL THEN
        RETURN QUERY SELECT h.* FROM {view}(qwen_embed.embed_query({embedding_name}, $1), $2, {among_arrays}) h;
    END IF;
END

-- name: create_like_function
-- The rows nearest to a row, without that row. No rows for a key that is not there, or has no vector.
CREATE OR REPLACE FUNCTION {like_function}({like_parameters}) RETURNS TABLE ({found_columns})
LANGUAGE plpgsql STABLE ROWS 10 AS {body};

-- name: comment_like_function
-- Describes that function in the database.
COMMENT ON FUNCTION {like_function}({like_types}) IS {comment};

-- name: like_body
-- The body of that function, for a vector a row. The row itself is found too, unless many are as near: so one more is read.
#variable_conflict use_column
BEGIN
    {check_k};
    RETURN QUERY
        SELECT h.* FROM {view} e
        CROSS JOIN LATERAL {view}(e.{column}, LEAST({k}, 2147483646) OPERATOR(pg_catalog.+) 1) h({keys}, distance)
        WHERE {equal_key:view_key:e=numbered_key} AND NOT {equal_key:key:h=numbered_key}
        ORDER BY h.distance LIMIT {k};
END

-- name: like_chunks_body
-- The same for a chunked embedding: the rows nearest to any chunk of the row. It searches once for each chunk.
#variable_conflict use_column
BEGIN
    {check_k};
    RETURN QUERY
        SELECT b.* FROM (
            SELECT DISTINCT ON ({key:h}) h.* FROM {view} e
            CROSS JOIN LATERAL {view}(e.{column}, LEAST({k}, 2147483646) OPERATOR(pg_catalog.+) 1)
                 h({keys}, distance, chunk, span, chunk_text)
            WHERE {equal_key:view_key:e=numbered_key} AND NOT {equal_key:key:h=numbered_key}
            ORDER BY {key:h}, h.distance) b
        ORDER BY b.distance LIMIT {k};
END

-- name: create_duplicates_function
-- Pairs of rows whose distance is at most a threshold, each pair once. A plan is made for the k that is given: with it the
-- index is used for each row.
CREATE OR REPLACE FUNCTION {duplicates_function}({duplicates_parameters}) RETURNS TABLE ({pair_columns})
LANGUAGE plpgsql STABLE ROWS 1000 SET plan_cache_mode = 'force_custom_plan' AS {body};

-- name: comment_duplicates_function
-- Describes that function in the database.
COMMENT ON FUNCTION {duplicates_function}({duplicates_types}) IS {comment};

-- name: duplicates_body
-- The body of that function, for a vector a row. It looks at the $2 nearest of each row, or with `exact` at every pair.
#variable_conflict use_column
<<own>>
DECLARE
    scan pg_catalog.text := pg_catalog.current_setting({iterative_setting}, true);
    candidates pg_catalog.text := pg_catalog.current_setting({width_setting}, true);
BEGIN
    {enter_duplicates};
    {check_k};
    {check_threshold};
    IF $3 THEN
        RETURN QUERY
            SELECT p.* FROM (
                SELECT {view_key:e}, {view_key:o}, {distance_function}(e.{column}, o.{column})
                FROM {view} e JOIN {view} o ON {greater_key:view_key:o>view_key:e}) p({pair_keys}, distance)
            WHERE p.distance OPERATOR(pg_catalog.<=) $1 ORDER BY p.distance;
        RETURN;
    END IF;
    PERFORM {use_index}, pg_catalog.set_config({iterative_setting}, {iterative_scan}, true);
    RETURN QUERY
        SELECT p.* FROM (
            SELECT DISTINCT ON ({pair_keys}) d.* FROM (
                SELECT {lesser_key:view_key:e>key:h}, {greater_of_keys:view_key:e>key:h}, h.distance
                FROM {view} e CROSS JOIN LATERAL {others} h({keys}, distance)
                WHERE h.distance OPERATOR(pg_catalog.<=) $1) d({pair_keys}, distance)
            ORDER BY {pair_keys}, d.distance) p
        ORDER BY p.distance;
    PERFORM pg_catalog.set_config({iterative_setting}, scan, true), pg_catalog.set_config({width_setting}, candidates, true);
END

-- name: nearest_others
-- The $2 vectors of other rows that are nearest to one of `e`. Part of duplicates_body.
(
                    SELECT {view_key:o}, {distance_function}(o.{column}, e.{column}){other_chunk} FROM {view} o
                    WHERE NOT {equal_key:view_key:o=view_key:e}
                    ORDER BY {near_function}(o.{column}, e.{column}) LIMIT {near_pairs})

-- name: ranked_others
-- The same where these are candidates of a compressed index: the $2 best of them by the whole vectors.
(
                    SELECT c.* FROM {nearest_others} c({keys}, distance{chunk_name}) ORDER BY c.distance LIMIT $2)

-- name: duplicate_chunks_body
-- The same for a chunked embedding: a pair of rows is as near as its nearest chunks. It looks at the $2 nearest chunks of
-- other rows for each chunk.
#variable_conflict use_column
<<own>>
DECLARE
    scan pg_catalog.text := pg_catalog.current_setting({iterative_setting}, true);
    candidates pg_catalog.text := pg_catalog.current_setting({width_setting}, true);
BEGIN
    {enter_duplicates};
    {check_k};
    {check_threshold};
    IF $3 THEN
        RETURN QUERY
            SELECT q.* FROM (
                SELECT DISTINCT ON ({pair_keys}) p.* FROM (
                    SELECT {view_key:e}, {view_key:o}, {distance_function}(e.{column}, o.{column}), e.{own:chunk}, o.{own:chunk}
                    FROM {view} e JOIN {view} o ON {greater_key:view_key:o>view_key:e}) p({pair_keys}, distance, a, b)
                WHERE p.distance OPERATOR(pg_catalog.<=) $1 ORDER BY {pair_keys}, p.distance) q
            ORDER BY q.distance;
        RETURN;
    END IF;
    PERFORM {use_index}, pg_catalog.set_config({iterative_setting}, {iterative_scan}, true);
    RETURN QUERY
        SELECT q.* FROM (
            SELECT DISTINCT ON ({pair_keys}) p.* FROM (
                SELECT {lesser_key:view_key:e>key:h}, {greater_of_keys:view_key:e>key:h}, h.distance,
                       CASE WHEN {greater_key:view_key:e>key:h} THEN h.chunk ELSE e.{own:chunk} END,
                       CASE WHEN {greater_key:view_key:e>key:h} THEN e.{own:chunk} ELSE h.chunk END
                FROM {view} e CROSS JOIN LATERAL {others} h({keys}, distance, chunk)
                WHERE h.distance OPERATOR(pg_catalog.<=) $1) p({pair_keys}, distance, a, b)
            ORDER BY {pair_keys}, p.distance) q
        ORDER BY q.distance;
    PERFORM pg_catalog.set_config({iterative_setting}, scan, true), pg_catalog.set_config({width_setting}, candidates, true);
END

-- name: check_threshold
-- Rejects a threshold that is none. Part of the bodies.
IF $1 IS NULL THEN
        RAISE EXCEPTION {sentence:the threshold is NULL; it must be a distance} USING ERRCODE = 'invalid_parameter_value';
    END IF;
