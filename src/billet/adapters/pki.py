"""Makes certificates for the demo, tests and first steps: a CA, one for servers and one for clients."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from billet.core.errors import ConfigError

COMMON_NAME_CHARS = 64  # the longest common name of a certificate
CLOCK_SKEW = datetime.timedelta(hours=1)


class Files(NamedTuple):
    """Paths of the PEM files."""

    ca: Path
    ca_key: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


class Signed(NamedTuple):
    """A certificate with its private key."""

    cert: x509.Certificate
    key: EllipticCurvePrivateKey


def write_pki(folder: Path, hosts: Sequence[str], days: int) -> Files:
    """Write a CA, a server certificate for these names and addresses, and a client certificate.

    Never overwrites a file. Raises ConfigError.
    """
    names = ("ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key")
    files = Files(*(folder / name for name in names))
    there = [path for path in files if path.exists()]
    if there:
        raise ConfigError(f"{there[0]} exists already; choose another folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca = _authority(days)
        _write(ca, files.ca, files.ca_key)
        # A server also uses its certificate as a client, when it forwards a call to the leader.
        both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        server = _signed(ca, "billet server", days, hosts, both)
        _write(server, files.server_cert, files.server_key)
        client = _signed(ca, "billet client", days, (), [ExtendedKeyUsageOID.CLIENT_AUTH])
        _write(client, files.client_cert, files.client_key)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; choose another folder") from None
    return files


def write_host(folder: Path, host_id: str, days: int) -> tuple[Path, Path]:
    """Make a certificate for a host's agent, signed by the CA in `folder`; return its paths. Raises ConfigError."""
    if not 0 < len(host_id) <= COMMON_NAME_CHARS or "/" in host_id:
        raise ConfigError(f"{host_id!r} cannot be in a certificate: 1 to {COMMON_NAME_CHARS} characters, no slash")
    cert_path, key_path = folder / f"host-{host_id}.crt", folder / f"host-{host_id}.key"
    for path in (cert_path, key_path):
        if path.exists():
            raise ConfigError(f"{path} exists already and was not overwritten; delete it, or use another folder")
    try:
        cert = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ConfigError(
                f"{folder / 'ca.key'} is not a key of `billet certs`: sign the certificate with your CA"
            )
        _write(_signed(Signed(cert, key), host_id, days, (), [ExtendedKeyUsageOID.CLIENT_AUTH]), cert_path, key_path)
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; name the folder that `billet certs DIR` has made"
        ) from None
    except ValueError as error:
        raise ConfigError(f"the CA in {folder} cannot be read ({error}); `billet certs DIR` makes one") from None
    return cert_path, key_path


def _authority(days: int) -> Signed:
    key = generate_private_key(SECP256R1())
    name = _name("billet CA")
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    cert = (
        _builder(name, name, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Signed(cert, key)


def _signed(
    ca: Signed, title: str, days: int, hosts: Iterable[str], usages: Sequence[x509.ObjectIdentifier]
) -> Signed:
    key = generate_private_key(SECP256R1())
    builder = (
        _builder(_name(title), ca.cert.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )
    names = [_general_name(host) for host in hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Signed(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.rstrip("."))  # the dot of an absolute name is for DNS, not for certificates


def _write(signed: Signed, cert_path: Path, key_path: Path) -> None:
    """Write both files; only the owner can ever read the key."""
    cert_path.write_bytes(signed.cert.public_bytes(serialization.Encoding.PEM))
    key_path.touch(mode=0o600, exist_ok=False)
    key_path.write_bytes(
        signed.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
