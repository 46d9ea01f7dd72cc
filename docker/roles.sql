-- psql runs this once, in a new volume. No command and no worker is a superuser: the roles have the rights that
-- `pg-qwen-embed sql grants --create-roles --table-owner app` prints. Your application connects as app, and owns its tables.
\getenv password ROLES_PASSWORD
CREATE EXTENSION IF NOT EXISTS vector;
CREATE ROLE app LOGIN PASSWORD :'password';
CREATE ROLE qwen_embed_owner LOGIN PASSWORD :'password';
CREATE ROLE qwen_embed_worker LOGIN PASSWORD :'password';
CREATE ROLE qwen_embed_reader LOGIN PASSWORD :'password';
GRANT CREATE ON SCHEMA public TO app;
GRANT CREATE ON DATABASE :"DBNAME" TO qwen_embed_owner;
GRANT app TO qwen_embed_owner;
GRANT qwen_embed_owner TO qwen_embed_worker;
