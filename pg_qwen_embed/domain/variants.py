"""The variants that an evaluation compares: each differs from the present embedding, the baseline, along one axis. Pure.

Axis by axis, because every combination would need many more requests, and a larger sample to tell them apart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pg_qwen_embed.domain import index, post
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import MOST_DIMENSIONS, Index, IndexKind
from pg_qwen_embed.domain.prompt import PromptStyle, without_instruction
from pg_qwen_embed.domain.query import MODES

EXACT = "exact"
FORMS = (
    "instruction=TEXT, instruction=@NAME, instruction=pool, dimensions=256,512, post=none,center,whiten, "
    "index=hnsw,hnsw-binary,exact or mode=vector,words,hybrid"
)
PRESENT = "present"


class Axis(StrEnum):
    """Along what a variant differs. Each has a reader in _READERS."""

    INSTRUCTION = "instruction"
    DIMENSIONS = "dimensions"
    POST = "post"
    INDEX = "index"
    MODE = "mode"


@dataclass(frozen=True, slots=True)
class Variant:
    """A configuration to be measured. axis: along which it differs from the baseline; None: it is the baseline.

    index: None: every vector is compared. post: the form of a post-processing, such as `pca:256`; None: there is none."""

    instruction: str
    dimensions: int
    mode: str = "vector"
    index: Index | None = None
    post: str | None = None
    axis: Axis | None = None

    @property
    def label(self) -> str:
        match self.axis:
            case None:
                return PRESENT
            case Axis.INSTRUCTION:
                return f'instruction "{self.instruction}"'
            case Axis.INDEX:
                return f"index {self.index or EXACT}"
        return f"{self.axis} {getattr(self, self.axis) or 'none'}"

    def differs_from(self, other: "Variant") -> bool:
        return replace(self, axis=None) != replace(other, axis=None)


def variants(
    embedding: Embedding, given: Iterable[str], instructions: Callable[[str], Sequence[str]] = lambda written: [written]
) -> list[Variant]:
    """The baseline and what `--vary` names, each once. Raises UsageError.

    instructions: the texts that are meant by what is written, which may be the name of one or of many."""
    spec = embedding.live.spec
    found = [Variant(embedding.instruction, spec.dimensions, post=None if spec.post is None else spec.post.form)]
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in set(Axis) or not value.strip():
            raise UsageError(f"--vary {text}: write {FORMS}")
        axis = Axis(name)
        if axis is Axis.INSTRUCTION and spec.prompt_style is PromptStyle.PLAIN:
            raise UsageError(f"--vary {text}: {without_instruction(spec.model)}")
        if axis is Axis.DIMENSIONS and spec.post is not None:
            raise UsageError(
                f"--vary {text}: {embedding.name} has the post-processing {spec.post.form}; try --vary post=pca:N for fewer "
                "dimensions"
            )
        if axis is Axis.POST:
            for form in _pieces(value):
                post.post_of(form, spec.requested_dimensions)
        texts = instructions(value) if axis is Axis.INSTRUCTION else [value]
        own = replace(found[0], axis=axis)
        for one in (variant for each in texts for variant in _READERS[axis](own, text, each)):
            if all(one.differs_from(other) for other in found):
                found.append(one)
    return found


def _instructions(own: Variant, _: str, value: str) -> Iterable[Variant]:
    return [replace(own, instruction=value)]


def _dimensions(own: Variant, text: str, value: str) -> Iterable[Variant]:
    for one in _pieces(value):
        if not (one.isascii() and one.isdigit() and len(one) < 9 and 1 <= int(one) <= MOST_DIMENSIONS):
            raise UsageError(f"--vary {text}: {one} is no number of dimensions; write 1 to {MOST_DIMENSIONS:,}")
        yield replace(own, dimensions=int(one))


def _posts(own: Variant, _: str, value: str) -> Iterable[Variant]:
    return [replace(own, post=post.check(one)) for one in _pieces(value)]


def _indexes(own: Variant, text: str, value: str) -> Iterable[Variant]:
    for one in _kinds(value):
        if one == EXACT:
            yield replace(own, index=None)
            continue
        kind = index.parse(one)
        yield replace(own, index=None if kind.kind is IndexKind.NONE else kind)


def _modes(own: Variant, text: str, value: str) -> Iterable[Variant]:
    for one in _pieces(value):
        if one not in MODES:
            raise UsageError(f"--vary {text}: there is no search mode {one}; there are: {', '.join(MODES)}")
        yield replace(own, mode=one)


def _pieces(value: str) -> list[str]:
    return [piece.strip() for piece in value.split(",") if piece.strip()]


def _kinds(value: str) -> list[str]:
    """The kinds of index of a list. A parameter goes with the kind before it: hnsw:m=24,ef_construction=128."""
    found: list[str] = []
    for piece in _pieces(value):
        if found and "=" in piece and ":" not in piece:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


_READERS: Mapping[Axis, Callable[[Variant, str, str], Iterable[Variant]]] = {
    Axis.INSTRUCTION: _instructions,
    Axis.DIMENSIONS: _dimensions,
    Axis.POST: _posts,
    Axis.INDEX: _indexes,
    Axis.MODE: _modes,
}
