-- What `sql query` prints for applications. Only the tests run it.

-- name: example_of_rows
-- The nearest rows of the source. The subselect embeds the text once; ORDER BY names the distance, so it is computed once too.
SELECT {columns}, e.{column} {operator} (SELECT qwen_embed.embed_query({embedding_name}, {text})) AS {measure}
FROM {rows} t
JOIN {view} e ON {same}
ORDER BY {measure}
LIMIT 10;

-- name: example_of_function
-- The nearest rows by the function of a chunked embedding, each with its best chunk, or of one whose index is no hnsw of whole
-- vectors. The condition comes first: the function gets the keys of its rows.
SELECT {columns}, h.{distance_column} AS {measure}
FROM {view}({text}, 10{among}) h
JOIN {source} t ON {same}
ORDER BY {measure};

-- name: example_where
-- The rows that meet the condition of a person, which sees the columns of the source alone. Part of example_of_rows.
(SELECT * FROM {source} t WHERE ({condition}))

-- name: example_among
-- The keys of the rows of that condition. Part of example_of_function.
ARRAY(SELECT {one} FROM {source} t WHERE ({condition}) ORDER BY {source_key:t})

-- name: example_setting
-- Lets the index scan continue until LIMIT rows are found that pass the condition.
SET hnsw.iterative_scan = 'strict_order';

-- name: example_setting_local
-- The same until the transaction ends.
SET LOCAL hnsw.iterative_scan = 'strict_order';
