"""The wheel works where there is no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from harness import Cluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_wheel_carries_migrations_statements_and_the_model(unpacked: Path) -> None:
    package = unpacked / "pg_qwen_embed"
    for name in ("env.py", "versions/0001_registry.py"):
        assert (package / "migrations" / name).is_file()
    assert (package / "sql" / "store.sql").is_file()
    assert (package / "server" / "model" / "model.safetensors").stat().st_size > 1_000_000


def test_wheel_outside_the_checkout_initialises_a_database(unpacked: Path, postgres: Cluster, tmp_path: Path) -> None:
    with postgres.database("template1") as url:
        _initialise(unpacked, url, tmp_path)


def _initialise(unpacked: Path, url: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PG_QWEN_EMBED_DATABASE_URL": url}
    command = [sys.executable, "-m", "pg_qwen_embed", "init"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("installed version ")
    where = "import pg_qwen_embed; print(pg_qwen_embed.__file__)"
    imported = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert str(unpacked) in imported.stdout
