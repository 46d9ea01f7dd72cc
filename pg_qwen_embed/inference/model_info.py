"""What a server says it serves, and whether its vectors may stand among those of a generation. Pure."""

from dataclasses import dataclass

from pg_qwen_embed.domain.embedding import Target


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a server's vectors may not stand among an embedding's, and what to do."""

    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server says it serves. `dimensions` is the length of its full vectors."""

    model: str
    dimensions: int
    shortens: bool  # whether the server takes `dimensions` itself
    allowed: tuple[int, ...] = ()  # the only ones it takes; empty: any up to `dimensions`
    answers_as: str | None = None  # what its answers call it; need not be `model`
    pools_last: bool = False  # the vector is that of the last token
    longest: int | None = None  # tokens of an input, those that the tokenizer adds included; None: it does not say
    weight_version: str | None = None  # None: it does not say
    urgent: int | None = None  # the priority with which a request overtakes those that wait; None: it knows none
    url: str = ""  # where, for sentences

    def mismatch(self, target: Target) -> Mismatch | None:
        """Why it is not what the embedding was attached with; None if it is, as far as both say: then its vectors,
        shortened here if need be, stand beside those that are there."""
        old = target.spec
        same = (
            self.model == old.model
            and self.dimensions >= old.dimensions
            and old.full_dimensions in (None, self.dimensions)
            and (None in (old.weight_version, self.weight_version) or old.weight_version == self.weight_version)
        )
        if same:
            return None
        attached = _described(old.model, old.full_dimensions or old.dimensions, old.weight_version)
        return Mismatch(
            f"{target.name} was attached with {attached}, and the server at {self.url} serves {self.identity}",
            f"serve the old one again, or run: pg-qwen-embed detach {target.name}, and attach anew",
        )

    @property
    def identity(self) -> str:
        """What must be the same of servers whose vectors stand together."""
        return _described(self.model, self.dimensions, self.weight_version)

    def shortens_to(self, dimensions: int) -> bool:
        """Whether the server itself gives vectors of this length, a shorter one than its own."""
        return self.shortens and dimensions != self.dimensions and (not self.allowed or dimensions in self.allowed)


def _described(model: str, dimensions: int, weight_version: str | None) -> str:
    weights = "" if weight_version is None else f", weights {weight_version}"
    return f"{model} ({dimensions} dimensions{weights})"
