"""An attacker: a role with exactly the rights that a test names, and functions that note with whose rights they ran."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from harness import Harness, as_role

LOOT = """
CREATE SCHEMA {mine} AUTHORIZATION {role};
GRANT USAGE ON SCHEMA {mine} TO PUBLIC;
SET ROLE {role};
CREATE TABLE {mine}.loot (role name, what text);
GRANT INSERT ON {mine}.loot TO PUBLIC;
CREATE FUNCTION {mine}.note(text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$ BEGIN
    INSERT INTO {mine}.loot VALUES (current_user, $1); END $$;
RESET ROLE;
"""


@dataclass
class Attacker:
    """A session of the role. mine: a schema of its own, in which note(text) writes down who has called it."""

    role: str
    mine: str
    url: str
    connection: psycopg.Connection[Any]

    def execute(self, query: str) -> None:
        self.connection.execute(query)  # type: ignore[call-overload]

    @property
    def loot(self) -> set[tuple[str, str]]:
        """Whose rights code of the attacker had, and which code."""
        return set(self.connection.execute(f"TABLE {self.mine}.loot").fetchall())

    def others(self) -> set[tuple[str, str]]:
        """The same, without what the attacker ran."""
        return {(role, what) for role, what in self.loot if role != self.role}


@contextmanager
def attacker(harness: Harness, *rights: str) -> Iterator[Attacker]:
    """rights: statements that a superuser runs, with {role} and {database}. harness: of a superuser."""
    database = harness.value("SELECT current_database()")
    role, mine = f"attacker_{database}", f"mine_{database}"
    harness.execute(f"CREATE ROLE {role} LOGIN")
    try:
        harness.execute(LOOT.format(role=role, mine=mine))
        for right in rights:
            harness.execute(right.format(role=role, database=database))
        url = as_role(harness.url, role)
        with psycopg.connect(url, autocommit=True) as connection:
            yield Attacker(role, mine, url, connection)
    finally:
        harness.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
