"""The next step of a message is a command that a shell takes as it stands, whatever the embedding is called."""

import shlex

import pytest

from pg_qwen_embed.domain.next_step import command, with_name
from pg_qwen_embed.domain.source import Remedy

NAMES = ["art", "Two words", "it's", 'a "quoted" one', "50%", "-x", "--repair", "a;b", "$HOME", "名前", "{}"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["status {}", "verify {} --repair", "alter {} --table public.t", "search {} TEXT"])
def test_words_of_a_command_are_those_that_are_meant(text: str, name: str) -> None:
    program, *words = shlex.split(command(text, name))
    assert program == "pg-qwen-embed"
    assert sorted(word for word in words if word != "--" or name == "--") == sorted(
        [*text.replace("{}", "").split(), name]
    )
    if name.startswith("-"):
        assert not [word for word in words[words.index("--") :] if word.startswith("--") and word not in ("--", name)]


def test_a_plain_name_is_written_as_a_person_would() -> None:
    assert command("verify {} --repair", "art") == "pg-qwen-embed verify art --repair"
    assert command("verify {} --repair", "-x") == "pg-qwen-embed verify --repair -- -x"
    assert command("search {} TEXT", "-x") == "pg-qwen-embed search -- -x TEXT"


@pytest.mark.parametrize("remedy", list(Remedy))
@pytest.mark.parametrize("name", ["art", "Two words", "-x"])
def test_every_command_of_a_remedy_has_the_name(remedy: Remedy, name: str) -> None:
    advice = remedy.advice(name)
    assert "{}" not in advice
    assert advice.count(shlex.quote(name)) == remedy.count("{}")
    assert advice == with_name(f"run: {remedy.value}", name)
