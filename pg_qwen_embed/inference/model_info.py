"""The model identity that a server reports, and whether its vectors may join those of a generation. Pure."""

from dataclasses import dataclass

from pg_qwen_embed.domain.embedding import GenerationState, Target
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.prompt import PromptStyle, style_of


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a server's vectors may not join an embedding's, and what to do."""

    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server reports about its model. `dimensions` is the length of its full vectors."""

    model: str
    dimensions: int
    shortens: bool  # whether the server takes `dimensions` itself
    allowed: tuple[int, ...] = ()  # the only ones it takes; empty: any up to `dimensions`
    answers_as: str | None = None  # what its answers call it; need not be `model`
    pools_last: bool = False  # the vector is that of the last token
    longest: int | None = None  # tokens of an input, special tokens included; None: not reported
    weight_version: str | None = None  # None: not reported
    urgent: int | None = None  # the priority with which a request overtakes waiting ones; None: it knows no priorities
    url: str = ""  # of the server, for messages
    path: str = ""  # where its weights come from: a name or a folder; "": not reported

    def mismatch(self, target: Target) -> Mismatch | None:
        """Why this is not the identity recorded at `attach`; None if it is, as far as both are reported.

        With the same identity, vectors of the server (shortened here if need be) can join those in the store."""
        old = target.spec
        same = (
            self.model == old.model
            and self.dimensions >= old.requested_dimensions
            and old.full_dimensions in (None, self.dimensions)
            and (None in (old.weight_version, self.weight_version) or old.weight_version == self.weight_version)
        )
        if same:
            return None
        attached = _described(old.model, old.full_dimensions or old.requested_dimensions, old.weight_version)
        return Mismatch(
            f"{target.name} was attached with {attached}, and the server at {self.url} serves {self.identity}",
            f"serve the old one again, or run: {_remedy(target)}",
        )

    @property
    def identity(self) -> str:
        """What must be the same on servers whose vectors are used together."""
        return _described(self.model, self.dimensions, self.weight_version)

    @property
    def prompt_style(self) -> PromptStyle:
        """The style that the model was trained with, as its name or that of its weights tells."""
        return style_of(self.model, self.path)

    def shortens_to(self, dimensions: int) -> bool:
        """Whether the server itself can return vectors of this length, shorter than its full ones."""
        return self.shortens and dimensions != self.dimensions and (not self.allowed or dimensions in self.allowed)


def _remedy(target: Target) -> str:
    """What replaces the generation by one of another model."""
    if target.generation.state is GenerationState.LIVE:
        return f"{command('generation start {}', target.name)}, with its --model if that is another one"
    return command(f"generation drop {{}} --generation {target.id}", target.name)


def _described(model: str, dimensions: int, weight_version: str | None) -> str:
    weights = "" if weight_version is None else f", weights {weight_version}"
    return f"{model} ({dimensions} dimensions{weights})"
