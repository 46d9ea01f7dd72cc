"""An application's own Alembic migrations alter an embedded column: `altered` in their own transaction."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from harness import Harness, eventually
from psycopg.conninfo import conninfo_to_dict

from pg_qwen_embed.domain.errors import UsageError

ENV = """
import sqlalchemy as sa
from alembic import context
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with context.config.attributes["engine"].connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
REVISION = '''
"""{about}"""
import sqlalchemy as sa
from alembic import op
from pg_qwen_embed.integrations.alembic import altered

revision, down_revision = {revision!r}, {before!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''
CREATE = 'op.execute("CREATE TABLE app.articles (id int PRIMARY KEY, body text, note text)")'
ALTER = """with altered(op, "articles"):
        op.alter_column("articles", "body", type_=sa.{kind}, existing_type=sa.Text, {more})
    op.execute("INSERT INTO articles (id, body) VALUES ({id}, 'after')")"""
BROKEN = """with altered(op, "articles"):
        op.drop_column("articles", "no_such_column")"""


@pytest.fixture
def migrations(harness: Harness, tmp_path: Path) -> Callable[..., Config]:
    """An environment with three revisions, in an application whose search_path has a schema of its own."""
    harness.execute("CREATE SCHEMA app")
    harness.execute(f"ALTER DATABASE {harness.value('SELECT current_database()')} SET search_path = app, public")
    harness.execute("SET search_path = app, public")
    scripts = tmp_path / "alembic"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text(ENV)
    narrow = ALTER.format(kind="String(2000)", id=2, more="")
    wide = ALTER.format(kind="Text", id=3, more='postgresql_using="upper(body)"')
    for n, (upgrade, downgrade) in enumerate([(CREATE, "pass"), (narrow, wide), (BROKEN, "pass")], 1):
        text = REVISION.format(
            about=n, revision=str(n), before=str(n - 1) if n > 1 else None, upgrade=upgrade, downgrade=downgrade
        )
        (scripts / "versions" / f"{n}.py").write_text(text)

    def config(**options: object) -> Config:
        found = Config()
        found.set_main_option("script_location", str(scripts))
        found.set_main_option("path_separator", "os")
        arguments = {k: v for k, v in conninfo_to_dict(harness.url).items() if v is not None}
        found.attributes["engine"] = sa.create_engine(
            "postgresql+psycopg://", connect_args=arguments, poolclass=sa.NullPool, **options
        )
        return found

    return config


def test_migration_alters_an_embedded_column_and_back(harness: Harness, migrations: Callable[..., Config]) -> None:
    command.upgrade(migrations(), "1")
    harness.execute("INSERT INTO articles VALUES (1, 'one')")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("CREATE ROLE reader_of_%s" % (database := harness.connection.info.dbname))
    harness.execute(f"GRANT SELECT ON qwen_embed.articles TO reader_of_{database}")
    harness.worker()
    eventually(harness.settled)
    sent = len(harness.server.texts)
    command.upgrade(migrations(), "2")
    eventually(lambda: harness.settled() and harness.count("store") == 2)
    harness.assert_in_step()
    # The vector of the other row was kept. A worker that reads the new one before it hears of the migration embeds it again.
    assert set(harness.server.texts[sent:]) == {"after"}
    command.downgrade(migrations(), "1")
    eventually(lambda: harness.settled() and harness.count("store") == 3 and "ONE" in harness.server.texts)
    eventually(lambda: harness.drift()[0] == 0)
    harness.assert_in_step()
    column = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'body' AND attrelid = 'articles'::regclass"
    assert harness.value(column) == "text"
    assert harness.value("SELECT has_table_privilege(%s, 'qwen_embed.articles', 'SELECT')", f"reader_of_{database}")
    harness.execute(f"DROP OWNED BY reader_of_{database}; DROP ROLE reader_of_{database}")


def test_migration_of_the_documentation_runs(harness: Harness, migrations: Callable[..., Config]) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n# a migration of yours\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    config = migrations()
    versions = Path(str(config.get_main_option("script_location"))) / "versions"
    (versions / "2.py").write_text(f"revision, down_revision = '2', '1'\n{block}")
    command.upgrade(config, "1")
    harness.execute("INSERT INTO articles VALUES (1, 'one')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    for move, kind in ((command.upgrade, "character varying(2000)"), (command.downgrade, "text")):
        move(config, "2" if move is command.upgrade else "1")
        assert next(c.type for c in harness.embedding().source.columns if c.name == "body") == kind
        harness.once()
        harness.assert_in_step()


def test_migration_that_fails_changes_nothing(harness: Harness, migrations: Callable[..., Config]) -> None:
    command.upgrade(migrations(), "2")
    harness.ok("attach", "articles", "--text", "body")
    before = harness.catalog()
    with pytest.raises(sa.exc.ProgrammingError, match="no_such_column"):
        command.upgrade(migrations(), "3")
    assert harness.catalog() == before
    harness.once()
    harness.assert_in_step()


@pytest.mark.parametrize("initialised", [True, False])
def test_migration_runs_where_there_is_no_embedding(
    harness: Harness, migrations: Callable[..., Config], initialised: bool
) -> None:
    if not initialised:
        harness.execute("DROP SCHEMA qwen_embed, _qwen_embed CASCADE")
    command.upgrade(migrations(), "2")
    assert harness.rows("SELECT id FROM articles") == [(2,)]


def test_what_cannot_be_done_in_the_migrations_transaction_is_one_sentence(
    migrations: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"articles: .* cannot be printed as SQL"):
        command.upgrade(migrations(), "2", sql=True)
    command.upgrade(migrations(), "1")
    with pytest.raises(UsageError, match=r"articles: .* leave autocommit out"):
        command.upgrade(migrations(isolation_level="AUTOCOMMIT"), "2")
    monkeypatch.setattr("pg_qwen_embed.integrations.alembic.psycopg.Connection", type("Other", (), {}))
    with pytest.raises(UsageError, match=r"uses the driver psycopg, and its embedding needs psycopg 3"):
        command.upgrade(migrations(), "2")
