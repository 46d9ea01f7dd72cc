"""The prompt: what stands in front of a query when the model sees it. Pure.

Qwen3-Embedding expects an instruction before a query and nothing before a document (model card and evaluation
script of Qwen/Qwen3-Embedding: one space after `Instruct:`, none after `Query:`)."""

from collections.abc import Callable
from enum import StrEnum

from pg_qwen_embed.domain.texts import storable

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
PACKAGED_MODEL = "pg-qwen-embed-stand-in"  # the id that `serve` gives it; it is in the registries of users


class PromptStyle(StrEnum):
    QWEN3 = "qwen3"
    PLAIN = "plain"


def style_of(*names: str) -> PromptStyle:
    """The style that the model was trained with, as one of its names tells, in any spelling: qwen3_embedding_0.6b."""
    spelled = ("".join(character for character in name.lower() if character.isalnum()) for name in names)
    return PromptStyle.QWEN3 if any("qwen3embedding" in name for name in spelled) else PromptStyle.PLAIN


def is_packaged(model: str) -> bool:
    """Whether it is the small model of `serve`, which takes no instruction; nobody needs to be told."""
    return model == PACKAGED_MODEL


def without_instruction(model: str) -> str:
    """What to say where a model has PLAIN prompts by its name alone."""
    return (
        f"{model} is not recognised as Qwen3-Embedding, so its queries go without an instruction; if it is one, add "
        "--prompt-style qwen3"
    )


def query_prompt(style: PromptStyle, instruction: str, query: str) -> str:
    """The text to embed for a query. Like a document, it has no character that PostgreSQL cannot hold."""
    return _QUERY[style](instruction, storable(query))


_QUERY: dict[PromptStyle, Callable[[str, str], str]] = {
    PromptStyle.QWEN3: lambda instruction, query: f"Instruct: {instruction}\nQuery:{query}",
    PromptStyle.PLAIN: lambda _, query: query,
}
