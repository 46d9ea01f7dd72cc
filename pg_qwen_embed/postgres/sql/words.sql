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
