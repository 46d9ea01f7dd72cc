"""A chunked embedding, another instruction, and an embedded column that is altered."""

from django.db import migrations, models

from pg_qwen_embed.django import AlterEmbedding, AttachEmbedding, EmbeddingSuspended


class Migration(migrations.Migration):
    dependencies = [("recipes", "0001_initial")]
    operations = [
        AttachEmbedding(
            "Step", name="steps of 100%", text="text", chunk_tokens=16, distance="l2",
            model="Qwen/Qwen3-Embedding-0.6B", dimensions=128,
        ),
        AlterEmbedding("recipes_recipe", instruction="Find a dish that fits", before="Find a dish"),
        EmbeddingSuspended("recipes_recipe", [migrations.AlterField("Recipe", "title", models.TextField())]),
    ]  # fmt: skip
