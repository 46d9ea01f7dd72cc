"""The tables of a small recipe collection. Its embeddings are declared in its migrations."""

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pg_qwen_embed.sqlalchemy import embedding_of


class Base(DeclarativeBase):
    pass


class Cook(Base):
    __tablename__ = "cooks"
    __table_args__ = {"schema": "kitchen"}

    tenant: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    about: Mapped[str | None]


class Recipe(Base):
    __tablename__ = "recipes"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(Text)
    likes: Mapped[int] = mapped_column(default=0)
    taste: Mapped[list[float] | None] = mapped_column(HALFVEC(3))  # a vector that the application makes itself
    steps: Mapped[list["Step"]] = relationship(back_populates="recipe")


class Step(Base):
    __tablename__ = "steps"

    number: Mapped[int] = mapped_column("id", primary_key=True)  # a column that has another name in Python
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"))
    text: Mapped[str]
    recipe: Mapped[Recipe] = relationship(back_populates="steps")


recipes = embedding_of(Recipe)
steps = embedding_of(Step, chunked=True)
cooks = embedding_of(Cook, "Cook's words", distance="l2", column="words_vector")
