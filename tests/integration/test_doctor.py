"""doctor: it says what is wrong and what to do, and nothing where everything is right."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pytest
from harness import Harness, both_versions, eventually
from pooler import Pooler
from psycopg.conninfo import make_conninfo

from pg_qwen_embed.admin.doctor import database
from pg_qwen_embed.postgres.connection import connect


def findings(harness: Harness, **env: str) -> dict[str, list[tuple[str, str, str]]]:
    """The findings by state: area, text and advice."""
    result = harness.cli("doctor", "--json", env=dict(env))
    found: dict[str, list[tuple[str, str, str]]] = {"ok": [], "warning": [], "wrong": []}
    for one in json.loads(result.stdout):
        found[one["state"]].append((one["area"], one["text"], one["advice"]))
    assert result.exit_code == (1 if found["wrong"] else 0)
    return found


@pytest.fixture
def healthy(harness: Harness) -> Harness:
    attached(harness)
    return harness


def attached(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    harness.worker()
    eventually(harness.settled)


@both_versions
def test_doctor_finds_nothing_to_do_where_everything_is_right(of_roles: Harness) -> None:
    attached(of_roles)
    found = findings(of_roles)
    assert found["wrong"] == found["warning"] == []
    said = of_roles.ok("doctor")
    assert all(line.startswith("ok ") for line in said.splitlines())
    for part in ("PostgreSQL 1", "pgvector 0.8", "followed by pg_qwen_embed worker", "index valid", "serves stand-in",
                 "shortens to 8 itself", "takes inputs of up to 32,761 tokens", "appends the end token",
                 "vectors are normalized", "a short burst"):  # fmt: skip
        assert part in said


def no_end_token(harness: Harness) -> None:
    harness.server.ends = False


def no_shortening(harness: Harness) -> None:
    harness.server.supports_dimensions = False


def model_mismatch(harness: Harness) -> None:
    harness.server.model = "another"


def fewer_dimensions(harness: Harness) -> None:
    harness.server.dimensions = 4


def other_weights(harness: Harness) -> None:
    harness.server.weight_version = "v2"


def long_vectors(harness: Harness) -> None:
    vector = harness.server.vector
    harness.server.vector = lambda text, dimensions=None: vector(text, dimensions) * 3  # type: ignore[method-assign]


def inconstant_vectors(harness: Harness) -> None:
    seen = iter(range(1000))

    def vector(text: str, dimensions: int | None = None) -> np.ndarray:  # type: ignore[type-arg]
        angle = next(seen) / 10
        return np.array([np.cos(angle), np.sin(angle), *[0.0] * 14], np.float32)

    harness.server.vector = vector  # type: ignore[method-assign]


def sql(query: str) -> Callable[[Harness], None]:
    return lambda harness: harness.execute(query)


@pytest.mark.parametrize(
    ("harm", "state", "area", "text", "advice"),
    [
        (sql("DROP TRIGGER qwen_embed_insert_1 ON articles"), "wrong", "articles", "1 of its 5 triggers",
         "verify articles --repair"),
        (sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '_qwen_embed.store_1_hnsw'::regclass"), "warning",
         "articles", "index invalid", "worker"),
        (sql("ALTER TABLE articles DROP COLUMN body CASCADE"), "wrong", "articles", "a column it embeds was dropped",
         "detach articles"),
        (no_end_token, "wrong", "server", "appends no end token", "tokenizer.json"),
        (no_shortening, "warning", "server", "does not shorten", "is_matryoshka"),
        (fewer_dimensions, "wrong", "server", "serves stand-in (4 dimensions", "serve the old one again"),
        (model_mismatch, "wrong", "server", "articles was attached with stand-in (16 dimensions", "serve the old one again"),
        (other_weights, "wrong", "server", "serves stand-in (16 dimensions, weights v2)", "generation start articles"),
        (long_vectors, "warning", "server", "norms off by at most 2e+00", "--is-embedding"),
        (inconstant_vectors, "warning", "server", "alone and among others differ", "attention backend"),
    ],
)  # fmt: skip
def test_doctor_names_what_is_not_right_and_what_to_do(
    healthy: Harness, harm: Callable[[Harness], None], state: str, area: str, text: str, advice: str
) -> None:
    harm(healthy)
    assert any(a == area and text in t and advice in d for a, t, d in findings(healthy)[state])


def test_doctor_warns_of_a_server_that_rejects_a_burst(healthy: Harness) -> None:
    healthy.server.most_inputs = 8
    assert any("rejects a short burst" in text for _, text, _ in findings(healthy)["warning"])


def test_doctor_says_that_no_worker_runs_and_counts_failures(harness: Harness) -> None:
    harness.articles("one", "POISON")
    harness.server.poison = "POISON"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    warnings = {text for area, text, _ in findings(harness)["warning"] if area != "security"}  # a superuser runs it
    assert warnings == {"followed by no worker", "1 failure, nothing pending"}


def test_doctor_looks_at_the_server_though_there_is_no_database_and_the_other_way_round(harness: Harness) -> None:
    found = findings(harness, PG_QWEN_EMBED_DATABASE_URL="postgresql://u:s3cret@127.0.0.1:1/db")
    ((area, text, _),) = found["wrong"]
    assert area == "database"
    assert "does not answer" in text
    assert "s3cret" not in str(found)
    assert any("serves stand-in" in text for _, text, _ in found["ok"])
    found = findings(harness, PG_QWEN_EMBED_SERVER_URL="http://u:s3cret@127.0.0.1:1/v1")
    ((area, text, _),) = found["wrong"]
    assert area == "server"
    assert "s3cret" not in str(found)
    assert any("PostgreSQL 18" in text for _, text, _ in found["ok"])


def test_doctor_of_a_bare_database_says_init(bare: Harness) -> None:
    wrong = findings(bare)["wrong"]
    assert len(wrong) == 2
    assert all(text.endswith("run: pg-qwen-embed init") for _, text, _ in wrong)


def test_doctor_names_the_rights_that_a_role_lacks_and_rows_hidden_from_it(healthy: Harness) -> None:
    role = f"worker_{healthy.value('SELECT current_database()')}"
    healthy.execute(f"CREATE ROLE {role} LOGIN")
    healthy.stack.callback(healthy.execute, f"DROP OWNED BY {role}; DROP ROLE {role}")
    healthy.execute(f"GRANT USAGE ON SCHEMA _qwen_embed, qwen_embed TO {role}")
    healthy.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA _qwen_embed TO {role}; GRANT SELECT ON articles TO {role}")
    healthy.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    as_role = healthy.url.replace("user=postgres", f"user={role}")
    wrong = [
        text for area, text, _ in findings(healthy, PG_QWEN_EMBED_DATABASE_URL=as_role)["wrong"] if area == "articles"
    ]
    assert any(
        "lacks" in text and "INSERT on _qwen_embed.outbox_1, UPDATE on _qwen_embed.outbox_1" in text for text in wrong
    )
    assert any("row-level security hides rows of public.articles" in text for text in wrong)


def test_doctor_of_a_role_with_no_rights_at_all_still_says_what_it_sees(healthy: Harness) -> None:
    role = f"nobody_{healthy.value('SELECT current_database()')}"
    healthy.execute(f"CREATE ROLE {role} LOGIN")
    healthy.stack.callback(healthy.execute, f"DROP OWNED BY {role}; DROP ROLE {role}")
    as_role = {"PG_QWEN_EMBED_DATABASE_URL": healthy.url.replace("user=postgres", f"user={role}")}
    assert any("lacks USAGE on the schema _qwen_embed" in text for _, text, _ in findings(healthy, **as_role)["wrong"])
    healthy.execute(f"GRANT USAGE ON SCHEMA _qwen_embed TO {role}")
    healthy.execute(f"GRANT SELECT ON _qwen_embed.embedding, _qwen_embed.generation TO {role}")
    found = findings(healthy, **as_role)
    wrong = " ".join(text for _, text, _ in found["wrong"])
    assert "lacks" in wrong
    assert "SELECT on public.articles" in wrong
    assert "UPDATE on _qwen_embed.generation" in wrong
    assert {"pgvector", "PostgreSQL"} <= {text.split()[0] for _, text, _ in found["ok"]}


def test_doctor_names_an_old_transaction(healthy: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OLD", 0.0)
    with healthy.connect(autocommit=False, application_name="a report") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("TABLE articles")
        eventually(  # a statement of the worker may be as old for a moment
            lambda: any("(a report)" in text and "keeps vacuum" in text for _, text, _ in findings(healthy)["warning"])
        )


@pytest.fixture
def pooled(healthy: Harness) -> Iterator[str]:
    """The URL of the database through a pooler in transaction mode."""
    socket = healthy.value("SELECT setting FROM pg_settings WHERE name = 'unix_socket_directories'")
    with Pooler(f"{socket}/.s.PGSQL.5432").running() as pooler:
        yield make_conninfo(healthy.url, host="127.0.0.1", port=pooler.port)


def test_doctor_finds_a_pooler_in_transaction_mode(healthy: Harness, pooled: str) -> None:
    wrong = findings(healthy, PG_QWEN_EMBED_DATABASE_URL=pooled)["wrong"]
    assert [text for _, text, _ in wrong] == ["there is a pooler in transaction mode in front of PostgreSQL"]


def test_connection_that_shares_a_session_is_what_the_pooler_gives(pooled: str) -> None:
    """The fake pooler works like a pooler."""
    with psycopg.connect(pooled, autocommit=True) as one, psycopg.connect(pooled, autocommit=True) as other:
        pids = [connection.execute("SELECT pg_backend_pid()").fetchone() for connection in (one, other)]
        assert pids[0] == pids[1]
        assert one.info.backend_pid != other.info.backend_pid


def test_search_path_behind_a_pooler_stays_as_its_other_clients_need_it(healthy: Harness, pooled: str) -> None:
    """They share a session with our commands."""
    with psycopg.connect(pooled, autocommit=True) as other:
        assert "articles" in healthy.ok("status", env={"PG_QWEN_EMBED_DATABASE_URL": pooled})
        assert other.execute("SELECT count(*) FROM articles").fetchone()
    with connect(healthy.url, "test") as own:
        assert own.execute("SHOW search_path").fetchone() == ("pg_catalog, pg_temp",)
