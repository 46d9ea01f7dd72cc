-- Whose objects stand in our schemas, and whose sessions hold our locks. What a role owns runs that role's functions with
-- the rights of whoever uses it; an advisory lock can be taken by every role that may connect.

-- name: untrusted_objects
-- The schemas of ours, and the objects in them, that belong to a role which this one does not trust: neither itself, nor a
-- superuser, nor a role that it is a member of. A superuser counts as a member of none. With each: the number of its
-- generation, the statement that removes it, and the one that makes this role trust its owner.
-- A worker runs it every 5 s. The owners come first, who are few: the roles of a cluster and the objects can be many.
WITH me AS (
    SELECT oid, rolname, rolsuper FROM pg_roles WHERE rolname = current_user
), ours AS (
    SELECT oid, nspname, nspowner FROM pg_namespace WHERE nspname IN ('_qwen_embed', 'qwen_embed')
), owner AS (
    SELECT n.nspowner AS oid FROM ours n
    UNION SELECT c.relowner FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM ours)
    UNION SELECT p.proowner FROM pg_proc p WHERE p.pronamespace IN (SELECT oid FROM ours)
    UNION SELECT t.typowner FROM pg_type t WHERE t.typnamespace IN (SELECT oid FROM ours)
    UNION SELECT o.oprowner FROM pg_operator o WHERE o.oprnamespace IN (SELECT oid FROM ours)
), stranger AS MATERIALIZED (
    SELECT r.oid, r.rolname FROM owner JOIN pg_roles r USING (oid) CROSS JOIN me
    WHERE NOT r.rolsuper AND r.oid <> me.oid AND (me.rolsuper OR NOT pg_has_role(r.oid, 'MEMBER'))
), found AS (
    SELECT 1 AS step, 'schema' AS kind, n.nspname AS schema, n.nspname AS name, quote_ident(n.nspname) AS written,
           r.rolname AS owner
    FROM ours n JOIN stranger r ON r.oid = n.nspowner
    UNION ALL
    SELECT 2, CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                             WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END,
           n.nspname, c.relname, format('%%I.%%I', n.nspname, c.relname), r.rolname
    FROM pg_class c JOIN ours n ON n.oid = c.relnamespace JOIN stranger r ON r.oid = c.relowner
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
    UNION ALL
    SELECT 3, CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END, n.nspname, p.proname,
           format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), r.rolname
    FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace JOIN stranger r ON r.oid = p.proowner
    UNION ALL
    SELECT 4, CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, n.nspname, t.typname,
           format('%%I.%%I', n.nspname, t.typname), r.rolname
    FROM pg_type t JOIN ours n ON n.oid = t.typnamespace JOIN stranger r ON r.oid = t.typowner
    WHERE t.typrelid = 0 AND t.typelem = 0 AND t.typtype <> 'm'
    UNION ALL
    SELECT 5, 'operator', n.nspname, o.oprname,
           format('%%I.%%s (%%s, %%s)', n.nspname, o.oprname, coalesce(nullif(o.oprleft, 0)::regtype::text, 'NONE'),
                  o.oprright::regtype), r.rolname
    FROM pg_operator o JOIN ours n ON n.oid = o.oprnamespace JOIN stranger r ON r.oid = o.oprowner
)
SELECT f.kind, f.schema, f.name, f.written, f.owner,
       substring(f.name FROM CASE f.schema
           WHEN '_qwen_embed' THEN '^(?:outbox|store|former|failure|document|key|words|follow_[a-z_]+)_([0-9]{{1,9}})(?:_[0-9]+)?$'
           ELSE '^(?:distance|words|near)_([0-9]{{1,9}})$' END)::int AS generation,
       me.rolname AS role, me.rolsuper AS superuser,
       format('DROP %%s %%s CASCADE', upper(f.kind), f.written) AS removal,
       format('GRANT %%I TO %%I', f.owner, me.rolname) AS membership
FROM found f CROSS JOIN me
ORDER BY f.step, f.written;

-- name: strangers_with_locks
-- Sessions that hold an advisory lock of ours, of roles that may not write the registry: no worker, and no command of ours.
-- A writer of the application holds its gate shared, and is none. With each: the statement that ends it. A prepared
-- transaction has no process; it is found by the lock of its own number.
SELECT l.classid::bigint AS lock, l.objid::bigint AS id, l.pid, coalesce(a.usename, p.owner) AS role,
       a.application_name AS application,
       CASE WHEN p.gid IS NULL THEN format('SELECT pg_terminate_backend(%%s)', l.pid)
            ELSE format('ROLLBACK PREPARED %%L', p.gid) END AS remedy
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
                    AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND l.classid::bigint = ANY (%(locks)s::bigint[])
  AND (l.classid::bigint <> %(gate)s OR l.mode = 'ExclusiveLock')
  AND NOT coalesce((SELECT has_table_privilege(coalesce(a.usename, p.owner), c.oid, 'UPDATE') FROM pg_class c
                    WHERE c.relname = 'generation' AND c.relnamespace = to_regnamespace('_qwen_embed')), false)
ORDER BY 1, 2, 3;

-- name: holder_of_init
-- The session that holds the lock of `init`.
SELECT l.pid, a.usename AS role, a.application_name AS application, format('SELECT pg_terminate_backend(%%s)', l.pid) AS remedy
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = %(lock)s
LIMIT 1;

-- name: lock_number
-- The second number of the lock of an embedding's objects.
SELECT hashtext(%(name)s)::bigint & 4294967295;
