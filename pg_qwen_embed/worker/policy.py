"""What to do after an error, as a value. Pure: no clock, no database; the random source is passed in.

A stage acts on the decision; this file only decides. The reasons are in docs/decisions/0005-whose-fault.md."""

import random
from dataclasses import dataclass, replace

from pg_qwen_embed.domain.errors import DocumentRejected, Error, ProtocolError, ServerFault, ServerOverloaded
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.retry import backoff

TRIES = 3  # attempts of one request, while the server answers others
LONE_TRIES = 8  # attempts of one document that the server is too busy for; about 15 s
SENT_AWAY = 12  # times in a row that a request is too early; a limit of the rate should have let it pass
FIRST_PAUSE = 10.0  # seconds, at least, before a rejected document is tried again
LONGEST_PAUSE = 3600.0  # seconds
REJECTIONS = 8  # of a document before it is parked
# SQLSTATEs of errors that no row causes: connection, rollback of a transaction, resources, operator, system; a lock that
# was not granted in time, an object in use, a standby, one key for two rows (the primary key has changed). Memory is no
# such resource: a single row can need too much.
TEMPORARY = ("08", "40", "53", "57", "58", "55P03", "55006", "25006", "21")
OUT_OF_MEMORY = "53200"
CANCELED = "57014"  # by the timeout of statements, or by a person


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after a pause in seconds. fewer_chunks: with half as many chunks in a request."""

    seconds: float
    fewer_chunks: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """Try the two halves separately. remember: requests of this size are too large for the server."""

    remember: bool = False


@dataclass(frozen=True, slots=True)
class OtherServer:
    """Try again at once, on a server that has not rejected the request."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Record a failure: it is the fault of the document or of the row."""

    reason: str


@dataclass(frozen=True, slots=True)
class Park:
    """Make no further attempt until the row changes or somebody requests one."""


Decision = Retry | Split | OtherServer | Fail


@dataclass(frozen=True, slots=True)
class Attempts:
    """Errors of a request since a part of it was last embedded."""

    number: int = 0
    faults: int = 0  # the server answered wrongly: the request itself may be the cause
    overloads: int = 0
    sent_away: int = 0  # with the time after which to come again

    def counted(self, error: Error, *, came_further: bool) -> "Attempts":
        """With this error added. came_further: a part of the request was embedded since the last one."""
        before = Attempts() if came_further else self
        return replace(
            before,
            number=before.number + 1,
            faults=before.faults + isinstance(error, ServerFault | ProtocolError),
            overloads=before.overloads + (isinstance(error, ServerOverloaded) and error.retry_after is None),
            sent_away=before.sent_away + (isinstance(error, ServerOverloaded) and error.retry_after is not None),
        )


def after(error: Error, attempts: Attempts, size: int, *, others: bool, rng: random.Random) -> Decision:
    """What to do with a request of `size` documents after an error.

    attempts: this one included. others: whether there is a server that has not rejected the request."""
    match error:
        case DocumentRejected():
            if size > 1:
                return Split()
            return OtherServer() if others else Fail(str(error))
        case ServerOverloaded() if attempts.overloads >= TRIES and size > 1:
            return Split(remember=True)
        case ServerOverloaded() if attempts.overloads == LONE_TRIES:
            return Fail(str(error))
        case ServerOverloaded() if attempts.sent_away >= SENT_AWAY:
            return Split(remember=True) if size > 1 else Fail(str(error))
        case ServerFault() | ProtocolError() if attempts.faults == TRIES:
            return Split() if size > 1 else Fail(str(error))
    pause = backoff(attempts.number, base=0.1, cap=5.0, rng=rng)
    return Retry(pause, fewer_chunks=isinstance(error, ServerOverloaded) and attempts.overloads >= TRIES)


def may_be_a_rows_fault(sqlstate: str | None) -> bool:
    """Whether an error of PostgreSQL can be caused by one row. Without an SQLSTATE the connection is lost."""
    return sqlstate == OUT_OF_MEMORY or (sqlstate is not None and not sqlstate.startswith(TEMPORARY))


def ran_too_long(sqlstate: str | None) -> bool:
    """Whether a read was ended by its timeout: one of its rows may be the cause."""
    return sqlstate == CANCELED


def after_write(reason: str, attempt: int, pieces: int, *, by_a_row: bool, rng: random.Random) -> Retry | Split | Fail:
    """What to do with a group of `pieces` outcomes whose write has failed `attempt` times.

    by_a_row: whether a row causes the error. Every other error is temporary: the vectors wait in memory, the entries in the
    outbox."""
    if not by_a_row:
        return Retry(backoff(attempt, base=0.1, cap=5.0, rng=rng))
    return Fail(f"PostgreSQL: {shown(reason)}") if pieces == 1 else Split()


def after_rejection(rejections: int, *, rng: random.Random) -> Retry | Park:
    """When to try a document again that was rejected `rejections` times (1 or more)."""
    return Park() if rejections >= REJECTIONS else Retry(pause_after(rejections, rng=rng))


def pause_after(rejections: int, *, rng: random.Random) -> float:
    """Seconds until a row is tried again that was rejected `rejections` times (1 or more)."""
    return FIRST_PAUSE + backoff(rejections, base=FIRST_PAUSE, cap=LONGEST_PAUSE, rng=rng)
