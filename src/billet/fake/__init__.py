"""A fake flintlockd without a hypervisor: as strict as flintlockd, with faults on command."""

import billet.wire.tls  # noqa: F401  # must precede gRPC, to disable TLS 1.2
