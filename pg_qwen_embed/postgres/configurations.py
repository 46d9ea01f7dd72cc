"""Text search configurations: the one that `attach --words` names, as the registry keeps it: with its schema."""

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.spec import CJK
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.sql import statement

BUILT_IN = "pg_catalog"


def configuration(connection: Connection, given: str) -> str:
    """The configuration as `schema.name`, or `cjk`. Raises UsageError where there is none, with those that there are."""
    if given == CJK:
        return _for_cjk(connection)
    found = connection.execute(statement("text_search_configurations")).fetchall()
    by_name: dict[str, str] = {}
    for schema, name, written in found:  # PostgreSQL's own come first
        for form in (written, f"{schema}.{name}", name):
            by_name.setdefault(form, written)
    chosen = by_name.get(given) or by_name.get(given.lower())
    if chosen is None:
        known = ", ".join(name if schema == BUILT_IN else written for schema, name, written in found)
        raise UsageError(f'there is no text search configuration "{given}"; there are: {known}; '
                         "or cjk, for Chinese, Japanese, Korean and Thai")  # fmt: skip
    return chosen


def unconfirmed(given: str) -> str:
    """The same without a connection. Raises UsageError for a name without a schema that is not PostgreSQL's."""
    if given == CJK or "." in given:
        return given
    if given.lower() not in _OF_POSTGRESQL:
        raise UsageError(f"--words {given}: without a connection, write it with its schema: public.{given}")
    return f"{BUILT_IN}.{given.lower()}"


def _for_cjk(connection: Connection) -> str:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UsageError(f"--words cjk needs a database in UTF8; {connection.info.dbname} is in {encoding}")
    return CJK


_OF_POSTGRESQL = frozenset((
    "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "estonian", "finnish", "french", "german", "greek",
    "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "portuguese", "romanian",
    "russian", "serbian", "simple", "spanish", "swedish", "tamil", "turkish", "yiddish",
))  # fmt: skip
