"""Embed a sample, search it in each configuration, and compare what is found.

Documents are embedded once, with the most dimensions that any variant has; fewer dimensions are prefixes of these vectors, and
vectors that the store has are not made again. Questions are embedded once for each instruction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from pg_qwen_embed.admin.evaluation.sample import Prepared
from pg_qwen_embed.domain import post, ranking
from pg_qwen_embed.domain.errors import DocumentRejected, UsageError
from pg_qwen_embed.domain.evaluation import Evaluation, Origin, evaluated
from pg_qwen_embed.domain.fit import Fit, Moments, fit
from pg_qwen_embed.domain.metrics import Ranked
from pg_qwen_embed.domain.texts import storable
from pg_qwen_embed.domain.variants import Variant
from pg_qwen_embed.domain.vectors import Vectors, shorten
from pg_qwen_embed.inference.bulk import Bulk, Told
from pg_qwen_embed.postgres.connection import Connection, first_line
from pg_qwen_embed.postgres.evaluation import SampleOfVectors, SampleOfWords, SampleReader
from pg_qwen_embed.postgres.word_names import CANDIDATES, RRF_K, TEXT_WEIGHT
from pg_qwen_embed.settings import Settings


@dataclass(frozen=True, slots=True)
class Embedded:
    """vectors: of all documents, those of a document together; owners: the document of each. queries: by instruction.

    answered: the questions that every instruction has a vector for, by their positions."""

    vectors: Vectors
    owners: NDArray[np.int64]
    queries: dict[str, Vectors]
    answered: Sequence[int]
    rejected: int
    model: str
    servers: tuple[str, ...]


async def run(connection: Connection, settings: Settings, prepared: Prepared, told: Told) -> Evaluation:
    """told: how many texts are embedded since the last call. Raises UsageError, ServerUnavailable, psycopg.Error."""
    embedded = await _embed(connection, settings, prepared, told)
    judged = [prepared.questions[n].grades for n in embedded.answered]
    lists = _search(connection, prepared, embedded)
    request = prepared.request
    origin = Origin(
        request.name, embedded.model, embedded.servers, prepared.made_of, len(judged), len(prepared.documents), prepared.rows,
        request.seed, prepared.left_out + embedded.rejected,
    )  # fmt: skip
    return evaluated(origin, request.metric, judged, lists, np.random.default_rng(request.seed))


async def _embed(connection: Connection, settings: Settings, prepared: Prepared, told: Told) -> Embedded:
    stored = _stored(connection, prepared)
    new = [number for number in range(len(prepared.documents)) if number not in stored]
    texts = [question.text for question in prepared.questions]
    dimensions = prepared.dimensions
    async with Bulk(settings, prepared.encoding) as bulk:
        if prepared.target.spec.post is None and bulk.info.dimensions < dimensions:
            raise UsageError(
                f"--vary dimensions={dimensions}: {bulk.info.model} makes vectors of {bulk.info.dimensions} dimensions"
            )
        made = await bulk.documents(dimensions, [prepared.documents[number] for number in new], told)
        stored |= {number: vectors for number, vectors in zip(new, made, strict=True) if vectors is not None}
        by_instruction = {one: await bulk.queries(dimensions, one, texts, told) for one in prepared.instructions}
        about = bulk.info.model, bulk.urls
    if not stored:
        raise DocumentRejected(f"{prepared.request.name}: the server rejects every document of the sample")
    order = sorted(stored)
    vectors = np.concatenate([stored[number] for number in order])
    owners = np.repeat(np.array(order, np.int64), [len(stored[number]) for number in order])
    answered = [n for n in range(len(texts)) if all(found[n] is not None for found in by_instruction.values())]
    if not answered:
        raise DocumentRejected(f"{prepared.request.name}: the server rejects every question")
    queries = {one: _stacked(found, answered) for one, found in by_instruction.items()}
    rejected = len(prepared.documents) - len(order) + len(texts) - len(answered)
    return Embedded(vectors, owners, queries, answered, rejected, *about)


def _stored(connection: Connection, prepared: Prepared) -> dict[int, Vectors]:
    """The vectors that the store has of documents of the sample, by the number of the document."""
    numbers = list(prepared.keys)
    reader = SampleReader(connection, prepared.target)
    found = reader.vectors([prepared.keys[n] for n in numbers], [prepared.fingerprints[n] for n in numbers])
    return {numbers[position]: vectors for position, vectors in found.items()}


def _stacked(found: Sequence[Vectors | None], positions: Sequence[int]) -> Vectors:
    return np.stack([vector for n in positions if (vector := found[n]) is not None])


def _search(connection: Connection, prepared: Prepared, embedded: Embedded) -> list[tuple[Variant, list[Ranked]]]:
    """What each variant finds for each question."""
    searches = _Searches(connection, prepared, embedded)
    by_vector = {n: searches.exactly(one) for n, one in enumerate(prepared.variants) if one.index is None}
    try:
        with connection.transaction():  # tables of the sample end with it
            found = [searches.lists(one, by_vector.get(n)) for n, one in enumerate(prepared.variants)]
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"{prepared.request.name}: {first_line(error)}; an index and words are searched in temporary tables, for which this "
            "role needs TEMPORARY on the database"
        ) from None
    return list(zip(prepared.variants, found, strict=True))


class _Searches:
    """The searches of one sample. What several variants need is made once."""

    def __init__(self, connection: Connection, prepared: Prepared, embedded: Embedded) -> None:
        self._connection = connection
        self._prepared = prepared
        self._embedded = embedded
        self._k = max(prepared.request.metric.k, 10)
        self._words: SampleOfWords | None = None
        self._last: tuple[tuple[int, str | None], Vectors] | None = None
        self._fits: dict[str, Fit] = {}

    def exactly(self, variant: Variant) -> list[Ranked]:
        """What a comparison of all vectors finds. It may take long, and needs no transaction."""
        if variant.mode == "words":
            return []
        most = max(self._k, CANDIDATES) if variant.mode == "hybrid" else self._k
        return list(ranking.nearest(self._queries(variant), self._vectors(variant), self._embedded.owners, most))

    def lists(self, variant: Variant, by_vector: list[Ranked] | None) -> list[Ranked]:
        """by_vector: what was found before; None: it is found by an index."""
        match variant.mode:
            case "words":
                return [self._by_words(n, self._k) for n in self._embedded.answered]
            case "hybrid":
                return self._hybrid(by_vector or [])
        return self._by_index(variant) if by_vector is None else by_vector

    def _by_index(self, variant: Variant) -> list[Ranked]:
        if variant.index is None:
            return []
        vectors = self._vectors(variant)
        sample = SampleOfVectors(self._connection, self._prepared.target, variant.index, vectors, self._embedded.owners)
        return [sample.find(query, self._k) for query in self._queries(variant)]

    def _by_words(self, question: int, k: int) -> Ranked:
        if self._words is None:
            documents = [storable(document) for document in self._prepared.documents]
            self._words = SampleOfWords(self._connection, self._prepared.target, documents)
        return self._words.find(storable(self._prepared.questions[question].text), k)

    def _hybrid(self, by_vector: Sequence[Ranked]) -> list[Ranked]:
        most, weight = max(self._k, CANDIDATES), float(TEXT_WEIGHT)
        return [
            ranking.fused(own, self._by_words(n, most), self._k, rrf_k=RRF_K, text_weight=weight)
            for own, n in zip(by_vector, self._embedded.answered, strict=True)
        ]

    def _vectors(self, variant: Variant) -> Vectors:
        """Of the documents, as the store would have them. The last ones are remembered: others are not needed for long."""
        key = variant.dimensions, variant.post
        if self._last is None or self._last[0] != key:
            self._last = key, self._as_stored(self._embedded.vectors, variant)
        return self._last[1]

    def _queries(self, variant: Variant) -> Vectors:
        return self._as_stored(self._embedded.queries[variant.instruction], variant)

    def _as_stored(self, vectors: Vectors, variant: Variant) -> Vectors:
        """As the store of a variant would have them: shortened, post-processed and rounded."""
        encoding = self._prepared.encoding.spec
        if encoding.post is not None:  # the encoder has made the map of the embedding
            return ranking.as_stored(vectors, encoding.dimensions)
        if variant.post is None:
            own = encoding.dimensions if self._prepared.target.spec.post else variant.dimensions
            return ranking.as_stored(vectors, own)
        fit = self._fit(variant.post)
        return ranking.as_stored(fit.apply(shorten(vectors, len(fit.mean))), fit.outputs)

    def _fit(self, form: str) -> Fit:
        """The map of the embedding if it has that one; else one that is fitted on the documents of the sample."""
        own = self._prepared.target
        wanted = post.post_of(form, own.spec.requested_dimensions)
        if own.generation.fit is not None and wanted == own.spec.post:
            return own.generation.fit
        if form not in self._fits and wanted is not None:
            moments = Moments.of(wanted.inputs)
            moments.add(shorten(self._embedded.vectors, wanted.inputs))
            self._fits[form] = fit(wanted, moments, len(self._prepared.documents))
        return self._fits[form]
