"""h2spec, the conformance tests of HTTP/2, against the gRPC layer: each failure is in a table, with its reason."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.interop.programs import go_program, grpcio_fault, python_module, running, tool

# One process each, side by side: where a server does not answer, a case waits.
SECTIONS = (*(f"generic/{n}" for n in range(1, 6)), *(f"http2/{n}" for n in range(3, 9)), "hpack")
CLOSED = "libnghttp2 keeps no closed streams, and ignores what comes on one"
PRIORITY = "RFC 9113 deprecates priorities: libnghttp2 ignores such frames, also wrong ones"
NO_BODY = "h2spec waits for DATA; what is answered to a request that is no gRPC has none (as with grpc-go)"
EXPLAINED = {
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): NO_BODY,
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"): NO_BODY,
    ("http2/5.1", "closed: Sends a DATA frame after sending RST_STREAM frame"): CLOSED,
    ("http2/5.1", "closed: Sends a HEADERS frame after sending RST_STREAM frame"): CLOSED,
    ("http2/5.1", "closed: Sends a DATA frame"): CLOSED,
    ("http2/5.1", "closed: Sends a HEADERS frame"): CLOSED,
    ("http2/5.1.1", "Sends stream identifier that is numerically smaller than previous"): CLOSED,
    (
        "http2/5.1.2",
        "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    ): "a request that is no gRPC is answered at once, so that the limit is never reached",
    ("http2/5.3.1", "Sends PRIORITY frame that depend on itself"): PRIORITY,
    ("http2/6.3", "Sends a PRIORITY frame with 0x0 stream identifier"): PRIORITY,
    (
        "http2/6.9.1",
        "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream",
    ): "the stream has ended before the frames come, so that they are ignored (as with grpc-go)",
}
Case = tuple[str, str]  # section and text


def h2spec(address: str, folder: Path) -> set[Case]:
    """The cases that fail. All sections are run at once."""
    host, _, port = address.rpartition(":")

    def one(section: str) -> Iterable[Case]:
        report = folder / f"{section.replace('/', '-')}.xml"
        path = "/grpc.testing.TestService/EmptyCall"
        tool("h2spec", section, "-h", host, "-p", port, "-o", "1", "-P", path, "-j", str(report))
        return failed(report)

    with ThreadPoolExecutor(len(SECTIONS)) as pool:
        return {case for cases in pool.map(one, SECTIONS) for case in cases}


def failed(report: Path) -> Iterable[Case]:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("error") is not None or case.find("failure") is not None:
            yield case.attrib["package"], case.attrib["classname"]


@grpcio_fault("gRPC's C core fails 89 of the 145 cases")
def test_what_h2spec_finds_is_explained(tmp_path: Path) -> None:
    with running(*python_module("tests.interop.layer_server")) as server:
        found = h2spec(server.next()["grpc"], tmp_path)

    assert sorted(found - EXPLAINED.keys()) == []


def test_h2spec_is_run_in_full(tmp_path: Path) -> None:
    """Against grpc-go, whose failures are known to be many: the sections together are all of it."""
    with running(*go_program("testserver")) as server:
        found = h2spec(server.next()["grpc"], tmp_path)

    assert ("http2/8.2", "Sends a PUSH_PROMISE frame") in found
    reports = [ElementTree.parse(report).getroot() for report in tmp_path.glob("*.xml")]
    assert sum(1 for report in reports for _ in report.iter("testcase")) == 145
