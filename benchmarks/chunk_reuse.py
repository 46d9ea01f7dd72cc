"""The share of chunks that keep their vector when a page is edited: every edit of a Markdown page in this repository's log.

    python benchmarks/chunk_reuse.py [--chunk-tokens 64 128 256 512]

Each edit is a row that has the page before, and is updated to the page after. The server counts no tokens, so three bytes
are a token. Only pages of several chunks count. Prints one line of JSON: for each size of chunk the number of chunks after
the edits, how many of them were embedded, and the share that kept its vector."""

import argparse
import subprocess
import time
from collections.abc import Iterator

import harness
import psycopg

from pg_qwen_embed.postgres import embedded

Edit = tuple[str, str]  # a page before and after


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, check=True, text=True).stdout


def edits() -> Iterator[Edit]:
    for commit in git("log", "--format=%H", "--no-merges", "--", "*.md").split():
        changed = git("diff-tree", "--no-commit-id", "-r", "--name-only", "--diff-filter=M", commit, "--", "*.md")
        for page in changed.splitlines():
            yield git("show", f"{commit}~:{page}"), git("show", f"{commit}:{page}")


def measure(url: str, server_url: str, found: list[Edit], tokens: int) -> dict[str, float]:
    environment = harness.environment(url, server_url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE pages (id bigint PRIMARY KEY, body text, after text)")
        for n, (before, after) in enumerate(found):
            connection.execute("INSERT INTO pages VALUES (%s, %s, %s)", [n, before, after])
        attach = ["attach", "pages", "--text", "body", "--chunk-tokens", str(tokens)]
        assert harness.run(attach, environment).status == 0
        with harness.started(["worker"], environment, "following"):
            settled(connection)
            harness.ask(server_url, "counters", {})
            for n in range(len(found)):  # one by one: rows in flight together would share their chunks
                connection.execute("UPDATE pages SET body = after WHERE id = %s", [n])
                settled(connection)
            texts = harness.ask(server_url, "counters")["texts"]
        (chunks, single) = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE chunks = 1) FROM _qwen_embed.store_" + str(generation(connection))
        ).fetchone() or (0, 0)
        assert connection.execute("SELECT bool_or(stale) FROM qwen_embed.pages").fetchone() == (False,)
    assert harness.run(["detach", "pages", "--yes"], environment).status == 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE pages")
    several, embedded_again = chunks - single, texts - single
    return {"chunks": several, "embedded": embedded_again, "reused": round(1 - embedded_again / several, 3)}


def generation(connection: psycopg.Connection) -> int:
    (found,) = connection.execute("SELECT max(id) FROM _qwen_embed.generation").fetchone() or (0,)
    return int(found)


def settled(connection: psycopg.Connection) -> None:
    outbox = f"SELECT EXISTS (SELECT FROM _qwen_embed.outbox_{generation(connection)})"
    while connection.execute(harness.BACKFILL_STATE).fetchone() != ("done",) or connection.execute(
        outbox
    ).fetchone() != (False,):
        time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk-tokens", type=int, nargs="+", default=[64, 128, 256, 512])
    wanted = parser.parse_args()
    found = list(edits())
    with embedded.postgres() as url, harness.gpu(64, 0, 0) as server_url:
        assert harness.run(["init"], harness.environment(url, server_url)).status == 0
        figures = {f"tokens_{tokens}": measure(url, server_url, found, tokens) for tokens in wanted.chunk_tokens}
    harness.report("chunk reuse", edits=len(found), **figures)


if __name__ == "__main__":
    main()
