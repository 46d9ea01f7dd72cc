-- The fit of a post-processing: the documents it is made of, and where it is kept.

-- name: read_fit
-- The fit of a generation. NULL: it was not made yet.
SELECT g.fit FROM _qwen_embed.generation g WHERE g.id = %(id)s;

-- name: write_fit
-- Keeps a fit. No row: there is one already, which stays, or the generation was detached.
-- Vectors of two fits cannot be compared, so whoever wrote first is right.
UPDATE _qwen_embed.generation SET fit = %(fit)s, fitted_on = %(documents)s
WHERE id = %(id)s AND fit IS NULL
RETURNING id;

-- name: read_fitted_on
-- On how many documents a generation was fitted. NULL: it was not fitted yet.
SELECT g.fitted_on FROM _qwen_embed.generation g WHERE g.id = %(id)s;

-- name: count_some_rows
-- How many rows a table has, counted up to a bound.
SELECT count(*) FROM (SELECT FROM {table} LIMIT %(most)s) t;

-- name: sample_keys
-- The keys of rows that are drawn at random, in random order: all of them, if the table has no more.
-- It reads the whole table once, and none of its documents.
SELECT {source_key_out:t} FROM {source} t ORDER BY random() LIMIT %(most)s;

-- name: read_sample
-- The documents of these keys, without blank ones. Each is read to the length that a model takes.
SELECT d.document
FROM (SELECT DISTINCT {key_values} FROM unnest({key_arrays}) AS a({keys})) k
JOIN {source} t ON {same_key:source_key:t=key:k}
CROSS JOIN LATERAL (SELECT left({document:t}, %(longest)s) AS document OFFSET 0) d
WHERE d.document ~ '\S';
