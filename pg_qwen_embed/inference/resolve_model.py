"""Resolve the model and the dimensions of a new generation with the servers. It writes nothing."""

import asyncio
from dataclasses import dataclass
from typing import Any

from pg_qwen_embed.domain.errors import ModelMismatch, ServerUnavailable, UsageError
from pg_qwen_embed.domain.index import MOST_INDEXED
from pg_qwen_embed.domain.post import post_of
from pg_qwen_embed.domain.prompt import PromptStyle, style_of
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import Template
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import ASK_TIMEOUT, EmbeddingServer
from pg_qwen_embed.settings import Settings


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The model identity to record. warning: what could not be checked."""

    model: str
    dimensions: int
    warning: str | None = None
    weight_version: str | None = None
    full_dimensions: int | None = None
    path: str = ""  # of the weights, as the server reports it

    def spec(
        self, template: Template, *, prompt_style: PromptStyle | None = None, post: str | None = None, **properties: Any
    ) -> Spec:
        """The spec of a generation with this model.

        prompt_style: by default the one of the model's names. post: as in `--post`; it may leave fewer dimensions than the
        server's. properties: the others of a `Spec`. Raises UsageError."""
        fitted = post_of(post, self.dimensions)
        return Spec(
            self.model, self.dimensions if fitted is None else fitted.outputs, template,
            prompt_style=prompt_style or style_of(self.model, self.path), weight_version=self.weight_version,
            full_dimensions=self.full_dimensions, post=fitted, **properties,
        )  # fmt: skip


async def resolve_model(
    settings: Settings, model: str | None, dimensions: int | None, *, most: int = MOST_INDEXED
) -> ResolvedModel:
    """The given model and dimensions, checked against the servers; what is not given comes from the server.

    most: dimensions that the index holds; a model of more is shortened to these unless `dimensions` are given.
    With both given, an absent server is only a warning. Raises UsageError, ModelMismatch, ServerUnavailable."""
    wanted = model or settings.model
    try:
        info = await _served(settings, wanted)
    except ModelMismatch:
        raise
    except ServerUnavailable as error:
        if wanted and dimensions is not None:
            return ResolvedModel(
                wanted, dimensions, f"{error}; {wanted} and its {dimensions} dimensions were not checked"
            )
        raise
    return ResolvedModel(
        info.model, _dimensions(info, dimensions, most), weight_version=info.weight_version, full_dimensions=info.dimensions,
        path=info.path,
    )  # fmt: skip


async def _served(settings: Settings, wanted: str | None) -> ModelInfo:
    """What a server with the wanted model reports; without one, what all servers that answer agree on."""
    answers = await asyncio.gather(*(_ask(one, wanted) for one in settings.servers))
    infos = [answer for answer in answers if isinstance(answer, ModelInfo)]
    away = [answer for answer in answers if isinstance(answer, ServerUnavailable)]
    fitting = [info for info in infos if wanted in (None, info.model)]
    if not fitting and away:  # that server may have it
        raise away[0]
    if not fitting:
        served = " and ".join(f"the server at {info.url} serves {info.model}" for info in infos)
        raise ModelMismatch(f"{served}, not {wanted}; leave --model out, or start a server of that model")
    if len({info.model for info in fitting}) > 1:
        served = " and ".join(sorted({info.model for info in fitting}))
        raise UsageError(f"the servers have different models, {served}; choose one with --model")
    if len({info.identity for info in fitting}) > 1:
        served = " and ".join(f"the server at {info.url} serves {info.identity}" for info in fitting)
        raise UsageError(
            f"{served}: vectors of both cannot be used together; start both with the same model, or leave one out"
        )
    return fitting[0]


async def _ask(settings: Settings, wanted: str | None) -> ModelInfo | ServerUnavailable:
    try:
        async with EmbeddingServer(settings, ASK_TIMEOUT, once_more=True) as server:
            return await server.model_info(wanted)
    except ServerUnavailable as error:
        return error


def _dimensions(info: ModelInfo, wanted: int | None, most: int) -> int:
    if wanted is None:
        return min(info.dimensions, most)
    if wanted > info.dimensions:
        raise UsageError(f"{info.model} makes vectors of {info.dimensions} dimensions, not {wanted}; "
                         f"choose --dimensions {info.dimensions} or less")  # fmt: skip
    return wanted
