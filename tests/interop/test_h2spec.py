"""h2spec, the conformance tests of HTTP/2, against the gRPC layer: each failure is in a table, with its reason."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
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
# h2spec's requests are no gRPC: the server answers their headers and ends the stream. A frame that it reads later is
# then ignored, as it should be; what is wrong in one that it reads with the headers must be seen.
RACES = {
    ("http2/5.1", "half closed (remote): Sends a DATA frame"),
    ("http2/5.1", "half closed (remote): Sends a HEADERS frame"),
    ("http2/6.1", 'Sends a DATA frame on the stream that is not in "open" or "half-closed (local)" state'),
    ("http2/6.1", "Sends a DATA frame with invalid pad length"),
    ("http2/6.9", "Sends a WINDOW_UPDATE frame with a flow control window increment of 0 on a stream"),
    ("http2/8.1", "Sends a second HEADERS frame without the END_STREAM flag"),
    ("http2/8.1.2.1", "Sends a HEADERS frame that contains a pseudo-header field as trailers"),
    (
        "http2/8.1.2.6",
        'Sends a HEADERS frame with the "content-length" header field which does not equal '
        "the DATA frame payload length",
    ),
    (
        "http2/8.1.2.6",
        'Sends a HEADERS frame with the "content-length" header field which does not equal '
        "the sum of the multiple DATA frames payload length",
    ),
}
RACED_AT_MOST = 10  # times: a case is rarely lost twice, even on a busy machine
Case = tuple[str, str]  # section and text


def h2spec(address: str, folder: Path, sections: Sequence[str] = SECTIONS) -> set[Case]:
    """The cases that fail. All sections are run at once."""
    host, _, port = address.rpartition(":")

    def one(section: str) -> Iterable[Case]:
        report = folder / f"{section.replace('/', '-')}.xml"
        path = "/grpc.testing.TestService/EmptyCall"
        tool("h2spec", section, "-h", host, "-p", port, "-o", "1", "-P", path, "-j", str(report))
        return failed(report)

    with ThreadPoolExecutor(len(sections)) as pool:
        return {case for cases in pool.map(one, sections) for case in cases}


def section_of(case: Case) -> str:
    """Of SECTIONS, the one that has a case: http2/8 has all of http2/8.1.2.6."""
    return case[0].partition(".")[0]


def failed(report: Path) -> Iterable[Case]:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("error") is not None or case.find("failure") is not None:
            yield case.attrib["package"], case.attrib["classname"]


@grpcio_fault("gRPC's C core fails 89 of the 145 cases")
def test_what_h2spec_finds_is_explained(tmp_path: Path) -> None:
    with running(*python_module("tests.interop.layer_server")) as server:
        address = server.next()["grpc"]
        found = h2spec(address, tmp_path)
        lost = found & RACES
        for _ in range(RACED_AT_MOST):
            if lost:
                lost &= h2spec(address, tmp_path, sorted({section_of(case) for case in lost}))

    assert sorted(found - EXPLAINED.keys() - RACES) == []
    assert sorted(lost) == []


def test_h2spec_is_run_in_full(tmp_path: Path) -> None:
    """Against grpc-go, whose failures are known to be many: the sections together are all of it."""
    with running(*go_program("testserver")) as server:
        found = h2spec(server.next()["grpc"], tmp_path)

    assert ("http2/8.2", "Sends a PUSH_PROMISE frame") in found
    reports = [ElementTree.parse(report).getroot() for report in tmp_path.glob("*.xml")]
    assert sum(1 for report in reports for _ in report.iter("testcase")) == 145
