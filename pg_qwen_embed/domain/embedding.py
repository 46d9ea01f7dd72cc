"""Embeddings and their generations. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Source
from pg_qwen_embed.domain.spec import Layout, Spec
from pg_qwen_embed.domain.template import Template

if TYPE_CHECKING:  # arrays need numpy, and commands such as `status` have none
    from pg_qwen_embed.domain.fit import Fit
    from pg_qwen_embed.domain.vectors import Vectors


class GenerationState(StrEnum):
    BUILDING = "building"  # being filled, and followed; queries do not see it yet
    LIVE = "live"  # queries see this one
    RETIRED = "retired"  # was live before; followed until it is dropped


@dataclass(frozen=True, slots=True)
class Generation:
    """One physical version of an embedding; its id names its outbox, store, failure table and triggers.

    fit: of its post-processing, once it was made and read; it never changes."""

    id: int
    state: GenerationState
    spec: Spec
    fit: "Fit | None" = field(default=None, compare=False, repr=False)

    @property
    def layout(self) -> Layout:
        return self.spec.layout


@dataclass(frozen=True, slots=True)
class View:
    """The columns of the view beyond the key and the vector.

    columns: of the source, by their names at attach. names: other names for the view's own columns, such as `stale`.
    sized: the vector has its length in its type, as in views made before release 0.2."""

    columns: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    sized: bool = False

    def name(self, own: str) -> str:
        """What the view calls one of its own columns."""
        return dict(self.names).get(own, own)

    def to_json(self) -> dict[str, Any]:
        """The JSON object that the registry keeps; `from_json` reads it."""
        return {"columns": list(self.columns), "names": dict(self.names), "sized": self.sized}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "View":
        return View(tuple(value["columns"]), tuple(sorted(value["names"].items())), value["sized"])


@dataclass(frozen=True, slots=True)
class Embedding:
    """A named declaration on a source: what applications see and query."""

    name: str
    source: Source
    instruction: str
    live: Generation
    building: Generation | None = None
    retired: tuple[Generation, ...] = ()
    column: str = "embedding"
    vector_schema: str = "public"  # the schema of pgvector's types and operators
    view: View = View()

    @property
    def targets(self) -> Iterator["Target"]:
        """Every generation that is followed, the live one first."""
        building = () if self.building is None else (self.building,)
        return (Target(self, generation) for generation in (self.live, *building, *self.retired))

    @property
    def target(self) -> "Target":
        """The live generation."""
        return Target(self, self.live)


@dataclass(frozen=True, slots=True)
class Target:
    """One generation of an embedding: what the worker follows, the store writes and the DDL creates."""

    embedding: Embedding
    generation: Generation

    @property
    def work(self) -> tuple[object, ...]:
        """What the worker's statements and requests depend on: not the state of the generation, nor the other generations."""
        return (
            self.generation.id,
            self.spec,
            self.name,
            self.source,
            self.embedding.column,
            self.embedding.vector_schema,
        )

    @property
    def id(self) -> int:
        return self.generation.id

    @property
    def name(self) -> str:
        return self.embedding.name

    @property
    def source(self) -> Source:
        return self.embedding.source

    @property
    def spec(self) -> Spec:
        return self.generation.spec

    def finished(self, vectors: "Vectors") -> "Vectors":
        """What is stored and compared, made of the server's vectors. Raises UsageError while there is no fit."""
        if self.spec.post is None:
            return vectors
        if self.generation.fit is None:
            raise UsageError(
                f"{self.name}: its post-processing {self.spec.post.form} is not fitted yet; a worker does that: run "
                "pg-qwen-embed worker, and look at pg-qwen-embed status"
            )
        return self.generation.fit.apply(vectors)

    @property
    def is_ready(self) -> bool:
        """Whether vectors can be made for it: it needs no fit, or has one."""
        return self.spec.post is None or self.generation.fit is not None

    def with_fit(self, fit: "Fit | None") -> "Target":
        """The same with its fit."""
        generation = replace(self.generation, fit=fit)
        live = generation if self.embedding.live.id == self.id else self.embedding.live
        return Target(replace(self.embedding, live=live), generation)

    @property
    def without_post(self) -> "Target":
        """The same for the server's vectors as they come: on them the post-processing is fitted."""
        return Target(self.embedding, replace(self.generation, spec=self.spec.without_post, fit=None))

    @property
    def source_column(self) -> str:
        """The column of the source that has the vectors, for layout `column`."""
        return self.spec.column or self.embedding.column

    @property
    def template(self) -> Template:
        """The template of the spec, with each column under its present name."""
        return self.spec.template.with_columns(self.source.present_name)
