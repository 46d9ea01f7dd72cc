"""What it costs to make documents with the rights of another role, and to write values by their output functions.

    python benchmarks/document_rights.py [--rows 50000] [--rounds 5] [--version 16]

Every document of a table is made by one statement: by the document function as `attach` creates it, by the same function as
SECURITY DEFINER, and with a column of an enum written by the output function of its type and by a cast. Prints one line of
JSON: the median CPU microseconds of the server process for each row, and their ratios."""

import argparse
import statistics
from pathlib import Path

import harness
import psycopg

from pg_qwen_embed.admin.attach import Declaration, attach
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import from_columns
from pg_qwen_embed.postgres import embedded, migrate
from pg_qwen_embed.postgres.connection import connect

SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, mood mood);
INSERT INTO articles SELECT n, 'title ' || n, repeat(md5(n::text), 30), 'glad' FROM generate_series(1, {rows}) n;
VACUUM ANALYZE articles;
"""
DEFINER = """
CREATE FUNCTION definer(title text, body text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT _qwen_embed.document_1(title, body); END;
CREATE FUNCTION definer_alone(title text, body text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC SELECT _qwen_embed.document_1(title, body); END;
"""
DOCUMENTS = {
    "attach": "_qwen_embed.document_1(title, body)",
    "definer": "definer(title, body)",
    "definer_alone": "definer_alone(title, body)",
    "output": "_qwen_embed.document_2(mood)",
    "cast": "mood::text",
}


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--version", type=int, default=18, choices=[16, 18])
    wanted = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in DOCUMENTS}
    with embedded.postgres(version=wanted.version) as url:
        migrate.init(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET max_parallel_workers_per_gather = 0")
            for statement in SETUP.format(rows=wanted.rows).split(";\n"):
                connection.execute(statement)
            with connect(url, "benchmark") as ours:
                attach(ours, Declaration("articles", Spec("m", 8, from_columns(("title", "body")))))
                attach(ours, Declaration("articles", Spec("m", 8, from_columns(("mood",))), name="moods"))
            connection.execute(DEFINER)
            for _ in range(wanted.rounds):
                for name, document in DOCUMENTS.items():
                    began = cpu(connection.info.backend_pid)
                    connection.execute(f"SELECT sum(octet_length({document})) FROM articles")
                    taken[name].append(cpu(connection.info.backend_pid) - began)
    median = {name: statistics.median(times) / wanted.rows * 1e6 for name, times in taken.items()}
    each = {f"{name}_us": round(value, 2) for name, value in median.items()}
    harness.report(
        "rights of documents", version=wanted.version, rows=wanted.rows, **each,
        definer_ratio=round(median["definer"] / median["attach"], 2),
        definer_alone_ratio=round(median["definer_alone"] / median["attach"], 2),
        output_ratio=round(median["output"] / median["cast"], 2),
    )  # fmt: skip


if __name__ == "__main__":
    main()
