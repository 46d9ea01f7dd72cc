"""Recipes by their meaning, over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pg_qwen_embed import AsyncClient, DatabaseUnavailable, DocumentRejected, ServerUnavailable


class Recipe(BaseModel):
    id: int
    title: str
    minutes: int
    distance: float


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient() as client:  # one for all requests
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/recipes")
async def recipes(
    request: Request,
    q: Annotated[str, Query(max_length=500, pattern=r"\S")],
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
    minutes: int | None = None,
) -> list[Recipe]:
    """The recipes nearest to a query, which take some minutes at most."""
    client: AsyncClient = request.app.state.client
    hits = await client.search(
        "recipes", q, limit, where="%(most)s::int IS NULL OR minutes <= %(most)s", params={"most": minutes}
    )
    return [Recipe(distance=hit.distance, **hit.row) for hit in hits]


@app.exception_handler(DatabaseUnavailable)
@app.exception_handler(ServerUnavailable)
async def unavailable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "search is not available now"}, 503, {"Retry-After": "5"})


@app.exception_handler(DocumentRejected)
async def rejected(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the query is too long"}, 422)
