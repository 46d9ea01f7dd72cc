"""A role that may create functions and operators where our sessions might look them up: none of them is ever called."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import Harness, both_versions

from pg_qwen_embed.postgres import sql

PIN = "pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"

# Better matches for our calls than PostgreSQL's own. Each notes whose rights it had, and answers as PostgreSQL's would.
TRAPS = """
CREATE TABLE {where}.loot (role name, what text);
GRANT ALL ON {where}.loot TO PUBLIC;
CREATE FUNCTION {where}.format(text, int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {where}.loot VALUES (current_user, 'format'); RETURN pg_catalog.format($1, $2::text); END $$;
CREATE FUNCTION {where}.concat_ws(text, text, text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN
    PERFORM {where}.note('concat_ws'); RETURN pg_catalog.concat_ws($1, $2, $3); END $$;
CREATE FUNCTION {where}.unnest(int[]) RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {where}.loot VALUES (current_user, 'unnest'); RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
CREATE FUNCTION {where}.unnest(smallint[]) RETURNS SETOF smallint LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {where}.loot VALUES (current_user, 'unnest'); RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
CREATE FUNCTION {where}.same(varchar, varchar) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
    PERFORM {where}.note('='); RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END $$;
CREATE FUNCTION {where}.note(text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$ BEGIN
    INSERT INTO {where}.loot VALUES (current_user, $1); END $$;
CREATE OPERATOR {where}.= (leftarg = varchar, rightarg = varchar, function = {where}.same, hashes, merges);
"""


@pytest.fixture(params=["public", "postgres"])
def trapped(request: pytest.FixtureRequest, harness: Harness) -> Iterator[Harness]:
    """A table with a key of varchar, and traps in a schema of the search_path, made by a role without further rights."""
    database, where = harness.value("SELECT current_database()"), request.param
    attacker = f"attacker_{database}"
    harness.execute(f"CREATE ROLE {attacker} LOGIN")
    harness.execute("CREATE TABLE public.articles (id varchar PRIMARY KEY, title text, body text)")
    harness.execute("INSERT INTO public.articles VALUES ('a', 'one', 'first'), ('b', 'two', 'second')")
    if where == "public":
        harness.execute(f"GRANT CREATE ON SCHEMA public TO {attacker}")
    else:  # as the owner of the database may
        harness.execute(f"GRANT CREATE ON DATABASE {database} TO {attacker}")
        harness.execute("RESET search_path")
    with harness.connect() as connection:
        connection.execute(f"SET SESSION AUTHORIZATION {attacker}")
        if where != "public":
            connection.execute(f"CREATE SCHEMA {where}; GRANT USAGE ON SCHEMA {where} TO PUBLIC")
        connection.execute(TRAPS.format(where=where))
    harness.execute("SET search_path = pg_catalog, pg_temp")  # the test's own session is not the subject
    harness.environment["TRAPS"] = where
    yield harness
    harness.execute(f"DROP OWNED BY {attacker} CASCADE; DROP ROLE {attacker}")


def loot(harness: Harness) -> set[tuple[str, str]]:
    return set(harness.rows(f"TABLE {harness.environment['TRAPS']}.loot"))


@contextmanager
def not_pinned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions as they were before they pinned their search_path."""
    with monkeypatch.context() as patch:
        before = sql._catalogue()["configure_session"]
        assert PIN in before
        patch.setitem(sql._catalogue(), "configure_session", before.replace(PIN, "NULL::text"))
        yield


@both_versions
def test_functions_in_the_search_path_are_never_called(trapped: Harness) -> None:
    trapped.ok("attach", "public.articles", "--text", "title", "--text", "body")
    assert loot(trapped) == set()
    trapped.once()
    trapped.execute(
        "UPDATE public.articles SET body = 'third'; DELETE FROM public.articles WHERE body LIKE '%d%' AND title = 'two'"
    )
    trapped.execute("INSERT INTO public.articles VALUES ('c', 'three', 'third')")
    trapped.once()
    for command in (("status",), ("verify", "articles"), ("verify", "articles", "--repair"),
                    ("failures", "list", "articles"), ("search", "articles", "two")):  # fmt: skip
        trapped.ok(*command)
        assert loot(trapped) == set(), command
    assert "is not as created" not in trapped.ok("status")
    trapped.cli("doctor")
    trapped.execute("SELECT * FROM qwen_embed.articles")
    trapped.ok("alter", "articles", "--sql", "ALTER TABLE public.articles ALTER body TYPE varchar")
    trapped.once()
    trapped.ok("detach", "articles", "--yes")
    assert loot(trapped) == set()


def test_what_was_bound_to_such_functions_is_found_and_made_again(
    trapped: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with not_pinned(monkeypatch):
        trapped.ok("attach", "public.articles", "--text", "title", "--text", "body")
        trapped.ok("status")
        trapped.once()
        role = "postgres"
        assert {what for who, what in loot(trapped) if who == role} >= {"format", "concat_ws", "unnest", "="}
    assert "the document function (it calls functions that are not PostgreSQL's)" in trapped.ok("status")
    trapped.ok("verify", "articles", "--repair")
    trapped.execute(f"TRUNCATE {trapped.environment['TRAPS']}.loot")
    assert "PostgreSQL's" not in trapped.ok("status")
    trapped.execute("UPDATE public.articles SET body = 'third'")
    trapped.once()
    trapped.ok("verify", "articles")
    trapped.execute("SELECT * FROM qwen_embed.articles")
    assert loot(trapped) == set()


def test_table_is_named_as_the_role_would_name_it(harness: Harness) -> None:
    database = harness.value("SELECT current_database()")
    harness.execute("CREATE SCHEMA app; CREATE TABLE app.articles (id int PRIMARY KEY, body text)")
    harness.execute(f"ALTER DATABASE {database} SET search_path = app")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("INSERT INTO app.articles VALUES (1, 'one')")
    harness.once()
    harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER body TYPE varchar(99)")
    harness.execute("CREATE TABLE app.others (id int PRIMARY KEY, body text)")
    harness.ok("alter", "articles", "--table", "others")
    assert harness.value("SELECT source::text FROM _qwen_embed.embedding") == "app.others"
