"""Resolve the dependencies of pyproject.toml, and write locks/: exact versions with the SHA-256 of each of their files.

    make lock                                       # the newest versions that the ranges allow
    .venv-lock/bin/python tools/lock.py --check     # fails if locks/ does not fit pyproject.toml

A lock holds for every Python from 3.11 on, on Linux and macOS. pip installs from it with --require-hashes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
PYTHON = "3.11"  # the oldest that is supported
# In this order: a version that an earlier lock names holds for the later ones.
INPUTS = {
    "run": ("pyproject.toml", "--extra", "embedded"),
    "build": ("--group", "build"),
    "dev": ("--group", "dev"),
    "bench": ("--group", "bench"),
    "lock": ("--group", "lock"),
}


def compile_lock(name: str, target: Path, *, upgrade: bool) -> None:
    """Write one lock. Without `upgrade`, versions that the target names are kept."""
    earlier = [*INPUTS][: [*INPUTS].index(name)]
    constraints = [part for one in earlier for part in ("--constraint", f"{target.parent / one}.txt")]
    command = [
        "uv", "pip", "compile", *INPUTS[name], "--universal", "--python-version", PYTHON, "--generate-hashes",
        "--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header", "--quiet",
        "--fork-strategy", "fewest", *constraints, *(["--upgrade"] if upgrade else []), "--output-file", str(target),
    ]  # fmt: skip
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, *command[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    check = "--check" in sys.argv
    LOCKS.mkdir(exist_ok=True)
    for name in INPUTS:
        target = LOCKS / f"{name}.txt"
        before = target.read_text(encoding="utf-8") if target.exists() else ""
        compile_lock(name, target, upgrade=not check)
        if check and target.read_text(encoding="utf-8") != before:
            raise SystemExit(f"{target.relative_to(ROOT)} did not fit pyproject.toml; commit what make lock writes")


if __name__ == "__main__":
    main()
