"""Billet: one address for a fleet of Flintlock hosts."""

import os

# gRPC reads these once, while it is imported, so they are set before anything can import it.
# TLS 1.3 and nothing older: wire/tls.py says what this means, and makes sure that it was in time.
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "PSK-AES128-CBC-SHA")
# What goes wrong is said by Billet, in one line; gRPC's C core would add lines of its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
