"""The worker as a process: it runs one session after another until it is told to stop."""

import asyncio
import logging
import random
import signal
from contextlib import AsyncExitStack
from functools import partial

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.errors import DatabaseUnavailable, SetupError
from pg_qwen_embed.domain.events import Event, Events, logfmt
from pg_qwen_embed.domain.foreign import LINE, shown
from pg_qwen_embed.domain.retry import backoff
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.secrets import Secrets
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.session import Session
from pg_qwen_embed.worker.signals import Signals

NO_SECRETS = Secrets()
STABLE = 5.0  # seconds; a session that lasted as long is no failed attempt

log = logging.getLogger("pg_qwen_embed.worker")


class Worker:
    """`await Worker(settings, options).run()`; `stop` lets it finish what is in flight."""

    def __init__(self, settings: Settings, options: Options, bus: Events | None = None) -> None:
        """bus: by default one whose only subscriber is the log."""
        self._settings = settings
        self._options = options
        self._signals = Signals()
        self.events = bus or Events(partial(log_event, secrets=settings.secrets))

    def stop(self) -> None:
        self._signals.stop()

    async def run(self) -> None:
        """Run until stopped, or with `once` until everything is drained. Raises Error only with `once`, or at the start."""
        attempt, ready = 0, False
        runtime = Runtime(asyncio.get_running_loop().time, random.Random(), self.events)  # noqa: S311  # jitter
        async with AsyncExitStack() as stack:
            servers = [EmbeddingServer(one, self._options.request_timeout) for one in self._settings.servers]
            for server in servers:
                await stack.enter_async_context(server)
            while not self._signals.stopping.is_set():
                self._signals.registry()
                session = Session(self._settings.database_url, servers, self._options, self._signals, runtime)
                began = runtime.clock()
                try:
                    await session.run()
                    return
                except (DatabaseUnavailable, SetupError) as error:
                    ready |= session.ready
                    if self._options.once or (attempt == 0 and not session.opened):
                        raise
                    if isinstance(error, SetupError) and not ready:
                        raise  # else the database is being restored
                    self.events.emit(events.DatabaseUnavailable(str(error)))
                attempt = 1 if runtime.clock() - began >= STABLE else attempt + 1
                await self._pause(backoff(attempt, base=0.2, cap=5.0, rng=runtime.rng))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._signals.stopping.wait()
        except TimeoutError:
            return


def log_event(event: Event, secrets: Secrets = NO_SECRETS) -> None:
    """The first subscriber: a record whose attribute `event` has the values, and whose message is in logfmt."""
    if log.isEnabledFor(event.level):
        values = {name: _logged(value, secrets) for name, value in event.values.items()}
        message = f"{event.name} {logfmt(values)}"
        log.log(event.level, "%s", message, extra={"event": {"event": event.name} | values})


def _logged(value: object, secrets: Secrets) -> object:
    return value if isinstance(value, bool | int | float) else shown(secrets.hidden(str(value)), LINE)


async def run(settings: Settings, options: Options) -> None:
    """Run a worker. SIGTERM and SIGINT let it finish what is in flight; a second signal ends it at once."""
    worker = Worker(settings, options)
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        worker.events.emit(events.Stopping(number.name))
        worker.stop()
        for again in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(again)
            signal.signal(again, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await worker.run()
