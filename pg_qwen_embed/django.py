"""For Django: operations of migrations, and searches as querysets. See docs/django.md."""

from pg_qwen_embed.integrations.django.operations import (
    AlterEmbedding,
    AttachEmbedding,
    DetachEmbedding,
    EmbeddingSuspended,
    InitEmbeddings,
)
from pg_qwen_embed.integrations.django.search import EmbeddingSearch

__all__ = [
    "AlterEmbedding",
    "AttachEmbedding",
    "DetachEmbedding",
    "EmbeddingSearch",
    "EmbeddingSuspended",
    "InitEmbeddings",
]
