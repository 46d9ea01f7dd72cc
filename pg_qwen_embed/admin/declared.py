"""What is attached already, compared with a declaration. Pure."""

from collections.abc import Iterator

from pg_qwen_embed.admin.attach import Declaration
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION

# What the server reports, and a declaration without one does not know; and where a later generation keeps its vectors.
_OBSERVED = {"weight_version", "full_dimensions", "column"}


def differences(embedding: Embedding, declaration: Declaration, table: str) -> list[str]:
    """What the declaration has otherwise than the embedding, for a person to read; empty: they are the same.

    table: the table that was declared, with its schema."""
    pairs = [("table", str(embedding.source.table), table), *_properties(embedding, declaration)]
    return [f"{name} is {there!r}, and was declared as {wanted!r}" for name, there, wanted in pairs if there != wanted]


def _properties(embedding: Embedding, declaration: Declaration) -> Iterator[tuple[str, object, object]]:
    there, wanted = embedding.live.spec.to_json(), declaration.spec.to_json()
    for name in there:
        if name not in _OBSERVED:
            yield name, there[name], wanted[name]
    yield "instruction", embedding.instruction, declaration.instruction or DEFAULT_INSTRUCTION
    yield "column", embedding.column, declaration.column
    if declaration.key:
        key = tuple(embedding.source.attached_name(column.name) for column in embedding.source.key)
        yield "key", key, declaration.key
    if declaration.view_columns is not None:
        yield "view columns", embedding.view.columns, declaration.view_columns
    yield "view names", embedding.view.names, declaration.view_names
