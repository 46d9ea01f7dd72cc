-- The public interface of an embedding: its view, and its functions.

-- name: create_view_on_table
-- The view of layout `table`: the key, the vector, and whether it is stale. Applications join their own table, so that
-- their columns can be altered and dropped. security_invoker: the reader's own rights and row-level security hold.
-- An inner join: with the vector on the nullable side of an outer join the index would not be used. OR REPLACE keeps
-- grants and what depends on the view.
CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS
SELECT {view_columns:t}, {vector} AS {column},
       s.fingerprint IS DISTINCT FROM _qwen_embed.fingerprint({document:t}) AS {own:stale}
FROM {source} t JOIN {store} s ON {same_key:source_key:t=key:s}
WHERE s.embedding IS NOT NULL;

-- name: create_view_on_column
-- The view of layout `column`: the same, with the vector from the source.
-- The store is joined for `stale` only.
CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS
SELECT {view_columns:t}, {vector} AS {column},
       s.fingerprint IS DISTINCT FROM _qwen_embed.fingerprint({document:t}) AS {own:stale}
FROM {source} t JOIN {store} s ON {same_key:source_key:t=key:s}
WHERE t.{column} IS NOT NULL;

-- name: create_view_on_chunked
-- The view of layout `chunked`: one row for each chunk, with its span and its text.
-- chunk_text comes from the current document, so it is NULL for a stale chunk: its span belongs to another text.
CREATE OR REPLACE VIEW {view} WITH (security_invoker = true) AS
SELECT {view_columns:t}, s.chunk AS {own:chunk}, s.span AS {own:span},
       CASE WHEN s.fingerprint = _qwen_embed.fingerprint({document:t})
            THEN substr({document:t}, lower(s.span) + 1, upper(s.span) - lower(s.span)) END AS {own:chunk_text},
       {vector} AS {column},
       s.fingerprint IS DISTINCT FROM _qwen_embed.fingerprint({document:t}) AS {own:stale}
FROM {source} t JOIN {store} s ON {same_key:source_key:t=key:s}
WHERE s.embedding IS NOT NULL;

-- name: create_distance_function
-- The distance of a chunked embedding, for its search function. BEGIN ATOMIC keeps the operator by its oid: pgvector may
-- move to another schema. A planner inlines it, so the index is used.
CREATE OR REPLACE FUNCTION {distance_function}(a {halfvec}, b {halfvec}) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE BEGIN ATOMIC SELECT a {distance} b; END;

-- name: comment_distance_function
-- Describes the distance function in the database.
COMMENT ON FUNCTION {distance_function}({halfvec}, {halfvec}) IS {comment};

-- name: drop_distance_function
-- Drops the distance function, after the search function.
DROP FUNCTION IF EXISTS {distance_function}({halfvec}, {halfvec});

-- name: load_pgvector
-- Loads the library of pgvector into this session. Before, only a superuser may give a function a setting of its.
SELECT ARRAY[1]::real[]::{halfvec};

-- name: create_search_function
-- The function of a chunked embedding: the nearest rows, each with its best chunk. cursor_tuple_fraction = 0 makes a
-- plan that returns its first rows soon.
-- Operators and functions are named with their schema, and those of pgvector are not named at all: a SET search_path
-- would cost 5 % of a query.
CREATE OR REPLACE FUNCTION {view}(query {halfvec}, rows integer DEFAULT 10) RETURNS SETOF {view}
LANGUAGE plpgsql STABLE STRICT ROWS 10
SET cursor_tuple_fraction = 0
SET hnsw.iterative_scan = 'off'
SET hnsw.max_scan_tuples = 2147483647
AS {body};

-- name: search_body
-- The body of that function. Chunks come by distance, so the first chunk of a row is its best. The nearest
-- hnsw.ef_search chunks are enough nearly always. If not, an iterative scan continues, which costs 15 % more.
-- The iterative scan may end before the chunks do, because its memory is bounded. Then all remaining rows are
-- compared.
#variable_conflict use_variable
DECLARE
    nearest CURSOR FOR SELECT e.* FROM {view} e ORDER BY {distance_function}(e.{column}, query);
    others CURSOR (returned pg_catalog.text[]) FOR
        SELECT b.*
        FROM (SELECT DISTINCT ON ({view_key:e}) e.* FROM {view} e
              WHERE ROW({view_key:e})::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (returned)
              ORDER BY {view_key:e}, {distance_function}(e.{column}, query)) b
        ORDER BY {distance_function}(b.{column}, query);
    done pg_catalog.text[] := '{{}}';
BEGIN
    FOR attempt IN 1 .. 2 LOOP
        FOR c IN nearest LOOP
            EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) rows;
            CONTINUE WHEN ROW({view_key:c})::pg_catalog.text OPERATOR(pg_catalog.=) ANY (done);
            done := pg_catalog.array_append(done, ROW({view_key:c})::pg_catalog.text);
            RETURN NEXT c;
        END LOOP;
        EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) rows;
        PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'strict_order', true);
    END LOOP;
    IF pg_catalog.cardinality(done) OPERATOR(pg_catalog.<) rows THEN
        FOR c IN others (done) LOOP
            EXIT WHEN pg_catalog.cardinality(done) OPERATOR(pg_catalog.>=) rows;
            done := pg_catalog.array_append(done, ROW({view_key:c})::pg_catalog.text);
            RETURN NEXT c;
        END LOOP;
    END IF;
END

-- name: comment_search_function
-- Describes the search function in the database.
COMMENT ON FUNCTION {view}({halfvec}, integer) IS {comment};

-- name: drop_search_function
-- Drops the search function of a chunked embedding. It goes before the view, whose row type it returns.
DROP FUNCTION IF EXISTS {view}({halfvec}, integer);

-- name: comment_view
-- Describes the view in the database.
COMMENT ON VIEW {view} IS {comment};

-- name: drop_view
-- Drops the view.
-- It fails while an object of the application depends on the view; `detach` then changes nothing.
DROP VIEW IF EXISTS {view};
