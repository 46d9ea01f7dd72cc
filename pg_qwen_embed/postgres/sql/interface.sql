-- The public interface of an embedding: its view, and how its functions are found and dropped. functions.sql has these.

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
WHERE t.{source_column} IS NOT NULL;

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

-- name: drop_functions
-- Drops the functions of an embedding, which are known by their comments: the key that they take may have another type now,
-- or be gone with the source, and an earlier release had others. One that was replaced by hand is known by its parameters.
DO {body};

-- name: drop_functions_body
-- The body of drop_functions.
DECLARE one pg_catalog.regprocedure;
BEGIN
    FOR one IN SELECT p.oid::pg_catalog.regprocedure FROM pg_catalog.pg_proc p
               WHERE {is_function}
                     OR pg_catalog.to_regtype({literal:halfvec}) IS NOT NULL
                        AND p.oid = ANY (ARRAY(SELECT pg_catalog.to_regprocedure(f)::pg_catalog.oid
                                               FROM pg_catalog.unnest({present}::pg_catalog.text[]) f)) LOOP
        EXECUTE pg_catalog.format('DROP FUNCTION %%s', one);
    END LOOP;
END

-- name: drop_superseded_interface
-- Drops those of them that are not among the present ones: an earlier release made them, or made them for another key.
DO {body};

-- name: drop_superseded_interface_body
-- The body of drop_superseded_interface.
DECLARE one pg_catalog.regprocedure;
BEGIN
    FOR one IN SELECT p.oid::pg_catalog.regprocedure FROM pg_catalog.pg_proc p
               WHERE {is_function} AND p.oid <> ALL ({present}::pg_catalog.regprocedure[]) LOOP
        EXECUTE pg_catalog.format('DROP FUNCTION %%s', one);
    END LOOP;
END

-- name: is_function
-- Whether a function is one of an embedding that applications call. Part of drop_functions, drop_superseded_interface and
-- look_at_interface.
p.pronamespace = 'qwen_embed'::pg_catalog.regnamespace AND p.prokind = 'f' AND p.proname IN ({function_names})
          AND pg_catalog.starts_with(pg_catalog.obj_description(p.oid, 'pg_proc'), {comment_start})

-- name: comment_view
-- Describes the view in the database.
COMMENT ON VIEW {view} IS {comment};

-- name: drop_view
-- Drops the view.
-- It fails while an object of the application depends on the view; `detach` then changes nothing.
DROP VIEW IF EXISTS {view};
