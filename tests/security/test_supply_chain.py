"""What is installed is what was tested: ranges, locks with hashes, licences, and the files of the packaged model."""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import licences
from tools.lock import INPUTS, LOCKS, ROOT

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODEL = ROOT / "pg_qwen_embed" / "serve" / "model"
# What the image holds under a licence that asks for more than a notice. Each concerns changes of that package alone.
COPYLEFT = {"orjson", "psycopg", "psycopg-binary", "psycopg-pool", "tqdm"}


def requirements(lock: str) -> list[Requirement]:
    """The ranges of pyproject.toml from which a lock is made."""
    project = PYPROJECT["project"]
    listed = {"run": [*project["dependencies"], *project["optional-dependencies"]["embedded"]]}
    listed |= PYPROJECT["dependency-groups"]
    return [Requirement(text) for text in listed[lock]]


def every_requirement() -> Iterator[Requirement]:
    for lock in INPUTS:
        yield from requirements(lock)
    yield from map(Requirement, PYPROJECT["build-system"]["requires"])
    yield Requirement(PYPROJECT["project"]["optional-dependencies"]["local"][1])


def entries(lock: str) -> list[str]:
    """Each package of a lock with its hashes."""
    text = (LOCKS / f"{lock}.txt").read_text(encoding="utf-8")
    return re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())


def test_every_requirement_has_a_lower_and_an_upper_bound() -> None:
    for requirement in every_requirement():
        operators = sorted(one.operator for one in requirement.specifier)
        assert operators == ["<", ">="], str(requirement)


@pytest.mark.parametrize("lock", INPUTS)
def test_locked_versions_are_in_the_ranges_which_end_before_the_next_major_version(lock: str) -> None:
    found = {canonicalize_name(name): Version(version) for name, version in licences.locked(lock).items()}
    for requirement in requirements(lock):
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked"
        (upper,) = (Version(one.version) for one in requirement.specifier if one.operator == "<")
        assert upper == Version(str(version.major + 1)), f"{requirement}: {version} is the newest that was tested"


@pytest.mark.parametrize("lock", INPUTS)
def test_every_locked_package_has_an_exact_version_and_hashes(lock: str) -> None:
    assert len(entries(lock)) > 2
    for entry in entries(lock):
        assert re.match(r"[a-z0-9._-]+==[\w.+]+( ; [^\\\n]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\\n|$))+", entry), (
            entry
        )
    text = (LOCKS / f"{lock}.txt").read_text(encoding="utf-8")
    assert "://" not in text, "a lock names no place: pip finds the files where it is told to look"


def test_the_locks_agree_about_each_version() -> None:
    versions: dict[str, str] = {}
    for lock in INPUTS:
        for name, version in licences.locked(lock).items():
            assert versions.setdefault(name, version) == version, f"{name} in {lock}"


def test_make_and_the_image_install_by_hash_only() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^BY_HASH := --require-hashes --only-binary :all:$", makefile, re.MULTILINE)
    installs = re.findall(r"^\t\$\((?:PIP|LOCKED|LOCK_PIP)\) .*$", makefile, re.MULTILINE)
    assert len(installs) == 7
    assert [line for line in installs if not re.search(r"LOCKED|BY_HASH|--no-deps", line)] == []
    assert "pip install" not in re.sub(r"^\w+ := .*$", "", makefile, flags=re.MULTILINE).replace(
        "$(SGLANG)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<", ""
    ), "the contract tests' SGLang is apart"
    image = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    installs = re.findall(r"pip (?:install|wheel) [^&\n]*", image)
    assert len(installs) == 4
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="only CI must have the locked set; see CONTRIBUTING.md")
@pytest.mark.parametrize("lock", ["run", "build", "dev"])
def test_ci_tests_the_locked_versions(lock: str) -> None:
    for name, version in licences.locked(lock).items():
        try:
            assert metadata.version(name) == version, name
        except metadata.PackageNotFoundError:
            assert f"{name}=={version} ; " in (LOCKS / f"{lock}.txt").read_text(encoding="utf-8"), (
                "no marker leaves it out"
            )


def test_licences_of_all_locked_packages_are_known_and_copyleft_ones_expected() -> None:
    page = licences.PAGE.read_text(encoding="utf-8")
    copyleft = set()
    for lock in INPUTS:
        for name, version in licences.locked(lock).items():
            found = re.search(rf"^\| {re.escape(name)} \| {re.escape(version)} \| (.+) \|$", page, re.MULTILINE)
            assert found, f"{name} {version} is not on docs/licences.md; run: make lock"
            assert found[1] != licences.UNKNOWN, name
            if lock == "run" and re.search("GPL|MPL|Mozilla|EPL|CDDL", found[1]):
                copyleft.add(name)
    assert copyleft == COPYLEFT


def test_files_of_the_packaged_model_have_the_checksums_of_its_notice() -> None:
    notice = (MODEL / "NOTICE").read_text(encoding="utf-8")
    told = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", notice, re.MULTILINE)}
    there = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in MODEL.iterdir()}
    assert told == {name: digest for name, digest in there.items() if name not in ("NOTICE", "LICENSE")}


def test_model_and_its_notice_are_part_of_the_wheels_licence_files() -> None:
    assert set(PYPROJECT["project"]["license-files"]) >= {
        str((MODEL / name).relative_to(ROOT)) for name in ("NOTICE", "LICENSE")
    }
    assert Path(ROOT / "LICENSE").exists()
