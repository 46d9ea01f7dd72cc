"""Recipes, which are searched by their meaning."""

from django.db import models

from pg_qwen_embed.django import EmbeddingSearch


class Recipe(models.Model):
    title = models.TextField()
    likes = models.IntegerField(default=0)
    search = EmbeddingSearch()


class Step(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="steps")
    text = models.TextField()
    search = EmbeddingSearch("steps of 100%", chunked=True, distance="l2")
