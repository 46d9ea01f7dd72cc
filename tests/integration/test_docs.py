"""The documentation agrees with the commands, the code and the glossary."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import glossary
import pytest
from click.testing import CliRunner

from pg_qwen_embed.cli import COMMANDS, main
from pg_qwen_embed.postgres import sql
from pg_qwen_embed.settings import VARIABLES
from tools import generate_docs

ROOT = generate_docs.ROOT
DOCS, PACKAGE = ROOT / "docs", ROOT / "pg_qwen_embed"
PAGES = [ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    DOCS.rglob("*.md")
)
# Prose in the words of docs/words.md. The two pages left out are mostly generated.
PROSE = [page for page in PAGES if page.name not in ("README.zh.md", "benchmarks.md", "commands.md")]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The text without code, and without the targets of links."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", "", read(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may name after the #: GitHub derives it from a heading."""
    headings = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return not file.exists() or (bool(anchor) and anchor not in anchors(file))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_docs(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    first_sentence = result.output.splitlines()[2].strip()
    assert len(first_sentence) > 20
    commands = read(generate_docs.COMMANDS_PAGE)
    assert f"## {name}\n" in commands
    assert first_sentence in commands


def test_generated_pages_are_up_to_date() -> None:
    # In a process of its own: click keeps a command's options from its first call.
    command = [sys.executable, "-m", "tools.generate_docs", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_statement_is_on_the_page_with_a_purpose_and_a_text() -> None:
    parts = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=\n##|\Z)", read(generate_docs.SQL_PAGE), re.MULTILINE | re.DOTALL))
    assert sorted(parts) == sorted(sql.names())
    assert [name for name, part in parts.items() if not re.match(r"[^`\n].*?```sql\n.+?\n```", part, re.DOTALL)] == []
    assert not re.search(r"\{\w+(:\w+)?\}", "".join(parts.values())), "a placeholder that was not filled in"


def test_every_environment_variable_is_in_the_documentation() -> None:
    page = read(generate_docs.CONFIGURATION_PAGE)
    for variables, _ in VARIABLES.values():
        for variable in variables:
            assert f"`{variable}`" in page


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", read(page)) if "://" not in target]
    assert targets or page.parent != ROOT or page.name == "CHANGELOG.md"
    assert [target for target in targets if leads_nowhere(page, target)] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_are_there(page: Path) -> None:
    """Relative to the root of the checkout, or of the package. Links are checked above."""
    text = re.sub(r"\[[^\]]*\]\([^)]*\)", "", read(page))
    text = re.sub(r"^```python\n# \S+\.py$", "", text, flags=re.MULTILINE)  # a file of the reader's own
    found = re.findall(r"(?<![\w./-])(?:[\w-]+/)+[\w-]+\.(?:py|sql|yaml)\b", text)
    assert [name for name in found if not (ROOT / name).exists() and not (PACKAGE / name).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        reached |= new
        new = {page for known in new for page in _linked(known)} - reached
    assert [named(page) for page in PAGES if page not in reached] == []


def _linked(page: Path) -> Iterator[Path]:
    """Pages that a page links to; a link to a folder counts for each page in it."""
    for target in re.findall(r"\]\(([^)#:]+)", read(page)):
        there = (page.parent / target).resolve()
        yield from there.glob("*.md") if there.is_dir() else [there] if there in PAGES else []


def test_tests_named_in_the_documentation_exist() -> None:
    found = set(re.findall(r"`(test_\w+)`", "".join(map(read, PAGES))))
    sources = "\n".join(map(read, (ROOT / "tests").rglob("test_*.py")))
    assert found, "docs/guarantees.md names the test of each promise"
    assert [name for name in sorted(found) if f"def {name}(" not in sources] == []


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_prose_uses_the_words_of_the_glossary(page: Path) -> None:
    assert glossary.in_text(prose(page)) == []


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("*.md")), ids=named)
def test_decisions_have_the_same_four_parts(page: Path) -> None:
    assert re.findall(r"^## (.*)$", read(page), re.MULTILINE) == ["Context", "Decision", "Consequences", "Measurement"]


def test_the_tables_of_the_benchmarks_are_those_of_the_records() -> None:
    command = [sys.executable, "benchmarks/page.py", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_plots_of_the_benchmarks_are_those_on_the_page() -> None:
    found = re.findall(r"\]\(plots/([^)]+)\)", read(DOCS / "benchmarks.md"))
    assert sorted(found) == sorted(file.name for file in (DOCS / "plots").glob("*"))


def test_no_figure_of_a_benchmark_is_left_out_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
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
