"""The sample of an evaluation: rows, questions, and what it costs to embed them. Nothing is sent and nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import psycopg

from pg_qwen_embed.admin import instructions
from pg_qwen_embed.domain import metrics, post, question_file, questions
from pg_qwen_embed.domain.change import Key
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.metrics import Metric
from pg_qwen_embed.domain.question_file import File, Judged
from pg_qwen_embed.domain.questions import Item, Question
from pg_qwen_embed.domain.source import Column
from pg_qwen_embed.domain.variants import Axis, Variant, variants
from pg_qwen_embed.inference.batching import BYTES_PER_TOKEN
from pg_qwen_embed.inference.bulk import requests_of
from pg_qwen_embed.postgres import catalog, configurations, fits
from pg_qwen_embed.postgres.connection import Connection, first_line
from pg_qwen_embed.postgres.evaluation import DrawnRow, SampleReader
from pg_qwen_embed.postgres.expressions import is_integer

DEFAULT_SAMPLE = 1_000  # rows
MOST_SAMPLE = 1_000_000
MOST_BYTES = 1_000_000_000  # of the documents of a sample, and of its vectors
BYTES_OF_A_NUMBER = 4
TOO_MUCH = "needs more than 1 GB of memory; choose a smaller --sample"
POOL = "pool"  # every instruction of the pool
OF_A_FILE = "the given questions"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be evaluated. vary: as `--vary` has it. title: a column; None: one that is named like a title.

    words: a text search configuration, for an embedding that keeps no words."""

    name: str
    vary: Sequence[str] = ()
    sample: int = DEFAULT_SAMPLE
    seed: int = 0
    metric: Metric = metrics.DEFAULT
    title: str | None = None
    queries: File | None = None
    judgments: File | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What the servers will be sent. tokens: about. known: documents whose vectors the store has."""

    documents: int
    known: int
    queries: int
    tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sample. keys, fingerprints: of the documents whose vectors the store has, by the number of the document."""

    request: Request
    target: Target
    variants: Sequence[Variant]
    documents: Sequence[str]
    questions: Sequence[Question]
    keys: dict[int, Key]
    fingerprints: dict[int, bytes]
    rows: int
    made_of: str
    left_out: int = 0

    @property
    def encoding(self) -> Target:
        """As what everything is embedded: without the post-processing of the embedding, if others are tried."""
        return self.target.without_post if any(one.axis is Axis.POST for one in self.variants) else self.target

    @property
    def dimensions(self) -> int:
        """Those with which everything is embedded: the most that any variant has. Others are prefixes of these."""
        own = self.encoding.spec
        return own.dimensions if self.target.spec.post else max(one.dimensions for one in self.variants)

    @property
    def instructions(self) -> list[str]:
        """Each instruction once."""
        return list(dict.fromkeys(one.instruction for one in self.variants))

    @property
    def cost(self) -> Cost:
        new = [text for number, text in enumerate(self.documents) if number not in self.keys]
        texts = [question.text for question in self.questions]
        many = len(self.instructions)
        size = sum(len(text.encode()) for text in set(new)) + many * sum(len(text.encode()) for text in texts)
        size += sum(len(one.encode()) for one in self.instructions) * len(texts)
        requests = len(requests_of(list(dict.fromkeys(new)))) + many * len(requests_of(texts))
        return Cost(len(new), len(self.keys), many * len(texts), int(size / BYTES_PER_TOKEN), requests)


def prepare(connection: Connection, request: Request) -> Prepared:
    """Read the sample. Raises UsageError, SetupError."""
    catalog.require_initialised(connection)
    embedding = fits.with_fit(connection, catalog.embedding(connection, request.name))
    if not embedding.target.is_ready:
        embedding.target.finished(np.empty((0, 0), np.float32))  # raises the sentence that says so
    wanted = variants(embedding, request.vary, partial(_instructions, connection))
    target = _with_words(connection, embedding.target, request.words, wanted)
    _check_dimensions(target, wanted)
    if request.queries is None:
        return _with_vectors(_known_items(connection, request, target, wanted))
    return _with_vectors(_judged(connection, request, target, wanted))


def _known_items(connection: Connection, request: Request, target: Target, wanted: Sequence[Variant]) -> Prepared:
    title = _title(target, request.title)
    reader = SampleReader(connection, target, title)
    rows = _read(reader, reader.draw(request.sample, request.seed))
    items: list[Item] = []
    own: list[DrawnRow] = []
    for row in rows:
        item = questions.by_title(row.document, row.title) if title else questions.by_first_sentence(row.document)
        if item is not None:
            items.append(item)
            own.append(row)
    found = questions.known_items(items)
    made_of = f"the column {title.name}" if title else "the first sentence of each document"
    if not found:
        raise UsageError(
            f"{request.name}: {made_of} makes no question of {len(rows):,} rows; name another column with --title, or give "
            "questions with --queries FILE"
        )
    left_out = sum(item.question is None for item in items) + len(rows) - len(items)
    return _prepared(reader, request, target, wanted, items, own, found, made_of, left_out)


def _judged(connection: Connection, request: Request, target: Target, wanted: Sequence[Variant]) -> Prepared:
    """The rows that the file judges, and drawn ones to tell them from."""
    if request.queries is None:
        raise UsageError("--judgments needs --queries FILE too, with the columns id and query")
    key = [column.name for column in target.source.key]
    if request.judgments is None:
        lines, file = question_file.pairs(request.queries, key), request.queries
    else:
        lines, file = question_file.judgments(request.judgments, request.queries, key), request.judgments
    lines = _drawn_questions(lines, request)
    reader = SampleReader(connection, target)
    keys = [_key(file, line, target.source.key) for line in lines]
    try:
        judged = _read(reader, keys)
    except psycopg.DataError as error:
        raise _wrong_key(reader, file, lines, keys) or UsageError(
            f"{file.option} {file.path}: {first_line(error)}"
        ) from None
    by_line = {row.position: row.key for row in judged}
    rows = {row.key: row for row in (*judged, *_read(reader, reader.draw(request.sample, request.seed)))}
    there = [row for row in rows.values() if row.document and row.document.strip()]
    own = [there[position] for position in reader.order([row.key for row in there])]
    items = [Item(row.document or "") for row in own]
    numbers = {row.key: n for n, row in enumerate(own)}
    pairs = [(line.query, numbers[by_line[n]], line.grade) for n, line in enumerate(lines) if by_line.get(n) in numbers]
    found = questions.judged(pairs)
    if not found:
        raise file.wrong(
            None, f"none of its {len(lines):,} keys is that of a row of {target.source.table} with a document"
        )
    return _prepared(reader, request, target, wanted, items, own, found, OF_A_FILE, len(lines) - len(pairs))


def _prepared(
    reader: SampleReader, request: Request, target: Target, wanted: Sequence[Variant], items: Sequence[Item],
    rows: Sequence[DrawnRow], found: Sequence[Question], made_of: str, left_out: int,
) -> Prepared:  # fmt: skip
    fitting = {
        number: row
        for number, (row, item) in enumerate(zip(rows, items, strict=True))
        if row.fits and row.fingerprint and item.document == row.document
    }
    return Prepared(
        request, target, wanted, [item.document for item in items], found,
        {number: row.key for number, row in fitting.items()},
        {number: row.fingerprint for number, row in fitting.items() if row.fingerprint},
        reader.count(), made_of, left_out,
    )  # fmt: skip


def _with_vectors(prepared: Prepared) -> Prepared:
    """Without the stored vectors, if they are shorter than a variant. Raises UsageError for more than fits the memory."""
    if len(prepared.documents) * prepared.dimensions * BYTES_OF_A_NUMBER > MOST_BYTES:
        raise UsageError(f"{prepared.request.name}: a sample of {len(prepared.documents):,} documents {TOO_MUCH}")
    _check_documents(prepared)
    own = prepared.target.spec
    is_stored = prepared.dimensions <= own.dimensions and prepared.encoding.spec.post == own.post
    return prepared if is_stored else replace(prepared, keys={}, fingerprints={})


def _check_documents(prepared: Prepared) -> None:
    """Raises UsageError where the sample has too few documents for a post-processing that is tried."""
    for one in prepared.variants:
        wanted = post.post_of(one.post, prepared.target.spec.requested_dimensions) if one.axis is Axis.POST else None
        if wanted and len(prepared.documents) < wanted.least:
            raise UsageError(
                f"{post.too_few(f'--vary post={wanted.form}', wanted, len(prepared.documents))} in the sample; add --sample "
                f"{wanted.most}"
            )


def _instructions(connection: Connection, written: str) -> list[str]:
    """What is meant by an instruction as it is written: the pool, one of it by its name, or a text."""
    if written == POOL:
        return [one.instruction for one in instructions.listing(connection)]
    return [instructions.resolved(connection, written) or written]


def _read(reader: SampleReader, keys: Sequence[Key]) -> list[DrawnRow]:
    rows, size = [], 0
    for row in reader.rows(keys):
        size += len(row.document or "")
        if size > MOST_BYTES:
            raise UsageError(f"a sample of {len(keys):,} rows {TOO_MUCH}")
        rows.append(row)
    return rows


def _title(target: Target, given: str | None) -> Column | None:
    """The column whose text is the question. Raises UsageError."""
    columns = {column.name: column for column in target.source.columns}
    if given is None:
        name = questions.title_column(columns, target.template.columns)
        return columns[name] if name else None
    if given not in columns:
        raise UsageError(f'{target.source.table} has no column "{given}" for --title; it has: {", ".join(columns)}')
    if set(target.template.columns) == {given}:
        raise UsageError(
            f'--title {given}: the documents of {target.name} have no other column; leave --title out, and their first '
            "sentences are the questions"
        )  # fmt: skip
    return columns[given]


def _with_words(connection: Connection, target: Target, given: str | None, wanted: Sequence[Variant]) -> Target:
    """The target with the words that searches by words look for. Raises UsageError where there are none."""
    if given is not None:
        words = configurations.configuration(connection, given)
        return Target(target.embedding, replace(target.generation, spec=replace(target.spec, words=words)))
    if target.spec.words is None and any(one.axis is Axis.MODE for one in wanted):
        raise UsageError(
            f"{target.name} keeps no words; say which ones a search by words shall look for: --words english, for instance"
        )
    return target


def _check_dimensions(target: Target, wanted: Sequence[Variant]) -> None:
    """Raises UsageError for more dimensions than the model has."""
    full, most = target.spec.full_dimensions, max(one.dimensions for one in wanted)
    if full is not None and most > full:
        raise UsageError(f"--vary dimensions={most}: {target.spec.model} makes vectors of {full} dimensions")


def _drawn_questions(lines: Sequence[Judged], request: Request) -> list[Judged]:
    """The lines of as many questions as the sample has rows, drawn by the seed."""
    texts = sorted({line.query for line in lines})
    if len(texts) <= request.sample:
        return list(lines)
    chosen = {texts[n] for n in questions.drawn(len(texts), request.sample, request.seed)}
    return [line for line in lines if line.query in chosen]


def _key(file: File, line: Judged, columns: Sequence[Column]) -> Key:
    values: list[object] = []
    for text, column in zip(line.key, columns, strict=True):
        if is_integer(column):
            try:
                values.append(int(text))
            except ValueError:
                raise file.wrong(line.line, f"{text!r} is no {column.type} for the key column {column.name}") from None
            if not -(2**63) <= int(text) < 2**63:
                raise file.wrong(line.line, f"{text} is beyond the {column.type} of the key column {column.name}")
        else:
            values.append(text)
    return tuple(values)


def _wrong_key(reader: SampleReader, file: File, lines: Sequence[Judged], keys: Sequence[Key]) -> UsageError | None:
    """The first key that PostgreSQL cannot read."""
    for line, key in zip(lines, keys, strict=True):
        try:
            list(reader.rows([key]))
        except psycopg.DataError as error:
            return file.wrong(line.line, f"the key {', '.join(line.key)} cannot be read: {first_line(error)}")
    return None
