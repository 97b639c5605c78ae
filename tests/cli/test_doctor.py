"""The checks of `billet doctor` that need no process: certificates by their age, and the names in them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding

from billet.doctor.checks import Level, certificates, connects, port
from billet.doctor.server import covers

DAY = datetime.timedelta(days=1)


def certificate(path: Path, begins: datetime.timedelta, ends: datetime.timedelta) -> str:
    """A certificate that is valid between these two times from now."""
    key, name = generate_private_key(SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now + begins, now + ends).sign(
        key, hashes.SHA256()
    )
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return str(path)


@pytest.mark.parametrize(
    ("begins", "ends", "level", "found"),
    [
        (-DAY, 365.5 * DAY, Level.OK, "valid for 365 days"),
        (-DAY, 7.5 * DAY, Level.WARNING, "expires in 7 days"),
        (-3 * DAY, -1.5 * DAY, Level.FAILED, "expired 1 day ago"),
        (2 * DAY, 9 * DAY, Level.FAILED, "is not valid yet"),
    ],
)
def test_a_certificate_is_judged_by_its_dates(
    tmp_path: Path, begins: datetime.timedelta, ends: datetime.timedelta, level: Level, found: str
) -> None:
    """Broken on purpose (an expired one only warns; the first day does not count): fails."""
    path = certificate(tmp_path / "x.crt", begins, ends)
    (check,) = certificates([("--tls-cert", path), ("--tls-client-ca", "")])
    assert (check.level, found in check.found) == (level, True)
    assert bool(check.cure) == (level is not Level.OK)


def test_a_file_that_is_no_certificate_fails(tmp_path: Path) -> None:
    (tmp_path / "x.crt").write_text("nothing")
    (check,) = certificates([("--tls-cert", str(tmp_path / "x.crt"))])
    assert (check.level, "contains no certificate" in check.found) == (Level.FAILED, True)


def test_names_of_a_certificate() -> None:
    """Broken on purpose (a star stands for several labels): a.b.test is covered."""
    assert covers("s1.test", "S1.test.")
    assert covers("*.test", "s1.test")
    assert not covers("*.test", "a.b.test")
    assert not covers("s1.test", "s2.test")


async def test_an_address_that_is_not_this_machine_s() -> None:
    check = port("--grpc-endpoint", "192.0.2.1:9090")
    assert check.level is Level.FAILED
    assert "cannot listen on 192.0.2.1:9090" in check.found
    check = await connects("server b", "no-such-name.invalid:1", "cure")
    assert (check.level, check.found) == (Level.FAILED, "no-such-name.invalid:1: the name does not resolve")
