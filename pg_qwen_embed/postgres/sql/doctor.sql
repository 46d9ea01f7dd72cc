-- What `doctor` looks at beyond `status`.

-- name: look_at_server
-- Is it a standby, how many connections are free, how close is wraparound, how full is the queue of notifications, and which old transaction of this
-- database blocks vacuum.
-- PostgreSQL shows the sessions of other roles only to members of pg_read_all_stats.
SELECT pg_is_in_recovery() AS standby,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - (SELECT sum(numbackends)::int FROM pg_stat_database) AS free,
       (SELECT max(age(datfrozenxid)) FROM pg_database) AS age,
       pg_has_role('pg_read_all_stats', 'MEMBER') AS sees_others,
       pg_notification_queue_usage() AS notifications,
       (SELECT format('pid %%s (%%s), in a transaction for %%s s', pid, application_name,
                      round(extract(epoch FROM clock_timestamp() - xact_start)))
        FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1)
           AS oldest_transaction,
       (SELECT format('%%s, %%s s old,', h.who, round(h.seconds)) FROM (
            SELECT format('the transaction of pid %%s (%%s)', pid, application_name) AS who,
                   extract(epoch FROM clock_timestamp() - xact_start) AS seconds
            FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()
            UNION ALL
            SELECT format('the prepared transaction %%s', gid), extract(epoch FROM clock_timestamp() - prepared)
            FROM pg_prepared_xacts WHERE database = current_database()
        ) h WHERE h.seconds > %(old)s ORDER BY h.seconds DESC LIMIT 1) AS holder;

-- name: look_at_replication
-- Publications and subscriptions that have internal tables in them, and the schemas of the application's tables there.
-- A role sees them without any right.
SELECT 'publication' AS kind, p.pubname AS name, count(*) AS tables,
       (SELECT string_agg(DISTINCT quote_ident(a.schemaname), ', ') FROM pg_publication_tables a
        WHERE a.pubname = p.pubname AND a.schemaname <> '_qwen_embed') AS schemas
FROM pg_publication_tables p WHERE p.schemaname = '_qwen_embed' GROUP BY p.pubname
UNION ALL
SELECT 'subscription', s.subname, count(*), NULL
FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid JOIN pg_class c ON c.oid = r.srrelid
WHERE c.relnamespace = to_regnamespace('_qwen_embed') GROUP BY s.subname
ORDER BY kind, name;

-- name: own_backend
-- The process id of the backend that answers. It differs from the one that the client was told behind a pooler.
SELECT pg_backend_pid();

-- name: missing_grants
-- Which of these rights to tables this role lacks, each with the GRANT that gives it; USAGE on their schemas first.
-- Names are compared as text: a cast to regclass fails for a role that may not use the schema.
WITH wanted AS (
    SELECT n.oid AS schema, n.nspname, c.oid AS relation, c.relname, w.privilege, w.position
    FROM unnest(%(schemas)s::text[], %(relations)s::text[], %(privileges)s::text[])
         WITH ORDINALITY AS w(schema, relation, privilege, position)
    JOIN pg_namespace n ON n.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
), lacking AS (
    SELECT DISTINCT ON (schema) 0 AS position, 'USAGE' AS privilege, format('schema %%I', nspname) AS what, format('SCHEMA %%I', nspname) AS sql
    FROM wanted WHERE NOT has_schema_privilege(schema, 'USAGE')
    UNION ALL
    SELECT position, privilege, format('%%I.%%I', nspname, relname), format('%%I.%%I', nspname, relname)
    FROM wanted WHERE NOT has_table_privilege(relation, privilege)
)
SELECT format('%%s on %%s', privilege, what), format('GRANT %%s ON %%s TO %%I', privilege, sql, current_user)
FROM lacking ORDER BY position, what;

-- name: look_at_row_security
-- Whether row-level security hides rows of the source from this role.
SELECT c.relrowsecurity AND NOT o.rolbypassrls AND NOT o.rolsuper
       AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles o
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND o.rolname = current_user;

-- name: look_at_superusers
-- Superusers that use pg_qwen_embed: this role, and the roles of workers that lead. `is_ours`: it is this one.
SELECT r.rolname, r.rolname = current_user AS is_ours
FROM pg_roles r
WHERE r.rolsuper
  AND (r.rolname = current_user
       OR r.oid IN (SELECT a.usesysid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                    WHERE l.locktype = 'advisory' AND l.classid::bigint = %(lock)s AND l.objsubid = 2 AND l.granted
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())))
ORDER BY is_ours DESC, r.rolname;

-- name: look_at_creators
-- Roles that may create in our schemas, or write the registry, and that this one does not trust. With each: the statement
-- that takes the right away.
WITH me AS (
    SELECT oid, rolsuper FROM pg_roles WHERE rolname = current_user
), rights AS (
    SELECT format('the schema %%I', n.nspname) AS what, format('SCHEMA %%I', n.nspname) AS written, n.nspowner AS owner, a.*
    FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
    WHERE n.nspname IN ('_qwen_embed', 'qwen_embed') AND a.privilege_type = 'CREATE'
    UNION ALL
    SELECT format('_qwen_embed.%%I', c.relname), format('_qwen_embed.%%I', c.relname), c.relowner, a.*
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
    WHERE c.relnamespace = to_regnamespace('_qwen_embed') AND c.relname IN ('embedding', 'generation', 'backfill')
      AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
)
SELECT coalesce(r.rolname, 'PUBLIC'), string_agg(DISTINCT g.privilege_type, ', '), g.what,
       format('REVOKE %%s ON %%s FROM %%s', string_agg(DISTINCT g.privilege_type, ', '), g.written,
              coalesce(quote_ident(r.rolname), 'PUBLIC'))
FROM rights g CROSS JOIN me LEFT JOIN pg_roles r ON r.oid = g.grantee
WHERE g.grantee <> g.owner
  AND NOT coalesce(r.rolsuper OR r.oid = me.oid OR (NOT me.rolsuper AND pg_has_role(r.oid, 'MEMBER')), false)
GROUP BY r.rolname, g.what, g.written
ORDER BY 1, 3;

-- name: untrusted_owners
-- Roles that this one does not trust (see untrusted_objects) and that own the source, a partition of it, or a type of its
-- columns. `role`: this one.
WITH RECURSIVE me AS (
    SELECT oid, rolname, rolsuper FROM pg_roles WHERE rolname = current_user
), relation (oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(name)s
    UNION
    SELECT i.inhrelid FROM relation JOIN pg_inherits i ON i.inhparent = relation.oid
), type (oid) AS (
    SELECT a.atttypid FROM relation JOIN pg_attribute a ON a.attrelid = relation.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT n.oid
    FROM type JOIN pg_type t ON t.oid = type.oid
    CROSS JOIN LATERAL (SELECT t.typbasetype UNION ALL SELECT t.typelem
                        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
                        UNION ALL SELECT a.atttypid FROM pg_attribute a
                        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) n(oid)
    WHERE n.oid <> 0
), owned AS (
    SELECT 'table' AS kind, format('%%I.%%I', n.nspname, c.relname) AS name, c.relowner AS owner
    FROM relation JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION
    SELECT 'type', format_type(t.oid, NULL), t.typowner
    FROM type JOIN pg_type t USING (oid) WHERE t.typcategory <> 'A'
)
SELECT o.kind, o.name, r.rolname AS owner, me.rolname AS role
FROM owned o JOIN pg_roles r ON r.oid = o.owner CROSS JOIN me
WHERE NOT r.rolsuper AND r.oid <> me.oid AND (me.rolsuper OR NOT pg_has_role(r.oid, 'MEMBER'))
ORDER BY r.rolname, o.kind, o.name;

-- name: explain_query
-- Plans a query that a person has written, and does not run it. The planner may call functions in it that are immutable or
-- stable.
EXPLAIN (VERBOSE, FORMAT JSON{generic}) {query};

-- name: limit_plan
-- Lets the transaction change nothing, and bounds how long it takes to plan.
SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', %(timeout)s, true);

-- name: force_index
-- Leaves the planner an index, where one can be used: it reads and sorts whole tables only if it must.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
       set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true);

-- name: search_settings
-- The settings of pgvector for an index scan, as this role has them in this database.
SELECT coalesce(nullif(current_setting('hnsw.iterative_scan', true), ''), 'off'),
       coalesce(nullif(current_setting('hnsw.ef_search', true), ''), '40')::int;

-- name: search_settings_of_lists
-- Those for an index of kind ivfflat, and how many lists a search of this embedding should read.
SELECT coalesce(nullif(current_setting('ivfflat.iterative_scan', true), ''), 'off'),
       coalesce(nullif(current_setting('ivfflat.probes', true), ''), '1')::int, qwen_embed.ef_search(%(name)s);

-- name: vectors_page
-- A page of the source in key order, each row with its vectors: for `doctor --vectors`. `letters` is how many characters of
-- the document are no blanks, counted up to a bound in its beginning.
-- With `documents` false no document is read: that of a row may raise an error.
SELECT p.letters, {own_fingerprint}, {any_vector}, {key_text:p}
FROM (SELECT {source_key_as:t}, {vector_in_source} AS vector,
             CASE WHEN %(documents)s
                  THEN length(left(regexp_replace(left(coalesce({document:t}, ''), 2000), '\s', '', 'g'), 4)) END AS letters
      FROM {source} t WHERE {beyond} ORDER BY {source_key:t} LIMIT %(rows)s) p
LEFT JOIN {store} s ON {same_key:key:s=key:p}
ORDER BY {key:p}, {chunk_number};
