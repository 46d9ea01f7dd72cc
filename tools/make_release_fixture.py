"""Make the database of an earlier release, which tests/integration/test_upgrade.py upgrades.

Everything in it is that release's own work: its `init`, its `attach`, its worker, its `serve`. One embedding of each
layout is filled; then the tables change with no worker running, so the outboxes hold pending changes. The file is a
plain pg_dump of PostgreSQL 16, which 16 and later load. Run it from the root of this checkout, with the release next to it:

    git worktree add ../release v0.1.0
    python -m tools.make_release_fixture ../release tests/fixtures/release_0.1.0.sql
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pg_qwen_embed.postgres import embedded

VERSION = 16  # the oldest that the suite runs on: newer ones load its dumps
TABLES = """
CREATE TABLE notes (tenant text, id bigint, title text NOT NULL, body text, PRIMARY KEY (tenant, id));
CREATE TABLE products (sku uuid PRIMARY KEY, description text);
CREATE TABLE manuals (id bigint PRIMARY KEY, body text);
"""
ATTACHED = {  # by the embedding's name: the arguments of `attach`
    "notes": (
        *("notes", "--text", "title", "--text", "body"),
        *("--prompt-style", "qwen3", "--instruction", "Find the note that answers the question"),
    ),
    "catalogue": (
        *("products", "--template", "Product: {description}", "--name", "catalogue", "--store", "column"),
        *("--column", "meaning", "--distance", "l2", "--too-long", "fail"),
    ),
    "manuals": ("manuals", "--text", "body", "--chunk-tokens", "24", "--chunk-overlap", "4"),
}
# 8192 tokens are what `serve` takes: of the first document the beginning is embedded, the second is a failure.
EMBEDDED = """
INSERT INTO notes VALUES
    ('a', 1, 'Cats', 'The cat sleeps on the warm sofa.'),
    ('a', 2, 'Rates', 'Interest rates were raised by the central bank.'),
    ('b', 1, 'Bread', 'Bake the bread in a hot oven for forty minutes.'),
    ('b', 2, '', ' '),
    ('b', 3, 'Long', repeat('a ', 8200));
INSERT INTO products VALUES
    ('00000000-0000-0000-0000-000000000001', 'A kettle of steel'),
    ('00000000-0000-0000-0000-000000000002', 'A chair of oak'),
    ('00000000-0000-0000-0000-000000000003', 'A lamp for the desk'),
    ('00000000-0000-0000-0000-000000000004', NULL),
    ('00000000-0000-0000-0000-000000000005', repeat('b ', 8200));
INSERT INTO manuals VALUES
    (1, 'Fill the tank with water. Close the lid until it clicks. Press the button and wait for the light to turn green. '
        'Never open the lid while the light is red. Empty the tank every evening.'),
    (2, 'Keep the receipt for two years.'),
    (3, 'Store the machine in a dry place.'),
    (4, NULL);
"""
PENDING = """
INSERT INTO notes VALUES ('a', 3, 'Rain', 'Take an umbrella.');
UPDATE notes SET body = 'The cat sits on the cold step.' WHERE (tenant, id) = ('a', 1);
DELETE FROM notes WHERE (tenant, id) = ('a', 2);
INSERT INTO products VALUES ('00000000-0000-0000-0000-000000000006', 'A bowl of glass');
UPDATE products SET description = 'A chair of pine' WHERE description = 'A chair of oak';
DELETE FROM products WHERE description = 'A lamp for the desk';
INSERT INTO manuals VALUES (5, 'Call us before you open the housing.');
UPDATE manuals SET body = 'Keep the receipt for five years.' WHERE id = 2;
DELETE FROM manuals WHERE id = 3;
"""


def main(checkout: Path, target: Path) -> None:
    with embedded.postgres(version=VERSION) as server_url, served(checkout) as inference_url:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE release")
            url = psycopg.conninfo.make_conninfo(server_url, dbname="release")
        environment = {"PG_QWEN_EMBED_DATABASE_URL": url, "PG_QWEN_EMBED_SERVER_URL": inference_url}
        fill(checkout, url, environment)
        target.write_text(dump(url), encoding="utf-8")
    print(f"{target.stat().st_size:,} bytes in {target}")


def fill(checkout: Path, url: str, environment: dict[str, str]) -> None:
    run(checkout, "init", environment=environment)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
        for arguments in ATTACHED.values():
            run(checkout, "attach", *arguments, environment=environment)
        connection.execute(EMBEDDED)
        run(checkout, "worker", "--once", environment=environment)
        connection.execute(PENDING)


def run(checkout: Path, *arguments: str, environment: dict[str, str]) -> None:
    """A command of the release: Python looks in the current folder first."""
    subprocess.run(command(*arguments), cwd=checkout, env=os.environ | environment, check=True)


@contextmanager
def served(checkout: Path) -> Iterator[str]:
    """The URL of the release's own embedding server."""
    with subprocess.Popen(command("serve", "--port", "0"), cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            (url,) = re.findall(r"on (http://\S+)", line)
            yield url
        finally:
            process.terminate()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pg_qwen_embed", *arguments]


def dump(url: str) -> str:
    """The dump without owners, which differ from server to server, and without psql's random restrict key."""
    with psycopg.connect(url) as connection:
        (binaries,) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone() or ("",)
    tool = [str(Path(binaries) / "pg_dump"), "--no-owner", url]
    text = subprocess.run(tool, capture_output=True, check=True, text=True).stdout
    return re.sub(r"^\\(un)?restrict .*\n\n?", "", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
