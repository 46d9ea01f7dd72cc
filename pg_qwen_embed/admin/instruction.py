"""Another instruction for an embedding: it is on the side of queries, so no vector changes."""

from pg_qwen_embed.admin import instructions
from pg_qwen_embed.admin.transaction import lock_embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION, PromptStyle
from pg_qwen_embed.postgres import trust
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.sql import statement


def change(connection: Connection, name: str, instruction: str | None) -> None:
    """Put this instruction in front of queries: a text, or `@name` of the pool; None: the default one.

    In one transaction. Raises UsageError."""
    if instruction is not None and not instruction.strip():
        raise UsageError("the instruction is blank; @retrieval is the default one")
    with connection.transaction():
        lock_embedding(connection, name)
        embedding = trust.find(connection, name).embedding
        spec = embedding.live.spec
        if spec.prompt_style is PromptStyle.PLAIN and instruction:
            raise UsageError(f"{name}: {spec.model} is used with plain prompts, which carry no instruction")
        values = {"name": name, "instruction": instructions.resolved(connection, instruction) or DEFAULT_INSTRUCTION}
        connection.execute(statement("change_instruction"), values)
        connection.execute(statement("announce_change"))
