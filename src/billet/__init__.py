"""Billet: one address for a fleet of Flintlock hosts."""

import os

# TLS 1.3 and nothing older. gRPC reads this once, while it is imported, so it is set before anything can import it:
# wire/tls.py says what it means, and makes sure that it was in time.
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "PSK-AES128-CBC-SHA")
