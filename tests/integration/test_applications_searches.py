"""What the searches of SQLAlchemy, Django, MCP and `sql query` have in common: names that a table may have, and what indexes do."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, eventually
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from text_queries import can_be_asked

from pg_qwen_embed.domain.vectors import as_literal
from pg_qwen_embed.integrations.reading import Limits, Reading
from pg_qwen_embed.sqlalchemy import embedding_of

ROWS = 3000
# A table with columns that are called like what a search returns. The key is one of them.
PLACES = """
CREATE TABLE places (distance int, score numeric, body text, chunk_text text, chunk int, found_distance int,
                     PRIMARY KEY (distance, score));
INSERT INTO places SELECT n, n + 0.5, 'place ' || n, 'c' || n, n, n FROM generate_series(1, 30) n
"""


class Base(DeclarativeBase):
    pass


class Place(Base):
    __tablename__ = "places"
    distance: Mapped[int] = mapped_column(primary_key=True)
    score: Mapped[Any] = mapped_column(sa.Numeric, primary_key=True)
    body: Mapped[str]
    chunk_text: Mapped[str]


class Article(Base):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]


@pytest.fixture(scope="module")
def served(clusters: Callable[[int], Cluster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Places with an embedding in each layout, and a worker. Tests must not change them."""
    with clusters(18).database() as url, FakeSGLang().running() as server, ExitStack() as stack:
        harness = Harness(url, server, Path(tmp_path_factory.mktemp("served")), stack)
        harness.execute(PLACES)
        chunked = ["--chunk-tokens", "64", "--view-name", "chunk=part", "--view-name", "chunk_text=part_text"]
        for name, options in (("places", []), ("chunked", chunked), ("short", ["--index", "hnsw-binary"])):
            harness.ok("attach", "places", "--text", "body", "--name", name, "--words", "simple", *options)
        can_be_asked(harness, "places")
        for name in ("chunked", "short"):
            eventually(lambda name=name: harness.settled(name))
        yield harness


@pytest.mark.parametrize("name", ["places", "chunked", "short"])
@pytest.mark.parametrize("where", [None, "distance > 3 AND score < 20"])
def test_sql_query_prints_what_runs_whatever_columns_are_called(served: Harness, name: str, where: str | None) -> None:
    options = ["--where", where] if where else []
    variables: dict[str, Any] = {"database_url": served.url, "text": "place 7"}
    exec(served.ok("sql", "query", name, "--for", "psycopg", *options), variables)  # noqa: S102  # as an application would
    rows = variables["rows"]
    assert (rows[0][0], len(rows)) == (7, 10)
    assert all(3 < row[0] < 20 for row in rows) or not where


def test_sqlalchemy_searches_a_class_that_has_a_distance_of_its_own(served: Harness) -> None:
    places = embedding_of(Place)
    with Session(served.engine()) as session:
        for query in ("place 7", served.server.vector("place 7")):
            for found in (places.nearest(query).limit(3), places.closest(query, 3)):
                rows = session.execute(found.where(Place.score > 2)).all()
                assert (rows[0][0].distance, round(rows[0][1], 2), len(rows)) == (7, 0, 3)
        rows = session.execute(places.hybrid("place 7", 3)).all()
        assert (rows[0][0].distance, len(rows)) == (7, 3)
        assert (
            [row.score_ for row in rows] == [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
        )


def test_django_searches_a_model_that_has_a_distance_of_its_own(
    served: Harness, django: Callable[[Harness], None]
) -> None:
    django(served)
    from django.db import models

    from pg_qwen_embed.django import EmbeddingSearch

    place = django_model(
        served, "places", pk=models.CompositePrimaryKey("distance", "score"), distance=models.IntegerField(),
        score=models.DecimalField(max_digits=9, decimal_places=1), body=models.TextField(),
        found_distance=models.IntegerField(), search=EmbeddingSearch("places"),
    )  # fmt: skip
    for found in (place.search("place 7"), place.search.closest("place 7", 5)):
        rows = list(found.filter(score__gt=2)[:3])
        assert (rows[0].distance, round(rows[0].found_found_distance, 2), len(rows)) == (7, 0, 3)
        assert found.filter(found_found_distance__lt=0.001).count() == 1
    rows = list(place.search.hybrid("place 7", 3))
    assert (rows[0].distance, len(rows)) == (7, 3)
    assert rows[0].found_score > rows[1].found_score


@pytest.fixture
def django() -> Iterator[Callable[[Harness], None]]:
    """Sets Django up for a database; afterwards another test may do so for another one."""
    from django.conf import settings
    from django.db import connections
    from django.utils.functional import empty

    def forget() -> None:
        connections.close_all()
        settings._wrapped = empty
        connections.__dict__.pop("settings", None)
        connections._settings = None
        if hasattr(connections._connections, "default"):
            del connections["default"]

    def set_up(harness: Harness) -> None:
        import django

        parts = conninfo_to_dict(harness.url)
        names = {"NAME": "dbname", "USER": "user", "HOST": "host"}
        database = {name: parts[part] for name, part in names.items()} | {"ENGINE": "django.db.backends.postgresql"}
        settings.configure(DATABASES={"default": database})
        django.setup()

    if settings.configured:
        forget()
    yield set_up
    forget()


def django_model(harness: Harness, table: str, **fields: Any) -> Any:
    from django.db import models

    label = f"of_{conninfo_to_dict(harness.url)['dbname']}"
    meta = type("Meta", (), {"app_label": label, "db_table": table, "managed": False})
    return type("Row", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def test_rows_for_an_agent_keep_their_columns_and_their_distance(served: Harness) -> None:
    reading = Reading(served.url, {name: ["chunk_text"] for name in ("places", "chunked", "short")}, (), Limits())
    vector = as_literal(served.server.vector("place 7"))
    for name in ("places", "chunked", "short"):
        row = reading.search(name, vector, 3).rows[0]
        assert (row["distance"], row["score"], row["chunk_text"]) == (7, 7.5, "c7")
        assert round(row["distance_"], 2) == 0
        assert row.get("chunk_text_", "place 7") == "place 7"
        row = reading.search_by_words(name, "7", vector, 3).rows[0]
        assert (row["distance"], row["score"]) == (7, 7.5)
        assert row["score_"] > 0


# Filters and indexes


def many(harness: Harness, *options: str) -> Harness:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(1, %s) n", ROWS)
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()
    harness.execute(f"ANALYZE articles, {harness.internal('store')}")
    return harness


# PostgreSQL expects that a third of all rows meet it, and so takes the index.
MISJUDGED = f"abs(id - {ROWS // 2}) >= {ROWS // 2 - 5}"
LIMITED = "SET hnsw.max_scan_tuples = 20; SET hnsw.scan_mem_multiplier = 1; SET work_mem = '64kB'"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["hnsw", "ivfflat:lists=60"])
def test_a_filter_that_postgresql_misjudges_leaves_no_row_out(harness: Harness, kind: str) -> None:
    many(harness, "--index", kind)
    vector = harness.server.vector("text 7")
    wanted = harness.value(f"SELECT count(*) FROM articles WHERE {MISJUDGED}")
    articles = embedding_of(Article)
    found = articles.nearest(vector).where(sa.func.abs(Article.id - ROWS // 2) >= ROWS // 2 - 5).limit(30)
    with harness.engine().connect() as connection:
        connection.exec_driver_sql(LIMITED)
        compiled = found.compile(dialect=connection.dialect)
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).scalars())
        assert "Index Scan using store_1_" in plan
        assert len(connection.execute(found).all()) == wanted
        (width,) = connection.exec_driver_sql("SELECT qwen_embed.ef_search('articles')::text").scalars()
        setting = "hnsw.ef_search" if kind == "hnsw" else "ivfflat.probes"
        assert connection.exec_driver_sql(f"SELECT current_setting('{setting}')").scalar() == width


@pytest.mark.long
@pytest.mark.parametrize(("kind", "layout"), [("hnsw-binary", []), ("hnsw-prefix:8", ["--chunk-tokens", "64"])])
def test_django_takes_candidates_from_a_compressed_index_and_ranks_them(
    harness: Harness, django: Callable[[Harness], None], kind: str, layout: list[str]
) -> None:
    django(harness)
    many(harness, "--index", kind, *layout)
    query = harness.server.vector("text 7")
    from django.db import connection, models

    from pg_qwen_embed.django import EmbeddingSearch

    options = {"chunked": bool(layout), "dimensions": 16}
    search = EmbeddingSearch("articles", index=kind, **options)
    fields = {"body": models.TextField(), "search": search, "other": EmbeddingSearch("articles", **options)}
    article = django_model(harness, "articles", id=models.IntegerField(primary_key=True), **fields)
    measured = "UPDATE _qwen_embed.ann_index SET ef_search = %s"
    harness.execute(measured, 20)
    settings = connection.cursor()
    settings.execute("SET enable_seqscan = off; SET enable_sort = off")  # the table is small
    plan = article.search(query).filter(id__gt=9)[:5].explain()
    assert re.search(r"Index Scan using store_\d+_hnsw", plan)
    assert "_hnsw" not in article.search(query).order_by("id")[:5].explain()
    settings.execute("RESET enable_seqscan; RESET enable_sort")
    harness.execute(measured, 1000)
    exact = {row.id: row.distance for row in article.search(query, exact=True).filter(id__lte=2000)[:30]}
    found = {row.id: row.distance for row in article.search(query).filter(id__lte=2000)[:30]}
    assert list(found.values()) == sorted(found.values())
    assert len(found) == 30
    assert len(found.keys() & exact.keys()) >= 25  # of sixteen signs, or half of the numbers
    assert all(found[one] == pytest.approx(exact[one]) for one in found.keys() & exact.keys())
    assert [row.id for row in article.search(query).filter(id__lte=3)[:30]] == [
        row.id for row in article.search(query).filter(id__lte=3)
    ]
    assert article.search(query).filter(id__lte=2000)[:30].count() == 30
    assert article.objects.filter(pk__in=article.search(query).filter(id__gt=5)[:4].values("pk")).count() == 4
    assert article.search(query)[2:4][0].id == article.search(query)[2].id
    assert article.search(query).filter(distance__lt=0.0001).first().id == 7


def test_sql_query_leaves_an_index_of_lists_to_the_function(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--index", "ivfflat")
    assert '"qwen_embed"."articles"(' in harness.ok("sql", "query", "articles")
    harness.ok("attach", "articles", "--text", "body", "--name", "plain", "--index", "none")
    assert '"qwen_embed"."plain"(' not in harness.ok("sql", "query", "plain", "--where", "id > 0")


@pytest.mark.long
def test_doctor_says_that_an_index_of_lists_reads_too_few(harness: Harness) -> None:
    many(harness, "--index", "ivfflat:lists=60")
    vector = as_literal(harness.server.vector("text 7"))
    query = f"SELECT id FROM qwen_embed.articles ORDER BY embedding <=> '{vector}' LIMIT 10"
    said = harness.ok("doctor", "--query", query)
    width = harness.value("SELECT qwen_embed.ef_search('articles')")
    assert f"ivfflat.probes = 1 of its lists, and {width} are wanted; select from the function" in said
    assert "hnsw." not in said
    assert "ivfflat.iterative_scan" in harness.ok("doctor", "--query", query.replace("LIMIT 10", "LIMIT 500"))
    with psycopg.connect(harness.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET ivfflat.probes = {width}")
    assert "warning" not in harness.ok("doctor", "--query", query)
