"""The worker's settings: times, bounds, and whether it ends by itself."""

from dataclasses import dataclass, field

from pg_qwen_embed.inference import batching
from pg_qwen_embed.inference.sglang import IDENTITY_CHECK_INTERVAL, READ_TIMEOUT

MOST_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one pipeline. Memory follows from `documents` and `size`, what is read and not settled: live changes may
    take as much as a backfill."""

    page_keys: int = 256
    # Read at once to find the keys of a page: repeated changes of a key cost one embedding. Far fewer after a full page: most
    # of what follows is of other keys, and would be read again for each page.
    page_entries: int = 10_000
    backfill_rows: int = 1024
    documents: int = 2048  # and as many more as it takes to keep every server busy
    size: int = 16_000_000  # bytes
    write_rows: int = 512
    request: batching.Limits = field(default_factory=batching.Limits)


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds."""

    once: bool = False
    poll: float = 5.0  # the safety net: how long the worker sleeps at most; 0 trusts NOTIFY alone
    linger: float = 0.02  # awake this long after the last change, so that a busy writer need not notify
    spin_interval: float = 0.005  # the pause between looks while awake
    sweep: float = 1.0
    index_pause: float = 10.0  # after an index build that failed, or while another session builds it
    error_pause: float = 2.0  # how long a pipeline reads nothing after a read that failed
    ping: float = 10.0  # how often, and how long an answer may take; 0 for never
    vacuum_interval: float = 5.0
    verify_every: float = 0.0  # 0 for never
    request_timeout: float = READ_TIMEOUT
    identity_check_interval: float = IDENTITY_CHECK_INTERVAL  # whether the server still serves the same
    shutdown_timeout: float = 10.0  # for what is in flight when told to stop
    outage_timeout: float | None = None  # how long an absent server is waited for; None for ever
    most_requests: int = MOST_REQUESTS  # with documents, in flight at once, for all embeddings together, on each server
    limits: Limits = field(default_factory=Limits)
