"""Build the Go programs of the interop tests, and fetch the tools: `python -m tests.interop.toolchain`.

Everything goes to .tools/interop: programs to bin/, generated code to src/ and py/, Go modules to cache/. It is quick
when there is nothing to do. The first checkout of a machine compiles for some minutes; the next ones find what it has
compiled in Go's own cache (GOCACHE, as with any Go program).
Without Go it says so, and the tests that need Go are skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
HOME = CHECKOUT / ".tools" / "interop"
BIN, SRC, PY, PROTO, NODE = (HOME / name for name in ("bin", "src", "py", "proto", "node"))
TOOLS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4",
    "ghz": "github.com/bojand/ghz/cmd/ghz@v0.93.0",
    "h2spec": "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
}
NO_NODE = "no Node.js with npm: the interop test with grpc-js is skipped"
NO_GO = "no Go: the interop tests with grpc-go, grpcurl, ghz and h2spec are skipped. To have them: install Go 1.26"
WIRE = "billet/wire/pb"
PACKAGES = {"flintlock": "flintlock", "flintlock_types": "types", "flintlock_exec": "exec", "flintlock_ssh": "ssh"}
FETCHED_WITHIN_S = 1500


def go() -> str | None:
    """The go command, or None."""
    usual = Path("/usr/local/go/bin/go")
    return shutil.which("go") or (str(usual) if usual.exists() else None)


def node() -> bool:
    """Whether there is Node.js, and npm."""
    return bool(shutil.which("node") and shutil.which("npm"))


def build() -> None:
    """Bring .tools/interop to where the sources are. Raises RuntimeError with the output of what failed."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # each worker of pytest comes here
        if not _up_to_date("py", digest := _digest(HERE / "proto")):
            _python_messages()
            _done("py", digest)
        command = go()
        if command is None:
            return
        for tool, module in TOOLS.items():
            if not _up_to_date(tool, module):
                _say(f"{tool}, into .tools")
                _run([command, "install", module], HOME)
                _done(tool, module)
        sources = (HERE / "go", CHECKOUT / "src" / WIRE, HERE / "toolchain.py")
        if not _up_to_date("programs", digest := _digest(*sources)):
            _say("Go programs")
            _programs(command)
            _done("programs", digest)
        if node() and not _up_to_date("node", digest := _digest(HERE / "node")):
            _say("grpc-js, into .tools")
            shutil.rmtree(NODE, ignore_errors=True)
            shutil.copytree(HERE / "node", NODE)
            _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], NODE)
            _done("node", digest)


def _python_messages() -> None:
    PY.mkdir(exist_ok=True)
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    _run([*protoc, f"-I{HERE}/proto", f"--python_out={PY}", "interop.proto"], HOME)


def _programs(command: str) -> None:
    """Copy the sources, generate the stubs of Billet's own .proto files beside them, and build all."""
    for folder in (SRC, PROTO):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "go", SRC)
    files = {f"{WIRE}/{name}.proto": package for name, package in PACKAGES.items()}
    for name in files:  # without the others, for those who load them from here
        (PROTO / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / "src" / name, PROTO / name)
    mapping = [f"M{name}=interop/pb/{package}" for name, package in files.items()]
    options = [f"--{kind}_opt={item}" for kind in ("go", "go-grpc") for item in (*mapping, "module=interop")]
    plugins = [f"--plugin={BIN}/protoc-gen-{kind}" for kind in ("go", "go-grpc")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *options]
    _run([*protoc, f"--go_out={SRC}", f"--go-grpc_out={SRC}", *files], HOME)
    _run([command, "build", "-o", f"{BIN}/", "./..."], SRC)


def _environment() -> dict[str, str]:
    """Go's modules are ours. What the machine has downloaded already is read, not fetched again.

    With -trimpath what is compiled does not depend on the checkout's folder, so that others can use it.
    """
    command = go()
    assert command
    asked = subprocess.run(
        [command, "env", "-json", "GOMODCACHE", "GOPROXY"], capture_output=True, check=True, text=True
    )
    machine = json.loads(asked.stdout)
    own = {
        "GOBIN": str(BIN), "GOMODCACHE": str(HOME / "cache/mod"),
        "GOPROXY": f"file://{machine['GOMODCACHE']}/cache/download,{machine['GOPROXY']}",
        "GOFLAGS": "-modcacherw -trimpath", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0",
    }  # fmt: skip
    return {**os.environ, **own}


def _run(command: list[str], folder: Path) -> None:
    environment = _environment() if go() else dict(os.environ)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=FETCHED_WITHIN_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _digest(*places: Path) -> str:
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    total = hashlib.sha256()
    for file in files:
        if file.suffix in (".go", ".mod", ".sum", ".proto", ".py", ".js", ".json"):
            total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def _up_to_date(name: str, state: str) -> bool:
    stamp = HOME / f"{name}.stamp"
    return stamp.exists() and stamp.read_text() == state


def _done(name: str, state: str) -> None:
    (HOME / f"{name}.stamp").write_text(state)


def _say(text: str) -> None:
    print(f"interop: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    build()
    for present, text in ((go(), NO_GO), (node(), NO_NODE)):
        if not present:
            _say(text)
