"""The documentation against the commands: it may not drift."""

import importlib
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pg_qwen_embed.cli import COMMANDS, main
from pg_qwen_embed.settings import VARIABLES
from tools import generate_docs

README = (generate_docs.ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_docs(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    first_sentence = result.output.splitlines()[2].strip()
    assert len(first_sentence) > 20
    commands = (generate_docs.ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert f"## {name}\n" in commands
    assert first_sentence in commands


def test_generated_pages_are_up_to_date() -> None:
    # In a process of its own: click remembers a command's options from wherever it was first called.
    command = [sys.executable, "-m", "tools.generate_docs", "--check"]
    checked = subprocess.run(command, cwd=generate_docs.ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_environment_variable_is_in_the_readme() -> None:
    for variables, _ in VARIABLES.values():
        for variable in variables:
            assert f"`{variable}`" in README


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_links_lead_to_files_that_are_there(page: str) -> None:
    text = (generate_docs.ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert targets
    missing = [target for target in targets if not (generate_docs.ROOT / target).exists()]
    assert missing == []


def test_tests_named_in_the_documentation_exist() -> None:
    guarantees = (generate_docs.ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", README + guarantees))
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (generate_docs.ROOT / "tests").rglob("test_*.py"))
    assert named, "the README's table of events names the test of each"
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []


def test_the_tables_of_the_benchmarks_are_those_of_the_records() -> None:
    command = [sys.executable, "benchmarks/page.py", "--check"]
    checked = subprocess.run(command, cwd=generate_docs.ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_plots_of_the_benchmarks_are_those_on_the_page() -> None:
    docs = generate_docs.ROOT / "docs"
    named = re.findall(r"\]\(plots/([^)]+)\)", (docs / "benchmarks.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(file.name for file in (docs / "plots").glob("*"))


def test_no_figure_of_a_benchmark_is_left_out_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(generate_docs.ROOT / "benchmarks")
    page, record = (importlib.import_module(name) for name in ("page", "record"))
    figures = [
        record.Figure("p50 ms", {"load": "idle"}, [101, 103, 102], record.Goal("<=", 100)),
        record.Figure("p50 ms", {"load": "a new one"}, [104]),
        record.Figure("a new quantity", {"load": "idle"}, [105]),
    ]
    machine = {"processor": "a processor", "cores": 2, "memory_gb": 4}
    found = record.Record("freshness", "python freshness.py", {"rows": 1000}, machine, {"Python": "3"}, figures)
    block = page.block(found, page.PARTS["freshness"])
    assert "| idle | 102 (101 to 103); <= 100: not met |" in block
    assert "| a new one | 104 |" in block
    assert "| a new quantity | load idle | 105 |" in block
    assert "a processor, 2 cores, 4 GB; Python 3; rows 1,000." in block
