-- name: demo_create
CREATE SCHEMA qwen_embed_demo
    CREATE TABLE documentation (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        kind text NOT NULL,
        doc text NOT NULL
    );

-- name: demo_copy
COPY qwen_embed_demo.documentation (name, kind, doc) FROM STDIN;

-- name: demo_drop
DROP SCHEMA IF EXISTS qwen_embed_demo CASCADE;

-- name: demo_uninstall
-- Only where the demo itself had installed them.
DROP SCHEMA qwen_embed, _qwen_embed CASCADE;

-- name: demo_update
UPDATE qwen_embed_demo.documentation SET doc = %(doc)s WHERE name = %(name)s;

-- name: demo_insert
INSERT INTO qwen_embed_demo.documentation (name, kind, doc) VALUES (%(name)s, %(kind)s, %(doc)s);

-- name: demo_followed
SELECT EXISTS (SELECT FROM qwen_embed.demo WHERE name = %(name)s AND NOT stale);
