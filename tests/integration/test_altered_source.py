"""The source of an embedding is altered: it is followed, or reported. The application never fails because of us."""

import json

import pytest
from harness import Harness, both_versions, eventually


@pytest.fixture
def followed(harness: Harness) -> Harness:
    harness.execute("CREATE TABLE articles (unused int, id bigint PRIMARY KEY, title text, body text)")
    harness.execute("INSERT INTO articles VALUES (0, 1, 'one', 'first'), (0, 2, 'two', 'second')")
    harness.ok("attach", "articles", "--template", "{title}: {body}")
    harness.worker("--poll", "0.2")
    eventually(harness.settled)
    return harness


@both_versions
@pytest.mark.parametrize(
    ("alteration", "table", "key", "document"),
    [
        ("ALTER TABLE articles RENAME COLUMN id TO number", "articles", "number", "concat(title, ': ', body)"),
        ("ALTER TABLE articles RENAME COLUMN body TO content", "articles", "id", "concat(title, ': ', content)"),
        ("ALTER TABLE articles RENAME TO papers", "papers", "id", "concat(title, ': ', body)"),
        ("CREATE SCHEMA app; ALTER TABLE articles SET SCHEMA app", "app.articles", "id", "concat(title, ': ', body)"),
        (
            "ALTER TABLE articles DROP COLUMN unused CASCADE, ADD extra text",
            "articles",
            "id",
            "concat(title, ': ', body)",
        ),
    ],
    ids=["key renamed", "text renamed", "table renamed", "schema changed", "columns dropped and added"],
)
@pytest.mark.long
def test_source_that_is_renamed_or_gets_other_columns_is_followed(
    followed: Harness, alteration: str, table: str, key: str, document: str
) -> None:
    keeps_view = "CASCADE" not in alteration
    for statement in alteration.split("; "):
        followed.execute(statement)
    body = "content" if "content" in document else "body"
    followed.execute(f"INSERT INTO {table} ({key}, title, {body}) VALUES (3, 'three', 'third')")
    followed.execute(f"UPDATE {table} SET title = 'changed' WHERE {key} = 1")
    followed.execute(f"UPDATE {table} SET {key} = 20 WHERE {key} = 2")
    followed.execute(f"DELETE FROM {table} WHERE {key} = 3")
    expected = {(1, "changed: first"), (20, "two: second")}
    assert set(followed.rows(f"SELECT {key}, {document} FROM {table}")) == expected
    eventually(lambda: "changed: first" in followed.server.texts and followed.settled())
    assert followed.drift()[0] == 0
    if keeps_view:
        followed.execute(f"TRUNCATE {table}")
        eventually(followed.settled)
        assert followed.count("store") == 0


def test_worker_says_once_why_it_does_not_follow_and_what_to_run(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, number bigint UNIQUE, body text)")
    harness.execute("INSERT INTO articles VALUES (1, 1, 'one')")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--poll", "0.1")
    eventually(harness.settled)
    swap = "ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY ({})"

    def said(*words: str) -> int:
        lines = [line for line in worker.said.splitlines() if "not_followed" in line]
        return sum(all(word in line for word in words) for line in lines)

    changed = ("the primary key of public.articles has changed to (body)", "run: pg-qwen-embed alter articles --rekey")
    store = harness.internal("store")
    harness.execute(swap.format("body"))
    eventually(lambda: said(*changed))
    harness.execute(swap.format("id"))
    eventually(lambda: worker.said.count("following ") == 2)
    harness.execute(f"DROP TABLE {store} CASCADE")
    eventually(lambda: said("its store was dropped", "run: pg-qwen-embed verify articles --repair"))
    harness.ok("verify", "articles", "--repair")
    eventually(lambda: worker.said.count("following ") == 3)
    harness.execute(swap.format("body"))
    eventually(lambda: said(*changed) == 2)  # it was followed meanwhile
    assert said() == 3


def test_search_goes_on_after_a_column_was_added_or_renamed(followed: Harness) -> None:
    followed.execute("ALTER TABLE articles ADD COLUMN extra int DEFAULT 5")
    followed.execute("ALTER TABLE articles RENAME COLUMN title TO heading")
    (hit,) = json.loads(followed.ok("search", "articles", "one: first", "--limit", "1", "--json"))
    assert hit["row"]["id"] == 1


@pytest.mark.parametrize(
    ("alteration", "reason"),
    [
        ("DROP TABLE articles CASCADE", "its table was dropped; run: pg-qwen-embed alter articles --table TABLE, "),
        (
            "ALTER TABLE articles DROP COLUMN body CASCADE",
            "a column it embeds was dropped from public.articles; run: pg-qwen-embed verify articles --repair, once ",
        ),
    ],
)
def test_source_that_lost_what_is_embedded_is_reported_and_can_be_detached(
    followed: Harness, alteration: str, reason: str
) -> None:
    followed.execute(alteration)
    if "DROP TABLE" not in alteration:
        followed.execute("INSERT INTO articles (id, title) VALUES (9, 'the application goes on')")
    assert reason in followed.ok("status", "articles")
    said = followed.refused("verify", "articles")
    assert said.startswith(f"articles: {reason}")
    assert said.endswith("or pg-qwen-embed detach articles")
    followed.ok("detach", "articles", "--yes")
    assert (
        followed.rows(
            "SELECT relname FROM pg_class WHERE relname ~ '_1$' AND relnamespace = '_qwen_embed'::regnamespace"
        )
        == []
    )
    assert (
        followed.rows(
            "SELECT proname FROM pg_proc WHERE pronamespace = '_qwen_embed'::regnamespace AND proname ~ '_1$'"
        )
        == []
    )


def test_trouble_of_one_source_does_not_stop_the_others(followed: Harness) -> None:
    followed.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    followed.ok("attach", "others", "--text", "body")
    followed.execute("ALTER TABLE articles DROP COLUMN body CASCADE")
    followed.execute("INSERT INTO others VALUES (1, 'still followed')")
    eventually(lambda: followed.value("SELECT count(*) FROM qwen_embed.others") == 1)


@pytest.mark.parametrize(
    "layout", [[], ["--store", "column"], ["--chunk-tokens", "64"]], ids=["table", "column", "chunked"]
)
@pytest.mark.long
def test_column_called_like_an_alias_of_the_statements_is_a_column_like_any_other(
    harness: Harness, layout: list[str]
) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, t text, s int, r text, e text)")
    harness.execute("INSERT INTO articles VALUES (1, 'one', 1, 'r', 'e'), (2, 'two', 2, 'r', 'e')")
    harness.ok("attach", "articles", "--text", "t", *layout)
    harness.once()
    harness.execute("UPDATE articles SET t = 'changed' WHERE id = 1")
    harness.once()
    assert harness.drift()[0] == 0
    assert {text for text, _ in harness.vectors("t")} == {"changed", "two"}


def test_column_that_is_later_called_like_an_alias_does_not_stop_the_embedding(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("ALTER TABLE articles ADD COLUMN t text")
    harness.execute("UPDATE articles SET body = 'changed'")
    harness.once()
    harness.assert_in_step()
