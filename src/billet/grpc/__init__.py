"""gRPC over HTTP/2: a server and a client whose messages are bytes, on libnghttp2 (ngh2) and asyncio.

From the wire up: `messages`, `metadata` and `status` are codecs. `connection` is what both ends of an HTTP/2
connection share, `stream` is one call on it, `limits` and `liveness` say what a peer may do, and for how long.
`server` and `client` are the two ends. `health` and `reflection` are the two standard services. `engine` chooses
between this implementation and grpcio's, behind the same interface. docs/adr/0029 says why Billet has its own.
"""
