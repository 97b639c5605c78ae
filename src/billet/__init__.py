"""Billet: one address for a fleet of Flintlock hosts."""

import os
import sys

CIPHERS_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
NO_TLS_1_2 = "PSK-AES128-CBC-SHA"

# gRPC reads these once, while it is imported, so they are set before anything can import it. Where it was imported
# before Billet they would do nothing and are left alone; wire/tls.py then refuses to make weak credentials.
if "grpc" not in sys.modules:
    os.environ[CIPHERS_VARIABLE] = NO_TLS_1_2
    # What goes wrong is said by Billet, in one line; gRPC's C core would add lines of its own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
