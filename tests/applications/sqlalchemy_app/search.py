"""What the application searches for, in threads and in an event loop."""

from collections.abc import Sequence

from models import Recipe, recipes
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


def liked(session: Session, text: str, likes: int, limit: int) -> Sequence[Row[Recipe, float]]:
    return session.execute(recipes.nearest(text).where(Recipe.likes >= likes).limit(limit)).all()


async def liked_async(session: AsyncSession, text: str, likes: int, limit: int) -> list[str]:
    found = await session.execute(recipes.nearest(text).where(Recipe.likes >= likes).limit(limit))
    return [recipe.title for recipe, _ in found]


def titles(session: Session, text: str) -> list[str]:
    return [recipe.title for recipe in session.scalars(recipes.nearest(text).limit(3))]
