"""A role that may create schemas, or objects in ours: no command and no worker runs what it has put there."""

from collections.abc import Iterator

import pytest
from attacker import Attacker, attacker
from harness import Harness, as_role, both_versions, eventually

CREATE_SCHEMAS = "GRANT CREATE ON DATABASE {database} TO {role}"
# What the second role that attaches was given, by an earlier edition of the documentation.
ATTACH = (
    "GRANT USAGE, CREATE ON SCHEMA _qwen_embed, qwen_embed TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA _qwen_embed TO {role}",
)
# Objects in _qwen_embed, by their kind, and the name by which they are told.
OBJECTS = {
    "table": ("CREATE TABLE _qwen_embed.embedding (id int)", "the table _qwen_embed.embedding"),
    "view": ("CREATE VIEW _qwen_embed.backfill AS SELECT 1", "the view _qwen_embed.backfill"),
    "sequence": ("CREATE SEQUENCE _qwen_embed.ids", "the sequence _qwen_embed.ids"),
    "type": ("CREATE TYPE _qwen_embed.mood AS ENUM ('sad')", "the type _qwen_embed.mood"),
    "domain": ("CREATE DOMAIN _qwen_embed.code AS int", "the domain _qwen_embed.code"),
    "function": (
        "CREATE FUNCTION _qwen_embed.fingerprint(text) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
        "the function _qwen_embed.fingerprint(text)",
    ),
}


@pytest.fixture
def planter(bare: Harness) -> Iterator[Attacker]:
    bare.execute("CREATE EXTENSION vector")
    with attacker(bare, CREATE_SCHEMAS) as found:
        yield found


@both_versions
def test_init_takes_over_no_schema_of_another_role(bare: Harness, planter: Attacker) -> None:
    planter.execute(f"""
        CREATE SCHEMA _qwen_embed;
        CREATE TABLE _qwen_embed.alembic_version (version_num varchar(32));
        CREATE FUNCTION _qwen_embed.seen() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM {planter.mine}.note('trigger'); RETURN new; END $$;
        CREATE TRIGGER seen BEFORE INSERT ON _qwen_embed.alembic_version FOR EACH ROW EXECUTE FUNCTION _qwen_embed.seen();
        GRANT ALL ON SCHEMA _qwen_embed TO PUBLIC; GRANT ALL ON _qwen_embed.alembic_version TO PUBLIC
    """)
    said = bare.refused("init")
    assert said.startswith(
        f"the schema _qwen_embed belongs to {planter.role}, whose code would run with the rights of postgres"
    )
    assert said.endswith("if nobody has, run: DROP SCHEMA _qwen_embed CASCADE")
    for command in (("verify", "articles"), ("worker", "--once"), ("attach", "articles", "--text", "body"),
                    ("detach", "articles", "--yes")):  # fmt: skip
        bare.refused(*command)
    assert planter.loot == set()
    bare.execute("DROP SCHEMA _qwen_embed CASCADE")
    bare.ok("init")


def test_init_takes_over_no_public_schema_of_another_role(bare: Harness, planter: Attacker) -> None:
    planter.execute("CREATE SCHEMA qwen_embed")
    assert bare.refused("init").startswith(f"the schema qwen_embed belongs to {planter.role}, ")


def test_role_that_is_trusted_is_a_member_of_the_owner(bare: Harness, planter: Attacker) -> None:
    """Whoever administers the database says so with GRANT: the sentence names it."""
    database = bare.value("SELECT current_database()")
    bare.execute(f"CREATE ROLE second_{database} LOGIN; GRANT CREATE ON DATABASE {database} TO second_{database}")
    bare.stack.callback(bare.execute, f"DROP OWNED BY second_{database}; DROP ROLE second_{database}")
    second = {"PG_QWEN_EMBED_DATABASE_URL": as_role(bare.url, f"second_{database}")}
    bare.ok("init", env={"PG_QWEN_EMBED_DATABASE_URL": planter.url})
    said = bare.refused("init", env=second)
    assert f"run: GRANT {planter.role} TO second_{database}; if nobody has" in said
    bare.execute(f"GRANT {planter.role} TO second_{database}")
    assert "already at version" in bare.ok("init", env=second)


@pytest.mark.parametrize("kind", OBJECTS)
def test_init_rejects_an_object_of_another_role(bare: Harness, kind: str) -> None:
    create, named = OBJECTS[kind]
    bare.execute("CREATE EXTENSION vector; CREATE SCHEMA _qwen_embed")
    with attacker(bare, "GRANT USAGE, CREATE ON SCHEMA _qwen_embed TO {role}") as found:
        found.execute(create)
        said = bare.refused("init")
        assert said.startswith(f"{named} belongs to {found.role}, ")
        bare.execute(said.rpartition("run: ")[2])
    bare.ok("init")


@pytest.fixture
def attached(harness: Harness) -> Iterator[Attacker]:
    """An embedding with a document of a composite type, and a role with the rights to attach others."""
    harness.execute("CREATE TYPE place AS (town text, country text)")
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, at place)")
    harness.execute("INSERT INTO articles VALUES (1, 'one', ('Oslo', 'Norway'))")
    harness.ok("attach", "articles", "--text", "body", "--text", "at")
    harness.once()
    with attacker(harness, *ATTACH) as found:
        yield found


REPLACEMENTS = {
    "document function": """CREATE FUNCTION _qwen_embed.document_1(varchar, text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN PERFORM {mine}.note('document'); RETURN 'mine'; END $$""",
    "text_of": """CREATE FUNCTION _qwen_embed.text_of(place) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN PERFORM {mine}.note('text_of'); RETURN 'mine'; END $$""",
    "fingerprint": """CREATE FUNCTION _qwen_embed.fingerprint(varchar) RETURNS bytea LANGUAGE plpgsql AS
        $$ BEGIN PERFORM {mine}.note('fingerprint'); RETURN ''; END $$""",
}


@pytest.mark.parametrize("part", REPLACEMENTS)
def test_function_of_a_role_that_attaches_others_is_never_called(
    harness: Harness, attached: Attacker, part: str
) -> None:
    with pytest.raises(Exception, match="must be owner of function"):
        attached.execute("CREATE OR REPLACE FUNCTION _qwen_embed.document_1(body text, at text) RETURNS text "
                         "LANGUAGE sql AS $$ SELECT 'mine' $$")  # fmt: skip
    attached.execute(REPLACEMENTS[part].format(mine=attached.mine))
    harness.execute("UPDATE articles SET body = 'two'")
    for command in (("verify", "articles"), ("verify", "articles", "--repair"), ("detach", "articles", "--yes"), ("init",),
                    ("alter", "articles", "--sql", "ALTER TABLE articles ADD c int"), ("failures", "discard", "articles"),
                    ("backfill", "articles")):  # fmt: skip
        assert f" belongs to {attached.role}, " in harness.refused(*command), command
    worker = harness.worker()
    eventually(lambda: f" belongs to {attached.role}, " in worker.said)
    assert worker.end() == 0
    assert attached.others() == set()
    harness.execute(harness.refused("init").rpartition("run: ")[2])
    harness.once()
    harness.ok("verify", "articles")
    assert attached.others() == set()


def test_view_and_functions_that_another_role_has_put_in_place_of_ours_are_not_used(of_roles: Harness) -> None:
    """A superuser's commands run nothing of the owner of an installation, who may replace all of it."""
    of_roles.articles("one")
    of_roles.ok("attach", "articles", "--text", "body")
    of_roles.once()
    admin = {"PG_QWEN_EMBED_DATABASE_URL": as_role(of_roles.url, "postgres")}
    of_roles.execute("CREATE TABLE loot (role name)")
    of_roles.execute("GRANT INSERT ON loot TO PUBLIC")
    of_roles.execute("""CREATE FUNCTION note() RETURNS text LANGUAGE plpgsql VOLATILE AS
        $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN 'mine'; END $$""")
    of_roles.execute("""CREATE OR REPLACE FUNCTION _qwen_embed.document_1(body text) RETURNS text LANGUAGE plpgsql VOLATILE AS
        $$ BEGIN RETURN public.note(); END $$""")
    for command in (("verify", "articles"), ("verify", "articles", "--repair"), ("worker", "--once"), ("init",),
                    ("detach", "articles", "--yes")):  # fmt: skip
        said = of_roles.refused(*command, env=admin)
        assert "belongs to least_owner, whose code would run with the rights of postgres" in said
        assert "run this as least_owner" in said
    of_roles.ok("status", env=admin)
    said = of_roles.cli("doctor", env=admin).stdout
    assert "the schema _qwen_embed belongs to least_owner, and so do" in said
    assert "commands that use them do not run as postgres" in said
    assert of_roles.rows("SELECT role FROM loot WHERE role = 'postgres'") == []
