"""Settle a declaration's model and dimensions with the server."""

from dataclasses import dataclass

from pg_qwen_embed.errors import ServerUnavailable, UsageError
from pg_qwen_embed.model import MAX_DIMENSIONS
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.sglang import EmbeddingServer, ModelInfo


@dataclass(frozen=True, slots=True)
class Choice:
    model: str
    dimensions: int
    warning: str | None = None
    weight_version: str | None = None
    full_dimensions: int | None = None


async def choose_model(settings: Settings, model: str | None, dimensions: int | None) -> Choice:
    """What was asked for, checked against what the server serves; what was not, as the server has it.

    With both given an absent server is only a warning. Raises UsageError, ServerUnavailable."""
    wanted = model or settings.model
    try:
        async with EmbeddingServer(settings) as server:
            info = await server.model_info()
    except ServerUnavailable as error:
        if wanted and dimensions is not None:
            return Choice(wanted, dimensions, f"{error}; {wanted} and its {dimensions} dimensions were not checked")
        raise
    if wanted and wanted != info.model:
        raise UsageError(f"the server at {settings.shown_server_url} does not serve {wanted} but {info.model}; "
                         "leave --model out, or start a server of that model")  # fmt: skip
    return Choice(
        info.model, _dimensions(info, dimensions), weight_version=info.weight_version, full_dimensions=info.dimensions
    )


def _dimensions(info: ModelInfo, wanted: int | None) -> int:
    if wanted is None:
        return min(info.dimensions, MAX_DIMENSIONS)
    if wanted > info.dimensions:
        raise UsageError(f"{info.model} makes vectors of {info.dimensions} dimensions, not {wanted}; "
                         f"choose --dimensions {info.dimensions} or less")  # fmt: skip
    return wanted
