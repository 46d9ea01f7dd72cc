"""docker/: the commands of the images are run here, without an engine."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner
from harness import Harness, as_role, eventually

from pg_qwen_embed.cli import COMMANDS, main
from pg_qwen_embed.inference import launch

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_every_command_of_ours_in_the_files_is_one() -> None:
    ours = [service["command"] for service in SERVICES.values() if service.get("image") == "pg-qwen-embed"]
    ours.append(re.findall(r'"(.*?)"', re.findall(r"HEALTHCHECK .* CMD \[(.*)\]", DOCKERFILE)[0])[1:])
    assert len(ours) == 4
    for command in ours:
        assert command[0] in COMMANDS
        result = CliRunner().invoke(main, [*command, "--help"])
        assert result.exit_code == 0, result.output


def test_files_and_volumes_that_are_named_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / "docker" / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
        for other in service.get("depends_on", ()):
            assert other in SERVICES
    assert (ROOT / SERVICES["worker"]["build"]["context"].replace("..", ".") / "pyproject.toml").exists()


def test_sglang_is_started_as_our_own_command_says() -> None:
    started = " ".join(SERVICES["sglang"]["command"][3:]).replace("${MODEL:-Qwen/Qwen3-Embedding-0.6B}", "MODEL")
    for flag in launch.flags("MODEL", None, "0.0.0.0", 30000):  # noqa: S104
        assert flag.name in started
    assert '{"is_matryoshka": true}' in started


ROLES = ("qwen_embed_worker", "qwen_embed_owner", "qwen_embed_reader", "app")


@pytest.fixture
def by_roles(bare: Harness) -> Iterator[Harness]:
    """A database as roles.sql leaves it. SQL runs as the application, commands as the owner."""
    tools = Path(bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    script = [tools / "psql", bare.url, "-v", "ON_ERROR_STOP=1", "-q", "-f", ROOT / "docker" / "roles.sql"]
    try:
        subprocess.run(script, env=os.environ | {"ROLES_PASSWORD": "it's"}, check=True)
        ours = {"PG_QWEN_EMBED_DATABASE_URL": as_role(bare.url, role_of("init"))}
        worker_url = as_role(bare.url, role_of("worker"))
        with ExitStack() as stack:
            yield Harness(as_role(bare.url, "app"), bare.server, bare.folder, stack, ours, worker_url)
    finally:
        for (role,) in bare.rows("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", list(ROLES)):
            bare.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def role_of(service: str) -> str:
    return urlsplit(SERVICES[service]["environment"]["PG_QWEN_EMBED_DATABASE_URL"]).username or ""


@pytest.mark.long
def test_what_the_images_run_follows_a_table(by_roles: Harness) -> None:
    """init, serve and worker with the arguments and roles of the compose file, then attach, as its first lines say."""
    bare = by_roles
    serve = SERVICES["serve"]["command"]
    arguments = ["127.0.0.1" if a == "0.0.0.0" else "0" if a == "30000" else a for a in serve]  # noqa: S104
    serving = bare.process(*arguments)
    url = eventually(lambda: re.search(r"on (http://\S+/v1)", serving.said))[1]
    bare.environment["PG_QWEN_EMBED_SERVER_URL"] = url
    init = bare.process(*SERVICES["init"]["command"])
    assert init.popen.wait(30) == 0, init.said
    worker = bare.process(*SERVICES["worker"]["command"])
    bare.articles("a cat on the sofa", "rates of a central bank")
    bare.ok("attach", "articles", "--text", "body")
    eventually(bare.settled)
    assert "a cat" in bare.ok("search", "articles", "a kitten", "--limit", "1")
    assert bare.process("status", "--json").popen.wait(30) == 0
    assert worker.end() == 0


def test_sglang_command_gives_a_reason_for_each_flag() -> None:
    said = (
        CliRunner().invoke(main, ["sglang-command", "--model", "Qwen/Qwen3-Embedding-4B", "--gpu-memory", "24"]).output
    )
    comments = [line for line in said.splitlines() if line.startswith("#")]
    line = said[said.index("python -m") :]
    assert [c.split()[1].rstrip(":") for c in comments] == re.findall(r"--[\w-]+", line)
    assert "--mem-fraction-static 0.9" in line
    assert "--context-length" not in line
    assert line.replace("\\\n    ", "") in (ROOT / "docs" / "sglang.md").read_text().replace("\\\n    ", "")


@pytest.mark.parametrize(
    ("model", "memory", "expected"),
    [("Qwen/Qwen3-Embedding-8B", "17", "--context-length"), ("Qwen/Qwen3-Embedding-0.6B", "8", "0.75")],
)
def test_sglang_command_fits_the_card(model: str, memory: str, expected: str) -> None:
    said = CliRunner().invoke(main, ["sglang-command", "--model", model, "--gpu-memory", memory]).output
    assert expected in said


def test_sglang_command_rejects_a_card_that_is_too_small_and_a_model_it_does_not_know(bare: Harness) -> None:
    assert "needs about" in bare.refused("sglang-command", "--model", "Qwen/Qwen3-Embedding-8B", "--gpu-memory", "12")
    assert "leave --gpu-memory out" in bare.refused("sglang-command", "--model", "mine", "--gpu-memory", "24")
    assert "--model-path mine" in bare.ok("sglang-command", "--model", "mine")
