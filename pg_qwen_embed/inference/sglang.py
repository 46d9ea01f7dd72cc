"""The client of an SGLang server: OpenAI-compatible /v1/embeddings, and SGLang's own /model_info, /tokenize and others.

It decides nothing: it sends a request, validates the answer, and its errors say whose fault it is. DocumentRejected:
the input. ServerUnavailable: the server, try later. ServerFault: the server, and it answered. Which server to use and
whether to retry is left to the caller."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np
import orjson
import pybase64

from pg_qwen_embed.domain import vectors
from pg_qwen_embed.domain.errors import (
    DocumentRejected,
    ProtocolError,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.transport import distrust, proxy_of, reason_of, sentence_of, trusted
from pg_qwen_embed.settings import Settings

CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 120.0  # seconds; without it, an input that fits the context but not the KV pool would hang for ever
ASK_TIMEOUT = 20.0  # seconds, for a command or a query: a person waits for it
KEEP_ALIVE = 4.0  # seconds; SGLang closes an idle connection after 5 s
IDENTITY_CHECK_INTERVAL = 30.0  # seconds between checks of a server's identity
LARGE_BODY = 1 << 20  # bytes
_REJECTED = {400, 413, 422}
_FAILED = {500, 502, 504}  # 502 and 504 come from a proxy, for a server that died of a request or never answered it
_OVERLOADED = {429, 503}
_NOT_ALLOWED = {401, 403}


@dataclass(frozen=True, slots=True)
class Answer:
    """vectors: of shape (texts, dimensions). tokens: of all texts together, as the server counts; 0: it does not report them.
    model: the name under which the server answers; None: it gives none."""

    vectors: Vectors
    tokens: int
    model: str | None


class EmbeddingServer:
    """`async with EmbeddingServer(settings) as server`; one pool of connections, any number of tasks."""

    def __init__(self, settings: Settings, timeout: float = READ_TIMEOUT) -> None:
        """timeout: seconds for a request, from its start to the last byte of the answer.

        Raises UsageError for a CA file that cannot be used."""
        self._settings = settings
        self._trusted = trusted(settings.ca_file)
        self._timeout = timeout
        self._proxy, self._proxy_headers = proxy_of(settings.server_url)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "EmbeddingServer":
        key = self._settings.api_key
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_TIMEOUT),
            # The balancer bounds the requests, and so the connections.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ssl=self._trusted),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    @property
    def url(self) -> str:
        """The server's URL for messages, without user and password."""
        return self._settings.shown_server_url

    async def model_info(self) -> ModelInfo:
        """The server's model identity and abilities. It requests one embedding, the only sure way to learn the full dimensions.

        Raises ServerUnavailable, also when the server rejects that text."""
        try:
            return await self._model_info()
        except DocumentRejected as error:
            raise ServerUnavailable(f"the embedding server at {self.url} rejects a harmless text: {error}") from None

    async def _model_info(self) -> ModelInfo:
        card, info = await self._identity()
        model = str(card["id"])
        abilities = info.get("embedding")
        abilities = abilities if isinstance(abilities, dict) else {}
        allowed = abilities.get("matryoshka_dimensions")
        about = await self.server_info()
        longest = await self._longest_input(card.get("max_model_len"), about.get("max_req_input_len"))
        urgent = _urgent(about)
        full, answer = await self._embed(model, ["dimensions"], priority=urgent)
        vectors.check(full, 1, full.shape[1])
        return ModelInfo(
            model=model,
            dimensions=full.shape[1],
            shortens=bool(abilities.get("supports_dimensions")),
            allowed=tuple(allowed) if isinstance(allowed, list) else (),
            answers_as=_named(answer),
            longest=longest,
            pools_last="ForCausalLM" in str(info.get("architectures")),
            weight_version=_weights(info),
            urgent=urgent,
            url=self.url,
        )

    async def still_serves(self, info: ModelInfo) -> bool:
        """Whether the server reports the same model and weights as in `info`; needs no embedding. Raises as `model_info`.

        Weights can be exchanged without a restart (SGLang's /update_weights_from_disk), and no embedding shows it."""
        card, now = await self._identity()
        return (str(card["id"]), _weights(now)) == (info.model, info.weight_version)

    async def _identity(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's card from /models, and the answer of /model_info; empty where the server has no such path."""
        listed = await self._get(f"{self._settings.server_url}/models")
        try:
            card = dict(listed["data"][0])
            card["id"]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ServerFault(
                f"the server at {self.url} lists no model under /models: is it an embedding server?"
            ) from None
        return card, await self._get(f"{self._settings.server_root}/model_info", missing={})

    async def _longest_input(self, context: object, fits: object) -> int | None:
        """Tokens of the longest input; None if the server does not report it, or cannot count: then nothing is truncated.

        fits: the longest input that also fits the memory (SGLang's max_req_input_len, validate_input_length)."""
        limits = [n - 1 for n in (context, fits) if isinstance(n, int) and n > 1]
        try:
            await self.detokenize(await self.tokenize(["x"], special=True))
        except (DocumentRejected, ProtocolError):  # other servers count differently, or not at all behind a gateway
            return None
        return min(limits, default=None)

    async def server_info(self) -> dict[str, Any]:
        """The options that the server was started with, as far as it reports them. Raises ServerUnavailable."""
        return await self._get(f"{self._settings.server_root}/server_info", missing={})

    async def tokenize(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """The tokens of each text. special: include the special tokens that the tokenizer adds.

        Raises DocumentRejected, ServerUnavailable."""
        body = {"prompt": texts, "add_special_tokens": special}
        tokens = (await self._post(f"{self._settings.server_root}/tokenize", body)).get("tokens")
        if (
            not isinstance(tokens, list)
            or len(tokens) != len(texts)
            or not all(isinstance(row, list) for row in tokens)
        ):
            raise ProtocolError(f"the server at {self.url} answered /tokenize without the tokens of each text")
        return tokens

    async def detokenize(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of tokens. Raises DocumentRejected, ServerUnavailable."""
        body = {"tokens": rows, "skip_special_tokens": False}
        texts = (await self._post(f"{self._settings.server_root}/detokenize", body)).get("text")
        if not isinstance(texts, list) or len(texts) != len(rows) or not all(isinstance(text, str) for text in texts):
            raise ProtocolError(f"the server at {self.url} answered /detokenize without each text")
        return texts

    async def embed(
        self, info: ModelInfo, texts: Sequence[str], dimensions: int | None = None, *, urgent: bool = False
    ) -> Answer:
        """The vectors as they come, in the order of the texts. No text may be blank. encoder.py checks and shortens them.

        dimensions: asked of the server, if given. urgent: overtake waiting requests, where the server knows priorities.
        Raises DocumentRejected when the server rejects the request (one bad text rejects all), ServerUnavailable when the
        server is to blame."""
        found, answer = await self._embed(info.model, texts, dimensions, info.urgent if urgent else None)
        return Answer(found, _tokens(answer), _named(answer))

    async def _embed(
        self, model: str, texts: Sequence[str], dimensions: int | None = None, priority: int | None = None
    ) -> tuple[Vectors, dict[str, Any]]:
        body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "base64"}
        if dimensions is not None:
            body["dimensions"] = dimensions
        if priority is not None:
            body["priority"] = priority
        answer = await self._post(f"{self._settings.server_url}/embeddings", body)
        return _decode(answer, len(texts)), answer

    async def _get(self, url: str, missing: dict[str, Any] | None = None) -> dict[str, Any]:
        return await self._call("GET", url, None, missing)

    async def _post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._call("POST", url, orjson.dumps(body), None)

    async def _call(self, method: str, url: str, body: bytes | None, missing: dict[str, Any] | None) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("use EmbeddingServer as an async context manager")
        try:
            # A large body is sent in pieces: in one piece it would block the loop (aiohttp warns above 1 MiB).
            data = io.BytesIO(body) if body and len(body) > LARGE_BODY else body
            async with self._session.request(
                method,
                url,
                data=data,
                headers={"Content-Type": "application/json"},
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
            ) as response:
                content = await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise ServerUnavailable(
                f"the embedding server at {self.url} cannot be reached: connecting takes too long"
            ) from None
        except TimeoutError:
            raise ServerFault(
                f"the embedding server at {self.url} did not answer within {self._timeout:.0f} s"
            ) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError):
            # Perhaps a restart, or a connection that was idle; perhaps this very input.
            raise ServerFault(
                f"the embedding server at {self.url} closed the connection before it had answered"
            ) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise ServerUnavailable(
                f"the certificate of the embedding server at {self.url} is not trusted "
                f"({distrust(error.certificate_error)}); set PG_QWEN_EMBED_CA_FILE to the file of the authority that signed it"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise ServerUnavailable(
                f"the embedding server at {self.url} does not answer ({reason_of(error)}); "
                "start it, or set PG_QWEN_EMBED_SERVER_URL"
            ) from None
        if 400 <= response.status < 500 and missing is not None:
            return missing  # gateways have other answers than 404 for a path that they block
        if response.status >= 400:
            raise self._rejection(response.status, content)
        return self._parsed(content)

    def _rejection(self, status: int, content: bytes) -> Exception:
        sentence = sentence_of(content) or f"status {status}"
        if status in _REJECTED:
            return DocumentRejected(sentence)
        if status in _FAILED:
            return ServerFault(f"the embedding server at {self.url} failed: {sentence}")
        if status in _NOT_ALLOWED:
            return ProtocolError(
                f"the embedding server at {self.url} rejects the API key ({sentence}); set PG_QWEN_EMBED_API_KEY"
            )
        if status in _OVERLOADED:
            return ServerOverloaded(f"the embedding server at {self.url} answered {status}: {sentence}")
        if status < 500 or status == 501:
            return ProtocolError(
                f"the embedding server at {self.url} answered {status}: {sentence}; is this its base URL, ending in /v1?"
            )
        return ServerUnavailable(f"the embedding server at {self.url} answered {status}: {sentence}")

    def _parsed(self, content: bytes) -> dict[str, Any]:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerFault(f"the embedding server at {self.url} answered something that is not JSON")
        return answer


def _named(answer: dict[str, Any]) -> str | None:
    named = answer.get("model")
    return named if isinstance(named, str) else None


def _tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _urgent(about: dict[str, Any]) -> int | None:
    """The priority that overtakes inputs without one, which come last (SGLang, --enable-priority-scheduling)."""
    if not about.get("enable_priority_scheduling"):
        return None
    return -1 if about.get("schedule_low_priority_values_first") else 1


def _weights(info: dict[str, Any]) -> str | None:
    version = info.get("weight_version")
    return version if isinstance(version, str) and version else None


def _decode(answer: dict[str, Any], expected: int) -> Vectors:
    """The answer's vectors in the order of their `index`: base64, or lists of numbers as in older servers."""
    try:
        items = answer["data"]
        if [item["index"] for item in items] != list(range(expected)):
            items = sorted(items, key=lambda item: item["index"])
            if [item["index"] for item in items] != list(range(expected)):
                raise ServerFault(
                    f"the server answered {len(items)} vectors, or not each index once, to {expected} texts"
                )
        if isinstance(items[0]["embedding"], str):
            raw = b"".join([pybase64.b64decode(item["embedding"], validate=True) for item in items])
            return np.frombuffer(raw, dtype="<f4").reshape(expected, -1)
        return np.array([item["embedding"] for item in items], dtype=np.float32).reshape(expected, -1)
    except (KeyError, IndexError, TypeError, ValueError):
        raise ServerFault("the server's answer holds no list of embeddings of one length") from None
