-- Objects of generations that the registry does not have: a dump without the registry's rows leaves them.

-- name: registry_is_there
-- Whether the registry's tables are there, for a look at what does not belong to it.
SELECT to_regclass('_qwen_embed.generation') IS NOT NULL;

-- name: read_leftovers
-- Every such object, in the order in which they can be dropped. They are found by what they are made of, not by the
-- names of triggers or views, which a person may have changed.
-- `may_drop`: whether this role may drop it; the owner of a trigger or of a column is that of its table.
WITH ours AS (
    SELECT 'table' AS kind, c.oid, c.relname AS name, c.relowner AS owner,
           substring(c.relname FROM '^(?:outbox|store|former|failure)_([0-9]+)$') AS generation
    FROM pg_class c WHERE c.relnamespace = to_regnamespace('_qwen_embed') AND c.relkind = 'r'
    UNION ALL
    SELECT 'function', p.oid, p.proname, p.proowner,
           substring(p.proname FROM '^(?:follow_[a-z_]+|document|key)_([0-9]+)(?:_[0-9]+)?$')
    FROM pg_proc p WHERE p.pronamespace = to_regnamespace('_qwen_embed')
), internal AS (
    SELECT o.* FROM ours o
    WHERE o.generation IS NOT NULL AND NOT EXISTS (SELECT FROM _qwen_embed.generation g WHERE g.id::text = o.generation)
), views AS (
    SELECT DISTINCT c.oid, n.nspname AS schema, c.relname AS name, c.relowner AS owner, c.reltype AS type, i.generation
    FROM internal i
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = i.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class c ON c.oid = r.ev_class
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.kind = 'table' AND n.nspname IN ('qwen_embed', '_qwen_embed')
), found AS (
    SELECT 1 AS step, 'search function' AS kind, f.generation, 'qwen_embed' AS schema, p.proname AS name, p.proowner AS owner,
           NULL::oid AS source, pg_get_function_identity_arguments(p.oid) AS arguments
    FROM pg_proc p
    CROSS JOIN LATERAL (SELECT v.generation FROM views v WHERE v.type = p.prorettype
                        UNION
                        SELECT i.generation FROM internal i
                        WHERE i.generation = substring(obj_description(p.oid, 'pg_proc')
                                                       FROM '^pg_qwen_embed .* [(]generation ([0-9]+)[)]: ')) f
    WHERE p.pronamespace = to_regnamespace('qwen_embed') AND p.proname <> 'distance_' || f.generation
    UNION ALL
    SELECT 2, 'distance function', generation, 'qwen_embed', p.proname, p.proowner, NULL,
           pg_get_function_identity_arguments(p.oid)
    FROM (SELECT DISTINCT generation FROM internal) i
    JOIN pg_proc p ON p.proname = 'distance_' || i.generation AND p.pronamespace = to_regnamespace('qwen_embed')
    UNION ALL
    SELECT 3, 'view', generation, schema, name, owner, NULL, NULL FROM views
    UNION ALL
    SELECT 4, 'trigger', i.generation, NULL, t.tgname, c.relowner, c.oid, NULL
    FROM internal i JOIN pg_trigger t ON t.tgfoid = i.oid JOIN pg_class c ON c.oid = t.tgrelid
    WHERE i.kind = 'function' AND t.tgparentid = 0
    UNION ALL
    SELECT 5, kind, generation, '_qwen_embed', name, owner, NULL, pg_get_function_identity_arguments(oid)
    FROM internal WHERE kind = 'function'
    UNION ALL
    SELECT 6, kind, generation, '_qwen_embed', name, owner, NULL, NULL FROM internal WHERE kind = 'table'
    UNION ALL
    SELECT 7, 'column', o.generation, NULL, a.attname, c.relowner, c.oid, NULL
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    CROSS JOIN LATERAL (SELECT substring(col_description(c.oid, a.attnum)
                                         FROM '^pg_qwen_embed .* [(]generation ([0-9]+)[)]: vectors$') AS generation) o
    WHERE a.attnum > 0 AND NOT a.attisdropped AND o.generation IN (SELECT generation FROM internal)
)
SELECT f.generation::bigint AS generation, f.kind, coalesce(f.schema, n.nspname) AS schema, f.name, c.relname AS source,
       pg_get_userbyid(f.owner) AS owner, pg_has_role(f.owner, 'USAGE') AS may_drop, f.arguments
FROM found f LEFT JOIN pg_class c ON c.oid = f.source LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY f.generation::bigint, f.step, f.name, c.relname;

-- name: drop_leftover_function
-- Drops a function by its name and its parameters.
DROP FUNCTION IF EXISTS {function}({parameters});
