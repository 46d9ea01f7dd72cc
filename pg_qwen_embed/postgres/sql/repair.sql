-- Drift, partitions and vacuum: what keeps a generation right when triggers were bypassed.

-- name: draw_transaction_id
-- Gives the transaction its id before it appends to an outbox. The low watermark rests on that order.
-- It also waits for the disk at the commit: nothing would find the drift again that a crash took back.
SELECT set_config('synchronous_commit', 'on', true), pg_current_xact_id();

-- name: repair_page
-- Enqueues the rows of one page of the source whose vector is missing or stale. The page comes in key order.
-- The rows are locked first, as a writer of the row would lock them. A row that the application has locked is left
-- and counted: its own change enqueues it. Failures wait for their own time, unless they are parked.
-- With `documents` false every row counts as changed: the document of one cannot be read, and the worker will say why.
WITH page AS MATERIALIZED (
    SELECT {source_key_as:t},
           _qwen_embed.fingerprint(CASE WHEN %(documents)s THEN {document:t} ELSE '?' END) AS fingerprint,
           {has_vector} AS has_vector
    FROM {source} t WHERE {beyond} ORDER BY {source_key:t} LIMIT %(rows)s
), wrong AS (
    SELECT {key:p} FROM page p LEFT JOIN {stored_of_page}
    WHERE (p.fingerprint IS DISTINCT FROM s.fingerprint OR (p.fingerprint IS NOT NULL AND NOT p.has_vector) OR NOT {whole})
      AND (%(missing)s OR s.version IS NOT NULL)
      AND NOT EXISTS (SELECT FROM {failure} f WHERE {same_key:key:f=key:p} AND f.next_attempt_at IS NOT NULL)
), n AS (
    SELECT {source_key_as:t} FROM {source} t JOIN wrong p ON {same_key:source_key:t=key:p} FOR SHARE OF t SKIP LOCKED
), enqueued AS (
    INSERT INTO {outbox} ({keys}) SELECT {key:n} FROM n RETURNING 1
)
SELECT (SELECT count(*) FROM enqueued), (SELECT count(*) FROM wrong) - (SELECT count(*) FROM n),
       (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1);

-- name: repair_orphans_page
-- Enqueues the orphans of one page of the store, in key order. The worker removes them.
WITH page AS MATERIALIZED (
    SELECT {distinct} {key:s} FROM {store} s WHERE {beyond} ORDER BY {key:s} LIMIT %(rows)s
), enqueued AS (
    INSERT INTO {outbox} ({keys})
    SELECT {key:p} FROM page p WHERE NOT EXISTS (SELECT FROM {source} t WHERE {same_key:source_key:t=key:p})
    RETURNING 1
)
SELECT (SELECT count(*) FROM enqueued), 0::bigint,
       (SELECT ARRAY[{key_text:p}] FROM page p ORDER BY {key_descending:p} LIMIT 1);

-- name: stored_of_page_plain
-- The store joined to a page of keys, for layouts `table` and `column`. Part of repair_page.
{store} s ON {same_key:key:s=key:p}

-- name: stored_of_page_chunked
-- The chunks of each row joined to a page of keys, for layout `chunked`. Part of repair_page.
LATERAL (SELECT {all_chunks} FROM {store} s WHERE {same_key:key:s=key:p}) s ON true

-- name: store_beyond
-- Vectors after the last key of the page before. Part of repair_orphans_page.
{later_key:key:s>after}

-- name: ring
-- What a trigger does at its end: NOTIFY if the worker sleeps, and the queue is not nearly full.
SELECT CASE WHEN NOT pg_try_advisory_xact_lock_shared(%(gate)s, %(id)s) AND pg_notification_queue_usage() < 0.9
            THEN pg_notify('qwen_embed', %(id)s::text) END;

-- name: table_of_trigger
-- The partition that a trigger stands in. No row: the partition was dropped.
SELECT n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.oid = %(trigger)s;

-- name: has_rows
-- Whether a partition has rows.
SELECT EXISTS (SELECT FROM {table});

-- name: note_partitions
-- Records the partitions whose rows were compared with the store.
UPDATE _qwen_embed.generation SET partitions = %(partitions)s::oid[] WHERE id = %(id)s;

-- name: vacuum_outbox
-- Vacuums an outbox.
-- TRUNCATE off: to shorten the file would take ACCESS EXCLUSIVE, and lock writers out.
VACUUM (TRUNCATE off) {outbox};

-- name: note_grants
-- Records the rights that others have to the view, the store and the functions of these generations, where they have
-- changed. A role is named; an empty name is PUBLIC. A function is known by the end of its comment: the types that it takes
-- may change. View and functions are those of the live generation.
UPDATE _qwen_embed.generation g SET grants = n.grants
FROM (SELECT o.id, jsonb_object_agg(o.kind, (
                 SELECT coalesce(jsonb_agg(jsonb_build_array(coalesce(r.rolname, ''), a.privilege_type, a.is_grantable)
                                           ORDER BY r.rolname, a.privilege_type), '[]')
                 FROM aclexplode(o.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
                 WHERE a.grantee <> o.owner)) AS grants
      FROM (SELECT g.id, 'store' AS kind, c.relacl AS acl, c.relowner AS owner
            FROM _qwen_embed.generation g JOIN pg_class c ON c.oid = to_regclass(format('_qwen_embed.store_%%s', g.id))
            UNION ALL
            SELECT g.id, 'view', c.relacl, c.relowner
            FROM _qwen_embed.generation g JOIN _qwen_embed.embedding e ON e.id = g.embedding_id AND g.state = 'live'
            JOIN pg_class c ON c.oid = to_regclass(format('qwen_embed.%%I', e.name))
            UNION ALL
            SELECT g.id, 'function: ' || f.purpose, coalesce(f.proacl, acldefault('f', f.proowner)), f.proowner
            FROM _qwen_embed.generation g JOIN _qwen_embed.embedding e ON e.id = g.embedding_id AND g.state = 'live'
            JOIN (SELECT p.proacl, p.proowner, substring(d.description FROM '^(.*) [(]generation [0-9]+[)]: ') AS owned_by,
                         substring(d.description FROM '[(]generation [0-9]+[)]: (.*)$') AS purpose
                  FROM pg_proc p JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
                  WHERE p.pronamespace = to_regnamespace('qwen_embed') AND p.proname !~ '^distance_[0-9]+$') f
                 ON f.owned_by = format('pg_qwen_embed %%s', e.name)) o
      WHERE o.id = ANY (%(ids)s::int[])
      GROUP BY o.id) n
WHERE g.id = n.id AND g.grants IS DISTINCT FROM coalesce(g.grants, '{{}}') || n.grants;

-- name: recorded_grants
-- The recorded rights to view, store and functions of an embedding, as GRANT statements, for roles that are still there. Every
-- role may call a new function; a REVOKE comes first where PUBLIC had no right to it.
WITH recorded AS (
    SELECT o.oid, k.kind LIKE 'function: %%' AS is_function, k.rights, o.name
    FROM _qwen_embed.embedding e
    JOIN _qwen_embed.generation g ON g.embedding_id = e.id
    CROSS JOIN LATERAL jsonb_each(g.grants) AS k(kind, rights)
    CROSS JOIN LATERAL (
        SELECT to_regclass(CASE k.kind WHEN 'view' THEN format('qwen_embed.%%I', e.name)
                           ELSE format('_qwen_embed.store_%%s', g.id) END)::oid AS oid,
               to_regclass(CASE k.kind WHEN 'view' THEN format('qwen_embed.%%I', e.name)
                           ELSE format('_qwen_embed.store_%%s', g.id) END)::text AS name
        WHERE k.kind IN ('view', 'store')
        UNION ALL
        SELECT p.oid, 'FUNCTION ' || p.oid::regprocedure
        FROM pg_proc p JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
        WHERE k.kind LIKE 'function: %%' AND p.pronamespace = to_regnamespace('qwen_embed')
          AND d.description = format('pg_qwen_embed %%s (generation %%s): %%s', e.name, g.id, substring(k.kind FROM 11))) o
    WHERE e.name = %(name)s AND o.oid IS NOT NULL AND (k.kind <> 'view' OR g.state = 'live')
)
SELECT format('REVOKE ALL ON %%s FROM PUBLIC', c.name) AS sql
FROM recorded c WHERE c.is_function AND NOT EXISTS (SELECT FROM jsonb_array_elements(c.rights) AS r WHERE r->>0 = '')
UNION ALL
SELECT format('GRANT %%s ON %%s TO %%s%%s', r->>1, c.name, CASE WHEN r->>0 = '' THEN 'PUBLIC' ELSE quote_ident(r->>0) END,
              CASE WHEN (r->>2)::boolean THEN ' WITH GRANT OPTION' ELSE '' END)
FROM recorded c CROSS JOIN LATERAL jsonb_array_elements(c.rights) AS r
WHERE CASE WHEN r->>0 = '' THEN NOT c.is_function ELSE EXISTS (SELECT FROM pg_roles o WHERE o.rolname = r->>0) END;

-- name: request_drift_check
-- Asks the worker to compare all rows of an embedding with their vectors.
UPDATE _qwen_embed.generation g SET check_drift = true
FROM _qwen_embed.embedding e WHERE e.id = g.embedding_id AND e.name = %(name)s;

-- name: read_drift_request
-- Which request to compare all rows is not done yet: the transaction that wrote it last. No row: there is none.
SELECT xmin::text FROM _qwen_embed.generation WHERE id = %(id)s AND check_drift;

-- name: note_drift_checked
-- Records that all rows of a generation were compared with their vectors.
-- A request that came while they were compared stays: some rows had been compared before the source was altered again.
UPDATE _qwen_embed.generation SET check_drift = false WHERE id = %(id)s AND xmin::text = %(request)s RETURNING id;
