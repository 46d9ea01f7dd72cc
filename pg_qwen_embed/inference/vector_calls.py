"""Calls of /v1/embeddings: texts to vectors, in the way in which this server takes them.

What is learned of a server is kept as long as it answers: whether it takes `encoding_format`, whether it answers with
lists of floats, and how many inputs it takes in a request. Who is asked, and what a vector is used for, is left to
sglang.py."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from pg_qwen_embed.domain.errors import DocumentRejected, Error, ProtocolError, ServerFault
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference import answers
from pg_qwen_embed.inference.transport import Call, TooLarge, Transport

PROBE = "dimensions"  # a harmless text


@dataclass(frozen=True, slots=True)
class Answer:
    """vectors: of shape (texts, dimensions). tokens: of all texts together, as the server counts; 0: it does not report them.
    model: the name under which the server answers; None: it gives none."""

    vectors: Vectors
    tokens: int
    model: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request for vectors says apart from its texts. full: the model's dimensions; None: not known yet."""

    model: str
    full: int | None = None
    dimensions: int | None = None
    priority: int | None = None

    def body(self, texts: Sequence[str], *, base64: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"dimensions": self.dimensions, "priority": self.priority}
        options["encoding_format"] = "base64" if base64 else None
        return {"model": self.model, "input": texts} | {k: v for k, v in options.items() if v is not None}


@dataclass(slots=True)
class Learned:
    """Of one server. taken: the most inputs that it has accepted. most_inputs: that it accepts; None: no limit is known."""

    base64: bool = True
    floats: bool = False
    taken: int = 1
    most_inputs: int | None = None


class VectorCalls:
    """`vectors` of any number of texts; `probe` for the first answer of a server."""

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport = transport
        self._url = url
        self._learned = Learned()
        self._searching = asyncio.Lock()

    @property
    def most_inputs(self) -> int | None:
        return self._learned.most_inputs

    def forget(self) -> None:
        """What was learned may no longer hold: the server was away."""
        self._learned = Learned()

    async def probe(self, wanted: Wanted) -> Answer:
        """The vector of a harmless text. A server that rejects it is asked once more without base64."""
        return await self._adapted(wanted, [PROBE], probing=True)

    async def vectors(self, wanted: Wanted, texts: Sequence[str]) -> Answer:
        """In several requests where the server takes fewer inputs. Raises DocumentRejected, ServerUnavailable."""
        learned, count = self._learned, len(texts)
        if learned.most_inputs is None or count <= learned.most_inputs:
            try:
                answer = await self._adapted(wanted, texts)
            except DocumentRejected:
                if count <= learned.taken or await self._takes(wanted, count):
                    raise
            else:
                learned.taken = max(learned.taken, count)
                return answer
        most = self._learned.most_inputs or 1
        parts = [await self._adapted(wanted, texts[n : n + most]) for n in range(0, count, most)]
        return _joined(parts)

    async def _takes(self, wanted: Wanted, count: int) -> bool:
        """Whether the server takes that many inputs, if they are harmless: else the most that it takes is found, and kept."""
        async with self._searching:
            learned = self._learned
            if learned.most_inputs is not None:
                return count <= learned.most_inputs
            if await self._accepts(wanted, count):
                learned.taken = max(learned.taken, count)
                return True
            least, beyond = learned.taken, count
            while beyond - least > 1:
                middle = (least + beyond) // 2
                least, beyond = (middle, beyond) if await self._accepts(wanted, middle) else (least, middle)
            learned.most_inputs = least
            return False

    async def _accepts(self, wanted: Wanted, count: int) -> bool:
        try:
            await self._adapted(wanted, [PROBE] * count)
        except DocumentRejected:
            return False
        return True

    async def _adapted(self, wanted: Wanted, texts: Sequence[str], *, probing: bool = False) -> Answer:
        """One request; without base64 where that may be what the server does not take."""
        learned = self._learned
        try:
            return await self._requested(wanted, texts, base64=learned.base64)
        except (DocumentRejected, ServerFault, ProtocolError) as error:
            if not learned.base64 or not _may_be_base64(error, probing=probing):
                raise
            try:
                answer = await self._requested(wanted, texts, base64=False)
            except Error:
                raise error from None
            learned.base64 = False
            return answer

    async def _requested(self, wanted: Wanted, texts: Sequence[str], *, base64: bool) -> Answer:
        learned, dimensions = self._learned, wanted.full or answers.MOST_DIMENSIONS
        floats = learned.floats or not base64 or wanted.full is None
        call = Call(
            "POST", f"{self._url}/embeddings", orjson.dumps(wanted.body(texts, base64=base64)),
            most=answers.largest(len(texts), dimensions, floats=floats), rows=len(texts),
            texts=() if texts[0] == PROBE else texts,
        )  # fmt: skip
        try:
            answer = await self._transport.call(call)
        except TooLarge:
            learned.floats = True  # perhaps it no longer answers in base64
            raise
        found, as_floats = answers.decoded(answer or {}, len(texts))
        learned.floats |= as_floats
        return Answer(found, _tokens(answer or {}), self._named(answer or {}))

    def _named(self, answer: dict[str, Any]) -> str | None:
        named = answer.get("model")
        return self._transport.name(named) if isinstance(named, str) else None


def _may_be_base64(error: Error, *, probing: bool) -> bool:
    """Whether a request may have failed because it asked for base64."""
    said = str(error).lower()
    named = "encoding_format" in said or "base64" in said
    return named or (probing and isinstance(error, DocumentRejected | answers.NoVectors))


def _joined(parts: Sequence[Answer]) -> Answer:
    """The answers to the parts of a request as one."""
    if len({(part.vectors.shape[1], part.model) for part in parts}) > 1:
        raise ServerFault("the server answered the parts of one request with vectors of several lengths or models")
    return Answer(np.concatenate([part.vectors for part in parts]), sum(part.tokens for part in parts), parts[0].model)


def _tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if type(tokens) is int and 0 < tokens < 1 << 31 else 0
