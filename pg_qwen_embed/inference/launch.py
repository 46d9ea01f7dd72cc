"""The command that starts SGLang with a Qwen3-Embedding model, for a given GPU memory size. Pure.

The memory holds the weights in bfloat16, a reserve for activations, and the keys and values of tokens: 2 * layers *
key-value heads * 128 * 2 bytes per token (config.json of each model). An input must fit into the rest, so a small GPU
memory shortens the context. These are estimates, not measurements."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pg_qwen_embed.domain.errors import UsageError

GIB = 1 << 30
RESERVE = 2.0  # GiB for activations and CUDA itself
LARGEST_FRACTION = 0.9
CONTEXT = 32_768
SHORTEST_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Model:
    parameters: float  # in billions
    dimensions: int
    layers: int
    heads: int = 8  # key-value heads, of 128 dimensions

    @property
    def weights(self) -> float:
        """GiB in bfloat16."""
        return self.parameters * 2e9 / GIB

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.heads * 128 * 2


MODELS = {
    "Qwen/Qwen3-Embedding-0.6B": Model(0.6, 1024, 28),
    "Qwen/Qwen3-Embedding-4B": Model(4.0, 2560, 36),
    "Qwen/Qwen3-Embedding-8B": Model(7.6, 4096, 36),
}


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name} {shlex.quote(self.value)}"


def flags(model: str, gpu_memory: float | None, host: str, port: int) -> list[Flag]:
    """Every flag with its reason. gpu_memory: GiB; None leaves memory and context to SGLang. Raises UsageError."""
    return [
        Flag("--model-path", model, "the model, by its name on a hub or as a folder"),
        Flag("--is-embedding", None, "without it SGLang would generate text"),
        Flag("--json-model-override-args", '{"is_matryoshka": true}', "lets a request ask for fewer dimensions"),
        Flag("--dtype", "bfloat16", "what the model was trained in"),
        *(_for_memory(model, gpu_memory) if gpu_memory is not None else ()),
        Flag("--enable-priority-scheduling", None, "queries and single changes overtake a backfill"),
        Flag("--enable-metrics", None, "/metrics for Prometheus"),
        Flag("--host", host, "who can reach it; add --api-key if that is more than this machine"),
        Flag("--port", str(port), "goes into PG_QWEN_EMBED_SERVER_URL"),
    ]


def _for_memory(model: str, gpu_memory: float) -> Iterator[Flag]:
    known = MODELS.get(model)
    if known is None:
        raise UsageError(
            f"the size of {model} is not known here; leave --gpu-memory out, or choose one of {', '.join(MODELS)}"
        )
    fraction = min(LARGEST_FRACTION, (gpu_memory - RESERVE) / gpu_memory)
    tokens = int((fraction * gpu_memory - known.weights) * GIB / known.token_bytes)
    if tokens < SHORTEST_CONTEXT:
        least = (known.weights + RESERVE + SHORTEST_CONTEXT * known.token_bytes / GIB) * 1.02
        raise UsageError(
            f"{model} needs about {least:.0f} GiB, its weights alone {known.weights:.1f}; choose a smaller model"
        )
    yield Flag("--mem-fraction-static", f"{int(fraction * 100) / 100:g}", f"weights {known.weights:.1f} GiB and {tokens:,} "
               f"tokens; leaves {RESERVE:g} GiB or a tenth for activations")  # fmt: skip
    if tokens < CONTEXT:
        fits = tokens // 512 * 512
        yield Flag(
            "--context-length", str(fits), "a longer input would not fit, and would hang; the worker truncates to this"
        )


def command(chosen: list[Flag]) -> str:
    """Text for a shell: a comment for each flag, then the command."""
    reasons = "\n".join(f"# {flag.name}: {flag.reason}" for flag in chosen)
    lines = " \\\n    ".join(["python -m sglang.launch_server", *map(str, chosen)])
    return f"{reasons}\n{lines}"
