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

-- name: own_backend
-- The process id of the backend that answers. It differs from the one that the client was told behind a pooler.
SELECT pg_backend_pid();

-- name: look_at_rights
-- Which rights of the worker's statements this role lacks, and whether row-level security hides rows from it.
SELECT current_user,
       (SELECT coalesce(array_agg(format('%%s on %%s', r.privilege, r.relation) ORDER BY r.relation, r.privilege), '{{}}')
        FROM (SELECT {literal:source}::regclass AS relation, p AS privilege
              FROM unnest(CASE WHEN %(in_column)s THEN ARRAY['SELECT', 'UPDATE'] ELSE ARRAY['SELECT'] END) p
              UNION ALL
              SELECT t, p FROM unnest(ARRAY[{literal:outbox}, {literal:store}, {literal:failure}]::regclass[]) t,
                               unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
              UNION ALL
              SELECT t, p FROM unnest('{{_qwen_embed.generation,_qwen_embed.backfill}}'::regclass[]) t,
                               unnest(ARRAY['SELECT', 'UPDATE']) p) r
        WHERE NOT has_table_privilege(r.relation, r.privilege)),
       (SELECT c.relrowsecurity AND NOT o.rolbypassrls AND NOT o.rolsuper
               AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE'))
        FROM pg_class c, pg_roles o
        WHERE c.oid = {literal:source}::regclass AND o.rolname = current_user);
