"""The tables, and an embedding of one that is created in the same transaction."""

import django.db.models.deletion
from django.db import migrations, models

from pg_qwen_embed.django import AttachEmbedding, InitEmbeddings


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Recipe",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("title", models.CharField(max_length=200)),
                ("likes", models.IntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            "Step",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
                (
                    "recipe",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="steps", to="recipes.recipe"
                    ),
                ),
            ],
        ),
        InitEmbeddings(),
        AttachEmbedding(
            "Recipe", text="title", instruction="Find a dish", model="Qwen/Qwen3-Embedding-0.6B", dimensions=128
        ),
    ]
