-- The text of a query inside a SELECT: how a session asks a worker for a vector without a commit, and how the worker answers.

-- name: create_query_secret
-- The key with which requests are encrypted and authenticated: one row, which the owner and the worker may read, nobody else.
-- It is unlogged, so it is neither replicated nor in a base backup.
CREATE UNLOGGED TABLE _qwen_embed.query_secret (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), secret bytea NOT NULL
);

-- name: make_query_secret
-- Makes the secret where there is none. A worker does, before it answers. Two random UUIDs have 244 random bits.
INSERT INTO _qwen_embed.query_secret (secret)
SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
WHERE NOT EXISTS (SELECT FROM _qwen_embed.query_secret)
ON CONFLICT DO NOTHING;

-- name: create_query_cache
-- The vectors of queries by a hash of generation, instruction and text. It is also the way of an answer.
-- There is no primary key and no type of pgvector's: a subscriber may have rows of its own, and the extension may be
-- dropped. A vector of up to 2,000 dimensions stays in its row.
CREATE TABLE _qwen_embed.query_cache (
    key bytea NOT NULL, generation integer NOT NULL, vector real[] NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- name: set_query_cache_storage
-- Vectors are not compressed: they would not get smaller.
ALTER TABLE _qwen_embed.query_cache ALTER COLUMN vector SET STORAGE EXTERNAL;

-- name: set_query_cache_identity
-- Lets a publication of all tables replicate the deletes of the sweep.
ALTER TABLE _qwen_embed.query_cache REPLICA IDENTITY FULL;

-- name: index_query_cache
-- Finds a vector by its key.
CREATE INDEX query_cache_key ON _qwen_embed.query_cache (key);

-- name: index_query_cache_by_age
-- Finds the oldest vectors, which the sweep deletes.
CREATE INDEX query_cache_made_at ON _qwen_embed.query_cache (made_at);

-- name: create_query_error
-- Why a request has no vector. A row lives a minute, so it need not survive a crash.
CREATE UNLOGGED TABLE _qwen_embed.query_error (
    nonce bytea PRIMARY KEY, sentence text NOT NULL, made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: create_ask_worker
-- Asks a worker for the vector of a query, and waits for it. The request is placed as shared advisory locks, which every
-- session sees at once in pg_locks: a nonce, a keyed checksum, and the encrypted text, four bytes a lock; last the lock that
-- tells their length, and the bell. The function is VOLATILE, so each of its statements sees what was committed since.
-- The locks belong to the inner block. Its end by an exception, of ours or of PostgreSQL's, releases them.
-- Slots bound how much of PostgreSQL's lock table all requests together may take.
-- A worker that has just started leads the embedding a moment before it answers: it is waited for.
-- The session then waits at a door: a lock that the worker holds, and opens for a moment when it has answered. A session
-- that comes a moment too late waits 10 ms at first, for its lock_timeout. Where no door is held it sleeps between looks,
-- first for as long as an answer takes at least.
CREATE OR REPLACE FUNCTION _qwen_embed.ask_worker(name text, generation integer, instruction bytea, key bytea, query text)
RETURNS real[] LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS {body};

-- name: ask_worker_body
-- The body of that function.
#variable_conflict use_variable
DECLARE
    began constant timestamptz := clock_timestamp();
    otherwise constant text := 'embed the text with Client.embed_query, and pass the vector';
    nobody constant text := format('%%s: no worker is there to embed the query; run: pg-qwen-embed worker; or %%s', name, otherwise);
    wanted text := current_setting('pg_qwen_embed.query_timeout', true);
    timeout double precision := 2;
    elapsed double precision := 0;
    own_secret bytea;
    nonce bytea;
    bound bytea;
    payload bytea;
    plain text;
    stream text;
    words integer;
    slots integer := greatest(16, current_setting('max_locks_per_transaction')::integer
                                  * (current_setting('max_connections')::integer
                                     + current_setting('max_prepared_transactions')::integer) / 64);
    slot integer;
    taken integer;
    placed boolean := false;
    rung boolean;
    door constant integer := generation * 64 + pg_backend_pid() %% 64;
    arrived timestamptz;
    looked double precision := 0;
    misses integer := 0;
    answer real[];
    reason text;
BEGIN
    IF query !~ '\S' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('%%s: the query is blank: there is nothing to search for', name);
    ELSIF octet_length(query) > 1000 THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
            MESSAGE = format('%%s: the query has %%s bytes, and SQL takes 1000; %%s', name, octet_length(query), otherwise);
    ELSIF pg_is_in_recovery() THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%%s: this server is a standby, where only queries that were asked on the primary before have '
                             'vectors; ask there, or %%s', name, otherwise);
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%%s: a transaction that is %%s does not see the vector of a query that is embedded during it; '
                             'select qwen_embed.embed_query with the same text before it begins, use READ COMMITTED, or %%s',
                             name, upper(current_setting('transaction_isolation')), otherwise);
    END IF;
    IF wanted <> '' THEN
        timeout := CASE WHEN wanted ~ '^\s*\d{{1,9}}\s*$' THEN wanted::double precision / 1000
                         WHEN wanted ~ '^\s*\d{{1,9}}(\.\d+)?\s*(ms|s|min)\s*$' THEN extract(epoch FROM wanted::interval) END;
        IF timeout IS NULL OR timeout NOT BETWEEN 0.001 AND 600 THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('pg_qwen_embed.query_timeout is %%L; it must be 1ms to 10min, for example: '
                                 'SET pg_qwen_embed.query_timeout = ''2s''', wanted);
        END IF;
    END IF;
    LOOP
        SELECT s.secret INTO own_secret FROM _qwen_embed.query_secret s;
        EXIT WHEN FOUND;
        {look_for_worker};
        IF NOT FOUND OR extract(epoch FROM clock_timestamp() - began) > timeout THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = nobody;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    payload := int4send(generation) || substr(instruction, 1, 8) || convert_to(query, 'UTF8');
    words := 4 + (length(payload) + 3) / 4;
    LOOP
        BEGIN
            taken := 0;
            slot := trunc(random() * slots);
            FOR i IN 1 .. slots LOOP
                EXIT WHEN taken * 16 >= words + 2;
                slot := (slot + 1) %% slots;
                IF pg_try_advisory_xact_lock(1363476488, slot) THEN
                    taken := taken + 1;
                END IF;
            END LOOP;
            IF taken * 16 >= words + 2 THEN
                nonce := substr(uuid_send(gen_random_uuid()), 9, 8);
                bound := int4send(pg_backend_pid()) || nonce;
                plain := encode(nonce || substr(sha256(own_secret || '\x02'::bytea || sha256(bound || payload)), 1, 8)
                                || payload || '\x000000'::bytea, 'hex');
                SELECT repeat('0', 32)
                       || string_agg(encode(sha256(own_secret || '\x01'::bytea || bound || int4send(b)), 'hex'), '' ORDER BY b)
                INTO stream FROM generate_series(0, length(payload) / 32) AS b;
                SELECT bool_and(pg_try_advisory_xact_lock_shared(
                           1363542016 + i, ('x' || substr(plain, 8 * i + 1, 8))::bit(32)::integer
                                           # ('x' || substr(stream, 8 * i + 1, 8))::bit(32)::integer))
                INTO placed FROM generate_series(0, words - 1) AS i;
                placed := placed AND pg_try_advisory_xact_lock_shared(1363607552 + length(payload),
                                                                      ('x' || substr(plain, 1, 8))::bit(32)::integer);
                rung := false;
            END IF;
            LOOP
                EXIT WHEN NOT placed;
                rung := rung OR pg_try_advisory_xact_lock_shared(1363476487, 0);
                SELECT a.vector, a.sentence INTO answer, reason
                FROM (SELECT c.vector, NULL AS sentence FROM _qwen_embed.query_cache c WHERE c.key = key
                      UNION ALL
                      SELECT NULL, e.sentence FROM _qwen_embed.query_error e WHERE e.nonce = nonce) a LIMIT 1;
                EXIT WHEN FOUND;
                elapsed := extract(epoch FROM clock_timestamp() - began);
                EXIT WHEN elapsed > timeout;
                IF elapsed > looked + 0.1 THEN
                    looked := elapsed;
                    {look_for_worker};
                    misses := CASE WHEN FOUND THEN 0 ELSE misses + 1 END;
                    EXIT WHEN misses > 3;
                END IF;
                arrived := clock_timestamp();
                IF rung THEN
                    BEGIN
                        PERFORM set_config('lock_timeout', format('%%sms', trunc(10 + 250 * least(elapsed, 1))), true);
                        PERFORM pg_advisory_xact_lock_shared(1363476490, door);
                        RAISE EXCEPTION USING ERRCODE = 'QE000';
                    EXCEPTION
                        WHEN SQLSTATE 'QE000' OR lock_not_available THEN NULL;
                    END;
                END IF;
                IF clock_timestamp() - arrived < interval '0.3 ms' THEN
                    PERFORM pg_sleep(CASE WHEN elapsed < 0.001 THEN 0.002 ELSE least(elapsed / 8, 0.02) END);
                END IF;
            END LOOP;
            RAISE EXCEPTION USING ERRCODE = 'QE000';
        EXCEPTION
            WHEN SQLSTATE 'QE000' THEN NULL;
            WHEN out_of_memory THEN placed := false;
        END;
        IF answer IS NOT NULL THEN
            RETURN answer;
        ELSIF reason IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('%%s: %%s', name, reason);
        ELSIF misses > 3 THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = nobody;
        END IF;
        elapsed := extract(epoch FROM clock_timestamp() - began);
        IF elapsed > timeout THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = CASE WHEN placed
                THEN format('%%s: the worker has not embedded the query within %%s s; try again, raise '
                            'pg_qwen_embed.query_timeout, or %%s', name, round(timeout::numeric, 3), otherwise)
                ELSE format('%%s: too many queries wait for their vectors: their share of PostgreSQL''s lock table is full; '
                            'try again, raise max_locks_per_transaction, or %%s', name, otherwise) END;
        END IF;
        PERFORM pg_sleep(0.002);
    END LOOP;
END

-- name: look_for_worker
-- Finds a row if a worker answers for the generation, or leads it and will. Part of ask_worker_body.
PERFORM FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.classid IN (1363476486, 1363476481) AND l.objid::bigint = generation
      AND l.objsubid = 2 AND l.granted AND l.mode = 'ExclusiveLock'
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())

-- name: protect_ask_worker
-- Nobody but the owner and its members calls it: it would ask for any generation.
REVOKE ALL ON FUNCTION _qwen_embed.ask_worker(text, integer, bytea, bytea, text) FROM PUBLIC;

-- name: create_query_vector
-- The vector of a query, from the cache or from a worker. It has the rights of its owner, because the application may read
-- neither the registry nor the cache. It is STABLE, so it sees the registry as the statement does.
-- Its cost is that of a vector in the cache, in the planner's unit: without an index it runs once for each row.
-- The cache is read by its index in a statement of its own: of a table that grew since its last ANALYZE the planner thinks
-- that a key has thousands of rows, and would read it whole.
CREATE OR REPLACE FUNCTION _qwen_embed.query_vector(embedding text, query text, asker name) RETURNS {halfvec}
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER COST 2000
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS {body};

-- name: query_vector_body
-- The body of that function. A role that may not read the view may not ask either.
-- The vector must be of the generation that the view has when it is read. So the view is locked, as a query that names it does
-- when it is parsed: a change of generation waits for the end of this transaction. If one came between the snapshot of the
-- statement and this lock, the registry is read again. `held` keeps a note of the lock until the transaction ends: the function
-- may run once for each row. Only the live generation has a distance function, which PostgreSQL's cache of names knows.
-- Where a transaction does not see what was committed since it began, it must begin again.
#variable_conflict use_variable
DECLARE
    moment constant text := extract(epoch FROM transaction_timestamp())::text;
    held text[];
    seen integer;
    generation integer;
    instruction bytea;
    own_key bytea;
    known real[];
BEGIN
    SELECT g.id, sha256(convert_to(e.instruction, 'UTF8')) INTO seen, instruction
    FROM _qwen_embed.embedding e
    JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.state = 'live'
    WHERE e.name = embedding
      AND coalesce(has_any_column_privilege(asker, to_regclass(format('qwen_embed.%%I', embedding))::oid, 'SELECT'), true)
    LIMIT 1;
    generation := seen;
    IF seen IS NOT NULL THEN
        held := string_to_array(current_setting('pg_qwen_embed.held', true), ' ');
        IF held[1] = moment AND held[2] = seen::text THEN
            generation := held[3];
        ELSE
            PERFORM _qwen_embed.hold_view(embedding);
        END IF;
        IF generation <> seen OR to_regproc(format('qwen_embed.distance_%%s', seen)) IS NULL THEN
            SELECT l.generation, l.instruction INTO generation, instruction FROM _qwen_embed.live_generation(embedding) l;
            IF to_regproc(format('qwen_embed.distance_%%s', generation)) IS NULL
               AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
                RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = format(
                    '%%s has another generation since this transaction began; run the transaction again', embedding);
            END IF;
        END IF;
        PERFORM set_config('pg_qwen_embed.held', concat_ws(' ', moment, seen, generation), false);
    END IF;
    IF generation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format(
            'there is no embedding %%L that %%s may read; %%s', embedding, asker,
            coalesce((SELECT 'those are: ' || string_agg(format('%%L', e.name), ', ' ORDER BY e.name)
                      FROM _qwen_embed.embedding e
                      WHERE has_any_column_privilege(asker, to_regclass(format('qwen_embed.%%I', e.name))::oid, 'SELECT')),
                     'it may read none: GRANT SELECT ON its view TO that role, or run: pg-qwen-embed attach'));
    END IF;
    own_key := sha256(int4send(generation) || instruction || convert_to(query, 'UTF8'));
    SELECT c.vector INTO known FROM _qwen_embed.query_cache c WHERE c.key = own_key LIMIT 1;
    IF known IS NULL AND EXISTS (SELECT FROM _qwen_embed.generation g
                                 WHERE g.id = generation AND g.spec->>'post' IS NOT NULL AND g.fit IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format(
            '%%s: its post-processing is not fitted yet; a worker does that: run pg-qwen-embed worker, and look at '
            'pg-qwen-embed status', embedding);
    END IF;
    RETURN coalesce(known, _qwen_embed.ask_worker(embedding, generation, instruction, own_key, query));
END

-- name: create_hold_view
-- Locks the view of an embedding as a query that names it does, until the transaction ends. It is VOLATILE, because PostgreSQL
-- allows no LOCK in other functions. What the role may not lock, or is not there, is left to what follows.
CREATE OR REPLACE FUNCTION _qwen_embed.hold_view(embedding text) RETURNS void
LANGUAGE plpgsql VOLATILE
AS {body};

-- name: hold_view_body
-- The body of that function.
BEGIN
    EXECUTE pg_catalog.format('LOCK TABLE qwen_embed.%%I IN ACCESS SHARE MODE', embedding);
EXCEPTION
    WHEN lock_not_available THEN RAISE;
    WHEN OTHERS THEN NULL;
END

-- name: protect_hold_view
-- Nobody but the owner locks by it.
REVOKE ALL ON FUNCTION _qwen_embed.hold_view(text) FROM PUBLIC;

-- name: create_live_generation
-- The live generation of an embedding and a hash of its instruction, as they are now. VOLATILE: its statement sees what was
-- committed after the snapshot of the query that calls it.
CREATE OR REPLACE FUNCTION _qwen_embed.live_generation(embedding text, OUT generation integer, OUT instruction bytea)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS {body};

-- name: live_generation_body
-- The body of that function.
#variable_conflict use_variable
BEGIN
    SELECT g.id, sha256(convert_to(e.instruction, 'UTF8')) INTO generation, instruction
    FROM _qwen_embed.embedding e
    JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.state = 'live'
    WHERE e.name = embedding;
END

-- name: protect_live_generation
-- Nobody but the owner reads the registry by it.
REVOKE ALL ON FUNCTION _qwen_embed.live_generation(text) FROM PUBLIC;

-- name: comment_live_generation
-- Describes the functions in the database. Two statements at once: it takes no values.
COMMENT ON FUNCTION _qwen_embed.hold_view(text) IS 'Keeps the generation of a view until the transaction ends';
COMMENT ON FUNCTION _qwen_embed.live_generation(text) IS 'The live generation of an embedding, as it is now';

-- name: let_query_vector_be_called
-- Lets every role execute it through embed_query. A role without USAGE on _qwen_embed cannot name it.
GRANT EXECUTE ON FUNCTION _qwen_embed.query_vector(text, text, name) TO PUBLIC;

-- name: create_embed_query
-- What applications call. A planner inlines it, with the role of the session or of the function around it. BEGIN ATOMIC
-- keeps the function by its oid: the role needs no right to the internal schema.
CREATE OR REPLACE FUNCTION qwen_embed.embed_query(embedding text, query text) RETURNS {halfvec}
LANGUAGE sql STABLE PARALLEL UNSAFE BEGIN ATOMIC SELECT _qwen_embed.query_vector(embedding, query, current_user); END;

-- name: let_embed_query_be_called
-- Lets every role that may use the schema execute it.
GRANT EXECUTE ON FUNCTION qwen_embed.embed_query(text, text) TO PUBLIC;

-- name: comment_embed_query
-- Describes the function in the database.
COMMENT ON FUNCTION qwen_embed.embed_query(text, text) IS
    'pg_qwen_embed: the vector of a query, for ORDER BY e.embedding <=> qwen_embed.embed_query(..) LIMIT n';

-- name: create_progress
-- How far a generation is: the share of rows that have a vector, and how long the oldest change waits. Tables above 8 MB are
-- estimated from PostgreSQL's statistics, smaller ones counted. It has the rights of its owner: the view embeddings shows
-- its result to roles that may read the embedding's view or source. NULL: a table is missing, or was never analysed.
CREATE OR REPLACE FUNCTION _qwen_embed.progress(generation integer, source oid, chunked boolean,
                                                OUT coverage double precision, OUT lag interval)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS {body};

-- name: progress_body
-- The body of that function.
#variable_conflict use_variable
DECLARE
    store constant regclass := to_regclass(format('_qwen_embed.store_%%s', generation));
    outbox constant regclass := to_regclass(format('_qwen_embed.outbox_%%s', generation));
    total double precision;
    embedded double precision;
BEGIN
    total := _qwen_embed.about_rows(source, '');
    embedded := _qwen_embed.about_rows(store, CASE WHEN chunked THEN 'fingerprint IS NOT NULL AND chunk = 1'
                                                   ELSE 'fingerprint IS NOT NULL' END);
    coverage := CASE WHEN total = 0 THEN 1 ELSE round(least(1, embedded / total)::numeric, 4) END;
    IF outbox IS NOT NULL THEN
        EXECUTE format('SELECT clock_timestamp() - o.changed_at FROM %%s o ORDER BY o.seq LIMIT 1', outbox) INTO lag;
        lag := coalesce(greatest(lag, interval '0'), interval '0');
    END IF;
END

-- name: create_about_rows
-- How many rows of a table meet a condition: counted up to 8 MB, beyond that estimated from PostgreSQL's statistics, with
-- its partitions. The condition is one of progress(). A table whose policies hold for the owner is not counted: their
-- functions would run with its rights.
CREATE OR REPLACE FUNCTION _qwen_embed.about_rows(relation oid, condition text) RETURNS double precision
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS {body};

-- name: about_rows_body
-- The body of that function. The share of first chunks is that of the most common value.
#variable_conflict use_variable
DECLARE
    size bigint;
    estimate double precision;
    may_count boolean;
    counted bigint;
BEGIN
    WITH RECURSIVE part (oid) AS (
        SELECT relation UNION ALL SELECT h.inhrelid FROM part p JOIN pg_inherits h ON h.inhparent = p.oid
    )
    SELECT sum(CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) END), sum(nullif(c.reltuples, -1)),
           bool_and(c.relkind IN ('r', 'p') AND NOT row_security_active(c.oid)) INTO size, estimate, may_count
    FROM part p JOIN pg_class c ON c.oid = p.oid;
    IF may_count AND size <= 8 * 1024 * 1024 THEN
        EXECUTE format('SELECT count(*) FROM %%s WHERE %%s', relation::regclass, coalesce(nullif(condition, ''), 'true'))
        INTO counted;
        RETURN counted;
    ELSIF condition LIKE '%%chunk = 1' THEN
        RETURN estimate * coalesce((SELECT s.most_common_freqs[array_position(s.most_common_vals::text::integer[], 1)]
                                    FROM pg_stats s JOIN pg_class c ON c.oid = relation AND c.relname = s.tablename
                                    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname
                                    WHERE s.attname = 'chunk'), 1);
    END IF;
    RETURN estimate;
END

-- name: protect_about_rows
-- Nobody but the owner counts a table that it names.
REVOKE ALL ON FUNCTION _qwen_embed.about_rows(oid, text) FROM PUBLIC;

-- name: let_progress_be_seen
-- Lets every role execute it through the view.
GRANT EXECUTE ON FUNCTION _qwen_embed.progress(integer, oid, boolean) TO PUBLIC;

-- name: create_embeddings
-- The catalogue of embeddings for applications: one row for each whose view or source the role may read. A security
-- barrier: a function of the reader's never sees the other rows. The reader may not use the internal schema, so no name in it
-- is looked up.
CREATE OR REPLACE VIEW qwen_embed.embeddings WITH (security_barrier = true) AS
SELECT e.name, format('%%I.%%I', n.nspname, c.relname) AS source, format('qwen_embed.%%I', e.name) AS view,
       e.column_name AS column, CASE g.spec->>'distance' WHEN 'ip' THEN '<#>' WHEN 'l2' THEN '<->' ELSE '<=>' END AS operator,
       g.spec->>'model' AS model, (g.spec->>'dimensions')::integer AS dimensions, e.instruction, g.id AS generation,
       coalesce(i.state, 'none') AS index, b.state AS backfill, p.coverage, p.lag,
       coalesce(split_part(g.spec->>'post', ' ', 1), 'none') AS post
FROM _qwen_embed.embedding e
JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.state = 'live'
JOIN _qwen_embed.backfill b ON b.generation_id = g.id
LEFT JOIN pg_catalog.pg_class c ON c.oid = e.source::oid
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index r WHERE r.relid = x.indrelid) THEN 'building'
                WHEN x.indisvalid THEN 'valid' ELSE 'invalid' END AS state
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class k ON k.oid = x.indexrelid
    JOIN pg_catalog.pg_am m ON m.oid = k.relam AND m.amname NOT IN ('btree', 'hash', 'gin', 'gist', 'spgist', 'brin')
    WHERE x.indrelid = (SELECT s.oid FROM pg_catalog.pg_class s WHERE s.relname = format('store_%%s', g.id)
                        AND s.relnamespace = (SELECT o.oid FROM pg_catalog.pg_namespace o WHERE o.nspname = '_qwen_embed'))
       OR x.indrelid = e.source::oid AND g.spec->>'store' = 'column'
          AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      JOIN pg_catalog.pg_depend d ON d.objid = x.indexrelid AND d.refobjid = x.indrelid
                                                 AND d.refobjsubid = a.attnum
                      WHERE a.attrelid = x.indrelid AND a.attname = coalesce(g.spec->>'column', e.column_name))
    ORDER BY x.indisvalid DESC LIMIT 1) i ON true
CROSS JOIN LATERAL _qwen_embed.progress(g.id, e.source::oid, g.spec->>'chunking' IS NOT NULL) p
WHERE has_any_column_privilege(to_regclass(format('qwen_embed.%%I', e.name))::oid, 'SELECT')
   OR has_any_column_privilege(e.source::oid, 'SELECT');

-- name: let_embeddings_be_read
-- Lets every role that may use the schema read it.
GRANT SELECT ON qwen_embed.embeddings TO PUBLIC;

-- name: comment_embeddings
-- Describes the view in the database.
COMMENT ON VIEW qwen_embed.embeddings IS 'pg_qwen_embed: the embeddings that the role may read, and how far each one is';

-- name: registry_owner
-- The role that the registry belongs to, if it is another than this one: its members may run `init` too.
SELECT pg_get_userbyid(c.relowner) FROM pg_class c
WHERE c.relname = 'embedding' AND c.relnamespace = to_regnamespace('_qwen_embed')
  AND c.relowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);

-- name: act_as
-- Creates what follows for another role, until act_as_oneself or the end of the transaction. The worker is a member of the
-- registry's owner, and need not be one of the role that runs `init`.
SET LOCAL ROLE {role};

-- name: act_as_oneself
-- Ends what act_as began.
RESET ROLE;

-- name: missing_for_queries
-- Which parts of the public schema itself are gone. The function goes with the extension, whose type it returns.
SELECT to_regprocedure('qwen_embed.embed_query(text, text)') IS NULL
       OR to_regprocedure('_qwen_embed.query_vector(text, text, name)') IS NULL,
       to_regclass('qwen_embed.embeddings') IS NULL;

-- name: create_await_queries
-- Waits for requests and returns those that are there, if one of them is not in `seen`; nothing after `seconds`. Requests in
-- `seen` come without their words.
-- While nobody asks, a look is an attempt to take the bell, which costs less than a microsecond. While somebody does,
-- pg_locks is read, for a tenth of the time at most, however many locks there are. What a look costs is estimated over
-- several: one that took long alone waited for a processor.
CREATE OR REPLACE FUNCTION _qwen_embed.await_queries(seen bigint[], seconds double precision, pause double precision)
RETURNS TABLE (pid integer, nonce bigint, length integer, words bigint[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS {body};

-- name: await_queries_body
-- The body of that function.
#variable_conflict use_column
DECLARE
    ends constant timestamptz := clock_timestamp() + make_interval(secs => seconds);
    own_database constant oid := (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
    cost double precision := coalesce(nullif(current_setting('pg_qwen_embed.look', true), '')::double precision, 0.00005);
    began timestamptz;
BEGIN
    LOOP
        IF pg_try_advisory_lock(1363476487, 0) THEN
            PERFORM pg_advisory_unlock(1363476487, 0);
        ELSE
            began := clock_timestamp();
            RETURN QUERY
            WITH l AS MATERIALIZED (
                SELECT k.pid, k.classid::bigint AS class, k.objid::bigint AS number
                FROM pg_locks k
                WHERE k.locktype = 'advisory' AND k.database = own_database AND k.objsubid = 2 AND k.granted
                  AND k.mode = 'ShareLock' AND k.pid IS NOT NULL
                  AND k.classid::bigint BETWEEN 1363542016 AND 1363607552 + 4096
            ), head AS MATERIALIZED (
                SELECT l.pid, l.number, (l.class - 1363607552)::integer AS length,
                       (l.pid::bigint << 32 | l.number) = ANY (seen) AS known
                FROM l WHERE l.class > 1363607552
            )
            SELECT h.pid, h.number, h.length,
                   CASE WHEN NOT h.known THEN (SELECT array_agg(w.number ORDER BY w.class) FROM l w
                                               WHERE w.pid = h.pid AND w.class < 1363607552) END
            FROM head h WHERE EXISTS (SELECT FROM head n WHERE NOT n.known);
            cost := least(1.25 * cost, greatest(0.00002, extract(epoch FROM clock_timestamp() - began)));
            EXIT WHEN FOUND;
        END IF;
        EXIT WHEN clock_timestamp() >= ends;
        PERFORM pg_sleep(greatest(pause, 9 * cost));
    END LOOP;
    PERFORM set_config('pg_qwen_embed.look', cost::text, false);
END

-- name: protect_await_queries
-- Nobody but the owner and the worker waits for requests.
REVOKE ALL ON FUNCTION _qwen_embed.await_queries(bigint[], double precision, double precision) FROM PUBLIC;

-- name: await_queries
-- Waits for requests. See create_await_queries.
SELECT q.pid, q.nonce, q.length, q.words
FROM _qwen_embed.await_queries(%(seen)s::bigint[], %(seconds)s, %(pause)s) q;

-- name: comment_query_objects
-- Describes the objects for queries in the database. Several statements at once: it takes no values.
COMMENT ON TABLE _qwen_embed.query_secret IS 'The key of requests for vectors of queries, for the owner and the worker alone';
COMMENT ON TABLE _qwen_embed.query_cache IS 'The last vectors of queries, by a hash of generation, instruction and text';
COMMENT ON TABLE _qwen_embed.query_error IS 'Why a request has no vector; kept for a minute';
COMMENT ON FUNCTION _qwen_embed.ask_worker(text, integer, bytea, bytea, text) IS 'Asks a worker for the vector of a query';
COMMENT ON FUNCTION _qwen_embed.await_queries(bigint[], double precision, double precision) IS
    'Waits for requests, for the worker';
COMMENT ON PROCEDURE _qwen_embed.answer_queries(integer, integer, bytea[], real[], integer[]) IS
    'Answers requests, for the worker';

-- name: comment_query_vector
-- Describes the function in the database.
COMMENT ON FUNCTION _qwen_embed.query_vector(text, text, name) IS
    'The vector of a query, from the cache or from a worker, for a role that may read the view';

-- name: comment_progress
-- Describes the functions of the view of all embeddings in the database. Two statements at once: it takes no values.
COMMENT ON FUNCTION _qwen_embed.progress(integer, oid, boolean) IS 'How far an embedding is, for qwen_embed.embeddings';
COMMENT ON FUNCTION _qwen_embed.about_rows(oid, text) IS 'The planner''s estimate of rows, for progress()';

-- name: read_query_secret
-- The secret of requests.
SELECT secret FROM _qwen_embed.query_secret;

-- name: read_instructions
-- The present instructions of these generations, with which requests for them were made.
SELECT g.id, e.instruction FROM _qwen_embed.generation g JOIN _qwen_embed.embedding e ON e.id = g.embedding_id
WHERE g.id = ANY (%(ids)s::integer[]);

-- name: create_answer_queries
-- Answers requests with their vectors, which come as one array, and then opens the doors at which their sessions wait: a
-- session that looks before the commit would find nothing.
-- A procedure that commits can have no search_path of its own, so every name has its schema.
CREATE OR REPLACE PROCEDURE _qwen_embed.answer_queries(
    generation integer, dimensions integer, keys bytea[], vectors real[], doors integer[])
LANGUAGE plpgsql
AS {body};

-- name: answer_queries_body
-- The body of that procedure.
#variable_conflict use_variable
BEGIN
    INSERT INTO _qwen_embed.query_cache (key, generation, vector)
    SELECT k.key, generation, vectors[(k.position OPERATOR(pg_catalog.-) 1) OPERATOR(pg_catalog.*) dimensions
                                      OPERATOR(pg_catalog.+) 1 : k.position OPERATOR(pg_catalog.*) dimensions]
    FROM pg_catalog.unnest(keys) WITH ORDINALITY AS k(key, position)
    WHERE NOT EXISTS (SELECT FROM _qwen_embed.query_cache c WHERE c.key OPERATOR(pg_catalog.=) k.key);
    COMMIT;
    PERFORM pg_catalog.pg_advisory_unlock(1363476490, d) FROM pg_catalog.unnest(doors) AS d;
END

-- name: protect_answer_queries
-- Nobody but the owner and the worker answers.
REVOKE ALL ON PROCEDURE _qwen_embed.answer_queries(integer, integer, bytea[], real[], integer[]) FROM PUBLIC;

-- name: answer_queries
-- Answers requests with their vectors. It may not run in a transaction. See create_answer_queries.
CALL _qwen_embed.answer_queries(%(generation)s::integer, %(dimensions)s::integer, %(keys)s::bytea[], %(vectors)s::real[],
                                %(doors)s::integer[]);

-- name: use_indexes_alone
-- For the session that answers. Of a cache that grew since its last ANALYZE the planner would read all.
SET enable_seqscan = off;

-- name: write_query_errors
-- Answers requests with the reason why they have no vector.
INSERT INTO _qwen_embed.query_error (nonce, sentence)
SELECT e.nonce, %(sentence)s FROM unnest(%(nonces)s::bytea[]) AS e(nonce) ON CONFLICT DO NOTHING;

-- name: sweep_query_cache
-- Deletes the oldest vectors beyond the bound of the cache.
DELETE FROM _qwen_embed.query_cache
WHERE made_at < (SELECT c.made_at FROM _qwen_embed.query_cache c ORDER BY c.made_at DESC OFFSET %(rows)s LIMIT 1);

-- name: sweep_query_generations
-- Deletes the vectors of generations that are gone.
DELETE FROM _qwen_embed.query_cache c WHERE NOT EXISTS (SELECT FROM _qwen_embed.generation g WHERE g.id = c.generation);

-- name: forget_queries
-- Deletes what queries of detached embeddings have left, and with the last embedding the secret and all reasons.
WITH vectors AS (
    DELETE FROM _qwen_embed.query_cache c WHERE NOT EXISTS (SELECT FROM _qwen_embed.generation g WHERE g.id = c.generation)
), reasons AS (
    DELETE FROM _qwen_embed.query_error WHERE NOT EXISTS (SELECT FROM _qwen_embed.embedding)
)
DELETE FROM _qwen_embed.query_secret WHERE NOT EXISTS (SELECT FROM _qwen_embed.embedding);

-- name: sweep_query_errors
-- Deletes reasons that their askers have read.
DELETE FROM _qwen_embed.query_error WHERE made_at < clock_timestamp() - interval '1 minute';

-- name: vacuum_query_cache
-- Makes the room of deleted vectors free again; autovacuum comes once a minute. It does not wait for a lock.
VACUUM (SKIP_LOCKED) _qwen_embed.query_cache;
