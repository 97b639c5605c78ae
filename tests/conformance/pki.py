"""A test CA for the TLS checks: one server and one client certificate, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Pki:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = _name("billet test CA")
        ca = _builder(self._ca_name, self._ca_name, self._ca_key).add_extension(x509.BasicConstraints(True, 0), True)
        self.ca = self._write(
            "ca.crt", ca.sign(self._ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        self.server_cert, self.server_key = self._issue("server", here)
        self.client_cert, self.client_key = self._issue("client", here)

    def client(self, name: str, *uris: str) -> tuple[str, str]:
        """The certificate and key of a client with this common name, and URIs as its alternative names."""
        return self._issue(name, [x509.UniformResourceIdentifier(uri) for uri in uris])

    def credentials(self, client: bool = False) -> grpc.ChannelCredentials:
        """Credentials that trust this CA, with the client certificate on demand."""
        ca, key, cert = (Path(path).read_bytes() for path in (self.ca, self.client_key, self.client_cert))
        return grpc.ssl_channel_credentials(ca, key, cert) if client else grpc.ssl_channel_credentials(ca)

    def _issue(self, name: str, names: Sequence[x509.GeneralName]) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._ca_name, key)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        cert = builder.sign(self._ca_key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        written = self._write(f"{name}.crt", cert.public_bytes(serialization.Encoding.PEM))
        return written, self._write(f"{name}.key", pem)

    def _write(self, name: str, data: bytes) -> str:
        path = self._directory / name
        path.write_bytes(data)
        return str(path)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
