"""Which model made the vectors: what was attached is what is used, and another one gets nothing, asks nothing, and is named."""

import json
import time
from collections.abc import Iterator

import pytest
from fake_sglang import PROBE
from harness import Rig, eventually

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.search import client

REMEDY = "; serve the old one again, or run: pg-qwen-embed detach articles, and attach anew"
CHANGES = {
    "model": ("another", "another (16 dimensions, weights v1)"),
    "weight_version": ("v2", "stand-in (16 dimensions, weights v2)"),
    "dimensions": (32, "stand-in (32 dimensions, weights v1)"),
}


@pytest.fixture
def attached(rig: Rig) -> Iterator[Rig]:
    """With vectors shortened to 8 dimensions, and no worker running."""
    rig.server.weight_version = "v1"
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    rig.once()
    rig.server.texts.clear()
    return rig


def sentence(rig: Rig, served: str) -> str:
    attached = "articles was attached with stand-in (16 dimensions, weights v1)"
    return f"{attached}, and the server at {rig.server.url} serves {served}{REMEDY}"


def refused(rig: Rig) -> bool:
    (one,) = json.loads(rig.ok("status", "articles", "--json"))
    return bool(one["another_model"])


def recorded(rig: Rig) -> tuple[str | None, int | None]:
    ((weights, dimensions),) = rig.rows("SELECT weight_version, full_dimensions FROM _qwen_embed.generation")
    return weights, dimensions


@pytest.mark.parametrize("what", CHANGES)
def test_server_of_another_model_weights_or_length_gets_nothing_and_is_named_everywhere(
    attached: Rig, what: str
) -> None:
    rig = attached
    was, (is_now, served) = getattr(rig.server, what), CHANGES[what]
    assert recorded(rig) == ("v1", 16)
    setattr(rig.server, what, is_now)
    worker = rig.worker()
    rig.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: f"wrong_model reason={sentence(rig, served)}" in worker.said)
    eventually(lambda: refused(rig))
    assert "the embedding server serves another model, or other weights" in rig.ok("status")
    assert rig.refused("search", "articles", "x") == sentence(rig, served)
    assert rig.server.texts == []
    assert sentence(rig, served) in rig.cli("doctor").stdout
    assert (rig.count("store"), rig.count("outbox")) == (1, 1)
    setattr(rig.server, what, was)
    eventually(rig.settled)
    eventually(lambda: not refused(rig))
    rig.assert_in_step()
    assert rig.count("failure") == 0


def test_a_worker_that_is_to_end_says_that_the_weights_are_others(attached: Rig) -> None:
    attached.server.weight_version = "v2"
    attached.execute("INSERT INTO articles VALUES (2, 'two')")
    assert sentence(attached, CHANGES["weight_version"][1]) in attached.refused("worker", "--once")
    assert attached.count("store") == 1


def test_weights_exchanged_without_a_restart_are_noticed_though_nothing_is_asked_for(attached: Rig) -> None:
    rig = attached
    rig.server.requests.clear()
    with rig.worker_here(look_every=0.05):
        eventually(lambda: rig.server.requests)  # the probe
        rig.server.requests.clear()
        looked = rig.server.looks
        eventually(lambda: rig.server.looks > looked + 3)
        assert rig.server.requests == []
        rig.server.weight_version = "v2"
        eventually(lambda: refused(rig))
        rig.execute("INSERT INTO articles VALUES (2, 'two')")
        assert rig.server.texts == []
        rig.server.weight_version = "v1"
        eventually(rig.settled)
    rig.assert_in_step()


def test_other_weights_are_not_asked_about_in_a_tight_loop_however_much_waits(attached: Rig) -> None:
    rig = attached
    rig.server.weight_version = "v2"
    rig.execute("INSERT INTO articles SELECT i, repeat('word ', 2000) || i FROM generate_series(2, 1000) i")
    rig.worker()
    eventually(lambda: refused(rig))
    asked = len(rig.server.requests)
    time.sleep(2)
    assert all(request["input"] == [PROBE] for request in rig.server.requests[asked:])
    assert len(rig.server.requests) - asked < 10
    rig.server.weight_version = "v1"
    eventually(rig.settled)
    rig.assert_in_step()


def test_what_a_server_does_not_say_is_not_held_against_it(rig: Rig) -> None:
    rig.server.weight_version = None
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    assert recorded(rig) == (None, 16)
    rig.server.weight_version = "v1"
    rig.once()
    rig.assert_in_step()


def test_server_that_stops_saying_its_weights_is_believed(attached: Rig) -> None:
    attached.server.weight_version = None
    attached.execute("INSERT INTO articles VALUES (2, 'two')")
    attached.once()
    attached.assert_in_step()


def test_attached_without_a_server_anything_of_that_model_will_do(rig: Rig) -> None:
    rig.articles("one")
    away: dict[str, str | None] = {"PG_QWEN_EMBED_SERVER_URL": "http://127.0.0.1:1/v1"}
    arguments = ("--model", "stand-in", "--dimensions", "8")
    assert rig.cli("attach", "articles", "--text", "body", *arguments, env=away).exit_code == 0
    assert recorded(rig) == (None, None)
    rig.server.dimensions, rig.server.weight_version = 32, "v7"
    rig.once()
    rig.assert_in_step()


def test_embeddings_from_before_the_model_was_taken_down_accept_what_they_get(attached: Rig) -> None:
    attached.downgrade("0003")
    assert "was set up by an older pg_qwen_embed" in attached.refused("status")
    attached.ok("init")
    assert recorded(attached) == (None, None)
    attached.server.weight_version, attached.server.dimensions = "v2", 32
    attached.execute("INSERT INTO articles VALUES (2, 'two')")
    attached.once()
    assert attached.count("store") == 2


def test_a_client_notices_other_weights_and_goes_on_when_attached_anew(
    attached: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_EVERY", 0.0)
    rig = attached
    with Client(rig.url, server_url=rig.server.url) as asking:
        assert asking.search("articles", "one")
        rig.server.weight_version = "v2"
        for _ in range(2):
            with pytest.raises(UsageError) as said:
                asking.search("articles", "one")
            assert str(said.value) == sentence(rig, CHANGES["weight_version"][1])
        rig.ok("detach", "articles", "--yes")
        rig.ok("attach", "articles", "--text", "body")
        assert asking.embed_query("articles", "one").shape == (16,)
