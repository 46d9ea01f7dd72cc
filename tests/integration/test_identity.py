"""Model identity: the recorded model is used. Another one gets no documents and no queries, and is named in messages."""

import json
from collections.abc import Iterator

import pytest
from fake_sglang import PROBE
from harness import Harness, eventually

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import ModelMismatch
from pg_qwen_embed.search import servers

REMEDY = "; serve the old one again, or run: pg-qwen-embed generation start articles, with its --model if that is another one"
CHANGES = {
    "model": ("another", "another (16 dimensions, weights v1)"),
    "weight_version": ("v2", "stand-in (16 dimensions, weights v2)"),
    "dimensions": (32, "stand-in (32 dimensions, weights v1)"),
}


@pytest.fixture
def attached(harness: Harness) -> Iterator[Harness]:
    """With vectors shortened to 8 dimensions, and no worker running."""
    harness.server.weight_version = "v1"
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    harness.once()
    harness.server.texts.clear()
    return harness


def sentence(harness: Harness, served: str) -> str:
    attached = "articles was attached with stand-in (16 dimensions, weights v1)"
    return f"{attached}, and the server at {harness.server.url} serves {served}{REMEDY}"


def refused(harness: Harness) -> bool:
    (one,) = json.loads(harness.ok("status", "articles", "--json"))
    return bool(one["model_mismatch"])


def recorded(harness: Harness) -> tuple[str | None, int | None]:
    ((weights, dimensions),) = harness.rows(
        "SELECT spec->>'weight_version', (spec->>'full_dimensions')::int FROM _qwen_embed.generation"
    )
    return weights, dimensions


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.long
def test_server_of_another_model_weights_or_length_gets_nothing_and_is_named_everywhere(
    attached: Harness, what: str
) -> None:
    harness = attached
    was, (is_now, served) = getattr(harness.server, what), CHANGES[what]
    assert recorded(harness) == ("v1", 16)
    setattr(harness.server, what, is_now)
    worker = harness.worker()
    harness.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: f'model_mismatch reason="{sentence(harness, served)}"' in worker.said)
    eventually(lambda: refused(harness))
    assert "the embedding server's model identity is not the one recorded at attach" in harness.ok("status")
    assert harness.refused("search", "articles", "x") == sentence(harness, served)
    assert harness.server.texts == []
    assert sentence(harness, served) in harness.cli("doctor").stdout
    assert (harness.count("store"), harness.count("outbox")) == (1, 1)
    setattr(harness.server, what, was)
    eventually(harness.settled)
    eventually(lambda: not refused(harness))
    harness.assert_in_step()
    assert harness.count("failure") == 0


def test_a_worker_that_is_to_end_says_that_the_weights_are_others(attached: Harness) -> None:
    attached.server.weight_version = "v2"
    attached.execute("INSERT INTO articles VALUES (2, 'two')")
    assert sentence(attached, CHANGES["weight_version"][1]) in attached.refused("worker", "--once")
    assert attached.count("store") == 1


def test_weights_exchanged_without_a_restart_are_noticed_though_nothing_is_asked_for(attached: Harness) -> None:
    harness = attached
    harness.server.requests.clear()
    with harness.worker_here(identity_check_interval=0.05):
        eventually(lambda: harness.server.requests)  # the probe
        harness.server.requests.clear()
        looked = harness.server.looks
        eventually(lambda: harness.server.looks > looked + 3)
        assert harness.server.requests == []
        harness.server.weight_version = "v2"
        eventually(lambda: refused(harness))
        harness.execute("INSERT INTO articles VALUES (2, 'two')")
        assert harness.server.texts == []
        harness.server.weight_version = "v1"
        eventually(harness.settled)
    harness.assert_in_step()


def test_other_weights_are_not_asked_about_in_a_tight_loop_however_much_waits(attached: Harness) -> None:
    harness = attached
    harness.server.weight_version = "v2"
    harness.execute("INSERT INTO articles SELECT i, repeat('word ', 2000) || i FROM generate_series(2, 1000) i")
    with harness.worker_here(identity_check_interval=0.05):
        eventually(lambda: refused(harness))
        asked, looked = len(harness.server.requests), harness.server.looks
        eventually(lambda: harness.server.looks >= looked + 30)
        assert len(harness.server.requests) - asked < 10  # a look asks for no vector, and whoever is curious does
        assert all(request["input"] == [PROBE] for request in harness.server.requests[asked:])
        harness.server.weight_version = "v1"
        eventually(harness.settled)
    harness.assert_in_step()


def test_what_a_server_does_not_say_is_not_held_against_it(harness: Harness) -> None:
    harness.server.weight_version = None
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    assert recorded(harness) == (None, 16)
    harness.server.weight_version = "v1"
    harness.once()
    harness.assert_in_step()


def test_server_that_stops_saying_its_weights_is_believed(attached: Harness) -> None:
    attached.server.weight_version = None
    attached.execute("INSERT INTO articles VALUES (2, 'two')")
    attached.once()
    attached.assert_in_step()


def test_attached_without_a_server_anything_of_that_model_will_do(harness: Harness) -> None:
    harness.articles("one")
    away: dict[str, str | None] = {"PG_QWEN_EMBED_SERVER_URL": "http://127.0.0.1:1/v1"}
    arguments = ("--model", "stand-in", "--dimensions", "8")
    assert harness.cli("attach", "articles", "--text", "body", *arguments, env=away).exit_code == 0
    assert recorded(harness) == (None, None)
    harness.server.dimensions, harness.server.weight_version = 32, "v7"
    harness.once()
    harness.assert_in_step()


def test_embeddings_from_before_the_model_was_taken_down_accept_what_they_get(attached: Harness) -> None:
    attached.downgrade("0003")
    assert "was set up by an older pg_qwen_embed" in attached.refused("status")
    attached.ok("init")
    assert recorded(attached) == (None, None)
    attached.server.weight_version, attached.server.dimensions = "v2", 32
    attached.execute("INSERT INTO articles VALUES (2, 'two')")
    attached.once()
    assert attached.count("store") == 2


def test_a_client_notices_other_weights_and_goes_on_when_attached_anew(
    attached: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "IDENTITY_CHECK_INTERVAL", 0.0)
    harness = attached
    with Client(harness.url, server_url=harness.server.url) as asking:
        assert asking.search("articles", "one")
        harness.server.weight_version = "v2"
        for _ in range(2):
            with pytest.raises(ModelMismatch) as said:
                asking.search("articles", "one")
            assert str(said.value) == sentence(harness, CHANGES["weight_version"][1])
        harness.ok("detach", "articles", "--yes")
        harness.ok("attach", "articles", "--text", "body")
        assert asking.embed_query("articles", "one").shape == (16,)
