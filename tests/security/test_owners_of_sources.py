"""Owners of a source and of its types: which of their functions run with the rights of the worker, and which do not."""

import json
from collections.abc import Iterator

import pytest
from attacker import Attacker, attacker
from harness import LAYOUTS, Harness, both_versions, eventually, versions_and_layouts

USE = "GRANT USAGE, CREATE ON SCHEMA public TO {role}"


@pytest.fixture
def maker(harness: Harness) -> Iterator[Attacker]:
    """The owner of types that an administrator has used in a table."""
    with attacker(harness, USE) as found:
        yield found


def trap(maker: Attacker, signature: str, returns: str, result: str) -> None:
    name = signature.partition("(")[0]
    maker.execute(f"CREATE FUNCTION {maker.mine}.{signature} RETURNS {returns} LANGUAGE plpgsql AS "
                  f"$$ BEGIN PERFORM {maker.mine}.note('{name}'); RETURN {result}; END $$")  # fmt: skip


@versions_and_layouts
@pytest.mark.long
def test_casts_and_checks_of_types_are_never_called(harness: Harness, maker: Attacker, layout: str) -> None:
    mine = maker.mine
    maker.execute(f"""
        CREATE TYPE {mine}.mood AS ENUM ('sad', 'glad');
        CREATE TYPE {mine}.place AS (town text, country text);
        CREATE DOMAIN {mine}.code AS varchar(9);
        GRANT USAGE ON TYPE {mine}.mood, {mine}.place, {mine}.code TO PUBLIC
    """)
    harness.execute(f"""
        CREATE TABLE articles (id {mine}.code, mood {mine}.mood, at {mine}.place, body text, PRIMARY KEY (id, mood));
        INSERT INTO articles VALUES ('a', 'sad', ('Oslo', 'Norway'), 'one'), ('b', 'glad', ('Rome', 'Italy'), 'two')
    """)
    columns = [argument for name in ("mood", "at", "id", "body") for argument in ("--text", name)]
    harness.ok("attach", "articles", *columns, *LAYOUTS[layout])
    harness.ok("attach", "articles", "--name", "moods", "--text", "mood", "--column", "vector")
    for type_ in ("mood", "place"):
        trap(maker, f"to_text({mine}.{type_})", "text", "pg_catalog.concat($1)")
        maker.execute(f"CREATE CAST ({mine}.{type_} AS text) WITH FUNCTION {mine}.to_text({mine}.{type_})")
    trap(maker, "to_mood(text)", f"{mine}.mood", f"pg_catalog.enum_last(NULL::{mine}.mood)")
    maker.execute(f"CREATE CAST (text AS {mine}.mood) WITH FUNCTION {mine}.to_mood(text) AS ASSIGNMENT")
    trap(maker, "check_code(varchar)", "boolean", "true")
    maker.execute(f"ALTER DOMAIN {mine}.code ADD CHECK ({mine}.check_code(value)) NOT VALID")
    harness.once()
    harness.execute("UPDATE articles SET body = 'three' WHERE id = 'a'")
    harness.execute("DELETE FROM articles WHERE id = 'b'")
    harness.once()
    for command in (("status",), ("verify", "articles"), ("verify", "articles", "--repair"), ("failures", "list", "articles"),
                    ("failures", "retry", "articles"), ("backfill", "articles", "--restart")):  # fmt: skip
        harness.cli(*command)
        assert maker.others() == set(), command
    harness.cli("doctor")
    harness.once()
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    assert harness.drift("moods")[0] == 0
    assert harness.value("SELECT count(*) FROM qwen_embed.articles WHERE NOT stale") == 1
    assert maker.others() == set()


def test_the_same_casts_and_checks_are_called_by_plain_sql(harness: Harness, maker: Attacker) -> None:
    """What the test above would find."""
    maker.execute(f"CREATE TYPE {maker.mine}.mood AS ENUM ('sad')")
    trap(maker, f"to_text({maker.mine}.mood)", "text", "'sad'")
    maker.execute(f"CREATE CAST ({maker.mine}.mood AS text) WITH FUNCTION {maker.mine}.to_text({maker.mine}.mood)")
    harness.execute(f"SELECT 'sad'::{maker.mine}.mood::text")
    assert maker.others() == {("postgres", "to_text")}


@pytest.fixture
def owner(harness: Harness) -> Iterator[Attacker]:
    """The owner of a source."""
    with attacker(harness, USE) as found:
        found.execute("CREATE TABLE public.articles (id int PRIMARY KEY, body text)")
        found.execute("INSERT INTO public.articles SELECT n, 'body ' || n FROM generate_series(1, 50) n")
        yield found


@both_versions
@pytest.mark.long
def test_view_that_takes_the_place_of_a_source_is_never_read(harness: Harness, owner: Attacker) -> None:
    harness.ok("attach", "articles", "--text", "body")
    trap(owner, "evil(text)", "text", "$1")
    worker = harness.worker()
    eventually(harness.settled)
    for n in range(6):
        known = worker.said.count("read_failed")
        owner.execute(f"""
            ALTER TABLE public.articles RENAME TO hidden;
            CREATE VIEW public.articles AS SELECT id, {owner.mine}.evil(body) AS body FROM public.hidden
        """)
        owner.execute(f"UPDATE public.hidden SET body = body || '.' WHERE id <= {n + 1}")
        eventually(lambda known=known: worker.said.count("read_failed") > known or not harness.count("outbox"))
        harness.cli("status")
        harness.cli("verify", "articles", "--repair")
        owner.execute("DROP VIEW public.articles; ALTER TABLE public.hidden RENAME TO articles")
    assert owner.others() == set()
    eventually(harness.settled)
    assert worker.end() == 0
    harness.assert_in_step()


def test_triggers_go_on_working_with_a_column_of_vectors(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.execute("""
        CREATE VIEW limits AS SELECT 10 AS most;
        CREATE FUNCTION check_views() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF new.views > (SELECT most FROM limits) THEN RAISE 'too many'; END IF; RETURN new; END $$;
        CREATE TRIGGER check_views BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION check_views()
    """)
    harness.ok("attach", "articles", "--text", "body", "--store", "column")
    harness.once()
    harness.execute("UPDATE articles SET body = 'three' WHERE id = 1")
    harness.execute("UPDATE articles SET body = '' WHERE id = 2")
    harness.once()
    assert harness.count("failure") == 0
    harness.assert_in_step()


def test_who_plans_a_statement_on_a_table_runs_functions_of_its_owner(harness: Harness, owner: Attacker) -> None:
    """The boundary that PostgreSQL sets. doctor names the owner, and no membership crosses it."""
    owner.execute(f"""CREATE FUNCTION {owner.mine}.evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM {owner.mine}.note('index'); RETURN 1; END $$""")
    owner.execute(f"CREATE INDEX ON public.articles (id) WHERE {owner.mine}.evil(1) = 1")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert ("postgres", "index") in owner.loot
    found = [(one["state"], one["area"], one["text"]) for one in json.loads(harness.cli("doctor", "--json").stdout)]
    text = f"table public.articles belongs to {owner.role}, whose functions may run with the rights of postgres"
    assert ("warning", "articles", text) in found
    assert any("the role postgres is a superuser" in text for _, _, text in found)


def test_owner_of_a_type_is_named_by_doctor(harness: Harness, maker: Attacker) -> None:
    maker.execute(f"CREATE TYPE {maker.mine}.mood AS ENUM ('sad')")
    harness.execute(f"CREATE TABLE articles (id int PRIMARY KEY, moods {maker.mine}.mood[])")
    harness.ok("attach", "articles", "--text", "moods")
    assert f"type {maker.mine}.mood belongs to {maker.role}" in harness.cli("doctor").stdout


@pytest.mark.parametrize("right", ["CREATE ON SCHEMA _qwen_embed", "UPDATE ON _qwen_embed.embedding"])
def test_role_that_may_change_what_the_worker_does_is_named_by_doctor(harness: Harness, right: str) -> None:
    with attacker(harness, f"GRANT {right} TO {{role}}") as found:
        said = harness.cli("doctor").stdout
        privilege, _, where = right.partition(" ON ")
        where = where.replace("SCHEMA", "the schema")
        assert f"{found.role} has {privilege} on {where}: it decides what the worker does" in said
        assert f"REVOKE {right} FROM {found.role}" in said
        harness.execute(f"REVOKE {right} FROM {found.role}")
        assert "it decides what the worker does" not in harness.cli("doctor").stdout


def test_roles_of_least_privilege_cross_no_boundary(of_roles: Harness) -> None:
    of_roles.articles("one")
    of_roles.ok("attach", "articles", "--text", "body")
    of_roles.once()
    for url in (of_roles.url, of_roles.worker_url):
        found = json.loads(of_roles.cli("doctor", "--json", env={"PG_QWEN_EMBED_DATABASE_URL": url}).stdout)
        assert [one for one in found if one["area"] == "security"] == []
        assert [one["text"] for one in found if "rights of" in one["text"] and one["state"] != "ok"] == []
