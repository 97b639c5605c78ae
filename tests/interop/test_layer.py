"""The gRPC layer against grpc-go, without the rest of Billet: as a server, and as a client."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.interop.interop_cases import CASES
from tests.interop.programs import go_program, grpcio_fault, python_module, run, running

OF_GRPC_GO = (
    "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
    "timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
    "special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service",
)  # fmt: skip
OF_OURS = ("large_metadata", "large_messages", "gzip", "thousand_streams", "slow_reader")
GRPCIO_FAULTS = {"early_end": grpcio_fault("a failed write overwrites the call's own status")}


@pytest.fixture(scope="module")
def layer_server() -> Iterator[str]:
    """The address of the TestService on our layer."""
    with running(*python_module("tests.interop.layer_server")) as server:
        yield server.next()["grpc"]


@pytest.fixture(scope="module")
def go_server() -> Iterator[str]:
    """The address of the TestService on grpc-go."""
    with running(*go_program("testserver")) as server:
        yield server.next()["grpc"]


@pytest.mark.parametrize("case", [*OF_GRPC_GO, *OF_OURS])
def test_grpc_go_as_a_client_is_served(case: str, layer_server: str) -> None:
    done = run("cases", "-addr", layer_server, "-case", case)

    assert (done.code, done.lines) == (0, [{"case": case, "ok": True}]), done.errors


@pytest.mark.parametrize("case", OF_OURS)
def test_grpc_go_serves_itself_in_our_own_cases(case: str, go_server: str) -> None:
    done = run("cases", "-addr", go_server, "-case", case)

    assert done.code == 0, done.errors


@pytest.fixture(scope="module")
def client_results(go_server: str) -> dict[str, str]:
    """Why each case failed on our layer's client, "" if it did not; all cases are run by one process."""
    with running(*python_module("tests.interop.layer_client", go_server)) as client:
        return {line["case"]: line["why"] for line in (client.next() for _ in CASES)}


@pytest.mark.parametrize("case", [pytest.param(case, marks=GRPCIO_FAULTS.get(case, ())) for case in CASES])
def test_grpc_go_as_a_server_serves_our_client(case: str, client_results: dict[str, str]) -> None:
    assert client_results[case] == ""


def test_a_server_that_stops_lets_calls_and_streams_in_flight_end() -> None:
    with running(*python_module("tests.interop.layer_server")) as server:
        address = server.next()["grpc"]
        with running(*go_program("cases", "-addr", address, "-case", "drain")) as client:
            client.until("event")
            server.process.send_signal(signal.SIGTERM)
            client.tell("the server was told to stop")

            assert client.until("ok")["ok"]
        assert server.wait() == 0
