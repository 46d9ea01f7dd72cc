"""The kinds of ANN index, and what is decided about one before it is built. Pure.

A compressed kind holds a short form of each vector: its signs, or its first dimensions. Searches take candidates by that form,
and rank them by the whole vectors. Signs and prefixes are compared by angle. All vectors have length 1, so cosine, inner
product and L2 order them alike, and each kind serves each distance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pg_qwen_embed.domain.errors import UsageError

# pgvector README, "Half-Precision Indexing", "Binary Quantization" and the types' own limits.
MOST_INDEXED = 4_000  # dimensions of a halfvec in an index
MOST_DIMENSIONS = 16_000  # of a halfvec, and so of a store
DEFAULT_EF_SEARCH = 100  # until it is measured: recall@10 of 0.988 on clustered vectors (docs/benchmarks.md)
DEFAULT_PROBES = 20  # lists that a search in an ivfflat index reads, until it is measured
MOST_EF_SEARCH = 1_000  # hnsw.ef_search
CANDIDATES_FOR = 10  # rows, which ef_search is measured for; a search for more takes as many times the candidates
GROWN = 4  # an ivfflat index is built again when its table has rows for four times its lists

_LISTS_UP_TO = 1_000_000  # rows, with one list for a thousand of them; above, the root of the rows
_BOUNDS = {"m": (2, 100), "ef_construction": (4, 1_000), "lists": (1, 32_768)}
_MIB = 2**20


class IndexKind(StrEnum):
    HNSW = "hnsw"  # a graph of whole vectors
    BINARY = "hnsw-binary"  # a graph of their signs, one bit a dimension
    PREFIX = "hnsw-prefix"  # a graph of their first dimensions
    IVFFLAT = "ivfflat"  # lists of vectors around centres
    NONE = "none"  # every search compares every vector


FORMS = "hnsw, hnsw-binary, hnsw-prefix:N, ivfflat or none, with parameters like hnsw:m=24,ef_construction=128"
_PARAMETERS = {
    IndexKind.HNSW: ("m", "ef_construction"), IndexKind.BINARY: ("m", "ef_construction"),
    IndexKind.PREFIX: ("m", "ef_construction"), IndexKind.IVFFLAT: ("lists",), IndexKind.NONE: (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a generation. prefix: dimensions, of kind PREFIX. A parameter that is None is pgvector's, or is computed."""

    kind: IndexKind = IndexKind.HNSW
    prefix: int | None = None
    m: int | None = None
    ef_construction: int | None = None
    lists: int | None = None

    def __str__(self) -> str:
        """The form that `parse` reads."""
        given = [str(self.prefix)] if self.prefix is not None else []
        given += [f"{name}={value}" for name, value in self.given.items()]
        return f"{self.kind}:{','.join(given)}" if given else str(self.kind)

    @property
    def given(self) -> dict[str, int]:
        """The parameters that were chosen."""
        values = {"m": self.m, "ef_construction": self.ef_construction, "lists": self.lists}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def method(self) -> str:
        """The access method of PostgreSQL."""
        return "ivfflat" if self.kind is IndexKind.IVFFLAT else "hnsw"

    @property
    def compressed(self) -> bool:
        """Whether a search takes candidates from it and ranks them by the whole vectors."""
        return self.kind in (IndexKind.BINARY, IndexKind.PREFIX)

    @property
    def most_dimensions(self) -> int:
        """Of the vectors in the store."""
        return MOST_INDEXED if self.kind in (IndexKind.HNSW, IndexKind.IVFFLAT) else MOST_DIMENSIONS

    @property
    def default_width(self) -> int:
        """How widely a search looks until it is measured: ef_search, or probes of an ivfflat index."""
        return DEFAULT_PROBES if self.kind is IndexKind.IVFFLAT else DEFAULT_EF_SEARCH

    def parameters(self, vectors: int) -> Mapping[str, int]:
        """The storage parameters of an index of this number of vectors."""
        if self.kind is IndexKind.IVFFLAT and self.lists is None:
            return {"lists": lists_for(vectors)}
        return self.given

    def outgrown(self, lists: int | None, vectors: int) -> bool:
        """Whether an index with these lists was built for a much smaller table."""
        return self.kind is IndexKind.IVFFLAT and self.lists is None and lists_for(vectors) > GROWN * (lists or 1)

    def element_bytes(self, dimensions: int) -> int:
        """Bytes of one vector in the index."""
        match self.kind:
            case IndexKind.BINARY:
                return dimensions // 8
            case IndexKind.PREFIX:
                return 2 * (self.prefix or dimensions)
        return 2 * dimensions


HNSW = Index()


def parse(text: str) -> Index:
    """An index as it is written: see FORMS. Raises UsageError."""
    name, _, rest = text.partition(":")
    if name not in set(IndexKind):
        raise UsageError(f"--index {text}: there is no such kind; write {FORMS}")
    kind, pieces = IndexKind(name), [piece for piece in rest.split(",") if piece]
    prefix = None
    if kind is IndexKind.PREFIX:
        if not pieces or not _is_number(pieces[0]):
            raise UsageError(f"--index {text}: say how many dimensions the index holds: hnsw-prefix:512")
        prefix = int(pieces.pop(0))
    return Index(kind, prefix, **dict(_parameter(text, kind, piece) for piece in pieces))


def _parameter(text: str, kind: IndexKind, piece: str) -> tuple[str, int]:
    name, _, value = piece.partition("=")
    if name not in _PARAMETERS[kind]:
        known = " and ".join(_PARAMETERS[kind]) or "none"
        raise UsageError(f"--index {text}: {name or piece!r} is no parameter of {kind}; it has {known}")
    low, high = _BOUNDS[name]
    if not _is_number(value) or not low <= int(value) <= high:
        raise UsageError(f"--index {text}: {name} is a number from {low} to {high}")
    return name, int(value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9


def check(index: Index, dimensions: int) -> None:
    """Raises UsageError for an index that vectors of these dimensions cannot have."""
    most = index.most_dimensions
    if not 1 <= dimensions <= most:
        what = "an index on halfvec holds" if most == MOST_INDEXED else "a halfvec has"
        other = ", or --index hnsw-binary" if most < dimensions <= MOST_DIMENSIONS else ""
        raise UsageError(f"{dimensions} dimensions: {what} 1 to {most}; add --dimensions, 1024 for instance{other}")
    if index.prefix is not None and not 1 <= index.prefix <= min(dimensions, MOST_INDEXED):
        most = min(dimensions, MOST_INDEXED)
        raise UsageError(
            f"--index {index}: the vectors have {dimensions} dimensions; the prefix is 1 to {most} of them"
        )
    if 2 * (index.m or 16) > (index.ef_construction or 64):
        raise UsageError(f"--index {index}: ef_construction must be at least twice m; "
                         f"add ef_construction={2 * (index.m or 16)}")  # fmt: skip


def lists_for(vectors: int) -> int:
    """Lists of an ivfflat index (pgvector README, "IVFFlat")."""
    return max(1, vectors // 1_000) if vectors <= _LISTS_UP_TO else math.isqrt(vectors)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Settings of a build. memory: maintenance_work_mem in MiB. workers: in addition to the session that builds."""

    memory: int
    workers: int


SMALLEST_MEMORY = 64  # MiB
USUAL_MEMORY = 256  # MiB: taken of any server
ALONE = 10_000  # vectors; fewer are indexed before parallel workers would have started
MOST_WORKERS = 4


def plan_build(
    index: Index, dimensions: int, vectors: int, *, shared_buffers: int, configured: int, cpus: int
) -> BuildPlan:
    """How much memory and how many workers a build is given. shared_buffers, configured: of the server, in MiB.

    A graph that does not fit is finished on disk, several times slower. The memory of the server cannot be asked for;
    shared_buffers is usually a quarter of it, so a build may take as much as that."""
    neighbours = 2 * (index.m or 16) * 24  # about, with both levels and their list
    needed = math.ceil(1.2 * vectors * (index.element_bytes(dimensions) + neighbours + 128) / _MIB)
    memory = min(max(SMALLEST_MEMORY, needed), max(USUAL_MEMORY, shared_buffers, configured))
    return BuildPlan(memory, 0 if vectors < ALONE else max(1, min(MOST_WORKERS, cpus)))
