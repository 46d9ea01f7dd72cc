"""Which locks each command takes: the table that `sql locks` prints and docs/objects-locks-grants.md shows.

Locks on catalogs are left out. Weaker locks of the same command on the same object are left out too. The advisory locks
are in docs/architecture.md."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from pg_qwen_embed.admin.transaction import ATTEMPTS, LOCK_TIMEOUT
from pg_qwen_embed.postgres.drift import PAGE

HEADINGS = ("command", "lock", "on", "for how long", "lock_timeout")
MOMENT = "one short transaction"
STATEMENT = "one statement"
NONE = "none"
TRIED = f"{LOCK_TIMEOUT}, {ATTEMPTS} times"
WORKER = "1s"  # sql/session.sql, configure_worker_session
MIGRATIONS = "5s"  # migrations/env.py; for its advisory lock too


@dataclass(frozen=True, slots=True)
class TakenLock:
    """One lock of one command. timeout: how long the command waits for it, at most."""

    command: str
    lock: str
    on: str
    duration: str
    timeout: str


LOCKS = (
    TakenLock("init", NONE, "your tables", "-", MIGRATIONS),
    TakenLock("init after an upgrade", "ACCESS EXCLUSIVE", "internal tables", MOMENT, MIGRATIONS),
    TakenLock("init after a dump of the schema", "ACCESS EXCLUSIVE", "your table", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("attach", "SHARE ROW EXCLUSIVE", "your table", f"{MOMENT}; writers wait", TRIED),
    TakenLock("attach --store column", "ACCESS EXCLUSIVE", "your table", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("alter --sql, --rekey", "ACCESS EXCLUSIVE", "your table, view, internal tables",
              "the transaction of your statement; readers wait too", TRIED),
    TakenLock("alter --instruction", "ROW EXCLUSIVE", "_qwen_embed.embedding", MOMENT, NONE),
    TakenLock("instructions add, remove", "ROW EXCLUSIVE", "_qwen_embed.instruction", STATEMENT, NONE),
    TakenLock("detach", "ACCESS EXCLUSIVE", "your table, view, internal tables", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("generation start", "SHARE ROW EXCLUSIVE", "your table", f"{MOMENT}; writers wait", TRIED),
    TakenLock("generation start, of --store column", "ACCESS EXCLUSIVE", "your table", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("generation complete, rollback", "ACCESS EXCLUSIVE", "view", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("generation drop", "ACCESS EXCLUSIVE", "your table, its internal tables", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("worker, reading", "ACCESS SHARE", "your table", STATEMENT, WORKER),
    TakenLock("worker, fitting", "ACCESS SHARE", "your table", "one statement over all keys, then one a page", WORKER),
    TakenLock("worker, writing", "ROW EXCLUSIVE", "store, outbox, failures", MOMENT, WORKER),
    TakenLock("worker, --store column", "ROW EXCLUSIVE", "your table and rows, not locked ones", MOMENT, WORKER),
    TakenLock("worker, index", "SHARE UPDATE EXCLUSIVE", "store; or your table (column)", "the build; nobody waits", NONE),
    TakenLock("worker, dropping an index", "SHARE UPDATE EXCLUSIVE", "store", "waits for older transactions; nobody waits", NONE),
    TakenLock("index create, rebuild", "SHARE UPDATE EXCLUSIVE", "store; or your table (column)", "the build; nobody waits", NONE),
    TakenLock("index rebuild --index", "ACCESS EXCLUSIVE", "view", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("index drop", "SHARE UPDATE EXCLUSIVE", "store; or your table (column)",
              "waits for older transactions; nobody waits", NONE),
    TakenLock("index check", "ACCESS SHARE", "store; or your table (column)", STATEMENT, NONE),
    TakenLock("evaluate", "ACCESS SHARE", "your table, store", "one statement for 50 rows", NONE),
    TakenLock("evaluate, keeping its result", "ROW EXCLUSIVE", "_qwen_embed.evaluation", STATEMENT, NONE),
    TakenLock("worker, compacting", "ROW EXCLUSIVE", "outbox", STATEMENT, WORKER),
    TakenLock("worker, vacuum", "SHARE UPDATE EXCLUSIVE", "outbox", STATEMENT, WORKER),
    TakenLock("worker, exchanging triggers", "ACCESS EXCLUSIVE", "your table", f"{MOMENT}; readers wait too", WORKER),
    TakenLock("backfill", "ROW EXCLUSIVE", "_qwen_embed.backfill", MOMENT, NONE),
    TakenLock("status, index list, instructions list, doctor, search, mcp, Client", "ACCESS SHARE", "what they read",
              STATEMENT, NONE),
    TakenLock("qwen_embed.embed_query", "ACCESS SHARE", "registry, cache of queries", "your transaction", "yours"),
    TakenLock("status, index list, doctor, search, mcp, Client", "ACCESS SHARE", "what they read", STATEMENT, NONE),
    TakenLock("qwen_embed.embed_query", "ACCESS SHARE", "view, registry, cache of queries", "your transaction", "yours"),
    TakenLock("worker, answering queries", "ROW EXCLUSIVE", "cache of queries", MOMENT, WORKER),
    TakenLock("verify", "ACCESS SHARE", "your table, store", "one statement over all rows", NONE),
    TakenLock("verify --repair, worker --verify-every", "ROW SHARE", "your table and rows, not locked ones",
              f"a page of {PAGE} rows", WORKER),
    TakenLock("verify --repair of triggers", "ACCESS EXCLUSIVE", "your table", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("verify --repair of row-level security", "ACCESS EXCLUSIVE", "store, failures", f"{MOMENT}; readers wait too", TRIED),
    TakenLock("failures list", "ACCESS SHARE", "failures", STATEMENT, NONE),
    TakenLock("failures retry, discard", "ROW EXCLUSIVE", "failures", STATEMENT, NONE),
    TakenLock("sql, attach --dry-run", NONE, "your tables", "-", NONE),
    TakenLock("serve, sglang-command, demo", NONE, "your tables", "-", NONE),
    TakenLock("an INSERT, UPDATE, DELETE of yours", "ROW EXCLUSIVE", "outbox", "your transaction; waits for nobody", "yours"),
)  # fmt: skip


def as_text() -> str:
    """Text for a terminal: a line for each lock, in columns."""
    rows = [HEADINGS, *map(_cells, LOCKS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def as_markdown() -> str:
    """A table for the documentation."""
    return "\n".join(_markdown([HEADINGS, ("---",) * len(HEADINGS), *map(_cells, LOCKS)]))


def _cells(lock: TakenLock) -> tuple[str, ...]:
    return tuple(map(str, astuple(lock)))


def _markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    return (f"| {' | '.join(row)} |" for row in rows)
