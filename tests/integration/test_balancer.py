"""Several embedding servers: the least loaded one gets a request, a failed one gets none, each model has its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise

import pytest
from fake_sglang import FakeSGLang
from harness import Harness, eventually

from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState, Target
from pg_qwen_embed.domain.errors import ServerUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.source import Column, QualifiedName, Source
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import Template
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.inference.breaker import Breaker
from pg_qwen_embed.inference.limiter import Limiter
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.inference.upstreams import BACKFILL, LIVE, MOST_AHEAD, Upstream, Waiter
from pg_qwen_embed.settings import Settings

KEY = Column("id", "bigint")
SOURCE = Source(QualifiedName("public", "articles"), (KEY,), (KEY,))


def target_of(model: str) -> Target:
    generation = Generation(1, GenerationState.LIVE, Spec(model, 16, Template(())))
    return Embedding("articles", SOURCE, "", generation).target


def runtime() -> Runtime:
    return Runtime(asyncio.get_running_loop().time)


@pytest.fixture
def pair(harness: Harness) -> Iterator[tuple[FakeSGLang, FakeSGLang]]:
    """The harness's server and another one, both in the worker's settings."""
    second = FakeSGLang()
    with second.running():
        harness.environment["PG_QWEN_EMBED_SERVER_URL"] = f"{harness.server.url}, {second.url}"
        yield harness.server, second


@pytest.fixture
def server() -> Iterator[FakeSGLang]:
    with FakeSGLang().running() as server:
        yield server


@asynccontextmanager
async def balancer_of(*servers: FakeSGLang, **options: int | float | bool) -> AsyncIterator[Balancer]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        ours = [EmbeddingServer(Settings(server_url=server.url)) for server in servers]
        for one in ours:
            await one.__aenter__()
        balancer = Balancer(ours, **{"most_requests": 64, "runtime": runtime(), **options})  # type: ignore[arg-type]
        runner = group.create_task(_run(balancer))
        try:
            yield balancer
        finally:
            runner.cancel()
            for one in ours:
                await one.__aexit__(None, None, None)


async def everybody_has_had_a_turn() -> None:
    """Let every task run until all wait for the balancer only."""
    for _ in range(100):
        await asyncio.sleep(0)


async def _run(balancer: Balancer) -> None:
    async with asyncio.TaskGroup() as group:
        balancer.start(group)


def test_document_that_one_server_rejects_is_taken_to_the_others(
    harness: Harness, pair: tuple[FakeSGLang, FakeSGLang]
) -> None:
    pair[0].poison = "bad"
    for server in pair:
        server.delay = 0.01
    harness.articles(*(f"text {n}" for n in range(300)), "bad", "bad too")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert harness.count("failure") == 0
    harness.assert_in_step()
    pair[1].poison = "bad"
    harness.execute("UPDATE articles SET body = body || ' again' WHERE body LIKE 'bad%%'")
    harness.once()
    assert harness.count("failure") == 2


@pytest.mark.parametrize(
    ("kind", "milliseconds", "limit"), [(BACKFILL, 1, MOST_AHEAD), (BACKFILL, 4.5, 4), (LIVE, 1, 2)]
)
async def test_quick_server_has_twenty_milliseconds_of_a_backfill_ahead(
    kind: int, milliseconds: float, limit: int
) -> None:
    server = EmbeddingServer(Settings())
    upstream = Upstream(server, Breaker(server, lambda: None, 1.0, runtime()), Limiter(limit=2))
    nobody = asyncio.get_running_loop().create_future()
    turns = [Waiter(kind, number, target_of("m"), 100.0, frozenset(), nobody) for number in range(20)]
    upstream.take(turns[0], 0.0)
    for number, (waiter, after) in enumerate(pairwise(turns)):
        upstream.take(after, number * milliseconds / 1000)
        upstream.leave(waiter, (number + 1.001) * milliseconds / 1000, answered=True, more=True)
    assert upstream.limiter.limit == limit
    upstream.leave(turns[-1], 1.0, answered=True, more=False)
    assert upstream.limiter._lowest == 1  # the backfill is over


async def test_last_request_of_a_backfill_waits_until_the_server_is_about_to_need_it_and_a_live_one_does_not() -> None:
    server = EmbeddingServer(Settings())
    upstream = Upstream(server, Breaker(server, lambda: None, 1.0, runtime()), Limiter(limit=2))
    nobody = asyncio.get_running_loop().create_future()
    first, second = (Waiter(BACKFILL, number, target_of("m"), 100.0, frozenset(), nobody) for number in range(2))
    upstream.take(first, 10.0)
    assert upstream.has_room_at(BACKFILL) == 0.0
    upstream.leave(first, 11.0, answered=True, more=True)
    upstream.take(second, 11.0)
    assert upstream.has_room_at(BACKFILL) == pytest.approx(12.0, abs=0.01)
    assert upstream.has_room_at(LIVE) == 0.0


def test_two_servers_share_a_backfill(harness: Harness, pair: tuple[FakeSGLang, FakeSGLang]) -> None:
    for server in pair:
        server.delay = 0.02
    harness.articles(*(f"text {n}" for n in range(2000)))
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.assert_in_step()
    assert sum(len(server.texts) for server in pair) == 2000
    assert min(len(server.texts) for server in pair) > 500


@pytest.mark.long
def test_server_that_dies_is_left_out_and_taken_back_when_it_returns(harness: Harness) -> None:
    second = FakeSGLang()
    with ExitStack() as stack:
        stack.enter_context(second.running())
        harness.environment["PG_QWEN_EMBED_SERVER_URL"] = f"{harness.server.url} {second.url}"
        for server in (harness.server, second):
            server.delay = 0.02
        harness.articles(*(f"text {n}" for n in range(4000)))
        harness.ok("attach", "articles", "--text", "body")
        worker = harness.worker()
        eventually(lambda: second.texts)
    harness.execute("INSERT INTO articles SELECT n, 'later ' || n FROM generate_series(4001, 5000) n")
    eventually(harness.settled)
    assert "the embedding server does not answer" not in harness.ok("status")
    assert harness.count("failure") == 0
    with second.running():
        eventually(lambda: worker.said.count(f"server_ready url={second.url}") == 2)
        second.texts.clear()
        harness.execute("UPDATE articles SET body = body || ' again'")
        eventually(lambda: second.texts)
        eventually(harness.settled)
    harness.assert_in_step()


def test_servers_of_different_models_are_told_apart(harness: Harness, pair: tuple[FakeSGLang, FakeSGLang]) -> None:
    first, second = pair
    second.model = "other"
    harness.articles(*(f"text {n}" for n in range(300)))
    harness.ok("attach", "articles", "--text", "body", "--model", "stand-in")
    harness.ok("attach", "articles", "--text", "body", "--model", "other", "--name", "others")
    harness.once()
    assert sorted(first.texts) == sorted(second.texts) == sorted(f"text {n}" for n in range(300))
    for name in ("articles", "others"):
        harness.assert_in_step(name=name)


@pytest.mark.parametrize(("priorities", "urgent"), [("high", 1), ("low", -1), (None, None)])
def test_changes_and_queries_overtake_a_backfill_where_the_server_has_priorities(
    harness: Harness, priorities: str | None, urgent: int | None
) -> None:
    harness.server.priorities = priorities
    harness.articles("walked")
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    eventually(harness.settled)
    harness.execute("INSERT INTO articles VALUES (2, 'changed')")
    eventually(lambda: "changed" in harness.server.texts)
    harness.ok("search", "articles", "asked")
    found = {str(request["input"][0])[-7:]: request.get("priority") for request in harness.server.requests}
    assert found["walked"] is None
    assert found["changed"] == found["asked"] == urgent


def test_server_that_is_only_away_is_not_taken_for_one_of_another_model(
    harness: Harness, pair: tuple[FakeSGLang, FakeSGLang]
) -> None:
    harness.articles("one")
    harness.server.model = "another"
    harness.ok("attach", "articles", "--text", "body", "--model", "stand-in")
    pair[1].fault = "500"
    worker = harness.worker()
    eventually(lambda: "server_unavailable" in worker.said)
    assert "model_mismatch" not in worker.said
    assert "detach" not in harness.cli("doctor").stdout
    pair[1].fault = None
    eventually(harness.settled)
    assert pair[1].texts == ["one"]


def test_commands_use_the_server_that_answers(harness: Harness) -> None:
    harness.articles("one")
    harness.environment["PG_QWEN_EMBED_SERVER_URL"] = f"http://127.0.0.1:1/v1, {harness.server.url}"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert "id=1" in harness.ok("search", "articles", "one")


def test_servers_with_other_weights_of_one_model_are_not_attached_together(
    harness: Harness, pair: tuple[FakeSGLang, FakeSGLang]
) -> None:
    harness.articles("one")
    pair[1].weight_version = "v2"
    assert "cannot be used together" in harness.refused("attach", "articles", "--text", "body")


def test_what_one_server_cannot_take_is_truncated_for_both(
    harness: Harness, pair: tuple[FakeSGLang, FakeSGLang]
) -> None:
    for server in pair:
        server.delay = 0.01
    pair[1].context_length = 64
    harness.articles(*(f"{n} {'word ' * 40}" for n in range(500)))
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert min(len(server.texts) for server in pair) > 0
    assert max(len(text) for server in pair for text in server.texts) < 64


def test_document_that_overloads_a_server_makes_no_others_go_alone(harness: Harness) -> None:
    harness.server.poison, harness.server.overloads = "POISON", True
    harness.articles("POISON")
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    eventually(lambda: len([r for r in harness.server.requests if r["input"] == ["POISON"]]) > 5)
    harness.server.requests.clear()
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(2, 257) n")
    eventually(lambda: harness.count("store") == 256)
    assert len([r for r in harness.server.requests if "text" in r["input"][0]]) < 10


async def test_probe_of_a_server_with_priorities_overtakes_too(server: FakeSGLang) -> None:
    server.priorities = "high"
    async with EmbeddingServer(Settings(server_url=server.url)) as asking:
        await asking.model_info()
    assert [request["priority"] for request in server.requests] == [1]


async def test_live_requests_go_beyond_a_limit_that_a_backfill_has_used_up(server: FakeSGLang) -> None:
    went: list[str] = []
    first, back = asyncio.Event(), asyncio.Event()
    async with balancer_of(server) as balancer:  # its limit is two at the start

        async def request(name: str, live: bool) -> None:
            async with balancer.lease(target_of(server.model), live=live, work=1) as lease:
                went.append(name)
                first.set()
                await back.wait()
                lease.answered()

        tasks = [asyncio.create_task(request(f"backfill {n}", False)) for n in range(3)]
        await first.wait()
        tasks += [asyncio.create_task(request(f"live {n}", True)) for n in range(3)]
        await everybody_has_had_a_turn()
        assert went == ["backfill 0", "backfill 1", "live 0", "live 1"]
        back.set()
        await asyncio.gather(*tasks)
        assert went[4:] == ["live 2", "backfill 2"]


async def test_nobody_goes_beyond_the_highest_number_allowed(server: FakeSGLang) -> None:
    went: list[bool] = []
    async with balancer_of(server, most_requests=1) as balancer:

        async def request(live: bool) -> None:
            async with balancer.lease(target_of(server.model), live=live, work=1) as lease:
                went.append(live)
                await asyncio.sleep(0)
                assert lease.upstream.busy == 1

        async with balancer.lease(target_of(server.model), live=False, work=1):
            tasks = [asyncio.create_task(request(live)) for live in (False, False, True, True)]
            await everybody_has_had_a_turn()
        await asyncio.gather(*tasks)
    assert went == [True, True, False, False]


async def test_request_that_is_cancelled_gives_its_place_back(server: FakeSGLang) -> None:
    async with balancer_of(server, most_requests=1) as balancer:
        wanted = target_of(server.model)

        async def request() -> None:
            async with balancer.lease(wanted, live=False, work=1):
                await asyncio.sleep(3600)

        async with balancer.lease(wanted, live=False, work=1):
            tasks = [asyncio.create_task(request()) for _ in range(3)]
            await everybody_has_had_a_turn()
        for task in (tasks[1], tasks[0], tasks[2]):  # one that waits, one that was let in, and the one after it
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5), balancer.lease(wanted, live=False, work=1):
            pass


async def test_those_who_wait_for_a_server_that_fails_lose_patience(server: FakeSGLang) -> None:
    async with balancer_of(server, most_requests=1, outage_timeout=0.3) as balancer:
        wanted = target_of(server.model)

        async def request() -> None:
            async with balancer.lease(wanted, live=False, work=1):
                raise AssertionError("the server is away")

        async with balancer.lease(wanted, live=False, work=1) as lease:
            waiting = asyncio.create_task(request())
            await everybody_has_had_a_turn()
            server.fault = "500"
            lease.failed(ServerUnavailable("it died"))
        with pytest.raises(ServerUnavailable):
            await waiting
