-- What an evaluation reads of a source and of its store, the tables in which it searches its sample, and the results that are
-- kept. Tables of a sample are temporary, and end with the transaction.

-- name: draw_rows
-- Keys of rows that are drawn by a number: the same rows for the same number, while the table does not change.
-- Of a large table only blocks that are drawn at random are looked at; the sort reads fifty times the rows that are wanted.
SELECT {key_out:c}
FROM (SELECT {key:d}
      FROM (SELECT {source_key_as:t}
            FROM {source} t TABLESAMPLE SYSTEM ((SELECT least(100, 5000.0 * %(rows)s / greatest(1, c.reltuples)) FROM pg_class c
                                                 WHERE c.oid = {literal:source}::regclass)) REPEATABLE (%(seed)s)) d
      ORDER BY md5(concat(%(seed)s::text, ROW({key:d}))) COLLATE "C", {key:d}
      LIMIT %(rows)s) c
ORDER BY {key:c};

-- name: order_keys
-- The positions of these keys in the order of their index: of documents that are as good as each other, a search finds the
-- first key first.
SELECT a.position FROM unnest({key_arrays}) WITH ORDINALITY AS a({keys}, position) ORDER BY {key_casts}, a.position;

-- name: count_rows
-- How many rows the source has: exactly below a million, and the planner's estimate above.
SELECT CASE WHEN c.reltuples < 1e6 THEN (SELECT count(*) FROM {source}) ELSE c.reltuples::bigint END
FROM pg_class c WHERE c.oid = {literal:source}::regclass;

-- name: read_drawn_rows
-- The rows of these keys, in the order of the keys: the document as it is to be embedded, the title, and whether the store has
-- the vectors of that very document, and the key as the catalog writes it. A key without a row is left out. Of a long document the beginning comes.
SELECT a.position, left(d.document, %(longest)s), {title}, s.fingerprint,
       coalesce(s.fingerprint = _qwen_embed.fingerprint(d.document) AND {has_vector}, false), {source_key_out:t}
FROM unnest({key_arrays}) WITH ORDINALITY AS a({keys}, position)
JOIN {source} t ON {same_key:source_key:t=key_casts}
LEFT JOIN {store} s ON {same_key:key:s=key_casts} AND {first_chunk}
CROSS JOIN LATERAL (SELECT {drawn_document} AS document) d
ORDER BY a.position;

-- name: read_drawn_vectors
-- The vectors of these keys, if the store still has them with these fingerprints. A document in chunks has several.
SELECT a.position, {vector}
FROM unnest({key_arrays}, %(fingerprints)s::bytea[]) WITH ORDINALITY AS a({keys}, fingerprint, position)
JOIN {source} t ON {same_key:source_key:t=key_casts}
JOIN {store} s ON {same_key:key:s=key_casts} AND s.fingerprint = a.fingerprint
WHERE {vector} IS NOT NULL
ORDER BY a.position, {chunk_number};

-- name: create_sample_of_words
-- A table for the words of the sample.
CREATE TEMPORARY TABLE sample_of_words (document integer PRIMARY KEY, words tsvector) ON COMMIT DROP;

-- name: add_to_sample_of_words
-- Adds documents of the sample, with the words that the worker would keep.
INSERT INTO pg_temp.sample_of_words
SELECT a.document, _qwen_embed.words({configuration}, a.text)
FROM unnest(%(documents)s::integer[], %(texts)s::text[]) AS a(document, text);

-- name: index_sample_of_words
-- Indexes the words of the sample.
CREATE INDEX ON pg_temp.sample_of_words USING gin (words);

-- name: find_in_sample_of_words
-- The documents with the words of a query, the best first: ranked as the function of the embedding ranks them.
SELECT w.document
FROM (SELECT qwen_embed.words_query({configuration}, %(text)s::text) AS wanted OFFSET 0) q
JOIN pg_temp.sample_of_words w ON w.words @@ q.wanted
ORDER BY ts_rank(w.words, q.wanted, 1) DESC, w.document
LIMIT %(limit)s;

-- name: create_sample_of_vectors
-- A table for the vectors of the sample.
CREATE TEMPORARY TABLE sample_of_vectors (document integer, embedding {halfvec}({dimensions})) ON COMMIT DROP;

-- name: add_to_sample_of_vectors
-- Adds vectors of the sample.
INSERT INTO pg_temp.sample_of_vectors
SELECT * FROM unnest(%(documents)s::integer[], %(vectors)s::{halfvec}[]);

-- name: index_sample_of_vectors
-- Indexes the vectors of the sample, as the embedding would be indexed.
CREATE INDEX ON pg_temp.sample_of_vectors USING {index_method} ({index_expression} {operator_class}){storage_parameters};

-- name: find_in_sample_of_vectors
-- The documents that a search by the index finds, nearest first. A document in chunks may come several times.
SELECT c.document
FROM (SELECT v.document, v.embedding {distance} %(query)s::{halfvec} AS distance
      FROM pg_temp.sample_of_vectors v ORDER BY {near:v} LIMIT {candidates}) c
ORDER BY c.distance, c.document LIMIT %(limit)s;

-- name: drop_sample_of_vectors
-- Makes room for the next index.
DROP TABLE IF EXISTS pg_temp.sample_of_vectors;

-- name: search_sample_by_index
-- Lets the planner use no scan of the whole table until the transaction ends, and sets how widely a search looks in the index.
SELECT set_config('enable_seqscan', 'off', true), set_config({width_setting}, %(width)s, true),
       set_config({iterative_setting}, {iterative_scan}, true);

-- name: keep_evaluation
-- Keeps what an evaluation found. Nothing is kept of an embedding that was detached meanwhile.
INSERT INTO _qwen_embed.evaluation (embedding_id, result)
SELECT e.id, %(result)s::jsonb FROM _qwen_embed.embedding e WHERE e.name = %(name)s;

-- name: list_evaluations
-- The evaluations of an embedding that are kept, the latest first.
SELECT v.evaluated_at, v.result
FROM _qwen_embed.evaluation v JOIN _qwen_embed.embedding e ON e.id = v.embedding_id
WHERE e.name = %(name)s ORDER BY v.evaluated_at DESC, v.id DESC LIMIT %(most)s;
