"""No transaction is open while the embedding server works: it would keep VACUUM from every table of the database."""

import pytest
from harness import LAYOUTS, Harness, eventually, versions_and_layouts

TEXT = "held " * 40  # three chunks


def open_since_before(harness: Harness, moment: object) -> list[tuple[str, str]]:
    """The worker's sessions whose transaction was open at that moment and still is: purpose and state."""
    ours = "application_name ~ '^pg_qwen_embed' AND datname = current_database() AND pid <> pg_backend_pid()"
    held = "(xact_start <= %s OR xact_start IS NULL AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL))"
    return harness.rows(f"SELECT application_name, state FROM pg_stat_activity WHERE {ours} AND {held}", moment)


@versions_and_layouts
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.long
def test_no_transaction_is_open_while_the_server_works(harness: Harness, layout: str, live: bool) -> None:
    harness.articles(None if live else TEXT)
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    if live:
        harness.worker()
        eventually(harness.settled)
    with harness.server.hold(lambda texts: texts[0].startswith("held")):
        if live:
            harness.execute("INSERT INTO articles VALUES (2, %s)", TEXT)
        else:
            harness.worker()
        eventually(lambda: harness.server.waiting)
        sent = harness.value("SELECT clock_timestamp()")
        eventually(lambda: not open_since_before(harness, sent))  # a statement that was running comes to its end
        assert harness.server.waiting
    eventually(harness.settled)
    assert harness.drift()[0] == 0
