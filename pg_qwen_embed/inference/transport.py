"""One HTTP request to an embedding server, and its answer as JSON.

What a server may do to us is bounded here: it is read as far as the request allows, never decompressed, never followed
to another address, and given up at the end of the time. Secrets do not leave in an error. What the answer means is left
to sglang.py."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import orjson

from pg_qwen_embed.domain.errors import (
    DocumentRejected,
    ProtocolError,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.secrets import Secrets, basic
from pg_qwen_embed.inference import answers, words
from pg_qwen_embed.inference.route import distrust, proxy_of, reason_of, trusted
from pg_qwen_embed.settings import Settings

CONNECT_TIMEOUT = 5.0  # seconds
KEEP_ALIVE = 4.0  # seconds; SGLang closes an idle connection after 5 s
LARGE_BODY = 1 << 20  # bytes
MOST_OF_ERROR = 8192  # bytes that are read of an answer with an error
READ_AT_ONCE = 8  # large answers
LONGEST_NAME = 200  # characters
LONGEST_WAIT = 3600.0  # seconds that a server can ask for with Retry-After
ANY_REJECTION = frozenset(range(300, 500))  # gateways have other answers than 404 for a path that they block
NO_SUCH_PATH = frozenset({404, 405, 410, 501})
_REJECTED = {400, 413, 422}
_FAILED = {500, 502, 504}  # 502 and 504 come from a proxy, for a server that died of a request or never answered it
_OVERLOADED = {429, 503}
_NOT_ALLOWED = {401, 403}
_LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError)


class TooLarge(ServerFault):
    """An answer has more bytes than were requested."""


class KeptConnections(aiohttp.TCPConnector):
    """A connection on which something came that nobody asked for is not used again.

    aiohttp would take it for the answer to the next request, and the vectors of one text would stand under another."""

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            try:
                for _ in range(2):  # what has arrived meanwhile is read in the next round of the loop
                    await asyncio.sleep(0)
            except BaseException:
                connection.close()
                raise
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


@dataclass(frozen=True, slots=True)
class Role:
    """What messages call a server, and the variables that say where it is and with which key."""

    name: str
    url_variable: str
    key_variable: str


EMBEDDING_SERVER = Role("embedding server", "PG_QWEN_EMBED_SERVER_URL", "PG_QWEN_EMBED_API_KEY")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. most: bytes of the answer that are read. rows: the vectors that are requested. texts: documents in the
    body. missing: statuses that mean that there is no such path, so that the answer is None. has_list: the answer is a
    list, which is returned as `data`."""

    method: str
    url: str
    body: bytes | None = None
    most: int = answers.SMALL
    rows: int | None = None
    texts: Sequence[str] = ()
    missing: frozenset[int] = frozenset()
    has_list: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came. whole: nothing of it was left out. retry_after: seconds, if the server says so."""

    status: int
    content: bytes
    whole: bool
    location: str | None
    encoding: str
    retry_after: float | None


class Transport:
    """`open` it first; one pool of connections, any number of tasks."""

    def __init__(self, settings: Settings, timeout: float, *, once_more: bool, role: Role = EMBEDDING_SERVER) -> None:
        """timeout: seconds for a request, from its start to the last byte of the answer. once_more: repeat a request whose
        connection was lost, within that time, on a new connection.

        Raises UsageError for a CA file or a proxy that cannot be used."""
        self.url = settings.shown_server_url
        self._role = role
        self._trusted = trusted(settings.ca_file)
        self._proxy = proxy_of(settings.server_url)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **_authorization(settings)}
        self._secrets = Secrets((*settings.server_secrets, *self._proxy.secrets))
        self._timeout = timeout
        self._once_more = once_more
        self._silent_until = 0.0  # the loop's time
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None  # each request on a connection of its own

    @property
    def server(self) -> str:
        """What messages call it."""
        return f"the {self._role.name} at {self.url}"

    def open(self) -> None:
        # The balancer bounds the requests, and so the connections.
        kept = KeptConnections(limit=0, keepalive_timeout=KEEP_ALIVE, ssl=self._trusted)
        self._session = self._opened(kept)
        if self._once_more:
            self._fresh = self._opened(aiohttp.TCPConnector(limit=0, force_close=True, ssl=self._trusted))

    def _opened(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        # Cookies would be kept for ever.
        return aiohttp.ClientSession(
            headers=self._headers, connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        for session in (self._session, self._fresh):
            if session:
                await session.close()

    def name(self, text: object) -> str:
        """A name that the server gives itself or its model, for use and for messages. Raises ServerFault."""
        name = str(text)
        if name != shown(name, LONGEST_NAME) or self._secrets.within(name):
            raise ServerFault(
                f"{self.server} gives itself or its model a name that has more than {LONGEST_NAME} "
                "characters, is not printable, or repeats the API key"
            )
        return name

    async def call(self, call: Call) -> dict[str, Any] | None:
        """The answer; None if there is no such path. Raises DocumentRejected, ServerUnavailable."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._timeout
        await self._keep_silent(ends)
        try:
            async with asyncio.timeout_at(ends):
                received = await self._exchanged(call)
        except aiohttp.ConnectionTimeoutError:
            raise ServerUnavailable(f"{self.server} cannot be reached: connecting takes too long") from None
        except TimeoutError:
            raise ServerFault(f"{self.server} did not answer within {self._timeout:g} s") from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError):
            # Perhaps a restart, or a connection that was idle; perhaps this very input.
            raise ServerFault(f"{self.server} closed the connection before it had answered") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise ServerUnavailable(
                f"the certificate of {self.server} is not trusted "
                f"({self._said(distrust(error.certificate_error))}); set PG_QWEN_EMBED_CA_FILE to the file of the authority that "
                "signed it"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise ServerUnavailable(
                f"{self.server} does not answer ({self._said(reason_of(error))}); "
                f"start it, or set {self._role.url_variable}"
            ) from None
        if received.status in call.missing:
            return None
        self._raise_for(received, call)
        return self._parsed(received, call)

    async def _keep_silent(self, ends: float) -> None:
        """Wait as long as the server has asked for no request."""
        loop = asyncio.get_running_loop()
        wait = self._silent_until - loop.time()
        if wait <= 0:
            return
        if loop.time() + wait > ends:
            raise ServerOverloaded(f"{self.server} wants no request for {wait:.0f} s (Retry-After)", retry_after=wait)
        await asyncio.sleep(wait)

    async def _exchanged(self, call: Call) -> Received:
        if self._session is None:
            raise RuntimeError("use EmbeddingServer as an async context manager")
        try:
            return await self._exchange(self._session, call)
        except _LOST as error:
            if self._fresh is None or isinstance(error, aiohttp.ClientConnectorError):
                raise
            return await self._exchange(self._fresh, call)

    async def _exchange(self, session: aiohttp.ClientSession, call: Call) -> Received:
        # A large body is sent in pieces: in one piece it would block the loop (aiohttp warns above 1 MiB).
        data = io.BytesIO(call.body) if call.body and len(call.body) > LARGE_BODY else call.body
        async with session.request(
            call.method, call.url, data=data, allow_redirects=False, proxy=self._proxy.url,
            proxy_headers=self._proxy.headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        ) as response:  # fmt: skip
            most = call.most if response.status < 300 else MOST_OF_ERROR
            if most <= answers.SMALL:
                content, whole = await _read(response, most)
            else:
                async with self._reading:
                    content, whole = await _read(response, most)
        headers = response.headers
        encoding = headers.get("Content-Encoding", "").strip().lower()
        return Received(
            response.status, content, whole, headers.get("Location"), "" if encoding == "identity" else encoding,
            _seconds(headers.get("Retry-After")),
        )  # fmt: skip

    def _raise_for(self, received: Received, call: Call) -> None:
        """Raise what an answer means that is no success."""
        status = received.status
        if 300 <= status < 400:
            raise ProtocolError(self._redirect(received, call))
        if received.encoding:
            raise ProtocolError(
                f"{self.server} compresses its answers ({self._said(received.encoding, 20)}) though "
                "none may be; turn compression off in the gateway in front of it"
            )
        if status >= 400:
            raise self._rejection(status, self._words(received, call), received.retry_after)

    def _rejection(self, status: int, found: str, retry_after: float | None) -> Exception:
        sentence = found or f"status {status}"
        if status in _REJECTED:
            return DocumentRejected(sentence)
        if status in _FAILED:
            return ServerFault(f"{self.server} failed: {sentence}")
        if status in _NOT_ALLOWED:
            return ProtocolError(f"{self.server} rejects the API key ({sentence}); set {self._role.key_variable}")
        if status in _OVERLOADED:
            if retry_after:
                self._silent_until = asyncio.get_running_loop().time() + retry_after
                sentence += f"; it wants no request for {retry_after:.0f} s"
            return ServerOverloaded(f"{self.server} answered {status}: {sentence}", retry_after)
        if status < 500 or status == 501:
            return ProtocolError(f"{self.server} answered {status}: {sentence}; is this its base URL, ending in /v1?")
        return ServerUnavailable(f"{self.server} answered {status}: {sentence}")

    def _redirect(self, received: Received, call: Call) -> str:
        try:
            parts = urlsplit(urljoin(call.url, received.location or ""))
            where = f"{parts.scheme}://{(parts.netloc + parts.path).rpartition('@')[2]}"  # a password may hold a /
        except ValueError:
            where = "another address"
        where = self._said(where, 200) if received.location else "another address"
        return (
            f"{self.server} redirects to {where} ({received.status}), and redirects are not followed; "
            f"set {self._role.url_variable} to the server itself"
        )

    def _parsed(self, received: Received, call: Call) -> dict[str, Any]:
        content = received.content
        if not received.whole:
            what = (
                f"to {urlsplit(call.url).path}" if call.rows is None else f"where {call.rows:,} vectors were requested"
            )
            raise TooLarge(f"{self.server} answered more than {call.most:,} bytes {what}")
        if call.rows is not None and answers.is_crowded(content, call.rows):
            raise ServerFault(f"{self.server} answered something that is no list of {call.rows:,} vectors")
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if call.has_list and isinstance(answer, list):
            return {"data": answer}
        if not isinstance(answer, dict):
            said = self._words(received, call)
            raise ServerFault(f"{self.server} answered something that is not JSON" + (f": {said}" if said else ""))
        if answer.get("error") and not answer.get("data"):  # some gateways answer 200 all the same
            status, said = _status_in(answer), self._words(received, call)
            if status:
                raise self._rejection(status, said, received.retry_after)
            raise ServerFault(f"{self.server} answered 200 with an error: {said or 'without words'}")
        return answer

    def _words(self, received: Received, call: Call) -> str:
        """The server's own words in one line, without secrets, documents and markup."""
        text = received.content[:MOST_OF_ERROR].decode(errors="replace")
        if len(received.content) >= MOST_OF_ERROR or not received.whole:
            text = text[: MOST_OF_ERROR - self._secrets.longest]  # a part of a secret would not be found
        found = words.words_of(self._secrets.hidden(text))
        return self._said(words.without_documents(self._secrets.hidden(found), call.texts))

    def _said(self, text: str, most: int = 500) -> str:
        return shown(self._secrets.hidden(text), most)


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """At most this many bytes of the answer, and whether that is all of it."""
    parts, size = [], 0
    if (response.content_length or 0) <= most or response.status >= 300:
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > most:
                break
        else:
            return b"".join(parts), True
    response.close()
    return b"".join(parts)[:most], False


def _authorization(settings: Settings) -> dict[str, str]:
    """User and password of the server's URL; the API key where it has none."""
    if settings.server_credentials:
        return {"Authorization": basic(*settings.server_credentials)}
    return {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}


def _seconds(written: str | None) -> float | None:
    """Of a Retry-After header: seconds, or a date. None where it says nothing."""
    if not written:
        return None
    try:
        seconds = float(written) if written.strip().isdigit() else _until(written)
    except (ValueError, OverflowError):
        return None
    return min(LONGEST_WAIT, seconds) if seconds > 0 else None


def _until(written: str) -> float:
    when = parsedate_to_datetime(written)
    return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _status_in(answer: dict[str, Any]) -> int | None:
    """The status that an error in an answer with 200 names, if it is one."""
    nested = answer["error"]
    for code in (nested.get("code") if isinstance(nested, dict) else None, answer.get("code"), answer.get("status")):
        number = int(code) if isinstance(code, str) and code.isdecimal() and len(code) == 3 else code
        if type(number) is int and 400 <= number < 600:
            return number
    return None
