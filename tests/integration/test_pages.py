"""The recipes of docs/security.md and docs/operations.md are executed as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from harness import Harness
from test_readme import Block, blocks, commands

DOCS = Path(__file__).parents[2] / "docs"
ROLES = ("embed_owner", "embed_worker", "web", "importer", "app")


def as_role(harness: Harness, role: str) -> str:
    return harness.url.replace("user=postgres", f"user={role}")


@pytest.mark.long
def test_recipes_of_the_security_page_do_what_it_says(bare: Harness) -> None:
    grants, writer, policy = blocks((DOCS / "security.md").read_text(encoding="utf-8"))
    assert [block.language for block in (grants, writer, policy)] == ["bash", "sql", "sql"]
    database = bare.value("SELECT current_database()")
    bare.stack.callback(_drop_roles, bare)
    bare.execute("CREATE ROLE app LOGIN")
    bare.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, published bool DEFAULT false)")
    bare.execute("ALTER TABLE articles OWNER TO app; INSERT INTO articles VALUES (1, 'one', true), (2, 'two', false)")

    tools = bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    path = os.pathsep.join([tools, str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {name: value for name, value in (os.environ | bare.variables).items() if value is not None} | {"PATH": path}
    env |= {"ADMIN": bare.url, "OWNER": as_role(bare, "embed_owner"), "WORKER": as_role(bare, "embed_worker")}
    script = grants.text.replace("--database shop", f"--database {database}")
    assert script != grants.text
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    owner: dict[str, str | None] = {"PG_QWEN_EMBED_DATABASE_URL": env["OWNER"]}
    assert bare.drift(env=owner)[0] == 0
    assert not bare.value("SELECT bool_or(rolsuper) FROM pg_roles WHERE rolname = ANY (%s)", list(ROLES[:3]))

    _may_only_insert(bare, writer.text)
    _sees_what_the_policy_allows(bare, policy.text)


def _drop_roles(bare: Harness) -> None:
    for (role,) in bare.rows("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", list(ROLES)):
        bare.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def _may_only_insert(bare: Harness, recipe: str) -> None:
    bare.execute(recipe)
    with bare.connect() as connection:
        connection.execute("SET ROLE importer")
        connection.execute("INSERT INTO articles VALUES (3, 'three', true)")
        for forbidden in (
            "TABLE _qwen_embed.outbox_1", "TABLE qwen_embed.articles", "TABLE _qwen_embed.failure_1",
            "INSERT INTO _qwen_embed.outbox_1 (k1) VALUES (1)", "SELECT _qwen_embed.follow_insert_1()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)
        connection.execute("CREATE TEMPORARY TABLE mine (id int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(
                "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION _qwen_embed.follow_insert_1()"
            )
    assert bare.count("outbox") == 1


def _sees_what_the_policy_allows(bare: Harness, recipe: str) -> None:
    bare.ok("worker", "--once", env={"PG_QWEN_EMBED_DATABASE_URL": as_role(bare, "embed_worker")})
    bare.execute(recipe)
    bare.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    bare.ok("worker", "--once", env={"PG_QWEN_EMBED_DATABASE_URL": as_role(bare, "embed_worker")})
    assert bare.drift(env={"PG_QWEN_EMBED_DATABASE_URL": as_role(bare, "embed_owner")})[0] == 0
    with psycopg.connect(as_role(bare, "web")) as connection:
        rows = connection.execute("SELECT id FROM qwen_embed.articles ORDER BY id").fetchall()
        assert rows == [(1,), (3,)]
        assert connection.execute("SELECT k1 FROM _qwen_embed.store_1 ORDER BY k1").fetchall() == rows


def test_altered_column_of_the_operations_page(harness: Harness) -> None:
    block, *_ = sections()["Migrations of your table"]
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    (command,) = commands(block)
    found = re.fullmatch(r"pg-qwen-embed alter articles --sql '(.*)'", command.line)
    assert found
    assert harness.ok("alter", "articles", "--sql", found[1]) == command.shown
    assert next(c.type for c in harness.embedding().source.columns if c.name == "body") == "character varying(2000)"


def test_generation_of_the_operations_page(harness: Harness) -> None:
    """With the model and the dimensions of this server."""
    (block,) = sections()["Another model, other dimensions, another template"]
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
    harness.execute("INSERT INTO articles VALUES (1, 'One', 'a body')")
    harness.ok("attach", "articles", "--text", "title", "--text", "body")
    harness.once()
    spec = harness.embedding().live.spec

    def here(text: str) -> str:
        return text.replace("Qwen/Qwen3-Embedding-0.6B", spec.model).replace("512", str(spec.dimensions // 2))

    for command in commands(block):
        assert harness.ok(*here(command.line).split()[1:]) == here(command.shown)
        harness.once()


def sections() -> dict[str, list[Block]]:
    """The blocks of the operations page by their headings."""
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    return {text.partition("\n")[0]: blocks(text) for text in re.split(r"^##+ ", page, flags=re.MULTILINE)}


def test_no_recipe_of_the_operations_page_is_passed_over() -> None:
    """Those in SQL and bash are executed by test_replication.py, which takes them by their headings, and test_uninstall.py."""
    taken = re.findall(
        r'recipe\("([^"]+)"\)', (Path(__file__).parent / "test_replication.py").read_text(encoding="utf-8")
    )
    left = [heading for heading, found in sections().items() if found and heading not in taken]
    assert left == ["Migrations of your table", "Another model, other dimensions, another template", "Uninstall"]
    assert [block.language for block in sections()[left[0]]] == ["console", "python"]
