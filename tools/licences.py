"""The page docs/licences.md: each locked package with its version and the licence that its own metadata names.

A package that is not installed here in that version, because it is for another system or another version of Python, or
is what the virtual environment began with, keeps its line's licence."""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
PAGE = ROOT / "docs" / "licences.md"
UNKNOWN = "unknown"
HEAD = """# Licences

Generated from the metadata of the locked packages ([locks](../locks)) by `make docs`. pg_qwen_embed itself is under the
Apache License 2.0, and so is the model that it carries ([NOTICE](../pg_qwen_embed/serve/model/NOTICE)). None of these
packages is part of the wheel; the image holds those of the first table.
"""
TITLES = {
    "run": "What `pip install 'pg-qwen-embed[embedded]'` installs",
    "build": "What builds the wheel",
    "dev": "What tests and linters need",
    "bench": "What the plots of the benchmarks need",
    "lock": "What `make lock` and `make audit` need",
}


def locked(name: str) -> dict[str, str]:
    """The packages of a lock, with their versions."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


def page() -> str:
    present = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    known = dict(re.findall(r"^\| (\S+) \| \S+ \| (.+) \|$", present, re.MULTILINE))
    parts, seen = [HEAD], set[str]()
    for name, title in TITLES.items():
        own = {package: version for package, version in sorted(locked(name).items()) if package not in seen}
        seen |= own.keys()
        rows = [
            f"| {one} | {version} | {licence(one, version) or known.get(one, UNKNOWN)} |"
            for one, version in own.items()
        ]
        parts.append("\n".join([f"## {title}\n", "| package | version | licence |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def licence(package: str, version: str) -> str | None:
    """None: that version of the package is not installed here."""
    try:
        found = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    return next(_names(found), UNKNOWN) if found["Version"] == version else None


def _names(found: metadata.PackageMetadata) -> Iterator[str]:
    if "License-Expression" in found:
        yield str(found["License-Expression"])
    classifiers = [str(one).split(" :: ") for one in found.get_all("Classifier") or ()]
    named = {one[-1] for one in classifiers if one[0] == "License"}
    if named:
        yield ", ".join(sorted(named))
    first = str(found["License"] or "").partition("\n")[0].strip()
    if first and first != UNKNOWN.upper():
        yield first[:60]
