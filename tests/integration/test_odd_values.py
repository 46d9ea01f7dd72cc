"""Texts and values that Python or PostgreSQL cannot hold: in queries, on the command line, and in the rows found."""

import json
import subprocess
import sys
from decimal import Decimal

import pytest
from harness import Harness, both_versions, sentence

from pg_qwen_embed import Client, UsageError
from pg_qwen_embed.settings import VARIABLES

# Columns whose value Python has no object for, and the text of each.
TEXTS = {
    "timestamptz DEFAULT 'infinity'": "infinity",
    "timestamp DEFAULT '-infinity'": "-infinity",
    "date DEFAULT '0044-03-15 BC'": "0044-03-15 BC",
    "date DEFAULT '12000-01-01'": "12000-01-01",
    "time DEFAULT '24:00'": "24:00:00",
    "timetz DEFAULT '24:00+00'": "24:00:00+00",
    "date[] DEFAULT '{infinity,2020-01-01}'": "{infinity,2020-01-01}",
    "daterange DEFAULT '[2020-01-01,infinity]'": "[2020-01-01,infinity]",
    "jsonb DEFAULT (('[' || repeat('9', 5000) || ']')::jsonb)": f"[{'9' * 5000}]",
}
# Columns whose value Python holds, and JSON's libraries do not.
OBJECTS = {
    """jsonb DEFAULT '{"big": 123456789012345678901234567890}'""": {"big": 123456789012345678901234567890},
    """json DEFAULT '{"huge": 1e400}'""": {"huge": Decimal("1E+400")},
    r"""json DEFAULT '{"half": "\ud83d", "nul": "\u0000"}'""": {"half": "\ud83d", "nul": "\0"},
    "xid8 DEFAULT '18446744073709551615'": "18446744073709551615",
    "numeric DEFAULT 1e300": Decimal("1e300"),
}
COLUMNS = ", ".join(f"c{n} {column}" for n, column in enumerate([*TEXTS, *OBJECTS]))


@pytest.fixture
def odd(harness: Harness) -> Harness:
    harness.execute(f"CREATE TABLE articles (id int PRIMARY KEY, body text, {COLUMNS}, big jsonb)")
    harness.execute("INSERT INTO articles (id, body) VALUES (1, 'one')")
    harness.execute("""INSERT INTO articles (id, body, big) VALUES (2, 'two', '{"plain": [1, 0.5]}')""")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    return harness


@both_versions
def test_a_value_that_python_cannot_hold_comes_as_text_and_the_others_as_they_are(odd: Harness) -> None:
    with Client(odd.url, server_url=odd.server.url) as client:
        hits = client.search("articles", "one")
    assert [hit.row["id"] for hit in hits] == [1, 2]
    for hit in hits:
        assert [hit.row[f"c{n}"] for n in range(len(TEXTS))] == list(TEXTS.values())
        assert [hit.row[f"c{n}"] for n in range(len(TEXTS), len(TEXTS) + len(OBJECTS))] == list(OBJECTS.values())
    assert hits[1].row["big"] == {"plain": [1, 0.5]}


def test_every_value_is_printed_as_text_and_as_json(odd: Harness) -> None:
    first, second = json.loads(odd.ok("search", "articles", "one", "--json"))
    assert first["row"]["body"] == "one"
    assert second["row"]["big"] == {"plain": [1, 0.5]}
    for n, text in enumerate(TEXTS.values()):
        assert first["row"][f"c{n}"] == text
    big, huge, half, *_ = (first["row"][f"c{n}"] for n in range(len(TEXTS), len(TEXTS) + len(OBJECTS)))
    assert (big, huge) == (OBJECTS[next(iter(OBJECTS))], {"huge": "1E+400"})
    assert half == {"half": "\ud83d", "nul": "\0"}
    lines = odd.ok("search", "articles", "one").splitlines()
    assert len(lines) == 2
    assert "c0=infinity" in lines[0]


def test_characters_that_the_terminal_lacks_are_escapes_and_json_stays_json(harness: Harness) -> None:
    harness.articles("日本 😀")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    variables = {name: value for name, value in harness.variables.items() if value is not None}
    for options in ((), ("--json",)):
        command = [sys.executable, "-m", "pg_qwen_embed", "search", "articles", "x", *options]
        done = subprocess.run(
            command,
            env=variables | {"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            encoding="latin-1",
            check=True,
        )
        assert done.stderr == ""
        assert (json.loads(done.stdout)[0]["row"]["body"] == "日本 😀") if options else ("\\u65e5" in done.stdout)


@pytest.mark.parametrize("text", ["math \ud835 bold", "half \udc4d", "nul \0 inside", "caf\udce9"])
def test_a_query_is_embedded_with_the_replacement_character_like_a_document(harness: Harness, text: str) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    with Client(harness.url, server_url=harness.server.url) as client:
        assert client.search("articles", text)
    (sent,) = harness.server.texts[-1:]
    assert sent == "".join("\ufffd" if one == "\0" or 0xD800 <= ord(one) < 0xE000 else one for one in text)


@pytest.mark.parametrize("name", ["articles\0", "articles\udce9"])
def test_a_name_that_postgresql_cannot_hold_is_a_usage_error(harness: Harness, name: str) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with (
        Client(harness.url, server_url=harness.server.url) as client,
        pytest.raises(UsageError, match="there is no embedding 'articles"),
    ):
        client.search(name, "x")


@pytest.mark.parametrize("variable", [names[0] for names, _ in VARIABLES.values()])
def test_a_setting_that_is_no_text_is_one_sentence(bare: Harness, variable: str) -> None:
    said = bare.refused("attach", "t", "--text", "body", env={variable: "caf\udce9"})
    assert said == f"the setting {variable} is not valid UTF-8; write it in UTF-8"


@pytest.mark.parametrize(
    "arguments", [("search", "articles", "caf\udce9"), ("status", "caf\udce9"), ("attach", "t", "--text", "caf\udce9")]
)
def test_an_argument_that_is_no_text_is_one_sentence(bare: Harness, arguments: tuple[str, ...]) -> None:
    said = sentence(bare.cli(*arguments))
    assert said == r"the argument 'caf\udce9' is not valid UTF-8; write it in UTF-8"
