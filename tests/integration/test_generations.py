"""Another generation: started next to the live one, made live, rolled back and dropped, with no moment without vectors."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import Harness, eventually
from other_model import OtherModel

from pg_qwen_embed import Client

LAYOUTS = {"table": (), "chunked": ("--chunk-tokens", "16")}


def generations(harness: Harness, name: str = "articles") -> dict[str, Any]:
    """What `generation status` says of each generation, by its state."""
    return {one["state"]: one for one in json.loads(harness.ok("generation", "status", name, "--json"))}


def is_built(harness: Harness, name: str = "articles") -> bool:
    building = generations(harness, name)["building"]
    return bool(building["backfill"]["state"] == "done" and not building["pending"])


def attached(harness: Harness, *options: str, rows: int = 30) -> None:
    harness.articles(*(f"article {n}" for n in range(1, rows + 1)))
    harness.ok("attach", "articles", "--text", "body", *options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fewer_dimensions_become_live_and_back_without_the_server(harness: Harness, layout: str) -> None:
    attached(harness, *LAYOUTS[layout])
    harness.once()
    asked = len(harness.server.texts)
    harness.ok("generation", "start", "articles", "--dimensions", "8")
    harness.once()
    assert len(harness.server.texts) == asked
    assert is_built(harness)
    harness.ok("generation", "complete", "articles")
    harness.assert_in_step()
    assert {state: one["spec"]["dimensions"] for state, one in generations(harness).items()} == {
        "live": 8,
        "retired": 16,
    }
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 3")
    harness.once()
    harness.assert_in_step()
    harness.ok("generation", "rollback", "articles")
    harness.assert_in_step()
    assert harness.embedding().live.spec.dimensions == 16
    harness.ok("generation", "drop", "articles", "--yes")
    assert list(generations(harness)) == ["live"]
    harness.assert_in_step()


STABLE, ROWS = 15, 25  # rows whose text stays, and all of them
QUERIES = ("article 3", "title 7", "anything else")


def document(template: str, key: int) -> str:
    return f"title {key}" if template == "title" else f"article {key}"


@dataclass
class Traffic:
    """Writes and queries at once, until it ends. An answer must be what one of the generations would give, as a whole."""

    harness: Harness
    servers: dict[str, FakeSGLang]
    known: list[tuple[str, int, str]] = field(default_factory=list)  # model, dimensions, template
    wrong: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def expected(self, one: tuple[str, int, str], query: str) -> dict[int, float]:
        model, dimensions, template = one
        vector = self.servers[model].vector
        own = vector(query, dimensions)
        return {key: 1 - float(own @ vector(document(template, key), dimensions)) for key in range(1, STABLE + 1)}

    def check(self, way: str, query: str, rows: list[tuple[int, float]]) -> None:
        found = {key: distance for key, distance in rows if key <= STABLE}
        fits = [
            one
            for one in list(self.known)
            if found.keys() == (wanted := self.expected(one, query)).keys()
            and all(abs(found[key] - wanted[key]) < 5e-3 for key in wanted)
        ]
        self.answers[way] += 1
        if not fits:
            off = [
                max(abs(found.get(k, 9) - v) for k, v in self.expected(one, query).items()) for one in list(self.known)
            ]
            self.wrong.append(f"{way}: {query!r}: off by {off} from {self.known}")

    def write(self) -> None:
        with psycopg.connect(self.harness.url, autocommit=True) as connection:
            for n in count():
                if self.over.wait(0.02):
                    return
                key = STABLE + 1 + n % (ROWS - STABLE)
                connection.execute("UPDATE articles SET body = %s, title = %s WHERE id = %s", (f"b{n}", f"t{n}", key))

    def ask(self, way: str, query: str) -> None:
        try:
            with psycopg.connect(self.harness.url, autocommit=True) as connection:
                connection.execute("SET hnsw.iterative_scan = strict_order")  # dead vectors count otherwise
                for n in count():
                    if self.over.wait(0.01):
                        return
                    text = QUERIES[n % len(QUERIES)]
                    self.check(way, text, connection.execute(query, {"text": text, "k": ROWS}).fetchall())
        except psycopg.Error as error:
            self.wrong.append(f"{way}: {error}")

    def search(self) -> None:
        try:
            with Client(self.harness.url, server_url=",".join(one.url for one in self.servers.values())) as client:
                for n in count():
                    if self.over.wait(0.02):
                        return
                    text = QUERIES[n % len(QUERIES)]
                    hits = client.search("articles", text, limit=ROWS)
                    self.check("client", text, [(int(str(hit.row["id"])), hit.distance) for hit in hits])
        except Exception as error:
            self.wrong.append(f"client: {error!r}")

    @contextmanager
    def running(self) -> Iterator[None]:
        work = [self.write, self.search, *(partial(self.ask, way, query) for way, query in WAYS.items())]
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()


WAYS = {
    "view": """SELECT e.id, e.embedding <=> qwen_embed.embed_query('articles', %(text)s) AS distance
               FROM qwen_embed.articles e ORDER BY 2 LIMIT %(k)s""",
    "function": "SELECT id, distance FROM qwen_embed.articles(%(text)s, %(k)s)",
    "function of a vector": """SELECT id, distance
                               FROM qwen_embed.articles(qwen_embed.embed_query('articles', %(text)s), %(k)s)""",
}


@pytest.mark.long
@pytest.mark.parametrize("postgres_version", [16, 18], indirect=True)
def test_no_query_fails_or_mixes_two_generations_while_they_change(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, title text)")
    harness.many(
        "INSERT INTO articles VALUES (%s, %s, %s)", [(n, f"article {n}", f"title {n}") for n in range(1, ROWS + 1)]
    )
    harness.ok("attach", "articles", "--text", "body")
    with OtherModel().running() as other:
        harness.environment["PG_QWEN_EMBED_SERVER_URL"] = f"{harness.server.url},{other.url}"
        worker = harness.worker("--poll", "0.2")
        eventually(harness.settled)
        traffic = Traffic(harness, {"stand-in": harness.server, "other": other}, [("stand-in", 16, "body")])
        with traffic.running():
            steps = (
                (("--dimensions", "8"), ("stand-in", 8, "body")),
                (("--model", "other", "--dimensions", "8"), ("other", 8, "body")),
                (("--text", "title"), ("other", 8, "title")),
            )
            for options, properties in steps:
                harness.ok("generation", "start", "articles", *options)
                if options[0] == "--model":  # a worker is killed, and the server of the next model is away
                    other.fault = "503"
                    worker.popen.kill()
                    worker.popen.wait()
                    worker = harness.worker("--poll", "0.2")
                    eventually(lambda: generations(harness)["building"]["leader"])
                    other.fault = None
                eventually(lambda: is_built(harness))
                traffic.known.append(properties)
                harness.ok("generation", "complete", "articles")
                answered(traffic)
                harness.ok("generation", "rollback", "articles")
                answered(traffic)
                harness.ok("generation", "rollback", "articles")
                answered(traffic)
                harness.ok("generation", "drop", "articles", "--yes")
                del traffic.known[:-1]
                assert traffic.wrong == []
        assert traffic.wrong == []
        eventually(harness.settled)
        assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
        harness.server = other
        harness.assert_in_step("title")


def answered(traffic: Traffic) -> None:
    """Wait until each way has been used some times more."""
    before = Counter(traffic.answers)
    ways = [*WAYS, "client"]
    eventually(lambda: traffic.wrong or all(traffic.answers[way] > before[way] + 10 for way in ways))
