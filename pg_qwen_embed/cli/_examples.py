"""The examples in the help of commands: what a user types, and what for.

Each is run or parsed by the tests, in this order, so they tell one story about a table `articles`."""

from dataclasses import dataclass

import click

PROGRAM = "pg-qwen-embed"
FIRST_STEPS = f"""\b
First steps:
  export PG_QWEN_EMBED_DATABASE_URL=postgresql://localhost/shop
  {PROGRAM} init
  {PROGRAM} attach articles --text title --text body
  {PROGRAM} worker
`{PROGRAM} COMMAND --help` has the options, and examples."""


@dataclass(frozen=True, slots=True)
class Example:
    """typed: the line without the program's name; several lines end in a backslash."""

    purpose: str
    typed: str


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "init": (
        Example("Set up the database of the environment, or set it up again after an upgrade", "init"),
        Example("The same for another database", "init --database-url postgresql://owner@localhost/shop"),
        Example("Let a SELECT with a filter return as many rows as its LIMIT", "init --database-defaults"),
    ),
    "attach": (
        Example("Embed two columns; a blank line joins them", "attach articles --text title --text body"),
        Example("See the SQL, its locks and grants first", "attach articles --text body --name bodies --dry-run"),
        Example(
            "Choose the text, the model and the length of its vectors",
            "attach articles --name short --template '{title}: {body}' \\\n"
            "    --model Qwen/Qwen3-Embedding-0.6B --dimensions 512",
        ),
        Example(
            "Say what a query is for (Qwen3-Embedding)",
            "attach articles --text body --name answers \\\n"
            "    --instruction 'Given a question, find articles that answer it'",
        ),
        Example(
            "Divide long documents into chunks, and keep their words too",
            "attach articles --text body --name parts \\\n    --chunk-tokens 512 --chunk-overlap 64 --words english",
        ),
        Example("In a script that runs at each deployment", "attach articles --text title --text body --if-not-exists"),
    ),
    "worker": (
        Example("Follow every embedding until Ctrl-C", "worker"),
        Example("Fill what there is, then exit", "worker --once"),
        Example("As a service, with a log for programs", "worker --log-format json --verify-every 86400"),
        Example("With two servers that share the work", "worker --server-url http://a:30000/v1,http://b:30000/v1"),
    ),
    "backfill": (Example("Watch a backfill, or start another one", "backfill articles"),),
    "status": (
        Example("Every embedding", "status"),
        Example("One of them, for a program", "status articles --json"),
        Example(
            "A health check: exit status 1 if it is above a limit", "status articles --max-lag 60 --max-pending 10000"
        ),
    ),
    "search": (
        Example("The three nearest rows", "search articles 'how do I reset my password' --limit 3"),
        Example(
            "Only rows that meet a condition; two columns, aligned",
            "search articles 'cancel an order' \\\n    --where 'likes > 10' --columns title,likes",
        ),
        Example("By meaning and words (see attach --words)", "search parts 'error 0x80070057' --hybrid"),
        Example("For a program", "search articles 'cancel an order' --json"),
    ),
    "index": (
        Example("What there is, and how good it is", "index list"),
        Example("Measure it, and let searches look as widely as needed", "index check articles"),
        Example("Change its kind", "index rebuild articles --index hnsw-binary"),
    ),
    "index list": (Example("The index of one embedding, for a program", "index list articles --json"),),
    "index create": (
        Example("Build it now, also below 2,000 vectors", "index create articles"),
        Example("With other parameters", "index create short --index hnsw:m=24,ef_construction=128"),
    ),
    "index rebuild": (
        Example("Build it again, with other parameters", "index rebuild articles --index hnsw:m=32"),
        Example("Keep only the signs in it: the smallest index", "index rebuild articles --index hnsw-binary"),
    ),
    "index drop": (Example("Compare every vector from now on", "index drop articles"),),
    "index check": (
        Example("With queries made of stored vectors", "index check articles --recall 0.995"),
        Example("With the queries of your users, one on each line", "index check articles --queries queries.txt"),
        Example("Draw recall and time", "index check articles --plot recall.svg"),
    ),
    "evaluate": (
        Example("What it would cost, before anything is sent", "evaluate articles --queries questions.csv --dry-run"),
        Example(
            "Which instruction of the pool finds more of the right rows",
            "evaluate articles --queries questions.csv \\\n    --vary instruction=pool",
        ),
        Example(
            "Fewer dimensions, and words",
            "evaluate articles --queries questions.csv \\\n    --vary dimensions=256,512 --vary mode=hybrid --words english",
        ),
        Example("What was found before", "evaluate articles --history"),
    ),
    "doctor": (
        Example("Check everything", "doctor"),
        Example(
            "Ask why a query is slow",
            "doctor --query 'SELECT id FROM qwen_embed.articles\n    ORDER BY embedding <=> $1 LIMIT 10'",
        ),
    ),
    "sql": (
        Example("A SELECT to paste into psql", "sql query articles --where 'likes > 10'"),
        Example("The rights of a role that searches", "sql grants --embedding articles --role-reader web"),
        Example("What attach would run", "sql attach articles --text body --name bodies"),
        Example("The locks of every command", "sql locks"),
    ),
    "sql attach": (
        Example(
            "Without a connection",
            "sql attach articles --text title \\\n    --key 'id bigint' --columns 'title text' \\\n"
            "    --model Qwen/Qwen3-Embedding-0.6B --dimensions 1024",
        ),
    ),
    "sql grants": (
        Example("Three roles, created and granted what they need", "sql grants --create-roles --database shop"),
        Example(
            "For a table of the role app",
            "sql grants --role-owner embed_owner \\\n"
            "    --role-worker embed_worker --table-owner app --database shop articles",
        ),
        Example("The reader of an embedding", "sql grants --embedding articles --role-reader web"),
    ),
    "sql query": (
        Example("For psycopg, with a filter", "sql query articles --where 'likes > 10' --for psycopg"),
    ),
    "generation": (
        Example("Fewer dimensions of the same model, without downtime", "generation start articles --dimensions 256"),
        Example("How far it is", "generation status articles"),
        Example("Let queries see it", "generation complete articles"),
        Example("Go back to the one before", "generation rollback articles"),
        Example("Remove the one that is not live", "generation drop articles --yes"),
    ),
    "serve": (
        Example("On another port", "serve --port 30001"),
        Example("A model of yours, for all who have the key", "serve --model ./model --host 0.0.0.0 --api-key-file key"),
    ),
}  # fmt: skip


def add(path: str, command: click.Command) -> None:
    """Give a command its examples, and each command of a group its own. path: `attach`, `index check`."""
    if path in EXAMPLES:
        command.epilog = _epilog(EXAMPLES[path])
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        add(f"{path} {name}", inner)


def _epilog(examples: tuple[Example, ...]) -> str:
    """\\b keeps click from filling the lines of a paragraph."""
    shown = "\n".join(
        f"  {one.purpose}:\n    {PROGRAM} {one.typed.replace(chr(10), chr(10) + '    ')}" for one in examples
    )
    return f"\b\nExamples:\n{shown}"
