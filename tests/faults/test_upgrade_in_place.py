"""pg_upgrade: a database of PostgreSQL 16 with embeddings goes on in 18."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_sglang import FakeSGLang
from harness import SETTINGS, Harness, setting
from psycopg.conninfo import make_conninfo

from pg_qwen_embed.postgres import embedded

LAYOUTS = {
    "articles": (),
    "in_column": ("--store", "column"),
    "chunked": ("--chunk-tokens", "64", "--words", "cjk"),
    "worded": ("--words", "english", "--index", "hnsw-binary"),
}


def binaries(harness: Harness) -> Path:
    return Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))


@pytest.mark.long
def test_pg_upgrade_carries_the_vectors_over(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with FakeSGLang().running() as server, ExitStack() as stack:
        with embedded.postgres(tmp_path / "old", version=16, settings=SETTINGS) as url, ExitStack() as first:
            old = Harness(url, server, tmp_path, first)
            old.ok("init")
            old.articles("one", "two")
            for name, options in LAYOUTS.items():
                old.ok("attach", "articles", "--text", "body", "--name", name, "--column", name, *options)
            old.once()
            old.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
            old_data, old_bin = Path(setting(url, "data_directory")), binaries(old)
        with embedded.postgres(tmp_path / "new", version=18, settings=SETTINGS) as url, ExitStack() as second:
            new_data, new_bin = Path(setting(url, "data_directory")), binaries(Harness(url, server, tmp_path, second))
            url_of_new = url
        before = len(server.texts)
        home = tmp_path / "upgrade"
        home.mkdir()
        user = old_data.owner() if os.geteuid() == 0 else None
        if user:
            shutil.chown(home, user)
        disable = [new_bin / "pg_checksums", "--disable", "-D", new_data]  # as in the old one; 18 has them by default
        subprocess.run(disable, user=user, capture_output=True, check=True)
        upgrade = [
            new_bin / "pg_upgrade",
            "-b",
            old_bin,
            "-B",
            new_bin,
            "-d",
            old_data,
            "-D",
            new_data,
            "-U",
            "postgres",
        ]
        done = subprocess.run(upgrade, cwd=home, user=user, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        with embedded.postgres(tmp_path / "new", version=18):
            new = Harness(make_conninfo(url_of_new), server, tmp_path, stack)
            new.once()
            for name in LAYOUTS:
                new.assert_in_step(name=name)
            assert set(server.texts[before:]) == {"changed"}
            new.connection.close()
