"""Many embeddings and one worker: the cost of an idle worker does not grow with their number."""

import pytest
from harness import Harness, eventually

from pg_qwen_embed.postgres.names import union
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.leadership import READER_NAME

NAMES = ("one", "two", "three", "four")


def attach(harness: Harness, *names: str) -> None:
    harness.articles("some text")
    for name in names or NAMES:
        harness.ok("attach", "articles", "--text", "body", "--name", name)


def with_work(harness: Harness) -> set[str]:
    embeddings = {name: harness.embedding(name) for name in NAMES}
    query = union(Store(embedding.target, 0).has_work for embedding in embeddings.values())
    ids = {id_ for (id_,) in harness.rows(query.as_string(None))}
    return {name for name, embedding in embeddings.items() if embedding.live.id in ids}


def test_those_have_work_that_have_an_entry_or_a_failure_whose_time_has_come(harness: Harness) -> None:
    attach(harness)
    harness.once()
    assert with_work(harness) == set()
    failures = (
        "INSERT INTO _qwen_embed.failure_{} (k1, version, attempts, error, next_attempt_at) VALUES (1, 1, 1, 'no', {})"
    )
    ids = {name: harness.embedding(name).live.id for name in NAMES}
    harness.execute(failures.format(ids["two"], "now()"))
    harness.execute(failures.format(ids["three"], "now() + interval '1 hour'"))
    harness.execute(failures.format(ids["four"], "NULL"))
    assert with_work(harness) == {"two"}
    harness.execute("UPDATE articles SET body = 'another text'")
    assert with_work(harness) == set(NAMES)


@pytest.mark.superuser
def test_worker_asks_all_of_them_at_once_before_it_sleeps(harness: Harness) -> None:
    attach(harness)
    harness.worker("--poll", "0")
    eventually(lambda: all(harness.settled(name) for name in NAMES))
    last = "SELECT query FROM pg_stat_activity WHERE application_name = %s"
    eventually(lambda: "pg_qwen_embed:has_work" in harness.value(last, READER_NAME))


@pytest.mark.superuser  # others do not see when the worker's statement began
@pytest.mark.long
@pytest.mark.parametrize("number", [1, len(NAMES)])
def test_idle_worker_uses_up_no_transaction_ids_however_often_it_looks(harness: Harness, number: int) -> None:
    names = NAMES[:number]
    attach(harness, *names)
    harness.worker("--poll", "0.05")
    eventually(lambda: all(harness.settled(name) for name in names))
    harness.execute("UPDATE articles SET body = 'another text'")
    eventually(lambda: all(harness.settled(name) for name in names))
    looks = "SELECT query_start FROM pg_stat_activity WHERE application_name = %s"

    def ids_used_while_it_looks() -> int:
        first, seen = int(harness.value("SELECT pg_current_xact_id()::text::bigint")), set()
        while len(seen) < 300:  # more than a second, the interval of sweeps
            seen.add(harness.value(looks, READER_NAME))
        return int(harness.value("SELECT pg_current_xact_id()::text::bigint")) - first - 1

    eventually(lambda: ids_used_while_it_looks() == 0)
