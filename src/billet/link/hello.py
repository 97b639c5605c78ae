"""Hellos: an agent proves by a signature that it has the private key of its host.

The server's challenge makes the signature fresh, so that a recorded hello is worth nothing.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from billet.core.identity import LARGEST_TERM, Claim
from billet.core.model import Host
from billet.link import bounds
from billet.link.messages import get_resources, put_resources
from billet.ports import Identity
from billet.wire.pb import link_pb2 as pb

PURPOSE = b"billet-hello-v1\0"  # a signature for this purpose is none for another
NONCE_BYTES = 32


def put_hello(host: Host, version: str, instance: str, term: int) -> pb.Hello:
    """An agent's hello, unsigned."""
    return pb.Hello(
        host=host.id,
        capacity=put_resources(host.capacity),
        allocatable=put_resources(host.allocatable),
        zone=host.zone,
        labels=dict(host.labels),
        provider=host.provider,
        version=version,
        instance=instance,
        term=term,
    )


def sign(hello: pb.Hello, identity: Identity, nonce: bytes) -> None:
    """Add an identity to a hello, and the signature that answers this challenge."""
    hello.public_key, hello.machine_id, hello.boot_id = identity.public_key, identity.machine, identity.boot
    hello.signature = identity.sign(_signed(hello, nonce))


def proves(hello: pb.Hello, nonce: bytes) -> bool:
    """Whether a hello answers this challenge, signed with the key that it shows."""
    try:
        Ed25519PublicKey.from_public_bytes(hello.public_key).verify(hello.signature, _signed(hello, nonce))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed(hello: pb.Hello, nonce: bytes) -> bytes:
    texts = (hello.host, hello.instance, hello.machine_id, hello.boot_id)
    return PURPOSE + nonce + b"\0".join(text.encode() for text in texts)


def get_claim(hello: pb.Hello, nonce: bytes, address: str, names: frozenset[str] | None = None) -> Claim:
    """What an agent claims to be. `names`: those in its certificate; None = the link asks for no certificates.

    Raises ValueError, with the reason, for a hello whose values or signature cannot be right.
    """
    host = get_hello(hello)
    if names is not None and host.id not in names:
        shown = ", ".join(sorted(names)) or "no name"
        raise ValueError(
            f"the certificate is for {shown}, not for host {host.id!r}: run `billet certs host {host.id}`"
        )
    if hello.public_key:
        if not proves(hello, nonce):
            raise ValueError("the hello's signature is not by the key that it shows")
        host = replace(
            host,
            key=b64encode(hello.public_key).decode(),
            machine=bounds.name(hello.machine_id, "machine id"),
            boot=bounds.name(hello.boot_id, "boot id"),
        )
    term = bounds.number(hello.term, LARGEST_TERM, "term")
    return Claim(
        host, bounds.name(hello.instance, "instance"), bounds.name(hello.flintlockd, "flintlockd"), term, address
    )


def get_hello(message: pb.Hello) -> Host:
    """The host that a hello describes, without its identity. Raises ValueError."""
    host_id = bounds.name(message.host, "host name")
    if not host_id:
        raise ValueError("the host name is empty")
    capacity, allocatable = get_resources(message.capacity), get_resources(message.allocatable)
    bounds.amount(capacity, "capacity")
    bounds.amount(allocatable, "allocatable")
    return Host(
        id=host_id,
        capacity=capacity,
        allocatable=allocatable,
        zone=bounds.name(message.zone, "zone"),
        labels=bounds.labels(message.labels),
        provider=bounds.name(message.provider, "provider"),
    )
