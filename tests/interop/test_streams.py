"""Exec and SSH streams of a grpc-go client through Billet to a grpc-go flintlockd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.clusters import GoCluster, go_cluster
from tests.interop.programs import Done, go_program, grpcio_fault, run, running, wait_until

CANCELLED_WITHIN_S = 5.0  # generous; it takes a few milliseconds
Account = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoCluster]:
    with go_cluster(tmp_path_factory.mktemp("streams")) as started:
        yield started


@pytest.fixture
def uid(cluster: GoCluster) -> str:
    """A microVM of the test's own."""
    return cluster.create("streams")


def exec_(cluster: GoCluster, uid: str, *flags: str, kind: str = "exec") -> Done:
    return run("client", "-addr", cluster.address, "-uid", uid, *flags, kind)


# Half-closes.


@pytest.mark.parametrize("kind", ["exec", "ssh"])
def test_what_is_sent_comes_back_until_the_client_half_closes(kind: str, cluster: GoCluster, uid: str) -> None:
    done = exec_(cluster, uid, "-pieces", "100", "-piece", "10000", "-half-close", kind=kind)

    assert (done.last["code"], done.last["received"]) == ("OK", 1_000_000)
    (account,) = ended(cluster, uid)
    assert (account["Input"], account["Received"]) == ("half-closed", 1_000_000)


def test_a_half_close_right_after_the_start_is_an_empty_input(cluster: GoCluster, uid: str) -> None:
    done = exec_(cluster, uid, "-cmd", "count", "-half-close")

    assert (done.last["code"], done.last["received"], done.last["exit"]) == ("OK", 1, 0)


def test_output_goes_on_after_the_half_close_and_all_of_it_arrives(cluster: GoCluster, uid: str) -> None:
    done = exec_(cluster, uid, "-cmd", "print", "-args", "5000000", "-half-close")

    assert (done.last["code"], done.last["received"], done.last["exit"]) == ("OK", 5_000_000, 0)


def test_a_command_ends_a_stream_that_the_client_never_half_closes(cluster: GoCluster, uid: str) -> None:
    done = exec_(cluster, uid, "-cmd", "print", "-args", "10")

    assert (done.last["code"], done.last["received"], done.last["exit"]) == ("OK", 10, 0)


def test_the_status_of_a_command_that_fails_is_the_clients(cluster: GoCluster, uid: str) -> None:
    done = exec_(cluster, uid, "-cmd", "fail", "-half-close")

    assert (done.last["code"], done.last["text"]) == ("ResourceExhausted", "the guest is out of files: \t%é☺")


def test_an_unknown_uid_is_told_as_the_host_tells_it(cluster: GoCluster) -> None:
    done = exec_(cluster, "01ARZ3NDEKTSV4RRFFQ69G5FAV", "-half-close")

    assert done.last["code"] == "Unknown"
    assert "not found" in done.last["text"]


def test_an_empty_uid_is_an_invalid_argument(cluster: GoCluster) -> None:
    assert exec_(cluster, "", "-half-close").last["code"] == "InvalidArgument"


# A command that ends while its input is being sent.


@grpcio_fault("a failed write overwrites the call's own status")
@pytest.mark.parametrize("attempt", range(3))
def test_a_command_that_ends_early_has_its_own_status(attempt: int, cluster: GoCluster, uid: str) -> None:
    for _ in range(10):
        done = exec_(
            cluster, uid, "-cmd", "head", "-args", "50000", "-pieces", "2000", "-piece", "10000", "-half-close"
        )

        assert (done.last["code"], done.last["exit"]) == ("OK", 7), done.last


# Cancels, in every state of a stream.


@dataclass(frozen=True)
class State:
    """How far a stream has come when it is cancelled: the client's flags, and what shows that it is there."""

    name: str
    flags: tuple[str, ...]
    at_the_host: Callable[[Account], bool]
    blocked: bool = False  # the client cannot send any more


STATES = (
    State("started", ("-cmd", "sleep"), lambda seen: True),
    State("waiting for input", ("-cmd", "count", "-pieces", "3"), lambda seen: seen["Received"] == 3 * 1024),
    State("sending input", ("-cmd", "count", "-pieces", "-1"), lambda seen: seen["Received"] > 1_000_000),
    State("input that nobody reads", ("-cmd", "sleep", "-pieces", "-1", "-piece", "100000"), lambda seen: True, True),
    State("receiving output", ("-cmd", "yes"), lambda seen: seen["Sent"] > 1_000_000),
    State("output that nobody reads", ("-cmd", "yes", "-unread"), lambda seen: seen["Sent"] > 100_000),
    State("half-closed, silent", ("-cmd", "sleep", "-half-close"), lambda seen: True),
    State("half-closed, output", ("-cmd", "late", "-half-close"), lambda seen: seen["Sent"] > 1_000_000),
    State("both ways", ("-cmd", "cat", "-pieces", "-1"), lambda seen: seen["Sent"] > 1_000_000),
)
ENDS = ("cancel", "deadline", "close", "kill")


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("how", ENDS)
def test_a_cancel_is_a_cancel_at_the_host(how: str, state: State, cluster: GoCluster, uid: str) -> None:
    flags = [*state.flags, *(("-timeout", "2s") if how == "deadline" else ())]
    with running(*go_program("client", "-addr", cluster.address, "-uid", uid, *flags, "exec")) as client:
        wait_until(lambda: any(state.at_the_host(seen) for seen in cluster.host.streams(uid)), state.name)
        if state.blocked and how != "deadline":  # which may pass before the client has noticed
            client.until("event")
        if how == "kill":
            client.kill()
        elif how != "deadline":
            client.tell(how)

        (account,) = ended(cluster, uid, CANCELLED_WITHIN_S + 2.0)
        assert account["Cancelled"], account
        assert account["Input"] != "half-closed" or "half-close" in "".join(flags)


def ended(cluster: GoCluster, uid: str, within_s: float = 30.0) -> list[Account]:
    """The streams of a microVM, once all have ended at the host."""

    def all_ended() -> list[Account]:
        streams = cluster.host.streams(uid)
        return streams if all(stream["Ended"] for stream in streams) else []

    return wait_until(all_ended, f"the streams of {uid} end", within_s)


# Many.


def test_a_thousand_streams_on_one_connection(cluster: GoCluster, uid: str) -> None:
    done = exec_(cluster, uid, "-count", "1000", kind="thousand")

    assert (done.last["code"], done.last.get("streams")) == ("OK", 1000), done.last
