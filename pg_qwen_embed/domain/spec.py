"""The spec: the frozen properties of a generation. To change a property is to start another generation. Pure.

The registry keeps a spec as one JSON object. A new property needs a default, because older objects lack it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from pg_qwen_embed.domain import index, post, template
from pg_qwen_embed.domain.index import HNSW, Index
from pg_qwen_embed.domain.post import Post
from pg_qwen_embed.domain.prompt import PromptStyle
from pg_qwen_embed.domain.template import Template

CJK = "cjk"  # words of Chinese, Japanese, Korean and Thai: pairs of neighbouring characters
SHORTEST_CHUNK = 16  # tokens; one character has at most 14, after composition and with special tokens


class Distance(StrEnum):
    COSINE = "cosine"
    INNER_PRODUCT = "ip"
    L2 = "l2"

    @property
    def operator(self) -> str:
        return {"cosine": "<=>", "ip": "<#>", "l2": "<->"}[self.value]

    @property
    def operator_class(self) -> str:
        return f"halfvec_{self.value}_ops"


class StoreKind(StrEnum):
    """Where the vectors are kept: in a table of the generation, or in a column of the source."""

    TABLE = "table"
    COLUMN = "column"


class TooLong(StrEnum):
    """What happens to a document that is longer than the model takes."""

    TRUNCATE = "truncate"  # its beginning is embedded, as many tokens as fit
    FAIL = "fail"  # it becomes a failure


class Layout(StrEnum):
    """How a generation keeps its vectors. postgres/layouts.py has an object for each layout."""

    TABLE = "table"  # one vector a row, in the store
    COLUMN = "column"  # one vector a row, in the source; the store has its version and fingerprint
    CHUNKED = "chunked"  # a vector for each chunk, in the store


@dataclass(frozen=True, slots=True)
class Chunking:
    """A document of more than `tokens` tokens is divided; a chunk repeats up to `overlap` tokens of the one before it."""

    tokens: int
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class Spec:
    """The properties of a generation."""

    model: str
    dimensions: int
    template: Template
    distance: Distance = Distance.COSINE
    store: StoreKind = StoreKind.TABLE
    too_long: TooLong = TooLong.TRUNCATE
    chunking: Chunking | None = None  # None: a document is not divided
    weight_version: str | None = None  # as the server reported it; None: not reported, so not compared
    full_dimensions: int | None = None  # of the server's vectors before they are shortened; None likewise
    prompt_style: PromptStyle = PromptStyle.PLAIN
    comment: str = ""  # the note that an administrator leaves
    words: str | None = None  # the text search configuration, or CJK; None: no words are kept
    notify: bool = True  # the triggers signal the worker; without, it polls, and PREPARE TRANSACTION works
    index: Index = HNSW
    post: Post | None = None  # what is done with the server's vectors; None: nothing
    column: str | None = None  # of the source, for layout `column`; None: the one that the embedding was attached with

    @property
    def layout(self) -> Layout:
        if self.chunking is not None:
            return Layout.CHUNKED
        return Layout.COLUMN if self.store is StoreKind.COLUMN else Layout.TABLE

    @property
    def requested_dimensions(self) -> int:
        """Of the vectors that the server is asked for."""
        return self.dimensions if self.post is None else self.post.inputs

    @property
    def without_post(self) -> "Spec":
        """The same for the server's vectors as they come."""
        return replace(self, dimensions=self.requested_dimensions, post=None)

    def to_json(self) -> dict[str, Any]:
        """The JSON object that the registry keeps; `from_json` reads it."""
        return {field.name: _written(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Spec":
        """Raises KeyError, TypeError or ValueError for an object that `to_json` did not make."""
        return Spec(**{name: _READ.get(name, _as_it_is)(written) for name, written in value.items()})


def _written(value: object) -> Any:
    match value:
        case Template():
            return value.to_json()
        case Chunking():
            return asdict(value)
        case StrEnum():
            return value.value
        case Index() | Post():
            return str(value)
        case _:
            return value


def _as_it_is(written: Any) -> Any:
    return written


# Readers of the properties whose type JSON does not have.
_READ: Mapping[str, Callable[[Any], Any]] = {
    "template": template.from_json,
    "distance": Distance,
    "store": StoreKind,
    "too_long": TooLong,
    "chunking": lambda written: written and Chunking(**written),
    "prompt_style": PromptStyle,
    "index": index.parse,
    "post": post.parse,
}
