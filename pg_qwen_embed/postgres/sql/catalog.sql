-- What the server, the database and the registry say. Nothing here writes, except create_vector_extension.

-- name: server_version
-- What `init` must know of the server: its version, the database's encoding and name.
SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
       current_setting('server_encoding') AS encoding, current_database() AS database;

-- name: vector_extension
-- The pgvector that is installed in this database, and the version that the server could install. No row: the server
-- has none.
SELECT e.extversion AS version, n.nspname AS schema, a.default_version AS available
FROM pg_available_extensions a
LEFT JOIN pg_extension e ON e.extname = a.name
LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE a.name = 'vector';

-- name: create_vector_extension
-- Creates the extension vector if it is missing.
-- IF NOT EXISTS does not see an extension that another session has not committed: unique_violation then means that
-- it is there.
CREATE EXTENSION IF NOT EXISTS vector;

-- name: is_initialised
-- Whether `init` has run here, and whether its newest migration has. The second is told by an index that this migration
-- added: every role can see that.
SELECT to_regclass('_qwen_embed.embedding') IS NOT NULL,
       to_regclass('_qwen_embed.generation_one_building') IS NOT NULL;

-- name: may_create_schemas
-- Whether the schemas of `init` are there, or this role may create them.
SELECT to_regnamespace('_qwen_embed') IS NOT NULL OR has_database_privilege(current_database(), 'CREATE');

-- name: may_read_revision
-- Whether this role may read the revision of the database. Readers may not.
SELECT coalesce(has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false)
FROM (SELECT to_regclass('_qwen_embed.alembic_version') AS oid) t LEFT JOIN pg_class c ON c.oid = t.oid;

-- name: read_revision
-- The newest migration that `init` has run here. No row: the database was made from a dump of the schema alone.
SELECT version_num FROM _qwen_embed.alembic_version;

-- name: tell_revision
-- The revision that the registry's columns and functions show, for a database in which Alembic's record of it is empty: a dump of the
-- schema alone. NULL: there is no registry. Each migration that a release has brought has its line.
SELECT max(r.revision)
FROM (VALUES ('0002', 'embedding', 'id'), ('0003', 'generation', 'too_long'), ('0004', 'generation', 'weight_version'),
             ('0005', 'generation', 'chunk_tokens'), ('0006', 'generation', 'spec'),
             ('0007', 'embedding', 'column_numbers'), ('0008', 'generation', 'term'), ('0009', 'text_of', NULL),
             ('0010', 'query_cache', 'key'), ('0011', 'ann_index', 'generation_id'), ('0012', 'words', NULL),
             ('0013', 'evaluation', 'result'), ('0014', 'generation', 'fit'), ('0015', 'live_generation', NULL))
     r(revision, relation, attribute)
WHERE EXISTS (SELECT FROM pg_attribute a
              WHERE a.attrelid = to_regclass('_qwen_embed.' || r.relation) AND a.attname = r.attribute
                AND NOT a.attisdropped)
   OR EXISTS (SELECT FROM pg_proc p
              WHERE r.attribute IS NULL AND p.proname = r.relation AND p.pronamespace = to_regnamespace('_qwen_embed'));

-- name: resolve_table
-- The oid of a table as it is written in SQL. NULL: there is no table of that name on the search_path of the role.
-- Inside the transaction the session is pinned again afterwards: PostgreSQL evaluates the columns in their order.
SELECT set_config('search_path', coalesce(current_setting('pg_qwen_embed.search_path', true), current_setting('search_path')), true),
       to_regclass(%(table)s)::oid AS oid,
       set_config('search_path', p.pinned, true)
FROM (SELECT current_setting('search_path') AS pinned OFFSET 0) p;

-- name: qualify_table
-- Schema and name of a table as it is written in SQL, on a connection that is not ours. Its search_path is not pinned yet,
-- so every schema is named.
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%(table)s)::pg_catalog.oid;

-- name: describe_sources
-- Tables as attach and the worker need to know them. Key columns come in the order of the primary key.
-- The base of a domain is no domain itself. The leaf of a type is what its arrays and domains consist of.
-- `operators` is the schema of the operators by which values of a type are compared that is not PostgreSQL's own (whose
-- oids end at 16383). They belong to an operator class, which only a superuser can create.
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind, c.relpersistence AS persistence,
       c.relispartition AS is_partition,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid) AS has_children,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate) AS deferrable,
       (SELECT json_agg(json_build_object(
                   'name', a.attname, 'number', a.attnum, 'type', format_type(a.atttypid, a.atttypmod),
                   'base_type', CASE WHEN y.typtype = 'd' THEN format_type(r.base, r.modifier) ELSE '' END,
                   'leaf', format_type(r.leaf, NULL), 'category', l.typcategory, 'built_in', r.leaf < 16384,
                   'is_array', r.is_array,
                   -- From PostgreSQL 18 on the constraint may be there, and not be validated.
                   'not_null', a.attnotnull AND NOT EXISTS (
                       SELECT FROM pg_constraint k
                       WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated),
                   'collation', CASE WHEN a.attcollation NOT IN (0, y.typcollation)
                                     THEN json_build_array(cn.nspname, co.collname) END,
                   'operators', CASE WHEN r.base >= 16384 THEN (
                       SELECT s.nspname
                       FROM pg_opclass oc
                       JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopmethod = oc.opcmethod AND ao.amopstrategy = 3
                                      AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                       JOIN pg_operator o ON o.oid = ao.amopopr
                       JOIN pg_namespace s ON s.oid = o.oprnamespace
                       WHERE oc.opcmethod = (SELECT m.oid FROM pg_am m WHERE m.amname = 'btree')
                         AND oc.opcdefault AND oc.opcintype = r.base) END)
               ORDER BY a.attnum)
        FROM pg_attribute a
        JOIN pg_type y ON y.oid = a.atttypid
        CROSS JOIN LATERAL (
            WITH RECURSIVE chain (type, modifier, is_array, depth) AS (
                SELECT a.atttypid, a.atttypmod, false, 0
                UNION ALL
                SELECT coalesce(nullif(d.typbasetype, 0), d.typelem), CASE WHEN d.typtype = 'd' THEN d.typtypmod ELSE -1 END,
                       w.is_array OR d.typtype <> 'd', w.depth + 1
                FROM chain w JOIN pg_type d ON d.oid = w.type
                WHERE d.typtype = 'd' OR (d.typcategory = 'A' AND d.typelem <> 0)
            )
            SELECT (array_agg(w.type ORDER BY w.depth DESC) FILTER (WHERE NOT w.is_array))[1] AS base,
                   (array_agg(w.modifier ORDER BY w.depth DESC) FILTER (WHERE NOT w.is_array))[1] AS modifier,
                   (array_agg(w.type ORDER BY w.depth DESC))[1] AS leaf, bool_or(w.is_array) AS is_array
            FROM chain w
        ) r
        JOIN pg_type l ON l.oid = r.leaf
        LEFT JOIN pg_collation co ON co.oid = a.attcollation
        LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT json_agg(a.attname ORDER BY k.position)
        FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.position <= i.indnkeyatts) AS key,
       (SELECT json_agg(i.indkey::int2[])
        FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
          AND i.indnkeyatts = i.indnatts AND 0 <> ALL (i.indkey::int2[])) AS unique_keys,
       -- BEFORE (2), ROW (1), UPDATE (16): such a trigger can change a column that the UPDATE does not name.
       EXISTS (SELECT FROM pg_trigger g
               WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgtype & 19 = 19) AS before_update_triggers,
       EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srrelid = c.oid) AS subscribed,
       c.relrowsecurity AND c.relforcerowsecurity AS row_security_forced
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(tables)s::oid[]);

-- name: table_owner
-- The role that a source belongs to.
SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = {literal:source}::regclass;

-- name: is_known
-- Whether a client still knows an embedding as it is: its live generation, its instruction, and the columns of its table:
-- one that was added has a higher number.
SELECT EXISTS (SELECT FROM _qwen_embed.embedding e
               JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.state = 'live'
               WHERE e.name = %(name)s AND g.id = %(id)s AND e.instruction = %(instruction)s
                     AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = e.source::oid
                                     AND a.attnum > %(last_column)s::int2 AND NOT a.attisdropped));

-- name: note_restored_columns
-- Records the numbers of the columns, by their names at attach, of a table that a dump has brought: while our triggers
-- still tell which columns those are.
UPDATE _qwen_embed.embedding e SET column_numbers = %(column_numbers)s, source_oid = e.source::oid
FROM _qwen_embed.generation g
WHERE g.embedding_id = e.id AND g.id = %(id)s AND e.source_oid <> e.source::oid
      AND 2 = (SELECT count(*) FROM pg_trigger t
               WHERE t.tgrelid = e.source::oid
                     AND t.tgname IN (format('qwen_embed_key_change_%%s', g.id), format('qwen_embed_update_%%s', g.id)));

-- name: read_registry
-- Every embedding with its generations in every state, a row for each generation. `clones` are our triggers in the
-- partitions; a partition that is attached again gets another one.
-- pg_partition_tree() is not used, because it would wait for the locks of the partitions. to_regclass() is used for our
-- own tables only, because it fails for a role that may not use the schema. A dump that was restored numbers columns
-- again: the columns are then those of our triggers for UPDATE, in the order of the template and of the key. A trigger
-- without a list of columns does not tell: then names count, and the primary key where those of the key are not there.
SELECT e.id AS embedding_id, e.name, e.source::oid AS source, e.key, e.column_name, e.instruction, e.view,
       CASE WHEN e.source_oid = e.source::oid THEN e.column_numbers ELSE
           (SELECT jsonb_object_agg(a.attname, a.attnum) FROM pg_attribute a
            WHERE a.attrelid = e.source::oid AND a.attnum > 0 AND NOT a.attisdropped)
           || coalesce((SELECT jsonb_object_agg(k.name, t.tgattr[k.position::int - 1])
                        FROM pg_trigger t CROSS JOIN LATERAL unnest(e.key) WITH ORDINALITY AS k(name, position)
                        WHERE t.tgrelid = e.source::oid AND t.tgname = format('qwen_embed_key_change_%%s', g.id)
                          AND t.tgattr[k.position::int - 1] IS NOT NULL),
                       (SELECT jsonb_object_agg(k.name, i.indkey[k.position::int - 1])
                        FROM pg_index i CROSS JOIN LATERAL unnest(e.key) WITH ORDINALITY AS k(name, position)
                        WHERE i.indrelid = e.source::oid AND i.indisprimary AND i.indnkeyatts = cardinality(e.key)
                          AND NOT e.key <@ (SELECT array_agg(a.attname::text) FROM pg_attribute a
                                            WHERE a.attrelid = e.source::oid AND NOT a.attisdropped)), '{{}}')
           || coalesce((SELECT jsonb_object_agg(p.name, t.tgattr[p.position::int - 1])
                        FROM pg_trigger t
                        CROSS JOIN LATERAL (
                            SELECT p.part->>'column' AS name, row_number() OVER (ORDER BY min(p.position)) AS position
                            FROM jsonb_array_elements(g.spec->'template'->'parts') WITH ORDINALITY AS p(part, position)
                            WHERE jsonb_typeof(p.part) = 'object' GROUP BY p.part->>'column') p
                        WHERE t.tgrelid = e.source::oid AND t.tgname = format('qwen_embed_update_%%s', g.id)
                          AND t.tgattr[p.position::int - 1] IS NOT NULL), '{{}}')
       END AS column_numbers,
       CASE WHEN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE ARRAY[n.nspname, c.relname]::text[] = parse_ident(e.source_name)) <> e.source::oid
            THEN e.source_name END AS namesake,
       g.id, g.state, g.spec, g.partitions, g.check_drift,
       array_remove(ARRAY[CASE WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(format('_qwen_embed.outbox_%%s', g.id))
                                                AND a.attname = 'k1' AND NOT a.attisdropped) THEN 'outbox' END,
                          CASE WHEN to_regclass(format('_qwen_embed.store_%%s', g.id)) IS NULL THEN 'store' END,
                          CASE WHEN g.spec->>'store' = 'table' AND to_regclass(format('_qwen_embed.store_%%s', g.id)) IS NOT NULL
                                    AND NOT EXISTS (SELECT FROM pg_attribute a
                                                    WHERE a.attrelid = to_regclass(format('_qwen_embed.store_%%s', g.id))
                                                      AND a.attname = 'embedding' AND NOT a.attisdropped)
                               THEN 'vectors' END,
                          CASE WHEN g.spec->>'words' IS NOT NULL AND to_regclass(format('_qwen_embed.store_%%s', g.id)) IS NOT NULL
                                    AND NOT EXISTS (SELECT FROM pg_attribute a
                                                    WHERE a.attrelid = to_regclass(format('_qwen_embed.store_%%s', g.id))
                                                      AND a.attname = 'words' AND NOT a.attisdropped)
                               THEN 'column of words' END,
                          CASE WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(format('_qwen_embed.failure_%%s', g.id))
                                                AND a.attname = 'k1' AND NOT a.attisdropped) THEN 'failure table' END,
                          CASE WHEN NOT EXISTS (SELECT FROM pg_proc p WHERE p.proname = format('document_%%s', g.id)
                                                AND p.pronamespace = to_regnamespace('_qwen_embed'))
                               THEN 'document function' END], NULL) AS missing,
       to_regclass(format('_qwen_embed.former_%%s', g.id)) IS NOT NULL AS has_former_store,
       (SELECT json_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = to_regclass(format('_qwen_embed.store_%%s', g.id)) AND a.attname ~ '^k[0-9]+$'
          AND NOT a.attisdropped) AS stored_key,
       (SELECT array_agg(t.oid ORDER BY t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE t.tgname = format('qwen_embed_insert_%%s', g.id) AND t.tgparentid <> 0 AND c.relkind <> 'p') AS clones,
       (SELECT t.tgtype & 1 = 1 FROM pg_trigger t
        WHERE t.tgrelid = e.source::oid AND t.tgname = format('qwen_embed_insert_%%s', g.id)) AS follows_by_row,
       (SELECT n.nspname FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace
        WHERE x.extname = 'vector') AS vector_schema
FROM _qwen_embed.embedding e
JOIN _qwen_embed.generation g ON g.embedding_id = e.id
WHERE %(name)s::text IS NULL OR e.name = %(name)s
ORDER BY e.name, g.id;

-- name: name_taken
-- Whether a view, or anything else, has this name in qwen_embed.
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'qwen_embed' AND c.relname = %(name)s);

-- name: functions_in_the_way
-- Functions that have one of these names in qwen_embed, each with the embedding that it belongs to. NULL: to none.
SELECT p.oid::regprocedure::text AS function, p.proname AS name, e.name AS embedding
FROM pg_proc p
LEFT JOIN _qwen_embed.embedding e
       ON starts_with(obj_description(p.oid, 'pg_proc'), format('pg_qwen_embed %%s (generation ', e.name))
WHERE p.pronamespace = to_regnamespace('qwen_embed') AND p.proname = ANY (%(names)s::text[])
ORDER BY e.name, p.proname, 1;

-- name: vector_columns
-- Columns of a source in which other embeddings keep their vectors: a view does not show those.
SELECT coalesce(g.spec->>'column', e.column_name) FROM _qwen_embed.embedding e
JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.spec->>'store' = 'column'
WHERE e.source = %(source)s::oid::regclass;

-- name: next_generation
-- The number of the next generation, for --dry-run.
-- A guess: attach takes the number that the registry gives it.
SELECT coalesce(max(id), 0) + 1 AS id FROM _qwen_embed.generation;
