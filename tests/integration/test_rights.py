"""A role without superuser: what it may not do is named with the GRANT that is missing, and the rest goes on."""

import json
from collections.abc import Iterator

import pytest
from harness import Harness, both_versions, eventually


@pytest.fixture
def role(harness: Harness) -> Iterator[str]:
    """A login role that may use our schemas, and nothing else."""
    name = f"role_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    harness.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


def as_role(harness: Harness, role: str) -> dict[str, str | None]:
    return {"PG_QWEN_EMBED_DATABASE_URL": harness.url.replace("user=postgres", f"user={role}")}


@both_versions
def test_embedding_that_a_role_may_not_read_hides_no_other(harness: Harness, role: str) -> None:
    harness.execute("CREATE SCHEMA shop; CREATE TABLE shop.hidden (id int PRIMARY KEY, body text)")
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.ok("attach", "shop.hidden", "--text", "body")
    harness.execute(f"ALTER TABLE articles OWNER TO {role}; GRANT ALL ON SCHEMA _qwen_embed, qwen_embed TO {role}")
    harness.execute(
        "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT oid::regclass FROM pg_class "
        "WHERE relnamespace = '_qwen_embed'::regnamespace AND relkind = 'r' "
        f"LOOP EXECUTE format('ALTER TABLE %s OWNER TO {role}', t); END LOOP; END $$"
    )
    env = as_role(harness, role)
    said = harness.ok("status", env=env)
    assert "public.articles" in said
    assert "hidden  shop.hidden: its figures cannot be seen:" in said
    assert f"run: GRANT USAGE ON SCHEMA shop TO {role}; GRANT SELECT ON shop.hidden TO {role};" in said
    visible = {one["name"]: one["unreadable"] for one in json.loads(harness.ok("status", "--json", env=env))}
    assert visible["articles"] is None
    assert "SELECT on shop.hidden" in visible["hidden"]
    assert "its state cannot be seen" in harness.cli("doctor", env=env).stdout

    worker = Harness(str(env["PG_QWEN_EMBED_DATABASE_URL"]), harness.server, harness.folder, harness.stack).worker()
    eventually(harness.settled)
    harness.execute("INSERT INTO articles (id, body) VALUES (2, 'two')")
    eventually(lambda: harness.value("SELECT count(*) FROM qwen_embed.articles") == 2)
    assert worker.end() == 0


def test_refusal_names_the_right_that_is_missing(bare: Harness, harness: Harness, role: str) -> None:
    env = as_role(harness, role)
    harness.articles("one")
    harness.execute("CREATE SCHEMA shop; CREATE TABLE shop.items (id int PRIMARY KEY, body text)")
    assert f'run: GRANT USAGE ON SCHEMA "_qwen_embed" TO "{role}"' in harness.refused("status", env=env)
    harness.execute(f"GRANT USAGE ON SCHEMA _qwen_embed TO {role}")
    said = harness.refused("status", env=env)
    assert f"GRANT SELECT ON _qwen_embed.embedding TO {role}; GRANT SELECT ON _qwen_embed.generation TO {role};" in said
    said = harness.refused("attach", "shop.items", "--text", "body", env=env)
    assert f'run: GRANT USAGE ON SCHEMA "shop" TO "{role}"' in said
    bare.execute("CREATE EXTENSION vector")
    database = bare.value("SELECT current_database()")
    assert f'run: GRANT CREATE ON DATABASE "{database}" TO "{role}"' in bare.refused("init", env=as_role(bare, role))
