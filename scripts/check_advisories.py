"""Looks the locked packages up in an index of security advisories, with pip-audit.

`python -m scripts.check_advisories` fails if one of them has a known vulnerability. Where no index can be reached it
says so and succeeds: `make check` works offline.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WITHIN_S = 60  # for all packages; an index that hangs must not stop the check
EACH_S = 5  # for one answer of the index


def main() -> int:
    """Print the advisories, or why there are none; 1 if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder, "requirements.txt")
        uv = ROOT / ".tools/uv/bin/uv"
        command = [uv if uv.exists() else "uv", "export", "--quiet", "--locked", "--all-groups", "--no-emit-project"]
        subprocess.run([*command, "--output-file", packages], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return judge(looked_up(packages))


def looked_up(packages: Path) -> list[dict[str, Any]]:
    """What pip-audit says about each package; nothing if it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(packages), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--timeout", str(EACH_S), "--progress-spinner", "off"]
    try:
        said = subprocess.run(command, capture_output=True, timeout=WITHIN_S).stdout
        found: list[dict[str, Any]] = json.loads(said)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []
    return found


def judge(found: list[dict[str, Any]]) -> int:
    """Print what was found; 1 if a package has a known vulnerability."""
    answered = [package for package in found if "skip_reason" not in package]
    if not answered:
        print("advisories: no index can be reached, so the packages were not looked up")
        return 0
    print(f"advisories: {len(answered)} of {len(found)} packages looked up")
    bad = [(package, vulnerability) for package in answered for vulnerability in package["vulns"]]
    for package, vulnerability in bad:
        fixed = ", ".join(vulnerability["fix_versions"]) or "none yet"
        print(f"  {package['name']} {package['version']}: {vulnerability['id']}; fixed in: {fixed}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
