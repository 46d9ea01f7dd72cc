"""Checks of the embedding servers: whether each answers, which model it has, whether its vectors are valid, how fast it is."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pg_qwen_embed.admin.doctor.findings import Finding, State, judge
from pg_qwen_embed.domain import vectors
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import DocumentRejected, ServerOverloaded, ServerUnavailable, UsageError
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.prompt import PromptStyle, is_packaged, without_instruction
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.encoder import Encoder, KnownServer, check_name
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import ASK_TIMEOUT, EmbeddingServer
from pg_qwen_embed.settings import Settings

AREA = "server"
SENTENCES = [f"Sentence {n} of a short burst tells how fast the server is." for n in range(64)]
SINGLE, BURSTS = 5, 4  # single texts, and simultaneous requests of 64 texts
TOLERANCE = 1e-3  # of a component; a batch differs from a single text by about 2e-7 in fp16, and by more in bf16
NORM_TOLERANCE = 1e-2  # of a length


async def look_at_servers(settings: Settings, embeddings: Sequence[Embedding]) -> list[Finding]:
    """Each generation is looked at as if it were live: all that are kept need a server."""
    each = [replace(one, live=target.generation) for one in embeddings for target in one.targets]
    looks = await asyncio.gather(*(_look(one, each) for one in settings.servers))
    infos = [info for own, _ in looks for info in own]
    return [*_models(infos, each), *(finding for _, found in looks for finding in found)]


async def _look(settings: Settings, embeddings: Sequence[Embedding]) -> tuple[list[ModelInfo | None], list[Finding]]:
    """What a server serves, as often as it has several models of embeddings, and the findings. None: it cannot be said."""
    infos: list[ModelInfo | None] = []
    found: list[Finding] = []
    wanted: list[str | None] = [*dict.fromkeys(one.live.spec.model for one in embeddings)] or [settings.model]
    try:
        async with EmbeddingServer(settings, ASK_TIMEOUT, once_more=True) as server:
            for model in wanted:
                if not infos or (server.offers_several and (model in server.listed or not server.listed)):
                    info = await server.model_info(model)
                    infos.append(info)
                    async for finding in _look_at_model(server, info, embeddings):
                        found.append(finding)
            found += _inputs(server)
    except (ServerUnavailable, DocumentRejected, UsageError) as error:
        found.append(Finding(AREA, State.WRONG, str(error)))
    return infos or [None], found


async def _look_at_model(
    server: EmbeddingServer, info: ModelInfo, embeddings: Sequence[Embedding]
) -> AsyncIterator[Finding]:
    """One by one: those before an error are kept."""
    about = await server.server_info()
    ours = [embedding for embedding in embeddings if not info.mismatch(embedding.target)]
    for finding in (_version(about, info), *_use(info, embeddings, ours), *_dimensions(info, ours)):
        yield finding
    for finding in await _length(server, info, about):
        yield finding
    for finding in await _believable(server, info):
        yield finding
    for finding in await _encodes(server, info, ours):
        yield finding
    yield await _speed(server, info)


def _version(about: dict[str, object], info: ModelInfo) -> Finding:
    weights = f", weights {info.weight_version}" if info.weight_version else ""
    version = shown(about.get("version", "unknown"), 100)
    return Finding(AREA, State.OK, f"{info.url}: version {version}, serves {info.model}{weights}")


def _inputs(server: EmbeddingServer) -> Iterator[Finding]:
    if server.most_inputs is not None:
        text = f"takes at most {server.most_inputs} inputs in a request"
        yield Finding(AREA, State.OK, text + "; requests are divided accordingly")


def _use(info: ModelInfo, embeddings: Sequence[Embedding], ours: Sequence[Embedding]) -> Iterator[Finding]:
    if embeddings and not ours:
        yield Finding(AREA, State.WARNING, f"{info.url}: serves {info.identity}, which no embedding was attached with",
                      "it receives no documents: leave it out, or start it with the model of the others")  # fmt: skip


def _models(infos: Sequence[ModelInfo | None], embeddings: Sequence[Embedding]) -> Iterator[Finding]:
    """Embeddings whose model no server has. A server that does not answer may have it, so then nothing is said."""
    for embedding in embeddings:
        mismatches = [info and info.mismatch(embedding.target) for info in infos]
        if mismatches[0] and all(mismatches):
            advice = f"{mismatches[0].advice}; its changes wait until then"
            yield Finding(AREA, State.WRONG, mismatches[0].text, advice)


def _dimensions(info: ModelInfo, embeddings: Sequence[Embedding]) -> Iterator[Finding]:
    yield Finding(AREA, State.OK, f"{info.dimensions} dimensions")
    shorter = sorted(
        {dimensions for e in embeddings if (dimensions := e.live.spec.requested_dimensions) < info.dimensions}
    )
    by_itself = [n for n in shorter if info.shortens_to(n)]
    if shorter:
        advice = "vectors are shortened here; start SGLang with --json-model-override-args '{\"is_matryoshka\": true}' "
        yield judge(AREA, by_itself == shorter, f"shortens to {', '.join(map(str, shorter))} itself"
                    if by_itself == shorter else "does not shorten vectors itself",
                    advice + "and it sends only what is stored", State.WARNING)  # fmt: skip


async def _length(server: EmbeddingServer, info: ModelInfo, about: dict[str, object]) -> list[Finding]:
    if info.longest is None:
        text = "does not report its longest input, or has no /tokenize"
        advice = "documents that are too long become failures, or the server truncates them without a word; use a recent SGLang"
        return [Finding(AREA, State.WARNING, text, advice)]
    found = [Finding(AREA, State.OK, f"takes inputs of up to {info.longest:,} tokens")]
    if about.get("allow_auto_truncate"):
        found.append(Finding(AREA, State.WARNING, "truncates over-long inputs itself, and removes the token that is pooled",
                             "start it without --allow-auto-truncate: the worker truncates"))  # fmt: skip
    (bare,), (whole,) = await asyncio.gather(*(server.tokenize(["x"], special=special) for special in (False, True)))
    if info.pools_last:
        appends = len(whole) > len(bare) and whole[: len(bare)] == bare
        text = "appends the end token that is pooled" if appends else "appends no end token: another token is pooled"
        found.append(judge(AREA, appends, text, "use the tokenizer that came with the model: the tokenizer.json of a "
                           "Qwen3-Embedding appends it"))  # fmt: skip
    return found


async def _believable(server: EmbeddingServer, info: ModelInfo) -> list[Finding]:
    together = await _raw(server, info, SENTENCES[:8])
    alone = np.concatenate([await _raw(server, info, [text]) for text in SENTENCES[:8]])
    off = float(np.abs(np.linalg.norm(together, axis=1) - 1).max())
    differ = float(np.abs(together - alone).max())
    return [
        judge(AREA, off < NORM_TOLERANCE, f"vectors are normalized (norms off by at most {off:.0e})",
              "they are normalized here; is this an embedding model, started with --is-embedding?", State.WARNING),
        judge(AREA, differ < TOLERANCE, f"the vectors of a text alone and among others differ by at most {differ:.0e}",
              "the same text must always get the same vector: try another attention backend or dtype", State.WARNING),
    ]  # fmt: skip


async def _encodes(server: EmbeddingServer, info: ModelInfo, embeddings: Sequence[Embedding]) -> list[Finding]:
    """Whether a query and a document of each embedding can be embedded, the way the client and the worker do it."""
    encoder = Encoder(KnownServer(server, info))
    found: list[Finding] = []
    for embedding in embeddings:
        found += _instruction(embedding, info)
        target = embedding.target.without_post
        query = await encoder.query(target, embedding.instruction, SENTENCES[0])
        encoded = await encoder.documents(target, SENTENCES[:1])
        right = query.shape == encoded.vectors.shape[1:] == (target.spec.dimensions,)
        text = (
            f"embeds queries and documents of {embedding.name}"
            if right
            else f"embeds {embedding.name} to other dimensions"
        )
        found.append(judge(AREA, right, text, "start it with the model that the embedding was attached with"))
    return found


def _instruction(embedding: Embedding, info: ModelInfo) -> Iterator[Finding]:
    if embedding.live.spec.prompt_style is PromptStyle.PLAIN and not is_packaged(info.model):
        known = info.prompt_style is not PromptStyle.PLAIN
        advice = f"detach {embedding.name}, and attach again with --prompt-style qwen3" if known else ""
        text = f"{without_instruction(info.model)} to attach" if not known else (
            f"queries of {embedding.name} go without an instruction, and {info.model} is a Qwen3-Embedding")  # fmt: skip
        yield Finding(AREA, State.WARNING if known else State.OK, text, advice)


async def _speed(server: EmbeddingServer, info: ModelInfo) -> Finding:
    single = []
    for text in SENTENCES[:SINGLE]:
        start = time.perf_counter()
        await _raw(server, info, [text])
        single.append(time.perf_counter() - start)
    start = time.perf_counter()
    try:
        await asyncio.gather(*(_raw(server, info, SENTENCES) for _ in range(BURSTS)))
    except ServerOverloaded as error:
        text = f"rejects a short burst of {BURSTS} times {len(SENTENCES)} texts: {error}"
        return Finding(AREA, State.WARNING, text, "raise --max-queued-requests; the worker sends less until then")
    rate = BURSTS * len(SENTENCES) / (time.perf_counter() - start)
    latency = statistics.median(single) * 1000
    return Finding(AREA, State.OK, f"one text takes {latency:.1f} ms; a short burst {rate:,.0f} texts/s")


async def _raw(server: EmbeddingServer, info: ModelInfo, texts: Sequence[str]) -> Vectors:
    """The server's vectors as they come, of shape (len(texts), info.dimensions)."""
    answer = await server.embed(info, texts)
    check_name(answer, info, server.url)
    return vectors.check(answer.vectors, len(texts), info.dimensions)
