"""Forty usual mistakes of a newcomer: what is typed, and in which situation. docs/mistakes.md has what each is answered."""

from dataclasses import dataclass, field

DATABASE = "PG_QWEN_EMBED_DATABASE_URL"
SERVER = "PG_QWEN_EMBED_SERVER_URL"
KEY = "PG_QWEN_EMBED_API_KEY"
NOWHERE = "http://127.0.0.1:1/v1"
ATTACH = "attach articles --text body"


@dataclass(frozen=True, slots=True)
class Mistake:
    """typed: without the program's name. variables: of the environment; {dbname}: the database, of which only that is wrong.

    says: a part of the answer, for the reader of the test. status: 0 where it is answered by a note."""

    title: str
    typed: str
    says: str
    variables: dict[str, str] = field(default_factory=dict)
    status: int = 1


MISTAKES = (
    Mistake("A mistyped command", "atach articles --text body", "Did you mean 'attach'?", status=2),
    Mistake("A command that does not exist", "vacuum articles", "No such command", status=2),
    Mistake("A mistyped option", "status --jsn", "Did you mean '--json'?", status=2),
    Mistake("A missing argument", "attach", "Missing argument 'TABLE'", status=2),
    Mistake("A word where a number is wanted", f"{ATTACH} --dimensions many", "not a valid integer", status=2),
    Mistake("A choice that does not exist", f"{ATTACH} --distance euclid", "is not one of", status=2),
    Mistake("A limit of nothing", "search filled text --limit 0", "0 is not in the range", status=2),
    # The database
    Mistake("No PostgreSQL there", "status", "does not answer", {DATABASE: "postgresql://u@127.0.0.1:1/app"}),
    Mistake("A database that does not exist", "status", "does not exist; check the name", {DATABASE: "{dbname}=no_such_one"}),
    Mistake("A role that does not exist", "status", "does not exist; check the name", {DATABASE: "{user}=nobody_here"}),
    Mistake("A JDBC URL", "status", "jdbc:", {DATABASE: "jdbc:postgresql://localhost/app"}),
    Mistake("A parameter of Prisma", "status", "pgbouncer", {DATABASE: "postgresql://localhost/app?pgbouncer=true"}),
    Mistake("A slash in a password", "status", "%2F", {DATABASE: "postgresql://u:a/b@localhost/app"}),
    Mistake("A database without init", "status", "pg-qwen-embed init", {DATABASE: "{dbname}=bare"}),
    Mistake("Attach before init", ATTACH, "pg-qwen-embed init", {DATABASE: "{dbname}=bare"}),
    Mistake("A worker before init", "worker --once", "pg-qwen-embed init", {DATABASE: "{dbname}=bare"}),
    # The embedding server
    Mistake("No embedding server there", ATTACH, "does not answer", {SERVER: NOWHERE}),
    Mistake("A server URL without http", ATTACH, "is not a URL", {SERVER: "localhost:30000"}),
    Mistake("A server without /v1", ATTACH, "/v1", {SERVER: "{root}"}),
    Mistake("A key with a line break", ATTACH, "line break", {KEY: "sk-123456\n"}),
    Mistake("A CA file that is not there", ATTACH, "ca.pem", {"PG_QWEN_EMBED_CA_FILE": "/nowhere/ca.pem", SERVER: "https://127.0.0.1:1/v1"}),
    Mistake("Another model than the server's", f"{ATTACH} --model Qwen/Qwen3-Embedding-8B", "leave --model out"),
    Mistake("More dimensions than the model has", f"{ATTACH} --dimensions 1024", "choose --dimensions 16 or less"),
    Mistake("An instruction for a model without one", f"{ATTACH} --instruction 'Find it'", "leave --instruction out"),
    # The table
    Mistake("A table that does not exist", "attach artikles --text body", "there is no such table"),
    Mistake("A column that does not exist", "attach articles --text bodi", 'has no column "bodi"'),
    Mistake("Nothing to embed", "attach articles", "either --text"),
    Mistake("A template without a column", "attach articles --template body", "names no column"),
    Mistake("A template left open", "attach articles --template '{body'", "cannot be read"),
    Mistake("A view instead of a table", "attach a_view --text body", "is a view"),
    Mistake("A table without a primary key", "attach keyless --text body", "has no primary key"),
    Mistake("A column called embedding", "attach with_embedding --text body", "--column"),
    Mistake("Attached twice", "attach filled --text body", "is taken"),
    Mistake("An overlap without chunks", f"{ATTACH} --chunk-overlap 10", "add --chunk-tokens"),
    Mistake("A role that cannot be granted to", f"{ATTACH} --grant-to nobody_here", "nothing was created"),
    # Afterwards
    Mistake("A name that is not attached", "status articels", 'there is no embedding "articels"'),
    Mistake("Searching what is not attached", "search articles text", 'there is no embedding "articles"'),
    Mistake("Searching for nothing", "search filled ' '", "the query is blank"),
    Mistake("Searching before a worker ran", "search waiting text", "is a worker running?", status=0),
    Mistake("A backfill without a worker", "backfill waiting", "start one: pg-qwen-embed worker"),
    Mistake("A worker without a server", "worker --once", "does not answer", {SERVER: NOWHERE}),
    Mistake("Detaching twice", "detach articles", 'there is no embedding "articles"'),
    Mistake("Altering nothing", "alter filled", "--sql"),
    Mistake("Retrying a row that did not fail", "failures retry filled --key 77", "77"),
)  # fmt: skip
