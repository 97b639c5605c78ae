"""`python -m tests.conformance HOST:PORT`: check a Flintlock endpoint that runs already."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from .external import OPTIONS

DESCRIPTION = """\
Check a Flintlock endpoint, one flintlockd or a cluster, against what Flintlock promises its clients.
Only the checks run that need nothing but an address; the others are skipped, with the reason.

The checks create about 40 microVMs of 1 vCPU and 1 GiB (one has 2 vCPU), at most 4 at a time, with TAP interfaces.
Each has "-conformance-" and a random suffix in its name, and is deleted after its check. Nothing else on the target
is changed or deleted. On a real flintlockd give images that its hosts can pull and boot.
"""
EXAMPLES = """\
examples:
  make conformance TARGET=10.0.0.1:9090
  make conformance TARGET=10.0.0.1:9090 ARGS="--ca ca.pem --kernel-image IMAGE --root-image IMAGE"
  CONFORMANCE_TOKEN=secret make conformance TARGET=billet.example:9090 ARGS="--ca ca.pem -- -k check_1"
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m tests.conformance",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("target", metavar="HOST:PORT", help="address of the endpoint")
    for option in OPTIONS:
        default = f" (default: {option.default})" if option.default else ""
        made.add_argument(option.flag, default=option.default, metavar=option.metavar, help=option.help + default)
    made.add_argument("pytest", nargs="*", metavar="-- PYTEST_OPTION", help="options for pytest, such as -k check_19")
    return made


def main(arguments: list[str]) -> int:
    """Run the checks. Returns pytest's exit code: 0 = all held, 1 = some failed, 2 and more = could not run."""
    if not arguments:
        parser().print_help()
        return 0
    chosen = vars(parser().parse_args(arguments))
    chosen["token"] = chosen["token"] or os.environ.get("CONFORMANCE_TOKEN", "")
    flags = [f"--target-{o.flag[2:]}={chosen[o.flag[2:].replace('-', '_')]}" for o in OPTIONS]
    folder = str(Path(__file__).parent)
    quiet = ["-q", "-rfEs", "--durations=0", "--durations-min=60", "--timeout=0", "-p", "no:randomly"]
    return int(pytest.main([folder, f"--target={chosen['target']}", *flags, *quiet, *chosen["pytest"]]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
