"""Decisions about the generations of an embedding: what another one is made of, and when it may be made live. Pure.

`Figures` are what was observed of one generation; `hindrances` says why queries should not see it yet."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import INDEX_FROM, BackfillProgress, BackfillState, IndexState
from pg_qwen_embed.domain.spec import Layout, Spec

MOST_PENDING = 1_000  # changes that may wait in a generation that is made live


@dataclass(frozen=True, slots=True)
class Figures:
    """One generation at one moment. vectors: rows with a vector. indexed: vectors that an index holds, or would hold.

    size: bytes of its tables and of its index."""

    id: int
    state: GenerationState
    spec: Spec
    rows: int
    vectors: int
    indexed: int
    pending: int
    lag_seconds: float
    failures: int
    backfill: BackfillProgress
    index: IndexState
    index_wanted: bool
    size: int
    leader: str | None = None
    seconds_left: float | None = None  # of its backfill; None: it is done, or nothing is known yet
    problem: str | None = None  # why it cannot be followed, with the remedy; then there are no figures

    @property
    def coverage(self) -> float:
        """The share of rows that have a vector. Rows with a blank document have none."""
        return min(1.0, self.vectors / self.rows) if self.rows else 1.0

    @property
    def needs_index(self) -> bool:
        return self.index_wanted and self.indexed >= INDEX_FROM

    def to_json(self) -> dict[str, Any]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {
            "backfill": asdict(self.backfill), "spec": self.spec.to_json(), "coverage": round(self.coverage, 4)
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a generation should not be made live. remedy: the command that helps, or what is to be waited for."""

    reason: str
    remedy: str


def hindrances(name: str, wanted: Figures, live: Figures) -> Iterator[Hindrance]:
    """Why queries should not see `wanted` instead of `live` yet."""
    watch = f"run: {command('generation status {}', name)}, and complete it when its backfill is done"
    worker = "start a worker: pg-qwen-embed worker"
    backfill = wanted.backfill
    if backfill.state is not BackfillState.DONE:
        remedy = watch if wanted.leader else worker
        if backfill.state is BackfillState.NONE and wanted.state is GenerationState.BUILDING:
            yield Hindrance("its vectors are not derived yet", "run the same generation start again")
        elif backfill.state is BackfillState.INDEXING:
            yield Hindrance("its index is being built", remedy)
        elif wanted.state is GenerationState.BUILDING or backfill.state is not BackfillState.NONE:
            done = f"{backfill.rows_done:,} of {backfill.rows_total:,} rows"
            yield Hindrance(f"its backfill is {backfill.state} ({done})", remedy)
    if wanted.pending > MOST_PENDING:
        yield Hindrance(f"{wanted.pending:,} changes wait for their vectors, above {MOST_PENDING:,}",
                        "wait for the worker" if wanted.leader else worker)  # fmt: skip
    if wanted.failures > live.failures:
        yield Hindrance(f"{wanted.failures:,} of its documents are failures, and {live.failures:,} of the live generation",
                        f"run: {command(f'failures list {{}} --generation {wanted.id}', name)}")  # fmt: skip
    if wanted.index is IndexState.INVALID or wanted.index is IndexState.BUILDING:
        yield Hindrance(f"its index is {wanted.index}", "wait for the worker" if wanted.leader else worker)
    if wanted.index is IndexState.NONE and wanted.needs_index:
        yield Hindrance("it has no index yet", "wait for the worker" if wanted.leader else worker)


def of(embedding: Embedding, id_: int) -> Generation:
    """The generation of that number. Raises UsageError."""
    for target in embedding.targets:
        if target.id == id_:
            return target.generation
    raise UsageError(f"{embedding.name} has no generation {id_}; see: {command('generation list {}', embedding.name)}")


def switched(embedding: Embedding, to: Generation) -> Embedding:
    """The embedding once another of its generations is live. The one that was live is retired then."""
    building, others = embedding.building, tuple(one for one in embedding.retired if one.id != to.id)
    return replace(
        embedding,
        live=replace(to, state=GenerationState.LIVE),
        building=None if building is None or building.id == to.id else building,
        retired=(*others, replace(embedding.live, state=GenerationState.RETIRED)),
    )


def to_complete(embedding: Embedding) -> Generation:
    """The generation that `complete` makes live. Raises UsageError, with the next command."""
    name, kept = embedding.name, embedding.retired
    if embedding.building is None:
        back = (f"to make generation {kept[0].id} live again run: {command('generation rollback {}', name)}" if kept else
                f"start one: {command('generation start {}', name)}")  # fmt: skip
        raise UsageError(f"{name} has no generation that is being built; {back}")
    if kept:
        raise UsageError(f"{name} keeps the retired generation {kept[0].id}, and only one can be kept; drop it first: "
                         f"{command(f'generation drop {{}} --generation {kept[0].id}', name)}")  # fmt: skip
    return embedding.building


def to_roll_back(embedding: Embedding) -> Generation:
    """The generation that `rollback` makes live again. Raises UsageError."""
    if not embedding.retired:
        raise UsageError(f"{embedding.name} keeps no retired generation to go back to; "
                         f"see: {command('generation list {}', embedding.name)}")  # fmt: skip
    return embedding.retired[0]


def to_drop(embedding: Embedding, id_: int | None) -> Generation:
    """The generation that is to be dropped: the only one that is not live, or the one of that number. Raises UsageError."""
    name = embedding.name
    others = [target.generation for target in embedding.targets if target.generation != embedding.live]
    if id_ is not None:
        chosen = of(embedding, id_)
        if chosen == embedding.live:
            raise UsageError(f"generation {id_} of {name} is live; to remove the whole embedding run: "
                             f"{command('detach {}', name)}")  # fmt: skip
        return chosen
    if not others:
        raise UsageError(f"{name} has its live generation only; to remove it run: {command('detach {}', name)}")
    if len(others) > 1:
        both = " and ".join(f"{one.id} ({one.state})" for one in others)
        raise UsageError(f"{name} has the generations {both} that are not live; add --generation with one of them")
    return others[0]


def can_be_derived(live: Spec, wanted: Spec) -> bool:
    """Whether the vectors of one spec are those of the other, shortened: fewer dimensions are all that differs.

    A model without the Matryoshka property makes other vectors then; the worker shortens its vectors in the same way."""
    same = replace(wanted, dimensions=live.dimensions, index=live.index, comment=live.comment, notify=live.notify,
                   distance=live.distance, prompt_style=live.prompt_style)  # fmt: skip
    is_plain = live.post is None and live.layout is not Layout.COLUMN
    return wanted.dimensions < live.dimensions and same == live and is_plain
