"""Uninstalling, as docs/operations.md describes it."""

import re
from pathlib import Path

import pytest
from harness import Harness

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


@pytest.mark.superuser
@pytest.mark.parametrize("layout", [[], ["--store", "column"], ["--chunk-tokens", "32"]])
def test_what_the_page_says_of_uninstalling_leaves_the_database_as_it_was(bare: Harness, layout: list[str]) -> None:
    bare.articles("one", "two")
    before = bare.dump()
    bare.ok("init")
    bare.ok("attach", "articles", "--text", "body", *layout)
    bare.once()
    bare.ok("detach", "articles", "--yes")
    (commands,) = re.findall(r"```sql\n(DROP SCHEMA .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    bare.execute(commands)
    assert bare.dump() == before
    assert bare.rows("SELECT * FROM articles ORDER BY id") == [(1, "one", 0), (2, "two", 0)]
