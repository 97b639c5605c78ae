"""Run a fake as a child process: for tests, the demo and benchmarks."""

from __future__ import annotations

import json
import select
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Any

from billet.fake.faults import FaultKind
from billet.fake.settings import FakeConfig
from billet.launch import Child, Spawn, spawn
from billet.wire.secret import FileText

READY_S = 60.0  # generous: a loaded machine starts Python slowly


class FakeProcess:
    """`start`, then `grpc_address`, `http_address`, `stats()`, `fault(..)`; `kill()` and `start()` again at will.

    A restart listens on the same ports; with `state_file` set it has the same microVMs. It ends with its starter.
    """

    def __init__(self, config: FakeConfig, spawn: Spawn = spawn) -> None:
        self.config = replace(config, json_ready=True)
        self.grpc_address = self.http_address = self.control_address = ""
        self._spawn = spawn
        self._process: Child | None = None

    def start(self) -> FakeProcess:
        """Start, and return when it answers. Raises RuntimeError if it does not."""
        command = [sys.executable, "-m", "billet.fake", *arguments(self.config)]
        self._process = self._spawn(command, None, False)
        assert self._process.stdout is not None
        ready = json.loads(_read_line(self._process.stdout))
        self.grpc_address, self.http_address, self.control_address = ready["grpc"], ready["http"], ready["control"]
        self.config = replace(
            self.config,
            grpc_endpoint=self.grpc_address,
            http_endpoint=self.http_address or self.config.http_endpoint,
            control_endpoint=self.control_address,
        )
        return self

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running().pid

    def stop(self) -> None:
        """SIGTERM, and wait. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait. Idempotent."""
        self._end(signal.SIGKILL)

    def wait_exit(self, timeout_s: float) -> int:
        """Wait for the process to exit. Returns the exit code."""
        return self._running().wait(timeout_s)

    def stats(self) -> dict[str, Any]:
        """The statistics of the control port."""
        reply: dict[str, Any] = self._control("GET", "/stats")
        return reply

    def fault(self, kind: FaultKind | str, **settings: object) -> None:
        """Add a fault; settings as in control.py."""
        self._control("POST", "/fault", {"kind": str(kind), **settings})

    def clear_faults(self, kind: FaultKind | str = "") -> None:
        """Remove all faults, or those of one kind."""
        self._control("DELETE", f"/fault?kind={kind}")

    def preload(self, image: str) -> None:
        """Mark an image as pulled."""
        self._control("POST", "/preload", {"image": image})

    def wait_for(self, true: Callable[[dict[str, Any]], bool], timeout_s: float = 30.0) -> dict[str, Any]:
        """Poll until this is true of the stats, and return them. Raises TimeoutError."""
        deadline_s = time.monotonic() + timeout_s
        while not true(stats := self.stats()):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not within {timeout_s} s; last stats: {stats}")
            time.sleep(0.02)
        return stats

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def _running(self) -> Child:
        if self._process is None:
            raise RuntimeError("the fake is not running")
        return self._process

    def _control(self, verb: str, path: str, document: object = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://{self.control_address}{path}", body, method=verb)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
            return json.loads(reply.read())


def arguments(config: FakeConfig) -> list[str]:
    """The command line for a config."""
    token = config.basic_auth_token
    values = {
        "--grpc-endpoint": config.grpc_endpoint,
        "--http-endpoint": config.http_endpoint,
        "--control-endpoint": config.control_endpoint,
        "--default-provider": config.default_provider,
        "--tls-cert": config.tls.cert,
        "--tls-key": config.tls.key,
        "--tls-client-ca": config.tls.client_ca,
        "--basic-auth-token": "" if isinstance(token, FileText) else token,
        "--basic-auth-token-file": token.path if isinstance(token, FileText) else "",
        "--flintlock-version": config.flintlock_version,
        "--boot-mean-s": config.boot_mean_s,
        "--pull-mean-s": config.pull_mean_s,
        "--delete-mean-s": config.delete_mean_s,
        "--create-mean-s": config.create_mean_s,
        "--sigma": config.sigma,
        "--seed": config.seed,
        "--time-scale": config.time_scale,
        "--boot-failure-share": config.boot_failure_share,
        "--state": config.state_file,
        "--state-dir": config.state_dir,
    }
    switches = {
        "--enable-http": config.enable_http,
        "--insecure": config.tls.insecure,
        "--tls-client-validate": config.tls.client_validate,
        "--json-ready": config.json_ready,
    }
    return [f"{flag}={value}" for flag, value in values.items()] + [flag for flag, on in switches.items() if on]


def _read_line(stream: IO[bytes]) -> bytes:
    ready, _, _ = select.select([stream], [], [], READY_S)
    line = stream.readline() if ready else b""
    if not line:
        raise RuntimeError("the fake did not start: see its stderr")
    return line
