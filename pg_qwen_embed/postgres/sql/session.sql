-- name: configure_session
-- Every session of ours: what is set for the role or the database must not change what we do. Documents must not depend
-- on who connects; a key's text must be read as that key again; our reasoning rests on READ COMMITTED; a session that hangs in
-- a transaction must not hold back vacuum.
SELECT set_config('DateStyle', 'ISO', false), set_config('TimeZone', 'UTC', false),
       set_config('extra_float_digits', '1', false), set_config('array_nulls', 'on', false),
       set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
       set_config('idle_session_timeout', '0', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('idle_in_transaction_session_timeout', '30s', false);

-- name: configure_worker_session
-- The worker's statements reach rows by key. On a small or never-analysed table the planner would rather scan, and a
-- plan made then would stay when the table has grown. A row that row-level security hides from the worker would look
-- deleted: rather an error. A source that is locked must not hold up the others. A crash may take back what was committed last,
-- vectors and the acknowledgement of their entries alike, so nothing waits for the disk. What is repeated makes libpq's buffer for
-- answers as large as what a socket holds, which it would otherwise read in pieces of 16 kB, each a turn of the worker's loop.
-- When the worker's machine vanishes without a word, PostgreSQL finds out in half a minute, and not after the two hours of most
-- systems, in which nobody else could lead, and every writer would notify.
SELECT set_config('row_security', 'off', false), set_config('lock_timeout', '1s', false),
       set_config('synchronous_commit', 'off', false), repeat(' ', 200000),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('jit', 'off', false),
       set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30s', false);

-- name: see_every_row
-- Rather an error than a count of what row-level security lets this role see.
SELECT set_config('row_security', 'off', true);

-- name: name_session
SELECT set_config('application_name', %(name)s, false);

-- name: listen
LISTEN {channel};

-- name: ping
SELECT pg_notify(%(channel)s, 'ping');

-- name: announce_change
-- Wakes the workers to read the registry again. Delivered when the transaction commits.
SELECT pg_notify('qwen_embed', 'registry');

-- name: take_locks
-- Leadership is a session lock: it ends with the session, so it needs no lease and no heartbeat.
SELECT id FROM unnest(%(ids)s::int[]) AS id WHERE pg_try_advisory_lock(%(lock)s, id);

-- name: release_lock
SELECT pg_advisory_unlock(%(lock)s, %(id)s);

-- name: close_gates
-- A writer that finds its gate closed notifies. Refused while a writer that found it open is still in flight:
-- that one will not notify, so the worker may not sleep yet.
SELECT id FROM unnest(%(ids)s::int[]) AS id WHERE pg_try_advisory_lock(%(lock)s, id);

-- name: open_gates
SELECT pg_advisory_unlock(%(lock)s, id) FROM unnest(%(ids)s::int[]) AS id;

-- name: halfvec_oid
SELECT t.oid FROM pg_type t JOIN pg_extension e ON e.extnamespace = t.typnamespace
WHERE e.extname = 'vector' AND t.typname = 'halfvec';
