-- The demo's own table. It stands in a schema of its own, which goes at the end.

-- name: demo_create
-- Creates the demo's schema and its table.
CREATE SCHEMA qwen_embed_demo
    CREATE TABLE documentation (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        kind text NOT NULL,
        doc text NOT NULL
    );

-- name: demo_copy
-- Fills the demo's table.
COPY qwen_embed_demo.documentation (name, kind, doc) FROM STDIN;

-- name: demo_drop
-- Drops the demo's schema with its table.
DROP SCHEMA IF EXISTS qwen_embed_demo CASCADE;

-- name: demo_uninstall
-- Drops the schemas of pg_qwen_embed.
-- Every embedding would go with them. It runs only where the demo itself had created them, and no embedding is left.
DROP SCHEMA qwen_embed, _qwen_embed CASCADE;

-- name: demo_update
-- Changes one document of the demo.
UPDATE qwen_embed_demo.documentation SET doc = %(doc)s WHERE name = %(name)s;

-- name: demo_insert
-- Adds one document to the demo.
INSERT INTO qwen_embed_demo.documentation (name, kind, doc) VALUES (%(name)s, %(kind)s, %(doc)s);

-- name: demo_followed
-- Whether a changed document has its new vector.
SELECT EXISTS (SELECT FROM qwen_embed.demo JOIN qwen_embed_demo.documentation USING (id) WHERE name = %(name)s AND NOT stale);
