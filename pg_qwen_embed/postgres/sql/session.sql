-- Settings of a session, notifications, and the advisory locks of a worker.

-- name: configure_session
-- Settings of every session of ours: what is set for the role or the database may not change what we do. A document
-- may not depend on who connects. A key's text must be read as that key again. The promises rest on READ COMMITTED.
-- A session that hangs in a transaction must not block vacuum. transaction_timeout is there from PostgreSQL 17 on.
-- search_path is pinned: a role that may create functions or operators in a schema of the path could have its own called
-- in place of PostgreSQL's, with our rights. So this statement names every schema. What the role has is kept, for the
-- names that a person writes.
-- Behind a pooler, whose process ids are made up, the path stays: it would remain set for the pooler's other clients.
SELECT CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(pid)s::pg_catalog.int4 THEN
           pg_catalog.set_config('pg_qwen_embed.search_path', pg_catalog.current_setting('search_path'), false) END,
       CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(pid)s::pg_catalog.int4 THEN
           pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false) END,
       pg_catalog.set_config('DateStyle', 'ISO', false), pg_catalog.set_config('TimeZone', 'UTC', false),
       pg_catalog.set_config('extra_float_digits', '1', false), pg_catalog.set_config('array_nulls', 'on', false),
       pg_catalog.set_config('statement_timeout', '0', false), pg_catalog.set_config('lock_timeout', '0', false),
       pg_catalog.set_config('idle_session_timeout', '0', false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       pg_catalog.set_config('default_transaction_read_only', 'off', false),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '30s', false),
       (SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
        WHERE name OPERATOR(pg_catalog.=) 'transaction_timeout');

-- name: use_tables_only
-- Makes views and foreign tables an error in this session: the owner of a source could put a view in its place, whose
-- functions would run with our rights. PostgreSQL's own views are not meant. Releases of 2024-08 and later have the
-- setting. Behind a pooler it is left alone: it would remain set for the pooler's other clients.
SELECT CASE WHEN pg_backend_pid() = %(pid)s::int THEN
           (SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings
            WHERE name = 'restrict_nonsystem_relation_kind') END;

-- name: use_views
-- Allows them until the transaction ends: for statements that fire triggers of the application, which may read views.
SELECT set_config(name, '', true) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind';

-- name: search_paths
-- The search_path that this role has, of which a session of ours keeps a note, and the one that is used now.
SELECT coalesce(pg_catalog.current_setting('pg_qwen_embed.search_path', true), pg_catalog.current_setting('search_path')),
       pg_catalog.current_setting('search_path');

-- name: use_search_path
-- Looks names up in these schemas until the transaction ends, or until it is called again.
SELECT pg_catalog.set_config('search_path', %(path)s, true);

-- name: lock_timeout
-- The lock_timeout of this session, to be set again when a connection is given back.
SELECT pg_catalog.current_setting('lock_timeout');

-- name: configure_worker_session
-- Settings of the worker's sessions. Its statements reach rows by key, so plans that scan or hash are off: a plan
-- made for a small or never-analysed table would stay when the table has grown.
-- Row-level security that hides a row raises an error: the row would look deleted. It cannot be for a role that is no
-- member of the owner of a store, because that has row-level security of its own: hidden_sources looks for it then.
-- A source that is locked may hold up nothing else, hence lock_timeout. A crash may take back what was committed last, vectors and acknowledgements
-- alike, so nothing waits for the disk. repeat() makes libpq's buffer for answers as large as what a socket holds;
-- libpq would read pieces of 16 kB, each a turn of the worker's loop. TCP keepalives: PostgreSQL ends the session of
-- a vanished machine in half a minute. Otherwise it would keep its locks for two hours on most systems: nobody else
-- could lead, and every writer would notify.
SELECT set_config('row_security', CASE WHEN EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('_qwen_embed')
                                                      AND relrowsecurity AND row_security_active(oid))
                                  THEN 'on' ELSE 'off' END, false),
       set_config('lock_timeout', '1s', false),
       set_config('synchronous_commit', 'off', false), repeat(' ', 200000),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('jit', 'off', false),
       set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30s', false);

-- name: limit_statements
-- Bounds how long a statement runs that reads documents: a single value may take minutes to become a text. `local`: until
-- the end of the transaction.
SELECT set_config('statement_timeout', %(milliseconds)s, %(local)s);

-- name: wait_for_disk
-- Ends when all that was committed before is on this server's disk: the worker's own commits do not wait for it. A
-- commit waits only if it wrote something, hence the message; no subscription asks for it. With `local` it waits for no
-- standby, which may be down.
SELECT set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'pg_qwen_embed', 'flush');

-- name: see_every_row
-- Makes row-level security that hides a row of the source an error: a count of the visible rows would be wrong. Where it
-- hides none, the policy of the store shows all of it to a role that is no member of its owner.
SELECT set_config('row_security', CASE WHEN row_security_active({literal:source}::regclass) THEN 'off' ELSE 'on' END, true);

-- name: name_session
-- Names the session in pg_stat_activity. `status` shows the name of the leader's session.
SELECT set_config('application_name', %(name)s, false);

-- name: listen
-- Begins to hear notifications of one channel.
LISTEN {channel};

-- name: ping
-- Calls the worker's own listening session: both connections are alive when it answers. Returns whether it was called:
-- where the queue of notifications is nearly full, it is not.
SELECT q.usage < 0.9, CASE WHEN q.usage < 0.9 THEN pg_notify(%(channel)s, 'ping') END
FROM (SELECT pg_notification_queue_usage() AS usage OFFSET 0) q;

-- name: announce_change
-- Wakes all workers to read the registry again. It is delivered at the commit. Where the queue of notifications is
-- nearly full nothing is sent, because that would fail the transaction; workers read the registry every 5 s.
SELECT CASE WHEN pg_notification_queue_usage() < 0.9 THEN pg_notify('qwen_embed', 'registry') END;

-- name: take_locks
-- Takes the session locks of these generations (leader, model mismatch), and returns those that nobody else holds. A
-- session lock ends with its session: leadership needs no lease and no heartbeat.
SELECT id FROM unnest(%(ids)s::int[]) AS id WHERE pg_try_advisory_lock(%(lock)s, id);

-- name: release_lock
-- Releases one session lock.
SELECT pg_advisory_unlock(%(lock)s, %(id)s);

-- name: close_gates
-- Closes the gates of a worker that wants to sleep, and returns those that are closed. A writer that finds its gate
-- held sends a NOTIFY.
-- A gate stays open while a writer that found it open is in flight. That writer will not notify, so the worker may
-- not sleep yet.
-- While the queue of notifications is half full no gate is closed: a full queue fails the transactions that notify.
SELECT id FROM unnest(CASE WHEN pg_notification_queue_usage() < 0.5 THEN %(ids)s::int[] ELSE '{{}}' END) AS id
WHERE pg_try_advisory_lock(%(lock)s, id);

-- name: open_gates
-- Opens the gates of a worker that is awake: writers need not notify.
SELECT pg_advisory_unlock(%(lock)s, id) FROM unnest(%(ids)s::int[]) AS id;

-- name: catalogue_facts
-- The oid of the type halfvec, with which the worker sends vectors in binary, and those of the outboxes that it reads.
-- They change when the extension is created again, or the database restored, while the worker is connected.
-- `too_strict`: row-level security of a store holds for this role now, and would be an error in each of its statements.
SELECT (SELECT t.oid FROM pg_type t JOIN pg_extension e ON e.extnamespace = t.typnamespace
        WHERE e.extname = 'vector' AND t.typname = 'halfvec') AS halfvec,
       ARRAY(SELECT to_regclass(format('_qwen_embed.outbox_%%s', g.id))::oid::bigint
             FROM unnest(%(ids)s::int[]) WITH ORDINALITY AS g(id, position) ORDER BY g.position) AS outboxes,
       current_setting('row_security') = 'off'
           AND EXISTS (SELECT FROM _qwen_embed.generation g
                       WHERE row_security_active(to_regclass(format('_qwen_embed.store_%%s', g.id))::oid)) AS too_strict;

-- name: hidden_sources
-- The generations with rows in their source that row-level security may hide from this role, for a session in which that
-- is no error. Such a row would look deleted.
SELECT g.id FROM _qwen_embed.generation g JOIN _qwen_embed.embedding e ON e.id = g.embedding_id
WHERE current_setting('row_security') = 'on' AND row_security_active(e.source::oid);

-- name: load_pgvector
-- Loads the library of pgvector into this session. Before, only a superuser may set a parameter of its for others.
SELECT ARRAY[1]::real[]::{halfvec};

-- name: set_database_default
-- Lets index scans of new sessions continue until LIMIT rows are found, also behind a filter.
ALTER DATABASE {database} SET hnsw.iterative_scan = 'strict_order';
