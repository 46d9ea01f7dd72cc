"""The variants that an evaluation compares: each differs from the present embedding, the baseline, along one axis. Pure.

Axis by axis, because every combination would need many more requests, and a larger sample to tell them apart."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pg_qwen_embed.domain import index
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import MOST_DIMENSIONS, Index, IndexKind
from pg_qwen_embed.domain.prompt import PromptStyle, without_instruction
from pg_qwen_embed.domain.query import MODES

EXACT = "exact"
FORMS = "instruction=TEXT, dimensions=256,512, index=hnsw,hnsw-binary,exact or mode=vector,words,hybrid"
PRESENT = "present"


class Axis(StrEnum):
    """Along what a variant differs. A further one, such as post-processing, gets a reader in _READERS."""

    INSTRUCTION = "instruction"
    DIMENSIONS = "dimensions"
    INDEX = "index"
    MODE = "mode"


@dataclass(frozen=True, slots=True)
class Variant:
    """A configuration to be measured. axis: along which it differs from the baseline; None: it is the baseline.

    index: None: every vector is compared."""

    instruction: str
    dimensions: int
    mode: str = "vector"
    index: Index | None = None
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
        return f"{self.axis} {getattr(self, self.axis)}"

    def differs_from(self, other: "Variant") -> bool:
        return replace(self, axis=None) != replace(other, axis=None)


def variants(
    embedding: Embedding, given: Iterable[str], instruction: Callable[[str], str] = lambda written: written
) -> list[Variant]:
    """The baseline and what `--vary` names, each once. Raises UsageError.

    instruction: what an instruction means that is the name of one, such as @retrieval."""
    spec = embedding.live.spec
    found = [Variant(embedding.instruction, spec.dimensions)]
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in set(Axis) or not value.strip():
            raise UsageError(f"--vary {text}: write {FORMS}")
        axis = Axis(name)
        if axis is Axis.INSTRUCTION and spec.prompt_style is PromptStyle.PLAIN:
            raise UsageError(f"--vary {text}: {without_instruction(spec.model)}")
        if axis is Axis.INSTRUCTION:
            value = instruction(value)
        for one in _READERS[axis](replace(found[0], axis=axis), text, value):
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
    Axis.INDEX: _indexes,
    Axis.MODE: _modes,
}
