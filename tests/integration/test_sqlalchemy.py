"""The SQLAlchemy application: its migrations make its embeddings, and its models are searched, in threads and in a loop."""

import asyncio
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from harness import Harness, both_versions, eventually
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from text_queries import can_be_asked

from pg_qwen_embed import UsageError
from pg_qwen_embed.alembic import include_name, include_object
from pg_qwen_embed.sqlalchemy import embedding_of

APPLICATION = Path(__file__).parents[1] / "applications" / "sqlalchemy_app"
DISHES = ["gazpacho, a cold soup", "onion soup", "apple pie", "fish stew"]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The application's modules, imported as its programs do."""
    monkeypatch.syspath_prepend(str(APPLICATION))
    import models
    import search

    yield type("App", (), {"models": models, "search": search})
    for name in ("models", "search"):
        sys.modules.pop(name)


@pytest.fixture(autouse=True)
def _model(request: pytest.FixtureRequest) -> None:
    """The server has the model that the migrations name."""
    for name in {"harness", "bare"} & set(request.fixturenames):
        server = request.getfixturevalue(name).server
        server.model, server.dimensions = "Qwen/Qwen3-Embedding-0.6B", 128


@pytest.fixture
def config(app: Any, harness: Harness) -> Config:
    found = Config()
    found.set_main_option("script_location", str(APPLICATION / "migrations"))
    found.set_main_option("path_separator", "os")
    found.attributes["engine"] = harness.engine()
    return found


def fill(harness: Harness) -> None:
    rows = [(n, title, n) for n, title in enumerate(DISHES, 1)]
    harness.many("INSERT INTO recipes (id, title, likes) VALUES (%s, %s, %s)", rows)
    harness.once()


def url_of(harness: Harness) -> str:
    """The database as a user writes it into alembic.ini."""
    parts = {k: str(v) for k, v in conninfo_to_dict(harness.url).items() if v is not None}
    names = {"dbname": "database", "user": "username"}
    known = {names.get(k, k): parts.pop(k) for k in ("dbname", "user", "password") if k in parts}
    return sa.URL.create("postgresql+psycopg", **known, query=parts).render_as_string(hide_password=False)


def async_engine(harness: Harness, driver: str) -> Any:
    parts = conninfo_to_dict(harness.url)
    names = {"dbname": "database"} if driver == "asyncpg" else {}
    arguments = {
        names.get(k, k): v
        for k, v in parts.items()
        if v is not None and k in ("user", "password", "host", "port", "dbname")
    }
    return create_async_engine(f"postgresql+{driver}://", connect_args=arguments, poolclass=sa.NullPool)


# Migrations


@pytest.mark.long
def test_migration_that_creates_a_table_attaches_its_embedding_and_a_worker_fills_it(
    harness: Harness, config: Config
) -> None:
    harness.worker()
    command.upgrade(config, "head")
    harness.execute("INSERT INTO recipes (id, title, likes) VALUES (1, 'onion soup', 1)")
    harness.execute("INSERT INTO kitchen.cooks VALUES (7, 1, 'likes fire')")
    harness.execute("INSERT INTO steps VALUES (1, 1, %s)", "cut the onions. " * 20)
    for name in ("recipes", "steps", "Cook's words"):
        eventually(lambda name=name: harness.settled(name) and harness.count("store", name))
    harness.assert_in_step("title", "recipes")
    harness.assert_in_step("'A cook: ' || about", "Cook's words")
    assert harness.embedding("recipes").instruction == "Find a dish that fits"
    command.downgrade(config, "0002")
    assert harness.embedding("recipes").instruction == "Find a dish"
    harness.assert_in_step("title", "recipes")
    before = harness.rows("SELECT count(*) FROM qwen_embed.recipes")
    command.downgrade(config, "base")
    assert before == [(1,)]
    assert harness.rows("SELECT name FROM _qwen_embed.embedding") == []
    assert harness.value("SELECT to_regclass('recipes')") is None
    command.upgrade(config, "head")


def test_rows_that_were_there_before_the_migration_are_backfilled_after_its_commit(
    harness: Harness, config: Config
) -> None:
    harness.articles("one", "two")
    harness.worker()
    with harness.engine().begin() as connection:
        op = operations(connection)
        op.attach_embedding("articles", text="body", model="Qwen/Qwen3-Embedding-0.6B", dimensions=64)
        op.execute("INSERT INTO articles VALUES (3, 'three')")
        assert harness.rows("SELECT name FROM _qwen_embed.embedding") == []  # nothing is committed
    eventually(lambda: harness.settled() and harness.count("store") == 3)
    harness.assert_in_step()


def operations(connection: sa.Connection, **options: Any) -> Any:
    from alembic.operations import Operations

    import pg_qwen_embed.alembic  # noqa: F401

    return Operations(MigrationContext.configure(connection, opts=options))


@pytest.mark.parametrize("fails", ["later", "in_attach"])
def test_a_migration_that_fails_leaves_nothing_of_its_embedding(harness: Harness, fails: str) -> None:
    before = harness.catalog()
    with pytest.raises((UsageError, sa.exc.ProgrammingError)), harness.engine().begin() as connection:  # noqa: PT012
        op = operations(connection)
        op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
        text = "text" if fails == "later" else "no_such_column"
        op.attach_embedding("notes", text=text, model="m", dimensions=8)
        op.drop_table("no_such_table")
    assert harness.catalog() == before


def test_the_session_of_a_migration_is_as_it_was_before(harness: Harness) -> None:
    harness.execute("CREATE SCHEMA app")
    with harness.engine().begin() as connection:
        connection.exec_driver_sql("SET LOCAL search_path = app, public")
        connection.exec_driver_sql("SET LOCAL lock_timeout = '7s'")
        op = operations(connection)
        op.create_table('Odd "na%me', sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
        op.attach_embedding('Odd "na%me', text="text", model="m", dimensions=8)
        with op.embedding_suspended('Odd "na%me'):
            op.alter_column('Odd "na%me', "text", type_=sa.String(99))
            assert connection.exec_driver_sql("SHOW search_path").scalar() == "app, public"
        op.alter_embedding('Odd "na%me', instruction=None)
        assert connection.exec_driver_sql("SHOW search_path").scalar() == "app, public"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "7s"
    embedding = harness.embedding('Odd "na%me')
    assert (embedding.source.table.schema, embedding.source.table.name) == ("app", 'Odd "na%me')
    with harness.engine().begin() as connection:
        operations(connection).detach_embedding('Odd "na%me')
    assert harness.rows("SELECT name FROM _qwen_embed.embedding") == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"text": "body", "dimensions": None},
            "articles: no server is asked when a migration runs; give model and dimensions",
        ),
        ({}, "articles: say what to embed: either text, one column or several, or template"),
        ({"text": "body", "distanse": "l2"}, "articles: an embedding has no option distanse; it has: backfill"),
        ({"text": "body", "distance": "far"}, "articles: distance cannot be 'far' ('far' is not a valid Distance)"),
        ({"text": "body", "chunk_overlap": 4}, "articles: chunk_overlap is for chunks"),
        ({"text": "body", "chunk_tokens": 64, "store": "column"}, "a column holds one vector a row"),
        ({"text": "bodi"}, 'public.articles has no column "bodi"; it has: id, body, views'),
        ({"text": "body", "schema": "app"}, '"app"."articles": there is no such table'),
        ({"text": "body", "dimensions": 5000}, "5000 dimensions: an index on halfvec holds"),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence(harness: Harness, options: dict[str, Any], says: str) -> None:
    harness.articles()
    with pytest.raises(UsageError, match=re.escape(says)), harness.engine().begin() as connection:
        operations(connection).attach_embedding("articles", **{"model": "m", "dimensions": 8} | options)


def test_before_init_and_without_a_name_the_sentence_says_what_to_run(harness: Harness, bare_database: str) -> None:
    with pytest.raises(UsageError, match='there is no embedding "nothing"'), harness.engine().begin() as connection:
        operations(connection).detach_embedding("nothing")
    arguments = {k: v for k, v in conninfo_to_dict(bare_database).items() if v is not None}
    engine = sa.create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=sa.NullPool)
    with pytest.raises(Exception, match="run: pg-qwen-embed init"), engine.begin() as connection:
        operations(connection).attach_embedding("articles", text="body", model="m", dimensions=8)


def test_a_migration_that_is_printed_says_why_its_embedding_cannot_be(config: Config) -> None:
    with pytest.raises(UsageError, match=r"recipes: .* cannot be printed as SQL .* pg-qwen-embed sql attach prints"):
        command.upgrade(config, "head", sql=True)


@both_versions
@pytest.mark.long
def test_autogenerate_finds_nothing_to_change(harness: Harness, config: Config, app: Any) -> None:
    command.upgrade(config, "head")
    fill(harness)
    assert harness.value("SELECT count(*) FROM pg_indexes WHERE tablename = 'recipes' AND indexname ~ 'hnsw'") == 1
    options = {"include_schemas": True, "include_name": include_name, "include_object": include_object}
    with harness.engine().connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, app.models.Base.metadata) == []
        without = MigrationContext.configure(connection, opts={"include_schemas": True})
        assert (
            len(compare_metadata(without, app.models.Base.metadata)) > 5
        )  # so it is these functions that make the difference


# Queries


@both_versions
def test_application_finds_what_is_near_and_liked(harness: Harness, config: Config, app: Any) -> None:
    command.upgrade(config, "head")
    fill(harness)
    can_be_asked(harness, "recipes")
    query = harness.server.vector("Instruct: Find a dish that fits\nQuery:a cold soup", 128)
    order = sorted(range(4), key=lambda n: -float(harness.server.vector(DISHES[n], 128) @ query))
    with Session(harness.engine()) as session:
        assert app.search.titles(session, "a cold soup") == [DISHES[n] for n in order[:3]]
        found = app.search.liked(session, "a cold soup", 3, 10)
    assert [recipe.title for recipe, _ in found] == [DISHES[n] for n in order if n + 1 >= 3]
    for recipe, distance in found:
        assert distance == pytest.approx(1 - float(harness.server.vector(recipe.title, 128) @ query), abs=2e-3)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.long
async def test_application_searches_in_an_event_loop(harness: Harness, config: Config, app: Any, driver: str) -> None:
    command.upgrade(config, "head")
    rows = [(n, title, n) for n, title in enumerate(DISHES, 1)]
    harness.many("INSERT INTO recipes (id, title, likes) VALUES (%s, %s, %s)", rows)
    can_be_asked(harness, "recipes")
    engine = async_engine(harness, driver)
    async with AsyncSession(engine) as session:
        by_text = await app.search.liked_async(session, "a cold soup", 1, 2)
        vector = harness.server.vector("Instruct: Find a dish that fits\nQuery:a cold soup", 128)
        by_vector = await session.execute(app.models.recipes.nearest(vector).limit(2))
        assert [recipe.title for recipe, _ in by_vector] == by_text
    await engine.dispose()


@pytest.mark.long
@both_versions
@pytest.mark.parametrize("layout", ["table", "column", "chunked"])
def test_index_is_used_and_a_filter_leaves_no_row_out(harness: Harness, app: Any, layout: str) -> None:
    harness.server.dimensions = 256
    harness.execute("CREATE TABLE steps (id int PRIMARY KEY, recipe_id int, text text)")
    text = "'step ' || n || repeat(' and more words', n % 3)"
    harness.execute(f"INSERT INTO steps SELECT n, n, {text} FROM generate_series(1, 2500) n")
    options = {"table": [], "column": ["--store", "column"], "chunked": ["--chunk-tokens", "16"]}[layout]
    harness.ok("attach", "steps", "--text", "text", *options)
    harness.once()
    harness.execute("ANALYZE")
    steps = embedding_of(app.models.Step, chunked=layout == "chunked")
    vector = harness.server.vector("step 7")
    with harness.engine().connect() as connection:
        filtered = steps.nearest(vector).where(app.models.Step.recipe_id > 900)
        for statement in (steps.nearest(vector), *([] if layout == "chunked" else [filtered])):
            compiled = statement.limit(10).compile(dialect=connection.dialect)
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).scalars())
            assert re.search(r"Index Scan using \w*store_\d+_hnsw .*\n.* Order By: ", plan), plan
    with Session(harness.engine()) as session:
        found = session.execute(steps.nearest(vector).limit(160)).all()
        assert len({step.number for step, _ in found}) == len(found) == 160  # more than the index keeps as candidates
        few = session.execute(steps.nearest(vector).where(app.models.Step.recipe_id > 2490).limit(9)).all()
        assert len(few) == 9
        exact = session.execute(steps.nearest(vector, exact=True).limit(10)).all()
        np.testing.assert_allclose([d for _, d in found[:10]], [d for _, d in exact], atol=1e-3)


HYBRID = """
CREATE FUNCTION qwen_embed.{name}(query text, k integer DEFAULT 10)
RETURNS TABLE (id integer, score float8, vector_rank bigint, text_rank bigint, distance float8) LANGUAGE sql STABLE AS
$$SELECT r.id, 1.0 / r.id, r.id, r.id, 0.5 FROM public.recipes r WHERE r.title LIKE '%' || query || '%' ORDER BY r.id LIMIT k$$
"""


def test_words_and_vector_together_are_a_select_too(harness: Harness, config: Config, app: Any) -> None:
    command.upgrade(config, "head")
    fill(harness)
    if not harness.value("SELECT to_regproc('qwen_embed.recipes_hybrid') IS NOT NULL"):
        harness.execute(HYBRID.format(name="recipes_hybrid"))
    recipe = app.models.Recipe
    with Session(harness.engine()) as session:
        found = session.execute(app.models.recipes.hybrid("soup", k=5).where(recipe.likes > 0)).all()
        assert [(one.title, score) for one, score in found] == [("gazpacho, a cold soup", 1.0), ("onion soup", 0.5)]


@both_versions
@pytest.mark.long
def test_the_function_of_an_embedding_is_a_select_too(harness: Harness, config: Config, app: Any) -> None:
    command.upgrade(config, "head")
    fill(harness)
    harness.execute("INSERT INTO steps VALUES (1, 1, %s), (2, 1, 'boil')", "cut the onions. " * 20)
    harness.many("INSERT INTO kitchen.cooks VALUES (%s, %s, %s)", [(1, 1, "bakes"), (1, 2, "grills")])
    harness.once()
    can_be_asked(harness, "recipes")
    models = app.models
    with Session(harness.engine()) as session:
        near = session.execute(models.recipes.nearest("a cold soup").limit(3)).all()
        assert session.execute(models.recipes.closest("a cold soup", 3)).all() == near
        liked = sa.select(models.Recipe.id).where(models.Recipe.likes > 2)
        found = session.execute(models.recipes.closest("a cold soup", 3, among=liked)).all()
        assert {recipe.likes for recipe, _ in found} == {3, 4}
        vector = harness.server.vector("boil", 128)
        assert [step.number for step, _ in session.execute(models.steps.closest(vector))] == [2, 1]
        vector = harness.server.vector("A cook: grills", 128)
        assert [cook.id for cook, _ in session.execute(models.cooks.closest(vector, 1))] == [2]


def test_a_composite_key_in_another_schema_is_joined_by_its_columns(harness: Harness, config: Config, app: Any) -> None:
    command.upgrade(config, "head")
    harness.many("INSERT INTO kitchen.cooks VALUES (%s, %s, %s)", [(1, 1, "bakes"), (1, 2, "grills"), (2, 1, "boils")])
    harness.once()
    vector = harness.server.vector("A cook: grills", 128)
    with Session(harness.engine()) as session:
        (first, distance), *_ = session.execute(app.models.cooks.nearest(vector).limit(3)).all()
        assert (first.tenant, first.id, round(distance, 2)) == (1, 2, 0)


def test_pgvector_in_another_schema_is_named(bare: Harness, app: Any) -> None:
    bare.execute('CREATE SCHEMA "Ext"; CREATE EXTENSION vector SCHEMA "Ext"')
    bare.ok("init")
    bare.articles("one", "two")
    bare.ok("attach", "articles", "--text", "body", "--dimensions", "64", "--name", "steps")
    bare.once()

    class Base(sa.orm.DeclarativeBase):
        pass

    class Article(Base):
        __tablename__ = "articles"
        id: sa.orm.Mapped[int] = sa.orm.mapped_column(primary_key=True)
        body: sa.orm.Mapped[str]

    with Session(bare.engine()) as session:
        articles = embedding_of(Article, "steps", vector_schema="Ext")
        found = session.execute(articles.nearest(bare.server.vector("two", 64)).limit(1)).all()
        assert [article.body for article, _ in found] == ["two"]


@pytest.mark.parametrize(("query", "says"), [(" ", "the query is blank"), ([], "at least one number"), (7, "a text or a vector"),
                                             ([float("nan")], "each is finite")])  # fmt: skip
def test_a_query_that_cannot_be_is_one_sentence(app: Any, query: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        app.models.recipes.nearest(query)


def test_the_examples_of_the_page_on_sqlalchemy_run(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.server.dimensions = 1024
    files = examples.written("sqlalchemy.md", tmp_path)
    assert files == ["versions/0001.py", "versions/0002.py", "env.py", "models.py", "search.py", "search_async.py"]
    monkeypatch.syspath_prepend(str(tmp_path))
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", url_of(harness).replace("%", "%%"))
    command.upgrade(config, "head")
    command.downgrade(config, "0001")
    command.upgrade(config, "head")
    command.check(config)
    harness.many("INSERT INTO articles (id, title, likes) VALUES (%s, %s, %s)", [(1, "one", 9), (2, "two", 99)])
    harness.once()
    can_be_asked(harness, "articles")
    search, search_async = (importlib.import_module(name) for name in ("search", "search_async"))
    with Session(harness.engine()) as session:
        assert [title for title, _ in search.answers(session, "two?")] == ["two"]

    async def titles() -> list[str]:
        engine = async_engine(harness, "asyncpg")
        async with AsyncSession(engine) as session:
            found: list[str] = await search_async.titles(session, "two?")
        await engine.dispose()
        return found

    assert sorted(asyncio.run(titles())) == ["one", "two"]
    for name in ("models", "search", "search_async"):
        sys.modules.pop(name)


@pytest.mark.long
def test_application_is_typed(tmp_path: Path) -> None:
    files = [APPLICATION / "models.py", APPLICATION / "search.py"]
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from models import Recipe, recipes\n\nrecipes.nearest(7)\nreveal_type(recipes.nearest('text'))\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path / "cache"),
        *map(str, [*files, wrong]),
    ]
    done = subprocess.run(
        command,
        check=False,
        env=os.environ | {"MYPYPATH": str(APPLICATION)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stdout
    assert 'wrong.py:3: error: Argument 1 to "nearest" of "Embedded" has incompatible type "int"' in errors[0]
    assert 'Revealed type is "sqlalchemy.sql.selectable.Select[models.Recipe, float]"' in done.stdout, done.stdout
