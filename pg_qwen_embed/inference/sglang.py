"""The client of an SGLang server: OpenAI-compatible /v1/embeddings, and SGLang's own /model_info, /tokenize and others.

It decides nothing: it sends a request, validates the answer, and its errors say whose fault it is. DocumentRejected:
the input. ServerUnavailable: the server, try later. ServerFault: the server, and it answered. Which server to use and
whether to retry is left to the caller."""

from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import orjson

from pg_qwen_embed.domain import vectors
from pg_qwen_embed.domain.errors import (
    DocumentRejected,
    ModelMismatch,
    ModelUnknown,
    ProtocolError,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.inference import answers
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.transport import ANY_REJECTION, NO_SUCH_PATH, Call, Transport
from pg_qwen_embed.inference.vector_calls import Answer, VectorCalls, Wanted
from pg_qwen_embed.settings import Settings

T = TypeVar("T")

READ_TIMEOUT = 120.0  # seconds; without it, an input that fits the context but not the KV pool would hang for ever
ASK_TIMEOUT = 20.0  # seconds, for a command or a query: a person waits for it
IDENTITY_CHECK_INTERVAL = 30.0  # seconds between checks of a server's identity
TOKEN = 12  # bytes of an answer of /tokenize for each byte of the request
TEXT = 128  # bytes of an answer of /detokenize for each token


class EmbeddingServer:
    """`async with EmbeddingServer(settings) as server`; one pool of connections, any number of tasks.

    listed: the models that it listed last; empty: it lists none. It is worth a look where `offers_several`."""

    def __init__(self, settings: Settings, timeout: float = READ_TIMEOUT, *, once_more: bool = False) -> None:
        """timeout: seconds for a request, from its start to the last byte of the answer. once_more: repeat a request whose
        connection was lost, within that time.

        Raises UsageError for a CA file or a proxy that cannot be used."""
        self._settings = settings
        self._transport = Transport(settings, timeout, once_more=once_more)
        self._calls = VectorCalls(self._transport, self.url)
        self.listed: tuple[str, ...] = ()
        self.offers_several = False

    async def __aenter__(self) -> "EmbeddingServer":
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    @property
    def url(self) -> str:
        """The server's URL, without user and password."""
        return self._settings.shown_server_url

    @property
    def most_inputs(self) -> int | None:
        """The inputs that it takes in a request; None: no limit has been met."""
        return self._calls.most_inputs

    async def model_info(self, wanted: str | None = None) -> ModelInfo:
        """The server's model identity and abilities. It requests one embedding, the only sure way to learn the full dimensions.

        wanted: the model, where the server lists several or none; by default that of the settings. Raises ModelUnknown
        where there is none, ServerUnavailable, also when the server rejects that text."""
        try:
            return await self._model_info(wanted or self._settings.model)
        except DocumentRejected as error:
            raise ServerUnavailable(f"the embedding server at {self.url} rejects a harmless text: {error}") from None

    async def _model_info(self, wanted: str | None) -> ModelInfo:
        card, info = await self._identity(wanted)
        abilities = info.get("embedding")
        abilities = abilities if isinstance(abilities, dict) else {}
        allowed = abilities.get("matryoshka_dimensions")
        about = await self.server_info()
        longest = await self._longest_input(card.get("max_model_len"), about.get("max_req_input_len"))
        urgent = _urgent(about)
        answer = await self._guarded(self._calls.probe(Wanted(card["id"], priority=urgent)))
        full = vectors.check(answer.vectors, 1, answer.vectors.shape[1]).shape[1]
        return ModelInfo(
            model=card["id"],
            dimensions=full,
            shortens=bool(abilities.get("supports_dimensions")),
            allowed=tuple(n for n in allowed if type(n) is int) if isinstance(allowed, list) else (),
            answers_as=answer.model,
            longest=longest,
            pools_last="ForCausalLM" in str(info.get("architectures")),
            weight_version=self._weights(info),
            urgent=urgent,
            url=self.url,
            path=shown(info.get("model_path") or card.get("root") or "", 200),
        )

    async def still_serves(self, info: ModelInfo) -> bool:
        """Whether the server reports the same model and weights as in `info`; needs no embedding. Raises as `model_info`.

        Weights can be exchanged without a restart (SGLang's /update_weights_from_disk), and no embedding shows it."""
        card, now = await self._identity(info.model)
        return (card["id"], self._weights(now)) == (info.model, info.weight_version)

    async def _identity(self, wanted: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's card from /models, and the answer of /model_info; empty where the server has no such path."""
        listed = await self._call(Call("GET", f"{self.url}/models", missing=NO_SUCH_PATH))
        cards = [card | {"id": self._transport.name(card["id"])} for card in _cards(listed or {})]
        self.listed = tuple(card["id"] for card in cards)
        self.offers_several = len(cards) != 1
        card = self._chosen(cards, wanted, has_list=listed is not None)
        return card, await self._call(Call("GET", f"{self._root}/model_info", missing=ANY_REJECTION)) or {}

    def _chosen(self, cards: Sequence[dict[str, Any]], wanted: str | None, *, has_list: bool) -> dict[str, Any]:
        """The card of the wanted model; the only card, whether or not it is wanted."""
        card = next((card for card in cards if card["id"] == wanted), None)
        if card or len(cards) == 1:
            return card or cards[0]
        if cards:
            names = shown(", ".join(self.listed))
            if wanted:
                raise ModelMismatch(f"the server at {self.url} lists the models {names}, and not {wanted}")
            raise ModelUnknown(
                f"the server at {self.url} lists {len(cards)} models ({names}); choose one with --model or "
                "PG_QWEN_EMBED_MODEL"
            )
        if wanted:
            return {"id": wanted}
        if has_list:
            raise ModelUnknown(
                f"the server at {self.url} lists no model under /models: is it an embedding server? If it is one, name its "
                "model with --model or PG_QWEN_EMBED_MODEL"
            )
        raise ModelUnknown(
            f"the embedding server at {self.url} has no /models: is this its base URL, ending in /v1? If it is, name its "
            "model with --model or PG_QWEN_EMBED_MODEL"
        )

    def _weights(self, info: dict[str, Any]) -> str | None:
        version = info.get("weight_version")
        return self._transport.name(version) if isinstance(version, str) and version else None

    async def _longest_input(self, context: object, fits: object) -> int | None:
        """Tokens of the longest input; None if the server does not report it, or cannot count: then nothing is truncated.

        fits: the longest input that also fits the memory (SGLang's max_req_input_len, validate_input_length)."""
        limits = [n - 1 for n in (context, fits) if type(n) is int and n > 1]
        try:
            await self.detokenize(await self.tokenize(["x"], special=True))
        except (DocumentRejected, ProtocolError):  # other servers count differently, or not at all behind a gateway
            return None
        return min(limits, default=None)

    async def server_info(self) -> dict[str, Any]:
        """The options that the server was started with, as far as it reports them. Raises ServerUnavailable."""
        return await self._call(Call("GET", f"{self._root}/server_info", missing=ANY_REJECTION)) or {}

    async def tokenize(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """The tokens of each text. special: include the special tokens that the tokenizer adds.

        Raises DocumentRejected, ServerUnavailable."""
        body = orjson.dumps({"prompt": texts, "add_special_tokens": special})
        most = answers.OVERHEAD + TOKEN * len(body)
        answer = await self._call(Call("POST", f"{self._root}/tokenize", body, most, texts=texts))
        tokens = (answer or {}).get("tokens")
        if (
            not isinstance(tokens, list)
            or len(tokens) != len(texts)
            or not all(isinstance(row, list) and set(map(type, row)) <= {int} for row in tokens)
        ):
            raise ProtocolError(f"the server at {self.url} answered /tokenize without the tokens of each text")
        return tokens

    async def detokenize(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of tokens. Raises DocumentRejected, ServerUnavailable."""
        body = orjson.dumps({"tokens": rows, "skip_special_tokens": False})
        most = answers.OVERHEAD + TEXT * sum(map(len, rows))
        texts = (await self._call(Call("POST", f"{self._root}/detokenize", body, most)) or {}).get("text")
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
        wanted = Wanted(info.model, info.dimensions, dimensions, info.urgent if urgent else None)
        return await self._guarded(self._calls.vectors(wanted, texts))

    @property
    def _root(self) -> str:
        return self._settings.server_root

    async def _call(self, call: Call) -> dict[str, Any] | None:
        return await self._guarded(self._transport.call(call))

    async def _guarded(self, work: Awaitable[T]) -> T:
        """A server that does not answer may be another one afterwards: what was learned of it is forgotten."""
        try:
            return await work
        except ServerUnavailable as error:
            if not isinstance(error, ServerOverloaded | ServerFault | ProtocolError):
                self._calls.forget()
            raise


def _cards(listed: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that the server lists, without adapters of another model."""
    data = listed.get("data")
    found = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    return [card for card in found if isinstance(card.get("id"), str) and card["id"] and not card.get("parent")]


def _urgent(about: dict[str, Any]) -> int | None:
    """The priority that overtakes inputs without one, which come last (SGLang, --enable-priority-scheduling)."""
    if not about.get("enable_priority_scheduling"):
        return None
    return -1 if about.get("schedule_low_priority_values_first") else 1
