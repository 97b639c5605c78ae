"""Billet: one address for a fleet of Flintlock hosts."""

import os
import sys

CIPHERS_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
NO_TLS_1_2 = "PSK-AES128-CBC-SHA"

# gRPC reads these variables once, on import, so they must be set before. If gRPC is already imported, setting them
# has no effect; wire/tls.py then refuses to create weak credentials.
if "grpc" not in sys.modules:
    os.environ[CIPHERS_VARIABLE] = NO_TLS_1_2
    # Billet reports each error in one line; gRPC's C core would add its own lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
