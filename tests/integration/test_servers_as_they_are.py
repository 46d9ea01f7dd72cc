"""Embedding servers as they are: gateways and other servers than SGLang, each of which does something in its own way."""

import json
from collections.abc import Callable, Iterator

import pytest
from harness import Harness, eventually
from odd_server import MODEL, OddServer, Reply, Request, items, json_reply, reply, right, vector

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.inference.vector_calls import PROBE
from pg_qwen_embed.settings import Settings

ATTACH = ("attach", "articles", "--text", "body")


@pytest.fixture
def server() -> Iterator[OddServer]:
    with OddServer().running() as server:
        yield server


@pytest.fixture
def odd(harness: Harness, server: OddServer) -> Harness:
    """Its server is the odd one."""
    harness.environment["PG_QWEN_EMBED_SERVER_URL"] = server.url
    return harness


def embeddings(answer: Callable[[Request], Reply | None]) -> Callable[[Request], Reply]:
    """A server that is right but for what this answers to requests for vectors; None: it is right."""

    def whole(request: Request) -> Reply:
        found = answer(request) if request.path.endswith("/embeddings") else None
        return right(request) if found is None else found

    return whole


def vectors(data: list[dict[str, object]], model: str = MODEL) -> Reply:
    return json_reply({"data": data, "model": model})


def floats(texts: list[str]) -> list[dict[str, object]]:
    return [{"index": n, "embedding": vector(text).tolist()} for n, text in enumerate(texts)]


def asked(server: OddServer, path: str = "/embeddings") -> list[Request]:
    return [request for request in server.requests if request.path.endswith(path)]


def test_items_without_an_index_are_taken_in_the_order_of_the_texts(odd: Harness, server: OddServer) -> None:
    server.answer = embeddings(lambda r: vectors([{"embedding": one["embedding"]} for one in items(r.texts)]))
    odd.articles(*(f"text {n}" for n in range(20)))
    odd.ok(*ATTACH)
    odd.once()
    odd.assert_in_step()


UNKNOWN = "UnsupportedParamsError: this provider does not support: encoding_format"


@pytest.mark.parametrize(
    "answer",
    [
        json_reply({"error": {"message": UNKNOWN}}, 400), json_reply({"detail": UNKNOWN}, 500),
        json_reply({"error": {"message": UNKNOWN, "code": 400}}), vectors([]), json_reply({"message": "bad"}, 422),
    ],
    ids=["400", "500", "200 with an error", "200 without vectors", "422 in other words"],
)  # fmt: skip
def test_server_that_does_not_take_base64_is_asked_for_floats_from_then_on(
    odd: Harness, server: OddServer, answer: bytes
) -> None:
    server.answer = embeddings(lambda r: answer if "encoding_format" in r.json else vectors(floats(r.texts)))
    odd.articles(*(f"text {n}" for n in range(20)))
    odd.ok(*ATTACH)
    odd.once()
    odd.assert_in_step()
    once = [request for request in asked(server) if "encoding_format" in request.json]
    assert len(once) == 2  # by `attach`, and by the worker


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_reply({"error": {"message": "no endpoints found", "code": 404}}), "no endpoints found"),
        (json_reply({"error": "overloaded, come back"}), "overloaded, come back"),
        (json_reply({"detail": "quota used up"}, 400), "quota used up"),
        (json_reply({"detail": [{"loc": ["body"], "msg": "field required"}]}, 422), "field required"),
        (reply(b"<html>\r\n<head><title>413 Too Large</title></head></html>", 413), "413 Too Large"),
    ],
)
def test_the_servers_own_words_are_in_the_sentence(odd: Harness, server: OddServer, answer: bytes, words: str) -> None:
    server.answer = embeddings(lambda _: answer)
    odd.articles("one")
    said = odd.refused(*ATTACH)
    assert words in said
    assert "<" not in said


@pytest.mark.parametrize(("most", "status"), [(10, 400), (32, 413), (7, 422)])
@pytest.mark.long
def test_how_many_inputs_a_server_takes_is_learned_and_remembered(
    odd: Harness, server: OddServer, most: int, status: int
) -> None:
    def answer(request: Request) -> Reply | None:
        too_many = json_reply({"message": f"batch size is invalid, it should not be larger than {most}"}, status)
        return too_many if len(request.texts) > most else None

    server.answer = embeddings(answer)
    odd.articles(*(f"text {n}" for n in range(400)))
    odd.ok(*ATTACH)
    odd.worker()
    eventually(odd.settled)
    odd.assert_in_step()
    assert len([request for request in asked(server) if len(request.texts) > most]) <= 12
    server.requests.clear()
    odd.execute("UPDATE articles SET body = body || '!'")
    eventually(odd.settled)
    odd.assert_in_step()
    sent = [len(request.texts) for request in asked(server)]
    assert max(sent) == most
    assert sum(sent) < 1.2 * 400
    found = odd.cli("doctor")
    assert found.exit_code == 0, found.output
    assert f"takes at most {most} inputs" in found.output


def test_document_with_more_chunks_than_a_server_takes_inputs_is_embedded(odd: Harness, server: OddServer) -> None:
    server.answer = embeddings(lambda r: json_reply({"message": "too many"}, 400) if len(r.texts) > 4 else None)
    odd.articles(" ".join(f"Sentence number {n} is here." for n in range(200)))
    odd.ok(*ATTACH, "--chunk-tokens", "40")
    odd.once()
    assert odd.count("failure") == 0
    assert odd.count("store") > 4


def test_document_that_is_rejected_is_still_found_among_others(odd: Harness, server: OddServer) -> None:
    server.answer = embeddings(
        lambda r: json_reply({"message": "no"}, 400) if len(r.texts) > 10 or "bad" in r.texts else None
    )
    odd.articles(*(f"text {n}" for n in range(50)), "bad")
    odd.ok(*ATTACH)
    odd.once()
    assert odd.count("store") == 50
    assert odd.rows(f"SELECT k1, error FROM {odd.internal('failure')}") == [(51, "no")]


WINDOW = 1.0  # seconds


@pytest.mark.parametrize(("allowed", "rows"), [(3, 500), (1, 120)])
@pytest.mark.long
def test_server_that_says_when_to_come_again_gets_no_request_until_then(
    odd: Harness, server: OddServer, allowed: int, rows: int
) -> None:
    answered: list[float] = []
    sent_away: list[float] = []

    def answer(request: Request) -> Reply | None:
        if len([when for when in answered if request.when - when < WINDOW]) < allowed:
            answered.append(request.when)
            return None
        sent_away.append(request.when)
        return json_reply({"message": "slow down"}, 429, "Retry-After: 1\r\n")

    odd.articles(*(f"text {n}" for n in range(rows)))
    odd.ok(*ATTACH)
    server.answer = embeddings(answer)
    worker = odd.worker()
    eventually(odd.settled, deadline=60)
    odd.assert_in_step()
    assert odd.count("failure") == 0
    assert sent_away
    early = [
        request for request in server.requests if any(0.3 < request.when - when < WINDOW - 0.1 for when in sent_away)
    ]
    assert early == []
    assert len([request for request in asked(server) if request.texts == [PROBE]]) <= 3  # they use up what is allowed
    assert "slow down" in worker.said


async def test_query_does_not_wait_longer_than_its_time_for_a_server_that_says_when_to_come_again(
    server: OddServer,
) -> None:
    server.answer = lambda _: json_reply({}, 503, "Retry-After: Fri, 31 Dec 2999 23:59:59 GMT\r\n")
    async with EmbeddingServer(Settings(server_url=server.url), 5.0) as asking:
        for _ in range(3):
            with pytest.raises(ServerUnavailable):
                await asking.model_info()
        assert len(server.requests) == 1
        with pytest.raises(ServerUnavailable, match="Retry-After"):
            await asking.model_info()


def several(*models: str) -> Callable[[Request], Reply]:
    """A gateway: it lists these models, or nothing, and embeds with any of them; each has its own name in the answer."""

    def answer(request: Request) -> Reply:
        if request.path.endswith("/models"):
            return json_reply({"data": [{"id": model} for model in models]} if models else {}, 200 if models else 404)
        if not request.path.endswith("/embeddings"):
            return json_reply({}, 403)
        model = request.json["model"]
        if models and model not in models[1:]:
            return json_reply({"error": {"message": f"{model} makes no embeddings"}}, 400)
        return vectors(items(request.texts), model)

    return answer


@pytest.mark.parametrize("listed", [("chat", "small", "large"), ()], ids=["a list", "no list"])
def test_of_several_models_each_embedding_has_its_own(odd: Harness, server: OddServer, listed: tuple[str, ...]) -> None:
    server.answer = several(*listed)
    odd.articles(*(f"text {n}" for n in range(100)))
    said = odd.refused(*ATTACH)
    assert "--model" in said
    for model in ("small", "large"):
        odd.ok(*ATTACH, "--name", model, "--model", model)
    odd.once()
    for model in ("small", "large"):
        odd.assert_in_step(name=model)
    assert {request.json["model"] for request in asked(server) if "text 1" in request.texts} == {"small", "large"}
    with Client(odd.url, server_url=server.url) as client:
        assert {len(client.search(model, "text 1", 3)) for model in ("small", "large")} == {3}
    assert odd.cli("doctor").exit_code == 0


def test_model_that_a_gateway_does_not_list_is_named_with_those_that_it_lists(odd: Harness, server: OddServer) -> None:
    server.answer = several("chat", "small")
    odd.articles("one")
    said = odd.refused(*ATTACH, "--model", "huge")
    assert "huge" in said
    assert "chat, small" in said


def test_replicas_that_name_their_model_differently_are_told_apart(odd: Harness, server: OddServer) -> None:
    odd.articles("one")
    odd.ok(*ATTACH)
    replicas = [MODEL, f"/models/{MODEL}"]

    def answer(request: Request) -> Reply:
        return vectors(items(request.texts), replicas[len(server.requests) % 2])

    server.answer = embeddings(answer)
    found = odd.cli("doctor")
    assert found.exit_code == 1
    assert "--served-model-name" in found.output


def test_query_whose_idle_connection_was_closed_is_sent_again(odd: Harness, server: OddServer) -> None:
    odd.articles("one")
    odd.ok(*ATTACH)
    odd.once()
    with Client(odd.url, server_url=server.url) as client:
        client.embed_query("articles", "first")
        server.answer = embeddings(lambda r: b"" if r.nth > 1 else None)
        for n in range(3):
            client.embed_query("articles", f"query {n}")
        server.answer = embeddings(lambda r: b"")
        seen = len(asked(server))
        with pytest.raises(ServerUnavailable, match="closed the connection"):
            client.embed_query("articles", "last")
        assert len(asked(server)) == seen + 2


async def test_document_is_not_sent_again_where_it_may_have_ended_the_server(server: OddServer) -> None:
    async with EmbeddingServer(Settings(server_url=server.url), 5.0) as asking:
        info = await asking.model_info()
        server.answer = embeddings(lambda _: b"")
        seen = len(server.requests)
        with pytest.raises(ServerUnavailable):
            await asking.embed(info, ["poison"])
        assert len(server.requests) == seen + 1


def test_qwen3_embedding_under_another_name_is_recognised_by_its_weights(odd: Harness, server: OddServer) -> None:
    info = {"model_path": "/data/models--Qwen--Qwen3-Embedding-0.6B/snapshots/1", "architectures": ["Qwen3ForCausalLM"]}
    server.answer = lambda r: json_reply(info) if r.path == "/model_info" else right(r)
    odd.articles("one")
    assert "without an instruction" not in odd.cli(*ATTACH).output
    (one,) = json.loads(odd.ok("status", "--json"))
    assert one["spec"]["prompt_style"] == "qwen3"


def test_model_that_is_not_recognised_is_named_with_what_to_pass(odd: Harness) -> None:
    odd.articles("one")
    assert "--prompt-style qwen3" in odd.cli(*ATTACH).stderr
    assert "--prompt-style qwen3" in odd.cli("doctor").output
    assert "--prompt-style qwen3" not in odd.cli(*ATTACH, "--name", "plain", "--prompt-style", "plain").output


async def test_server_that_answers_in_floats_where_it_answered_in_base64_is_understood_the_second_time(
    server: OddServer,
) -> None:
    wide = ModelInfo(MODEL, 4096, shortens=False, answers_as=MODEL)
    texts = [f"text {n}" for n in range(64)]
    numbers = [1 / 64 + 1e-9] * 4096
    server.answer = embeddings(lambda r: vectors([{"index": n, "embedding": numbers} for n, _ in enumerate(r.texts)]))
    async with EmbeddingServer(Settings(server_url=server.url), 10.0) as asking:
        with pytest.raises(ServerUnavailable, match="where 64 vectors were requested"):
            await asking.embed(wide, texts)
        assert (await asking.embed(wide, texts)).vectors.shape == (64, 4096)


async def test_error_of_a_server_in_an_answer_with_200_counts_as_its_status(server: OddServer) -> None:
    async with EmbeddingServer(Settings(server_url=server.url), 5.0) as asking:
        info = await asking.model_info()
        server.answer = embeddings(lambda _: json_reply({"error": {"message": "too long", "code": "400"}}))
        with pytest.raises(DocumentRejected, match=r"^too long$"):
            await asking.embed(info, ["one"])
