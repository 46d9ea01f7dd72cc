"""The wheel works where there is no checkout: its files, its commands, and its types."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from harness import Cluster

import pg_qwen_embed

ROOT = Path(__file__).resolve().parents[2]
TYPED = '''
"""What an application writes, checked as strictly as mypy can."""

import pg_qwen_embed
from pg_qwen_embed import AsyncClient, Client, Hit, Error, SetupError, UsageError
from pg_qwen_embed import DatabaseUnavailable, DocumentRejected, ServerUnavailable
from pg_qwen_embed import ModelMismatch, ModelUnknown, ProtocolError, ServerFault, ServerOverloaded

PASSING: tuple[type[ServerUnavailable], ...] = (ModelMismatch, ModelUnknown, ProtocolError, ServerFault, ServerOverloaded)
LASTING: tuple[type[Error], ...] = (SetupError, UsageError, DatabaseUnavailable, DocumentRejected)


def nearest(query: str) -> list[str]:
    with Client("postgresql://", server_url="http://127.0.0.1:30000/v1", api_key=None) as client:
        try:
            length: int = client.embed_query("articles", query).shape[0]
            hits: list[Hit] = client.search("articles", query, limit=3)
        except ServerUnavailable as error:
            return [str(error)]
    return [f"{length} {hit.distance:.3f} {sorted(hit.row)}" for hit in hits]


async def nearest_of_several(queries: list[str]) -> list[Hit]:
    async with AsyncClient("postgresql://") as client:
        vectors = await client.embed_queries("articles", queries)
        return [hit for vector in vectors for hit in await client.search("articles", vector, limit=1)]


print(nearest("anything"), pg_qwen_embed.__version__.upper())
'''
WRONG = """
from pg_qwen_embed import Client, Hit

hits: list[str] = Client(1).search("articles", "anything", limit="3")
distance: str = Hit(0.1, {}).distance
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the wheel installed. Its dependencies are those of this Python."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python


def run(*command: object, cwd: Path, **environment: str) -> str:
    """The output of a command. Nothing of this checkout is on its path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    arguments = [str(one) for one in command]
    done = subprocess.run(arguments, cwd=cwd, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_wheel_carries_migrations_statements_types_and_the_model(python: Path, tmp_path: Path) -> None:
    where = "import pg_qwen_embed; print(pg_qwen_embed.__file__)"
    package = Path(run(python, "-c", where, cwd=tmp_path).strip()).parent
    assert package.is_relative_to(python.parents[1])
    for name in ("migrations/env.py", "migrations/versions/0001_registry.py", "postgres/sql/store.sql", "py.typed"):
        assert (package / name).is_file()
    assert (package / "serve" / "model" / "model.safetensors").stat().st_size > 1_000_000


@pytest.mark.long
def test_wheel_outside_the_checkout_initialises_a_database(python: Path, postgres: Cluster, tmp_path: Path) -> None:
    with postgres.database("template1") as url:
        said = run(python, "-m", "pg_qwen_embed", "init", cwd=tmp_path, PG_QWEN_EMBED_DATABASE_URL=url)
    assert said.startswith("installed version ")


@pytest.mark.long
def test_application_that_uses_the_public_api_is_checked_by_its_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache"]
    run(*mypy, "typed.py", cwd=tmp_path)
    with pytest.raises(AssertionError) as refused:
        run(*mypy, "wrong.py", cwd=tmp_path)
    for kind in ("arg-type", "assignment"):
        assert f"[{kind}]" in str(refused.value)


def test_public_api_is_what_the_typed_application_uses() -> None:
    assert [name for name in pg_qwen_embed.__all__ if name not in TYPED] == []
