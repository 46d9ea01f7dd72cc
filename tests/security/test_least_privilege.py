"""Every command and the worker with the rights that `sql grants` prints, and no others: nothing needs a superuser after `init`."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from harness import LAYOUTS, Harness, as_role, eventually, versions_and_layouts

from pg_qwen_embed.cli import COMMANDS

OWNER, WORKER, READER = "owner", "worker", "reader"
NOBODY = "nobody"  # no database is used
# Every command, by the role that runs it in `test_every_command_...`.
ROLE_OF = {
    "init": OWNER, "attach": OWNER, "detach": OWNER, "alter": OWNER, "verify": OWNER, "backfill": OWNER, "index": OWNER,
    "failures": OWNER, "status": OWNER, "doctor": WORKER, "worker": WORKER, "search": READER, "sql": OWNER, "demo": OWNER,
    "mcp": READER, "serve": NOBODY, "sglang-command": NOBODY, "instructions": OWNER, "evaluate": OWNER,
    "generation": OWNER,
}  # fmt: skip


@dataclass
class Installation:
    """A database with four roles: the application's, and those of pg_qwen_embed."""

    admin: Harness
    app: str
    roles: dict[str, str]

    def url(self, role: str) -> str:
        return as_role(self.admin.url, self.roles[role])

    def ok(self, *command: str) -> str:
        return self.admin.ok(*command, env={"PG_QWEN_EMBED_DATABASE_URL": self.url(ROLE_OF[command[0]])})

    def rejected(self, role: str, *command: str) -> str:
        return self.admin.refused(*command, env={"PG_QWEN_EMBED_DATABASE_URL": self.url(role)})

    def execute(self, query: str) -> None:
        """As the application."""
        with psycopg.connect(as_role(self.admin.url, self.app), autocommit=True) as connection:
            connection.execute(query)


@pytest.fixture
def installed(bare: Harness) -> Iterator[Installation]:
    database = bare.value("SELECT current_database()")
    app, roles = f"app_{database}", {kind: f"{kind}_{database}" for kind in (OWNER, WORKER, READER)}
    named = [argument for kind, name in roles.items() for argument in (f"--role-{kind}", name)]
    bare.execute(f"CREATE EXTENSION vector; CREATE ROLE {app} LOGIN; CREATE SCHEMA shop AUTHORIZATION {app}")
    try:
        bare.execute(bare.ok("sql", "grants", "--create-roles", *named, "--table-owner", app, "shop.articles"
                             ).split("-- Reader: queries")[0])  # fmt: skip
        found = Installation(bare, app, roles)
        found.execute("CREATE TABLE shop.articles (id int PRIMARY KEY, body text, views int DEFAULT 0)")
        found.execute("INSERT INTO shop.articles VALUES (1, 'one'), (2, 'two')")
        found.execute(
            f"GRANT USAGE ON SCHEMA shop TO {roles[READER]}; GRANT SELECT ON shop.articles TO {roles[READER]}"
        )
        assert not bare.value("SELECT bool_or(rolsuper) FROM pg_roles WHERE rolname = ANY (%s)", [app, *roles.values()])
        found.ok("init")
        yield found
    finally:
        for name in (app, *roles.values()):
            for (role,) in bare.rows("SELECT rolname FROM pg_roles WHERE rolname = %s", name):
                bare.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_every_command_has_its_role() -> None:
    assert sorted(ROLE_OF) == sorted(COMMANDS)


@versions_and_layouts
def test_every_command_and_the_worker_do_their_work_with_the_printed_rights(
    installed: Installation, layout: str
) -> None:
    if layout == "column":
        installed.execute(f"GRANT CREATE ON SCHEMA shop TO {installed.roles[OWNER]}")
    harness = installed.admin
    harness.server.poison = "POISON"
    installed.ok("attach", "shop.articles", "--text", "body", *LAYOUTS[layout])
    installed.ok("worker", "--once", "--index-from", "0")
    grants = installed.ok("sql", "grants", "--role-reader", installed.roles[READER], "--embedding", "articles")
    harness.execute(grants)
    assert "two" in installed.ok("search", "articles", "two", "--limit", "1")
    worker = Harness(installed.url(WORKER), harness.server, harness.folder, harness.stack).worker(
        "--verify-every", "0.2"
    )
    installed.execute("UPDATE shop.articles SET body = 'three' WHERE id = 1")
    installed.execute("INSERT INTO shop.articles VALUES (3, 'POISON')")
    settled = "SELECT count(*) FROM qwen_embed.articles WHERE NOT stale"
    eventually(lambda: harness.value(settled) == 2 and harness.value("SELECT count(*) FROM _qwen_embed.failure_1") == 1)
    installed.ok("backfill", "articles")
    for action in (("add", "mine", "Find mine"), ("list",), ("remove", "mine")):
        installed.ok("instructions", *action)
    installed.ok("evaluate", "articles", "--history")
    installed.ok("generation", "list", "articles")
    for action in ("list", "retry", "discard"):
        installed.ok("failures", action, "articles")
    installed.execute("DELETE FROM shop.articles WHERE id = 3")
    assert "wrong" not in installed.ok("doctor").split()
    assert "leader pg_qwen_embed worker: lead and read" in installed.ok("status")
    assert worker.end() == 0, worker.said
    warnings = [
        line for line in worker.said.splitlines() if "level=warning" in line and "document_rejected" not in line
    ]
    assert warnings == []
    for action in (("rebuild",), ("check", "--queries", "2"), ("drop",), ("create",), ("list",)):
        installed.ok("index", *action, "articles")
    installed.ok("generation", "start", "articles", "--dimensions", "8")
    installed.ok("worker", "--once", "--index-from", "0")
    for command in (("list",), ("status",), ("complete",), ("rollback",), ("drop", "--yes")):
        installed.ok("generation", command[0], "articles", *command[1:])
    installed.ok("alter", "articles", "--sql", "ALTER TABLE shop.articles ALTER body TYPE varchar(99)")
    installed.execute("ALTER TABLE shop.articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (id, views)")
    installed.ok("alter", "articles", "--rekey")
    installed.ok("worker", "--once", "--index-from", "0")
    installed.ok("verify", "articles", "--repair")
    installed.ok("verify", "articles")
    installed.ok("init")
    for command in (("attach", "shop.articles", "--text", "body"), ("detach", "articles", "--yes"), ("init",),
                    ("verify", "articles", "--repair"), ("worker", "--once"), ("index", "drop", "articles"),
                    ("index", "rebuild", "articles"), ("index", "check", "articles"),
                    ("generation", "start", "articles", "--dimensions", "8")):  # fmt: skip
        installed.rejected(READER, *command)
    installed.ok("detach", "articles", "--yes")


def test_application_needs_no_right_of_ours(installed: Installation) -> None:
    installed.ok("attach", "shop.articles", "--text", "body")
    installed.execute(
        "UPDATE shop.articles SET body = 'three'; TRUNCATE shop.articles; INSERT INTO shop.articles VALUES (4, 'x')"
    )
    for forbidden in ("TABLE _qwen_embed.outbox_1", "TABLE _qwen_embed.generation",
                      "SELECT _qwen_embed.follow_insert_1()", "CREATE TABLE _qwen_embed.mine ()"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            installed.execute(forbidden)
