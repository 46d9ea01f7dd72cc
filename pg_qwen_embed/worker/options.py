"""The options of a worker: times, bounds, and whether it ends when everything is drained."""

from dataclasses import dataclass, field

from pg_qwen_embed.domain.report import INDEX_FROM
from pg_qwen_embed.inference import batching
from pg_qwen_embed.inference.sglang import IDENTITY_CHECK_INTERVAL, READ_TIMEOUT

MOST_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one pipeline. `documents` and `size` bound what is read and not settled, and so the memory.

    Live changes may take as much as a backfill does."""

    page_keys: int = 256
    # Entries read at once to find the keys of a page: repeated changes of a key cost one embedding. After a full page far
    # fewer are read: most of what follows belongs to other keys, and would be read again for each page.
    page_entries: int = 10_000
    backfill_rows: int = 1024
    documents: int = 2048  # and more, if the servers need more to be busy
    size: int = 16_000_000  # bytes
    write_rows: int = 512
    longest_read: float = 20.0  # seconds of one page; then its rows are read one by one, and a row alone is a failure
    request: batching.Limits = field(default_factory=batching.Limits)


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds."""

    once: bool = False
    poll: float = 5.0  # longest sleep, in case a notification is lost; 0: rely on NOTIFY alone
    linger: float = 0.02  # how long the worker stays awake after the last change, so that a busy writer need not notify
    spin_interval: float = 0.005  # pause between reads while awake
    sweep: float = 1.0
    index_from: int = INDEX_FROM  # vectors; below, no index is built
    measure_from: int = INDEX_FROM  # vectors; the index of fewer is not measured
    index_interval: float = 1.0  # between looks at the indexes of the embeddings that are written
    index_pause: float = 10.0  # pause after an index build that failed, or while another session builds the index
    error_pause: float = 2.0  # how long a pipeline reads nothing after a failed read
    ping: float = 10.0  # interval of pings, and the timeout of an answer; 0: none
    vacuum_interval: float = 5.0
    fit_interval: float = 10.0  # until a post-processing that could not be fitted is tried again
    verify_every: float = 0.0  # 0: never
    request_timeout: float = READ_TIMEOUT
    identity_check_interval: float = IDENTITY_CHECK_INTERVAL  # between checks of the model identity
    shutdown_timeout: float = 10.0  # for what is in flight when the worker is told to stop
    outage_timeout: float | None = None  # how long an unavailable server is waited for; None: for ever
    outage_report_interval: float = 60.0  # between lines of the log that say that no server answers
    most_requests: int = MOST_REQUESTS  # in flight on each server at once, of all embeddings together
    limits: Limits = field(default_factory=Limits)
