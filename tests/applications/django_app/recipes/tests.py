"""The project's own tests: each in a transaction that is never committed, on a test database that migrations have made."""

from django.test import TestCase

from recipes.models import Recipe, Step


class SearchTest(TestCase):
    def setUp(self) -> None:
        for n, title in enumerate(["gazpacho, a cold soup", "onion soup", "apple pie"], 1):
            Recipe.objects.create(title=title, likes=n)
        Recipe.search.embed_now()

    def test_what_a_test_has_written_is_found(self) -> None:
        vector = Recipe.search.vector("a cold soup")
        found = list(Recipe.search(vector).filter(likes__gte=2)[:10])
        self.assertEqual({recipe.title for recipe in found}, {"onion soup", "apple pie"})
        self.assertEqual([recipe.distance for recipe in found], sorted(recipe.distance for recipe in found))

    def test_a_changed_and_a_deleted_row_are_followed(self) -> None:
        Recipe.objects.filter(likes=1).delete()
        Recipe.objects.filter(likes=2).update(title="fish stew")
        self.assertEqual(Recipe.search.embed_now(), 1)
        self.assertEqual(Recipe.search(Recipe.search.vector("x")).count(), 2)
        self.assertEqual(Recipe.search.embed_now(), 0)

    def test_a_long_text_is_found_once_by_its_best_chunk(self) -> None:
        recipe = Recipe.objects.first()
        for n in range(3):
            Step.objects.create(recipe=recipe, text=f"step {n}. " + "cut the onions. " * 20)
        self.assertEqual(Step.search.embed_now(), 3)
        found = Step.search(Step.search.vector("cut"))
        self.assertEqual(len(found[:10]), 3)
        self.assertEqual(found.filter(recipe__likes__gt=0).count(), 3)
        self.assertEqual(len(Recipe.objects.filter(steps__in=found)), 3)  # as a subquery of another
