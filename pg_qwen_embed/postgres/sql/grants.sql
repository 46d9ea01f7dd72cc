-- The owner, the worker and the reader, and their rights. `sql grants` prints them, and the worker names one that its role lacks;
-- nothing here is run by pg_qwen_embed.

-- name: create_role
-- Creates a role that may connect and nothing else. It has no password: give it one, or let pg_hba.conf know it.
CREATE ROLE {role} LOGIN;

-- name: grant_create_in_database
-- Lets the owner's `init` create the two schemas, and the extension vector where PostgreSQL trusts it.
GRANT CREATE ON DATABASE {database} TO {role};

-- name: grant_membership
-- Makes a role a member of another: it may do what that one may, as the owner of its tables too.
GRANT {group} TO {role};

-- name: grant_use_of_schema
-- Lets a role name the objects of a schema. It gives no right to the objects themselves.
GRANT USAGE ON SCHEMA {schema} TO {role};

-- name: grant_create_in_schema
-- Lets a role create the index of layout `column`, which stands in the schema of the source.
GRANT CREATE ON SCHEMA {schema} TO {role};

-- name: grant_select
-- Lets a role read these tables and views.
GRANT SELECT ON {relations} TO {role};
