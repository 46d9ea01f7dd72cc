"""Look for known vulnerabilities of the locked versions, with pip-audit.

    make audit

Reports come from the package registry or from OSV. A registry that knows none answers as if there were none: pip-audit
then skips every package. So each package must have been looked up. Exit status: 0 nothing is known, 1 something is, 2 it
could not be found out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("pypi", "osv")
LOCKS = ("run", "build", "dev")
FOUND, NOT_KNOWN = 1, 2


def main() -> int:
    for service in SERVICES:
        packages = _packages(service)
        looked_up = [one for one in packages if "vulns" in one]
        if not looked_up:
            continue
        known = [(one, vulnerability) for one in looked_up for vulnerability in one["vulns"]]
        for one, vulnerability in known:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {fixed}")
        print(f"{len(looked_up)} of {len(packages)} packages looked up, {len(known)} known vulnerabilities")
        return FOUND if known else 0 if looked_up == packages else NOT_KNOWN
    print(
        "nothing here knows of vulnerabilities: run make audit where the registry's JSON or OSV answers",
        file=sys.stderr,
    )
    return NOT_KNOWN


def _packages(service: str) -> list[dict[str, Any]]:
    """What pip-audit says of each; nothing if it does not get so far."""
    audit = Path(sys.executable).parent / "pip-audit"
    locks = [part for lock in LOCKS for part in ("--requirement", f"locks/{lock}.txt")]
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(
        [audit, *locks, *options, "--vulnerability-service", service],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


if __name__ == "__main__":
    sys.exit(main())
