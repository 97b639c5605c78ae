"""How a call ends: gRPC's status codes, and what other endings mean in them."""

from __future__ import annotations

from billet.core.errors import Code
from billet.grpc.metadata import Metadata

# The status of a stream that was reset, by HTTP/2's error code. Source: gRPC's PROTOCOL-HTTP2.md, "Errors".
_FROM_RESET = {
    0x0: Code.INTERNAL,
    0x7: Code.UNAVAILABLE,
    0x8: Code.CANCELLED,
    0xB: Code.RESOURCE_EXHAUSTED,
    0xC: Code.PERMISSION_DENIED,
}

# The status of a reply without grpc-status, by its HTTP status. Source: gRPC's http-grpc-status-mapping.md.
_FROM_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


class RpcError(Exception):
    """A call that did not end with OK.

    `code` is the number of the gRPC status; `trailers` are those that came with it (details in
    "grpc-status-details-bin"). `unsent`: the server has certainly not seen the call. `answered`: the status is the
    server's own, not the connection's.
    """

    def __init__(
        self, code: int, text: str = "", trailers: Metadata = (), *, unsent: bool = False, answered: bool = False
    ) -> None:
        super().__init__(code, text)
        self._code = int(code)
        self.text = text
        self.trailers = trailers
        self.unsent = unsent
        self.answered = answered

    @property
    def code(self) -> int:
        """The number of the gRPC status."""
        return self._code

    def bare(self) -> RpcError:
        """The same, to be kept: it does not hold the frames that it was raised in, with their requests, in memory."""
        return RpcError(self._code, self.text, self.trailers, unsent=self.unsent, answered=self.answered)

    def __str__(self) -> str:
        return f"{name_of(self.code)}: {self.text}"


def name_of(code: int) -> str:
    """A status code's name; "CODE 99" for a number that gRPC does not know."""
    return Code(code).name if code in Code.__members__.values() else f"CODE {code}"


def from_reset(h2_code: int) -> Code:
    """The status of a stream that the other side has reset with this HTTP/2 error code."""
    return _FROM_RESET.get(h2_code, Code.INTERNAL)


def from_http(http_status: int) -> Code:
    """The status of a reply that has an HTTP status and no gRPC status."""
    return _FROM_HTTP.get(http_status, Code.UNKNOWN)
