"""Certificates: what is read from them is what openssl has written."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.certificate import Certificate, one_line, part_of, shown_time
from tests.pki import Pki

SAN = "URI:sip:alice@example.test,DNS:a.test,DNS:b.test,IP:192.0.2.1,IP:2001:db8::1,email:alice@example.test"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of a person."""
    pki = Pki(tmp_path_factory.mktemp("pki"))
    return pki.issue("alice", SAN, "/C=DE/ST=NRW/L=K\\xC3\\xB6ln/O=Tests, Inc/OU=Lab/UID=u1/CN=alice/title=Dr")[0]


def told(pem: Path, *what: str) -> list[str]:
    """Ask openssl."""
    out = subprocess.run(
        ["openssl", "x509", "-in", str(pem), "-noout", *what], check=True, capture_output=True, text=True
    )
    return [line.partition("=")[2] for line in out.stdout.splitlines()]


def read(pem: Path) -> Certificate:
    return Certificate(ssl.PEM_cert_to_DER_cert(pem.read_text()))


def test_what_is_in_it(pem: Path) -> None:
    one = read(pem)
    serial, before, after, *_ = told(pem, "-serial", "-startdate", "-enddate")
    assert f"{one.serial:X}" == serial.lstrip("0")
    assert [shown_time(one.not_before), shown_time(one.not_after)] == [before, after]
    assert one.version == 3
    assert one.issuer == [("O", "Tests"), ("CN", "Test CA")]
    assert one_line(one.subject).endswith("/O=Tests, Inc/OU=Lab/UID=u1/CN=alice/2.5.4.12=Dr")
    assert part_of(one.subject, "C") == "DE"
    assert part_of(one.subject, "emailAddress") is None
    assert one.alternatives == {
        "uri": ["sip:alice@example.test"],
        "hostname": ["a.test", "b.test"],
        "ip": ["192.0.2.1", "2001:db8::1"],
        "email": ["alice@example.test"],
    }
    assert one.pem == pem.read_text()


def test_a_name_that_is_not_ascii() -> None:
    assert one_line([("L", "K\xc3\xb6ln")]) == "/L=K\\xC3\\xB6ln"


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 20, 100, 200, 300])
def test_what_is_cut_off_is_none(pem: Path, n: int) -> None:
    with pytest.raises(ParseError):
        Certificate(read(pem).der[:n])


def test_what_is_damaged_is_refused_or_read(pem: Path) -> None:
    der = read(pem).der
    for at in range(len(der)):
        try:
            Certificate(der[:at] + bytes([der[at] ^ 0xFF]) + der[at + 1 :])
        except ParseError:
            pass
