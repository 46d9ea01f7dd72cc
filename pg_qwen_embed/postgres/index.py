"""The ANN index of a generation: built while the worker writes, and built again when a build was interrupted.

A build holds a lock on the table that lets rows be written, and waits for transactions that are older. A session that needs
a stronger lock (TRUNCATE, ALTER TABLE) waits for the build, and its transaction may be one that the build waits for:
PostgreSQL ends such a deadlock with an error for one of the two. So a build that somebody waits for gives way.

One session at a time builds or drops the index of a generation: it holds an advisory lock. Whether there should be an index
is decided by the worker (worker/index_policy.py)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.events import Events
from pg_qwen_embed.domain.index import BuildPlan, plan_build
from pg_qwen_embed.domain.index_events import IndexBuildAlone, IndexGaveWay
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

PURPOSE = "nearest neighbours"  # its comment; an index that somebody else has made has none
SWAP = "_swap"  # the end of a name for a moment


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is. total: 0 while PostgreSQL does not know it."""

    phase: str
    done: int
    total: int


Watch = Callable[[Progress], None]


class GaveWay(Exception):
    """Somebody waited for a statement of ours, which was ended."""


class Elsewhere(Exception):
    """Another session builds or drops the index."""


async def ensure(url: str, target: Target, events: Events) -> bool:
    """Make sure that there is a valid index with fresh statistics; False if another session builds it, or waits for this.

    That can be the session of a killed worker, whose statement goes on. No writer waits for a lock of this. It opens a
    connection of its own, and another one while it builds. Raises DatabaseUnavailable, psycopg.Error."""
    try:
        await build(url, target, events)
    except Elsewhere:
        return False
    except GaveWay:
        events.emit(IndexGaveWay(target.name))
        return False
    return True


async def build(
    url: str, target: Target, events: Events, progress: Watch | None = None, *, again: bool = False
) -> None:
    """Build the index unless it is valid. Raises GaveWay, Elsewhere, DatabaseUnavailable, psycopg.Error.

    again: build another one and put it in the place of the present one, which serves until then. The registry then has the
    kind of index that the target has."""
    names = Names(target)
    async with await connected(url, target) as connection:
        state = await _state(connection, names.index)
        if state is IndexState.BUILDING:
            raise Elsewhere
        if again or state is not IndexState.VALID:
            async with _building(url, target, connection) as watch:
                work = _Build(connection, watch, names, events, progress)
                await work.create(names.next_index if again else names.index)
                if again:
                    await work.swap()
        await connection.execute(statement("analyze", table=names.indexed), {})


async def ensure_words(url: str, target: Target, events: Events) -> bool:
    """The same as `ensure` for the index of the words. Raises as `ensure`."""
    names = Names(target)
    if not names.has_words:
        return True
    async with await connected(url, target) as connection:
        state = await _state(connection, names.words_index)
        if state is IndexState.BUILDING:
            return False
        if state is not IndexState.VALID:
            try:
                async with _building(url, target, connection) as watch:
                    await _Build(connection, watch, names, events).create_words()
            except Elsewhere:
                return False
            except GaveWay:
                events.emit(IndexGaveWay(target.name))
                return False
        return True


async def drop(url: str, target: Target, *, only_next: bool = False) -> None:
    """Drop the index and what a rebuild has left. No writer and no query waits for this.

    only_next: only what a rebuild has left. Raises GaveWay, Elsewhere, DatabaseUnavailable, psycopg.Error."""
    names = Names(target)
    async with await connected(url, target) as connection, _building(url, target, connection) as watch:
        work = _Build(connection, watch, names)
        await work.drop(names.next_index)
        if not only_next:
            await work.drop(names.index)


async def drop_interrupted(url: str, target: Target) -> None:
    """Drop what a build that was cancelled has left: an index that is not valid, and the next one of a rebuild."""
    names = Names(target)
    async with await connected(url, target) as connection:
        valid = await _state(connection, names.index) is IndexState.VALID
    with suppress(GaveWay, Elsewhere):
        await drop(url, target, only_next=valid)


async def builder(connection: AsyncConnection, target: Target) -> tuple[int, str] | None:
    """The session that builds or drops the index: its process and its name."""
    query = statement("index_session", Names(target))
    row: tuple[int, str] | None = await (await connection.execute(query, {"lock": int(Lock.INDEX)})).fetchone()
    return row


def comment(names: Names) -> sql.Literal:
    """What an index that the worker has built says of itself."""
    return names.comment(PURPOSE)


async def connected(url: str, target: Target) -> AsyncConnection:
    return await connect_async(url, f"pg_qwen_embed index: {target.name}"[:63])


async def _state(connection: AsyncConnection, index: QualifiedName) -> IndexState:
    values = {"index": identifier(index).as_string(None)}
    row = await (await connection.execute(statement("index_state"), values)).fetchone()
    return IndexState(row[0]) if row else IndexState.NONE


@asynccontextmanager
async def _building(url: str, target: Target, connection: AsyncConnection) -> AsyncIterator[AsyncConnection]:
    """The lock of the index, and a connection that watches the one that builds. Raises Elsewhere."""
    query = statement("try_index_lock", Names(target))
    row = await (await connection.execute(query, {"lock": int(Lock.INDEX)})).fetchone()
    if not row or not row[0]:
        raise Elsewhere
    async with await connected(url, target) as watch:
        yield watch


class _Build:
    """The statements of one session that holds the lock of the index, and the connection that watches it."""

    def __init__(
        self,
        connection: AsyncConnection,
        watch: AsyncConnection,
        names: Names,
        events: Events | None = None,
        progress: Watch | None = None,
    ) -> None:
        self._connection = connection
        self._watch = watch
        self._names = names
        self._events = events
        self._progress = progress

    async def create(self, index: QualifiedName) -> None:
        """Create the index under this name; what has the name is dropped. Raises GaveWay, psycopg.Error."""
        plan, vectors = await self._plan()
        try:
            await self._create(index, vectors, plan, plan.workers)
        except psycopg.errors.DiskFull:
            # A parallel build keeps its graph in shared memory, and containers are given little of it (64 MB by default).
            if not plan.workers:
                raise
            if self._events:
                self._events.emit(IndexBuildAlone(self._names.target.name, "little shared memory"))
            await self._create(index, vectors, plan, 0)

    async def create_words(self) -> None:
        """Create the index of the words. Raises GaveWay, psycopg.Error."""
        plan, _ = await self._plan()
        index = self._names.words_index
        create = statement("create_words_index", self._names, index=sql.Identifier(index.name))
        await self._created(index, create, self._names.comment("searches by words"), plan, plan.workers)

    async def swap(self) -> None:
        """Let the next index and the present one exchange their names, and drop the one that was present.

        The registry has the kind of the next one in the same moment: the worker and clients read it again."""
        present, following = self._names.index, self._names.next_index
        aside = QualifiedName(present.schema, present.name + SWAP)
        async with self._connection.transaction():
            for old, new in ((present, aside), (following, present), (aside, following)):
                rename = statement("rename_index", index_in_schema=identifier(old), index=sql.Identifier(new.name))
                await self._connection.execute(rename, {})
            await self._connection.execute(statement("want_index", self._names), {"wanted": True})
            kind = str(self._names.target.spec.index)
            await self._connection.execute(statement("note_index", self._names), {"index": kind})
            await self._connection.execute(statement("announce_change"))
        await self.drop(following)

    async def drop(self, index: QualifiedName) -> None:
        """Drop an index, if it is there. Raises GaveWay, psycopg.Error."""
        await self._configure(0, 0)
        await self._unless_awaited(statement("drop_index", index_in_schema=identifier(index)))

    async def _plan(self) -> tuple[BuildPlan, int]:
        row = await (await self._connection.execute(statement("plan_build", self._names), {})).fetchone()
        shared_buffers, configured, vectors = row or (0, 0, 0)
        spec, cpus = self._names.target.spec, os.cpu_count() or 2
        plan = plan_build(
            spec.index, spec.dimensions, vectors, shared_buffers=shared_buffers, configured=configured, cpus=cpus
        )
        return plan, vectors

    async def _create(self, index: QualifiedName, vectors: int, plan: BuildPlan, workers: int) -> None:
        parameters = storage_parameters(self._names, vectors)
        create = statement("create_index", self._names, index=sql.Identifier(index.name), storage_parameters=parameters)
        await self._created(index, create, comment(self._names), plan, workers)

    async def _created(
        self, index: QualifiedName, create: sql.Composed, about: sql.Literal, plan: BuildPlan, workers: int
    ) -> None:
        in_schema = identifier(index)
        await self._configure(plan.memory, workers)
        await self._unless_awaited(statement("drop_index", index_in_schema=in_schema))
        await self._unless_awaited(create)
        await self._connection.execute(statement("comment_index", index_in_schema=in_schema, comment=about), {})

    async def _configure(self, memory: int, workers: int) -> None:
        values = {"memory": f"{max(1, memory)}MB", "workers": str(workers)}
        await self._connection.execute(statement("prepare_index_session"), values)

    async def _unless_awaited(self, query: sql.Composed) -> None:
        """Execute a statement, and end it when somebody else's session waits for it. Raises GaveWay, psycopg.Error.

        It looks four times before PostgreSQL looks for a deadlock."""
        row = await (await self._watch.execute(statement("deadlock_timeout"))).fetchone()
        interval = row[0] / 4 if row else 0.25
        running = asyncio.create_task(self._connection.execute(query, {}))
        try:
            while not (await asyncio.wait({running}, timeout=interval))[0]:
                if await self._is_awaited():
                    await self._connection.cancel_safe()
                    with suppress(psycopg.errors.QueryCanceled):
                        await running
                        return  # it was done before
                    raise GaveWay
            await running
        finally:
            if not running.done():
                running.cancel()
                await asyncio.wait({running})

    async def _is_awaited(self) -> bool:
        """Whether somebody else's session waits for the one that builds. Tells how far that one is."""
        values = {"pid": self._connection.info.backend_pid}
        if self._progress:
            found = await (await self._watch.execute(statement("build_progress"), values)).fetchone()
            if found:
                self._progress(Progress(*found))
        row = await (await self._watch.execute(statement("waits_for_session"), values)).fetchone()
        return bool(row and row[0])


def storage_parameters(names: Names, vectors: int) -> sql.Composable:
    """` WITH (m = 24)`, or nothing."""
    given = names.target.spec.index.parameters(vectors)
    pieces = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in given.items()]
    return sql.SQL(" WITH ({})").format(sql.SQL(", ").join(pieces)) if pieces else sql.SQL("")
