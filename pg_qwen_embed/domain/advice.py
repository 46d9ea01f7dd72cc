"""Which command applies a variant. Pure."""

import shlex

from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.variants import Axis, Variant


def command(name: str, spec: Spec, variant: Variant) -> str:
    """What to run, or to write into an application, so that the embedding is as the variant was."""
    own = shlex.quote(name)
    match variant.axis:
        case Axis.INSTRUCTION:
            return f"pg-qwen-embed alter {own} --instruction {shlex.quote(variant.instruction)}"
        case Axis.DIMENSIONS:
            return f"pg-qwen-embed generation start {own} --dimensions {variant.dimensions}"
        case Axis.POST:
            return f"pg-qwen-embed generation start {own} --post {variant.post or 'none'}"
        case Axis.INDEX if variant.index is None:
            return f"pg-qwen-embed index drop {own}"
        case Axis.INDEX:
            return f"pg-qwen-embed index rebuild {own} --index {shlex.quote(str(variant.index))}"
    if variant.mode != "vector" and spec.words is None:
        return f'pg-qwen-embed detach {own}, and attach again with --words; then search with mode="{variant.mode}"'
    return f'pg-qwen-embed search {own} --mode {variant.mode}; in Python client.search(.., mode="{variant.mode}")'
