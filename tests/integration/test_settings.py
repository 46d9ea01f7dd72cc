"""Settings: options before the environment before defaults; what is secret is never shown."""

import dataclasses

import click
import pytest
from click.testing import CliRunner
from harness import Harness, eventually

from pg_qwen_embed.cli import main
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.settings import DEFAULT_SERVER_URL, VARIABLES, Settings, resolve

FULL = {
    "PG_QWEN_EMBED_DATABASE_URL": "postgresql://ours/db",
    "DATABASE_URL": "postgresql://theirs/db",
    "PG_QWEN_EMBED_SERVER_URL": "http://server:1/v1",
    "PG_QWEN_EMBED_API_KEY": "key",
    "PG_QWEN_EMBED_MODEL": "model",
    "PG_QWEN_EMBED_CA_FILE": "/ca.pem",
}


def test_defaults_stand_where_nothing_is_said() -> None:
    assert resolve({}) == Settings("", DEFAULT_SERVER_URL, None, None)


def test_the_environment_overrides_defaults_and_options_override_the_environment() -> None:
    assert resolve(FULL) == Settings("postgresql://ours/db", "http://server:1/v1", "key", "model", "/ca.pem")
    options = {
        "database_url": "postgresql://x/y",
        "server_url": "https://z/v1",
        "api_key": "k",
        "model": "m",
        "ca_file": "f",
        "reranker_url": "http://r/v1",
        "reranker_api_key": "rk",
    }
    assert dataclasses.asdict(resolve(FULL, **options)) == options | {"further_server_urls": ()}


def test_our_own_variable_counts_before_the_common_one_and_an_empty_one_does_not_count() -> None:
    assert resolve(FULL | {"PG_QWEN_EMBED_DATABASE_URL": ""}).database_url == "postgresql://theirs/db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_database_urls_of_sqlalchemy_are_understood(scheme: str) -> None:
    assert resolve({"DATABASE_URL": f"{scheme}://u:p@h/d?x=a+b://"}).database_url in (
        "postgresql://u:p@h/d?x=a+b://", "postgres://u:p@h/d?x=a+b://"
    )  # fmt: skip


def test_connection_strings_are_left_as_they_are() -> None:
    assert resolve({}, database_url="host=h dbname=d").database_url == "host=h dbname=d"


@pytest.mark.parametrize(("url", "root"), [("http://h:1/v1/", "http://h:1"), ("https://h/a/v1", "https://h/a")])
def test_the_root_of_the_server_is_its_url_without_v1(url: str, root: str) -> None:
    assert resolve({}, server_url=url).server_root == root


@pytest.mark.parametrize(
    "written", ["http://a/v1,http://b/v1", " http://a/v1, http://b/v1/ ", "http://a/v1 http://b/v1"]
)
def test_several_servers_are_separated_by_commas_or_blanks(written: str) -> None:
    assert [one.server_url for one in resolve({}, server_url=written).servers] == ["http://a/v1", "http://b/v1"]


def test_a_server_that_is_named_twice_is_one() -> None:
    (one,) = resolve({}, server_url="http://a/v1, http://a/v1/").servers
    assert one.server_url == "http://a/v1"


def test_a_comma_in_a_password_divides_no_url() -> None:
    (one,) = resolve({}, server_url="http://user:sec,ret@host/v1").servers
    assert one.server_url == "http://user:sec,ret@host/v1"


@pytest.mark.parametrize("url", ["h:1/v1", "ftp://h/v1", "http://", "http://h:none/v1", "http://[::1/v1"])
def test_a_server_url_that_is_none_is_rejected(url: str) -> None:
    with pytest.raises(UsageError, match="is not a URL; write it like"):
        resolve({}, server_url=url)


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(
        resolve({}, database_url="postgresql://u:s3cret@h/d", api_key="s3cret", server_url="http://u:s3cret@h/v1")
    )
    assert "s3cret" not in shown


def test_secrets_are_in_no_error_and_no_log(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    port = harness.server.url.split(":")[2].split("/")[0]
    said = [
        harness.refused("status", env={"PG_QWEN_EMBED_DATABASE_URL": "postgresql://u:s3cret@127.0.0.1:1/d"}),
        harness.refused(
            "attach", "articles", "--text", "body", env={"PG_QWEN_EMBED_SERVER_URL": "http://u:s3cret@127.0.0.1:1/v1"}
        ),
        harness.refused(
            "attach",
            "articles",
            "--text",
            "body",
            env={"PG_QWEN_EMBED_SERVER_URL": f"http://u:s3cret@127.0.0.1:{port}/x"},
        ),
        harness.refused("search", "articles", "x", env={"PG_QWEN_EMBED_SERVER_URL": "ftp://u:s3cret@h/v1"}),
    ]
    harness.server.api_key = "another"
    said.append(harness.refused("search", "articles", "x", env={"PG_QWEN_EMBED_API_KEY": "s3cret"}))
    harness.environment |= {"PG_QWEN_EMBED_API_KEY": "s3cret"}
    worker = harness.worker("--log-level", "debug")
    eventually(lambda: "Unauthorized" in worker.said)
    harness.server.api_key = "s3cret"
    eventually(harness.settled)
    assert worker.end() == 0
    said.append(worker.said)
    assert [text for text in said if "s3cret" in text] == []


def test_an_option_overrides_the_environment_on_the_command_line(harness: Harness) -> None:
    nowhere: dict[str, str | None] = {"PG_QWEN_EMBED_DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}
    harness.ok("status", "--database-url", harness.url, env=nowhere)
    harness.refused("status", env=nowhere)


def test_every_command_that_takes_a_setting_names_its_variables_in_its_help() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        said = " ".join(CliRunner().invoke(main, [name, "--help"]).output.split())
        for setting, option in (
            ("database_url", "--database-url"),
            ("server_url", "--server-url"),
            ("ca_file", "--ca-file"),
        ):
            if option in said:
                assert all(variable in said for variable in VARIABLES[setting][0]), name


def test_database_url_with_two_at_signs_is_rejected_without_showing_it() -> None:
    with pytest.raises(UsageError, match="%40") as refused:
        resolve({"DATABASE_URL": "postgresql://u:pa@s3cret@host/db"})
    assert "s3cret" not in str(refused.value)


def test_what_follows_a_servers_path_is_not_shown() -> None:
    assert Settings(server_url="http://u:s3cret@h/v1?key=s3cret#x").shown_server_url == "http://h/v1"
