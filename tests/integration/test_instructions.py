"""The pool of instructions: names for what is put in front of queries, shipped and added."""

import json
import re
from pathlib import Path

import pytest
from harness import READER, WORKER, Harness, as_role, both_versions

from pg_qwen_embed import Client
from pg_qwen_embed.domain.instructions import SHIPPED
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION
from pg_qwen_embed.integrations import declaring

TASKS = ["retrieval", "questions", "duplicates", "classification", "clustering", "code", "support-tickets", "news"]


def attach(harness: Harness, *options: str) -> str:
    return harness.ok("attach", "articles", "--text", "body", "--prompt-style", "qwen3", *options)


def instruction(harness: Harness) -> str:
    return harness.embedding().instruction


def test_each_task_has_an_instruction_that_is_shipped(harness: Harness) -> None:
    listed = json.loads(harness.ok("instructions", "list", "--json"))
    assert [one["name"] for one in listed] == TASKS
    assert listed[0] == {"name": "retrieval", "instruction": DEFAULT_INSTRUCTION, "shipped": True}
    assert len({one["instruction"] for one in listed}) == len(TASKS)
    for one in listed:
        assert f"@{one['name']} " in harness.ok("instructions", "list")


@both_versions
def test_a_name_stands_for_its_text_wherever_an_instruction_is_given(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("instructions", "add", "support-de", "Given a German question, retrieve help pages")
    assert "@support-de" in harness.ok("instructions", "list")
    attach(harness, "--instruction", "@support-de")
    assert instruction(harness) == "Given a German question, retrieve help pages"
    assert "is attached already, as declared" in attach(harness, "--instruction", "@support-de", "--if-not-exists")
    harness.ok("alter", "articles", "--instruction", "@news")
    assert instruction(harness) == SHIPPED["news"]
    harness.ok("alter", "articles", "--instruction", "Find what fits")
    assert instruction(harness) == "Find what fits"
    with harness.connect(autocommit=False) as connection:
        declaring.change_instruction(connection, "articles", "@code")
        connection.commit()
    assert instruction(harness) == SHIPPED["code"]
    with Client(harness.url, server_url=harness.server.url) as client:
        client.embed_query("articles", "how")
    assert harness.server.texts[-1] == f"Instruct: {SHIPPED['code']}\nQuery:how"
    harness.ok("detach", "articles", "--yes")
    with harness.connect(autocommit=False) as connection:
        declared = {"text": "body", "model": "stand-in", "dimensions": 16, "prompt_style": "qwen3"}
        declaring.attach(connection, "articles", **declared, instruction="@support-de")
        connection.commit()
    assert instruction(harness) == "Given a German question, retrieve help pages"


def test_an_embedding_keeps_its_instruction_when_the_name_is_removed(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("instructions", "add", "mine", "Find mine")
    attach(harness, "--instruction", "@mine")
    harness.ok("instructions", "remove", "@mine")
    assert instruction(harness) == "Find mine"
    assert "there is no instruction @mine" in harness.refused("instructions", "remove", "mine")


@pytest.mark.parametrize("command", [
    ("attach", "articles", "--text", "body", "--prompt-style", "qwen3", "--instruction", "@retreival"),
    ("alter", "there", "--instruction", "@retreival"),
    ("sql", "attach", "articles", "--key", "id bigint", "--columns", "body text", "--text", "body", "--model", "m",
     "--dimensions", "8", "--prompt-style", "qwen3", "--instruction", "@retreival"),
])  # fmt: skip
def test_an_unknown_name_is_one_sentence_with_near_ones(harness: Harness, command: tuple[str, ...]) -> None:
    harness.articles("one")
    attach(harness, "--name", "there")
    assert harness.refused(*command) == (
        "there is no instruction @retreival; did you mean @retrieval? All are shown by: pg-qwen-embed instructions list"
    )
    assert instruction_of(harness, "there") == DEFAULT_INSTRUCTION


def instruction_of(harness: Harness, name: str) -> str:
    return harness.embedding(name).instruction


def test_a_part_of_a_name_and_a_name_that_is_near_to_none_are_answered_too(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("instructions", "add", "mine-2", "Find mine")
    refused = ("attach", "articles", "--text", "body", "--prompt-style", "qwen3", "--instruction")
    assert "did you mean @support-tickets?" in harness.refused(*refused, "@tickets")
    assert "did you mean @mine-2?" in harness.refused(*refused, "@mine")
    assert harness.refused(*refused, "@zzz").endswith("@questions, @retrieval, @support-tickets")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("add", "news", "x"), "@news is shipped with pg_qwen_embed and stays as it is; choose another name"),
        (("add", "Näh", "x"), "cannot be called 'Näh'"),
        (("add", "@mine", "x"), "cannot be called '@mine'"),
        (("add", "", "x"), "cannot be called ''"),
        (("add", "a" * 64, "x"), "cannot be called"),
        (("add", "mine", "  "), "the instruction @mine is blank"),
        (("add", "mine", "@news"), "the instruction @mine is the name '@news'"),
        (("add", "there", "y"), "there is an instruction @there already; remove it first"),
        (("remove", "news"), "@news is shipped with pg_qwen_embed and stays as it is; nothing was removed"),
        (("remove", "ther"), "there is no instruction @ther; did you mean @there?"),
    ],
)
def test_what_cannot_be_added_or_removed_is_one_sentence(
    harness: Harness, arguments: tuple[str, ...], reason: str
) -> None:
    harness.ok("instructions", "add", "there", "x")
    assert reason in harness.refused("instructions", *arguments)


def test_a_text_with_an_at_sign_is_a_text(harness: Harness) -> None:
    harness.articles("one")
    attach(harness, "--instruction", "@ work: find it")
    assert instruction(harness) == "@ work: find it"
    assert "is blank" in harness.refused("alter", "articles", "--instruction", " ")


def test_the_worker_uses_the_pool_and_a_reader_is_told_whose_it_is(of_roles: Harness) -> None:
    worker, reader = ({"PG_QWEN_EMBED_DATABASE_URL": as_role(of_roles.url, role)} for role in (WORKER, READER))
    of_roles.ok("instructions", "add", "mine", "Find mine", env=dict(worker))
    assert "@mine" in of_roles.ok("instructions", "list")
    refused = of_roles.refused("instructions", "list", env=dict(reader))
    assert "the pool of instructions belongs to the role that ran init" in refused


def test_the_pool_of_this_page_is_the_one_that_is_shipped() -> None:
    page = (Path(__file__).parents[2] / "docs" / "querying.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `@([a-z-]+)` \| (.+) \|$", page, re.MULTILINE)) == SHIPPED
