"""A child process that ends with its starter, kill -9 included."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Runs in the child before the real program. A preexec_fn would do the same between fork and exec, which is not safe
# in a process with gRPC's threads. PR_SET_PDEATHSIG is 1; the parent may have died before it was set.
LAUNCH = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def bound(command: Sequence[str]) -> list[str]:
    """The command line of a child that the kernel kills when this process dies, or the thread that starts it."""
    return [sys.executable, "-ISc", LAUNCH, str(os.getpid()), *command]
