"""A hostile or broken embedding server: it gets no document but by the URL that was given, it exhausts nothing, it puts
no wrong vector under a row, and no secret that it repeats is shown."""

import asyncio
import base64
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from harness import Harness, eventually
from hostile_answers import ATTACKS, Grammar
from odd_server import DIMENSIONS, MODEL, OddServer, Reply, Request, items, json_reply, received, reply, right, vector

from pg_qwen_embed.cli._log import Logfmt
from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.errors import DocumentRejected, Error, ServerFault, ServerUnavailable
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.inference.encoder import embed
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker.process import log_event

INFO = ModelInfo(MODEL, DIMENSIONS, shortens=False, answers_as=MODEL)
KEY = "k3y-of-the-server/+=&"
ATTACH = ("attach", "articles", "--text", "body")
MOST_MEMORY = 200  # megabytes above idle
TEXTS = ["one", "two words", "a confidential report about the third quarter, for the board only"]


@pytest.fixture
def server() -> Iterator[OddServer]:
    with OddServer().running() as server:
        yield server


async def outcome(server: OddServer, texts: list[str], limit: float = 2.0, **settings: str) -> str:
    """What embedding these texts ends with: "right", or an error's sentence."""
    async with EmbeddingServer(Settings(server_url=server.url, **settings), limit) as asking:
        try:
            found, _ = await embed(asking, INFO, texts, DIMENSIONS)
        except Error as error:
            return str(error)
    np.testing.assert_allclose(found, [vector(text) for text in texts], atol=1e-5)
    return "right"


# Documents and secrets do not travel


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_sentence_says_where_it_points(server: OddServer, status: int) -> None:
    with OddServer().running() as other:
        where = other.url.replace("http://", f"http://me:{KEY}@")
        server.answer = lambda _: reply(b"", status, f"Location: {where}/embeddings?key={KEY}\r\n")
        said = await outcome(server, TEXTS, api_key=KEY)
        assert f"redirects to {other.url}/embeddings ({status})" in said
        assert KEY not in said
        async with EmbeddingServer(Settings(server_url=server.url, api_key=KEY)) as asking:
            with pytest.raises(ServerUnavailable, match="redirects are not followed"):
                await asking.model_info()
        assert other.requests == []


def echo(request: Request) -> Reply:
    """Repeats what it was sent in the headers, in an error of many forms."""
    sent = request.headers.get("authorization", "") + " " + request.headers.get("proxy-authorization", "")
    if not request.path.endswith("/embeddings"):
        return right(request)
    if "in json" in request.texts:
        return json_reply({"error": {"message": f"wrong header {sent}"}}, 400)
    if "in a page" in request.texts[0]:
        return reply(f"<html><title>{sent}</title>{sent}</html>".encode(), 413)
    if "as model" in request.texts[0]:
        return json_reply({"data": items(request.texts), "model": sent})
    if "late" in request.texts[0]:  # beyond what is read of an error
        return reply(b"x" + b" " * (8192 - 30) + sent.encode(), 500)
    return right(request)


@pytest.mark.parametrize("how", ["in json", "in a page", "as model", "late"])
@pytest.mark.parametrize("where", ["api_key", "server_url"])
async def test_a_secret_that_the_server_repeats_is_not_shown(server: OddServer, how: str, where: str) -> None:
    server.answer = echo
    secret, settings = KEY, {"api_key": KEY}
    if where == "server_url":
        secret, settings = "s3cret/12", {"api_key": "unused"}
        server.url = server.url.replace("http://", "http://me:s3cret%2F12@")
    said = await outcome(server, [how], **settings)
    sent = server.requests[-1].headers["authorization"]
    assert said != "right"
    for form in (secret, secret.replace("/", "%2F"), sent.removeprefix("Bearer ").removeprefix("Basic ")):
        assert form not in said
        assert form[:12] not in said


def test_a_secret_that_the_server_repeats_is_in_no_output(harness: Harness, server: OddServer) -> None:
    harness.articles("fine", "in json")
    harness.environment |= {"PG_QWEN_EMBED_SERVER_URL": server.url, "PG_QWEN_EMBED_API_KEY": KEY}
    harness.ok(*ATTACH)
    server.answer = echo
    worker = harness.worker("--log-level", "debug")
    eventually(lambda: harness.count("failure") == 1)
    said = [harness.ok("failures", "list", "articles", *more) for more in ((), ("--json",))]
    assert "wrong header Bearer ***" in said[0]
    said += [harness.ok("status"), harness.ok("status", "--json")]
    server.answer = lambda request: json_reply({"message": f"no {request.headers['authorization']}"}, 500)
    harness.execute("INSERT INTO articles VALUES (3, 'three')")
    eventually(lambda: "server_unavailable" in worker.said)
    said += [
        harness.cli("doctor", "--json").output,
        harness.cli("doctor").output,
        harness.refused("search", "articles", "x"),
    ]
    assert worker.end() == 0
    said.append(worker.said)
    assert [text for text in said if KEY in text or "k3y-of" in text] == []


CHARACTERS = "abXY019/@#?:%& ,;=+'\"\\[]é"


@pytest.mark.long
def test_random_secrets_are_in_no_output(harness: Harness, server: OddServer) -> None:
    """In each place where one can be written, also where it should have been escaped; the server repeats all it gets."""
    seed = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 32))
    print(f"FUZZ_SEED={seed}")
    rng, host = random.Random(seed), server.url.removeprefix("http://")
    harness.articles("one")
    harness.ok(*ATTACH)

    def answer(request: Request) -> Reply:
        sent = " ".join(f"{name}: {value}" for name, value in request.headers.items() if "auth" in name)
        return json_reply({"message": f"{request.path} {sent}"}, rng.choice([200, 400, 401, 404, 429, 500, 503]))

    server.answer = answer
    said = []
    for _ in range(10):
        secret = "Q7" + "".join(rng.choices(CHARACTERS, k=12)) + "Z9"
        raw, escaped = f"me:{secret}", f"me:{quote(secret, safe='')}"
        for env in (
            {"PG_QWEN_EMBED_API_KEY": secret, "PG_QWEN_EMBED_SERVER_URL": server.url},
            {"PG_QWEN_EMBED_SERVER_URL": f"http://{raw}@{host}"}, {"PG_QWEN_EMBED_SERVER_URL": f"http://{escaped}@{host}"},
            {"PG_QWEN_EMBED_DATABASE_URL": f"postgresql://{raw}@127.0.0.1:1/d"},
            {"http_proxy": f"http://{raw}@{host.removesuffix('/v1')}", "no_proxy": "", "NO_PROXY": ""},
            {"http_proxy": f"http://{escaped}@{host.removesuffix('/v1')}", "no_proxy": "", "NO_PROXY": ""},
        ):  # fmt: skip
            commands = [["doctor", "--json"], ["search", "articles", "x"], ["status", "--json"], [*ATTACH, "--dry-run"]]
            said += [(secret, harness.cli(*rng.choice(commands), env=env))]
    for secret, result in said:
        assert isinstance(result.exception, SystemExit | None), repr(result.exception)
        for form in (
            secret,
            quote(secret, safe=""),
            json.dumps(secret)[1:-1],
            base64.b64encode(f"me:{secret}".encode()).decode(),
        ):
            assert form not in result.output
        assert "Q7" not in result.output or "Z9" not in result.output


async def test_what_a_server_says_is_one_short_line_without_documents_markup_and_controls(server: OddServer) -> None:
    long = "every word of this paragraph is confidential, and number {} too. "
    texts = ["short one", "".join(long.format(n) for n in range(5000))]
    for said in (
        f"cannot embed: {texts[1]}", f"bad\r\n\x1b[2J\u202einput {texts[1][1000:90_000]}",
        f"<html><body><p>bad {texts[1][70:]}</p></body></html>",
    ):  # fmt: skip
        for body in (json.dumps({"message": said}), json.dumps({"detail": [{"msg": said, "input": texts[1]}]}), said):
            server.answer = lambda r, body=body: (  # type: ignore[misc]
                reply(body.encode(), 422) if texts[1] in r.texts else right(r)
            )
            found = await outcome(server, texts)
            assert len(found) <= 500
            assert "confidential" not in found
            assert not any(sign in found for sign in ("\n", "\r", "\x1b", "\u202e", "<", "paragraph"))


ROW = "cheap \x1b[2J\x1b]52;c;ZXZpbA==\x07 \x9b31m \u202eevil\u202c pizza\rlast"
DANGEROUS = ("\x1b", "\x07", "\x9b", "\u202e", "\u202c", "\r")


def test_rows_and_keys_with_terminal_escapes_are_escaped_in_text_and_exact_in_json(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id text PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles VALUES (%s, %s), (%s, 'POISON')", "a\x1b[31mb", ROW, "bad\x1b[31m\nkey")
    harness.server.poison = "POISON"
    harness.ok(*ATTACH)
    harness.once()
    for command in (["search", "articles", "pizza"], ["failures", "list", "articles"]):
        text = harness.ok(*command)
        assert not [sign for sign in DANGEROUS if sign in text]
        assert "\\x1b[31m" in text
        assert len(text.splitlines()) == 1
    (hit,) = json.loads(harness.ok("search", "articles", "pizza", "--json"))
    assert hit["row"] == {"id": "a\x1b[31mb", "body": ROW}
    (failure,) = json.loads(harness.ok("failures", "list", "articles", "--json"))
    assert failure["key"] == {"id": "bad\x1b[31m\nkey"}


def test_no_line_of_the_log_can_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "pg_qwen_embed.worker"):
        log_event(
            events.RowHeldBack("articles", ("1\n2026-01-01 INFO stopped",), 1.0, "x\r\n\u2028y\x1b[2J" + "z" * 9000)
        )
    (record,) = caplog.records
    assert len(record.message.splitlines()) == 1
    assert record.message.isprintable()
    assert len(record.message) < 5000


def test_what_libraries_log_is_one_line_without_secrets_and_a_traceback_stays_readable() -> None:
    formatter = Logfmt(Settings(api_key=KEY).secrets)
    record = logging.makeLogRecord({"levelname": "ERROR", "msg": f"lost: {KEY}\nforged \x1b[2J"})
    line = formatter.format(record)
    assert line.endswith('message="lost: ***\\x0aforged \\x1b[2J"')
    try:
        raise ValueError(f"sent {KEY}")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert formatter.format(record).splitlines()[-1] == "ValueError: sent ***"


# It exhausts nothing


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_answer_without_end_is_one_sentence_in_time(server: OddServer, attack: str) -> None:
    server.answer = ATTACKS[attack]
    async with asyncio.timeout(10):
        said = await outcome(server, TEXTS, limit=1.0)
    assert said not in ("", "right")
    assert len(said) <= 700


async def test_compression_is_not_accepted_and_says_so(server: OddServer) -> None:
    server.answer = ATTACKS["gzip"]
    assert "compresses its answers (gzip)" in await outcome(server, TEXTS)
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


def megabytes(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


HEAVY = {name: attack for name, attack in ATTACKS.items() if "trickle" not in name}
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

ASKING = """
import sys
from pathlib import Path
from pg_qwen_embed import Client, Error
from pg_qwen_embed.admin import doctor
from pg_qwen_embed.admin.doctor import server
from pg_qwen_embed.search import client
from pg_qwen_embed.settings import Settings
client.ASK_TIMEOUT = server.ASK_TIMEOUT = 1.5
who, database, root, *attacks = sys.argv[1:]

def ask(url):
    if who == "doctor":
        found = doctor.diagnose(Settings(database, url))
        return [one.text for one in found if one.area == "server"][-1]
    with Client(database, server_url=url) as asking:
        return str(asking.embed_query("articles", "x").shape)

for attack in ["", *attacks]:
    try:
        print(attack, "|", ask(f"{root}/{attack.replace(' ', '_')}/v1"))
    except Error as error:
        print(attack, "|", error)
    most = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    idle = idle if attack else most
    print("   ", most - idle)
print(most - idle)
"""


@linux
@pytest.mark.parametrize(("who", "late"), [("client", True), ("doctor", False)])
@pytest.mark.long
def test_memory_of_client_and_doctor_is_bounded_whatever_a_server_answers(
    harness: Harness, server: OddServer, who: str, late: bool
) -> None:
    """late: the server behaves until it is asked for vectors."""
    harness.articles("one")
    harness.ok(*ATTACH)
    by_path = {name.replace(" ", "_"): attack for name, attack in HEAVY.items()}

    def answer(request: Request) -> Reply:
        attack = request.path.split("/")[1]
        attacks = attack in by_path and (not late or request.path.endswith("/embeddings"))
        return by_path[attack](request) if attacks else right(request)

    server.answer = answer
    root = server.url.removesuffix("/v1")
    done = subprocess.run(
        [sys.executable, "-c", ASKING, who, harness.url, root, *HEAVY],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    *said, grown = done.stdout.splitlines()
    print(done.stdout, done.stderr)
    assert done.stderr == ""
    assert len(said) == 2 * (1 + len(HEAVY))
    assert float(grown) < MOST_MEMORY


@linux
@pytest.mark.long
def test_memory_of_the_worker_is_bounded_whatever_a_server_answers(harness: Harness, server: OddServer) -> None:
    harness.environment["PG_QWEN_EMBED_SERVER_URL"] = server.url
    harness.articles(*(f"text {n}" for n in range(300)))
    harness.ok(*ATTACH)
    worker = harness.process("worker", "--request-timeout", "0.5", "--poll", "1", fork=False)
    eventually(lambda: harness.count("store") == 300)
    idle = megabytes(worker.popen.pid)
    for attack in HEAVY.values():
        server.answer = lambda request, attack=attack: (  # type: ignore[misc]
            attack(request) if request.path.endswith("/embeddings") else right(request)
        )
        seen = len(server.requests)
        harness.execute("UPDATE articles SET body = body || '!'")
        eventually(lambda seen=seen: len(server.requests) >= seen + 4)  # type: ignore[misc]
    grown = megabytes(worker.popen.pid) - idle
    print(f"{grown:.0f} MB above idle")
    assert grown < MOST_MEMORY
    server.answer = right
    eventually(harness.settled, deadline=60)
    assert worker.end() == 0
    assert "Traceback" not in worker.said
    harness.assert_in_step()


# It puts no wrong vector under a row


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    arrived = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await received(reader, 1):
            writer.write(right(request))
            await writer.drain()
            await asyncio.sleep(0.01)  # the client has read it, and keeps the connection
            writer.write(json_reply({"data": items(["another text"]), "model": MODEL}))
            await writer.drain()
            arrived.set()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with EmbeddingServer(Settings(server_url=url), 5.0) as asking:
        for n in range(5):
            arrived.clear()
            found, _ = await embed(asking, INFO, [f"text {n}"], DIMENSIONS)
            np.testing.assert_allclose(found, [vector(f"text {n}")], atol=1e-5)
            await arrived.wait()
    server.close()
    await server.wait_closed()


async def fuzz(server: OddServer, answers: int) -> dict[str, int]:
    """Embed texts until the server has given that many answers. Returns how often each kind of outcome came."""
    seed = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 32))
    print(f"FUZZ_SEED={seed}")
    problems: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(str(context)))
    server.answer, rng = Grammar(seed).answer, random.Random(seed)
    outcomes: dict[str, int] = {}
    while len(server.requests) < answers:
        async with EmbeddingServer(
            Settings(server_url=server.url, api_key=KEY), 0.5, once_more=rng.random() < 0.5
        ) as asking:
            for _ in range(20):
                texts = [f"text {rng.random()}" for _ in range(rng.choice([1, 2, 3, 8]))]
                kind = await _one(asking, texts, rng)
                outcomes[kind] = outcomes.get(kind, 0) + 1
    assert problems == []
    return outcomes


async def _one(asking: EmbeddingServer, texts: list[str], rng: random.Random) -> str:
    try:
        match rng.randrange(8):
            case 0:
                info = await asking.model_info(rng.choice([None, MODEL]))
                assert info.dimensions
                return "identity"
            case 1:
                assert len(await asking.tokenize(texts, special=True)) == len(texts)
                return "tokens"
        found, _ = await embed(asking, INFO, texts, DIMENSIONS)
    except (DocumentRejected, ServerUnavailable) as error:
        said, kind = str(error), type(error).__name__
    else:
        said, kind = "", "right"
        np.testing.assert_allclose(found, [vector(text) for text in texts], atol=1e-5)
    assert len(said) < 1000
    assert KEY not in said
    assert shown(said, 1000) == said
    return kind


@pytest.mark.long
async def test_no_answer_is_so_odd_that_a_wrong_vector_or_another_error_comes_of_it(server: OddServer) -> None:
    outcomes = await fuzz(server, 600)
    print(outcomes)
    assert {"right", ServerFault.__name__, DocumentRejected.__name__} <= outcomes.keys()


@pytest.mark.long
def test_worker_loses_no_change_whatever_the_server_answers(harness: Harness, server: OddServer) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 32))
    print(f"FUZZ_SEED={seed}")
    harness.environment["PG_QWEN_EMBED_SERVER_URL"] = server.url
    harness.articles(*(f"text {n}" for n in range(200)))
    harness.ok(*ATTACH)
    grammar, rng = Grammar(seed), random.Random(seed)

    def answer(request: Request) -> Reply:  # right at times: else the circuit breaker sends a probe now and then
        odd = request.path.endswith("/embeddings") and rng.random() < 0.6
        return grammar.answer(request) if odd else right(request)

    server.answer = answer
    worker = harness.worker("--request-timeout", "0.5")

    def busy() -> bool:
        harness.execute("UPDATE articles SET body = body || '!' WHERE random() < 0.3")
        return len(server.requests) >= 200

    eventually(busy, deadline=60)
    server.answer = right

    def settled() -> bool:
        harness.ok("failures", "retry", "articles")  # those that were rejected together with a harmless text
        return harness.settled() and harness.count("failure") == 0

    eventually(settled, deadline=60)
    harness.assert_in_step()
    assert worker.end() == 0
    assert "Traceback" not in worker.said


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_wrong_vector_comes_of_ten_thousand_odd_answers(server: OddServer) -> None:
    print(await fuzz(server, 10_000))
