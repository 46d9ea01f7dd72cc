"""Failures that are due, each with its document as it is now; the reader passes them on to be tried again."""

from functools import partial

import psycopg

from pg_qwen_embed.domain.change import Key, size_of
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.faults import is_a_rows_fault, ran_too_long, unreadable
from pg_qwen_embed.worker.ledger import Ledger
from pg_qwen_embed.worker.options import Limits
from pg_qwen_embed.worker.page_size import PageSize
from pg_qwen_embed.worker.queues import Intake


class FailureReader:
    """`read` takes failures that are not being tried already. One whose document cannot be read is recorded again."""

    def __init__(self, store: Store, ledger: Ledger, intake: Intake, limits: Limits) -> None:
        self._store = store
        self._ledger = ledger
        self._intake = intake
        self._size = PageSize(limits.page_keys, limits.size // 4)
        self._longest = limits.longest_read
        self._unreadable: Key | None = None

    async def read(self, connection: AsyncConnection) -> bool:
        """Returns whether it found something. Raises psycopg.Error."""
        if self._unreadable in self._ledger.retrying:  # it is being recorded, and would be read again
            return False
        read = partial(self._store.read_failures, connection, size=self._size.size)
        try:
            failures = await read(rows=self._size.rows)
        except psycopg.Error as error:
            if not await is_a_rows_fault(error, partial(read, rows=0), reading=True):
                raise
            alone = self._size.failed(too_long=ran_too_long(error))
            return not alone or await self._reject_first(connection, unreadable(error, self._longest))
        self._size.read(len(failures), size_of(failures), ended_early=False)
        due = [failure for failure in failures if failure.key not in self._ledger.retrying]
        self._ledger.retrying.update(failure.key for failure in due)
        self._intake.take(due, None)
        return bool(due)

    async def _reject_first(self, connection: AsyncConnection, sentence: str) -> bool:
        for failure in await self._store.read_failures(connection, rows=1, documents=False):
            if failure.key not in self._ledger.retrying:
                self._ledger.retrying.add(failure.key)
                self._unreadable = failure.key
                self._intake.reject(failure, None, sentence)
                return True
        return False
