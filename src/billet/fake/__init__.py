"""A faithful flintlockd without a hypervisor: strict where flintlockd is strict, and able to fail on command."""

import billet.wire.tls  # noqa: F401  # before anything here loads gRPC, so that TLS 1.2 is ruled out
