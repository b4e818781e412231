"""Certificates for tests, made by the command ``openssl``: a CA, and what it has signed; EC keys, for they are made at once."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


class Pki:
    """A CA in ``directory``, and certificates of it by name: NAME.pem and NAME.key there."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = directory / "ca.pem"
        extensions = [
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]
        self._run("req", "-x509", *self._key("ca"), "-out", str(self.ca), "-subj", "/O=Tests/CN=Test CA", *extensions)
        self.issue("server", "DNS:sip.example.test,IP:127.0.0.1")

    def issue(self, name: str, san: str, subject: str = "", days: int = 30) -> tuple[Path, Path]:
        """Sign a certificate for ``san`` (as openssl writes subjectAltName); return it and its key."""
        request, certificate, key = (self.directory / f"{name}.{suffix}" for suffix in ("csr", "pem", "key"))
        extensions = self.directory / "extensions"
        extensions.write_text(f"subjectAltName={san}\nkeyUsage=digitalSignature\n")
        self._run("req", *self._key(name), "-out", str(request), "-subj", subject or f"/O=Tests/CN={name}")
        signer = ["-CA", str(self.ca), "-CAkey", str(self.directory / "ca.key"), "-CAcreateserial"]
        options = ["-out", str(certificate), "-days", str(days), "-extfile", str(extensions)]
        self._run("x509", "-req", "-in", str(request), *signer, *options)
        return certificate, key

    def revoke(self, name: str) -> Path:
        """Take a certificate back; return the list of those that were."""
        config, index, crl = (self.directory / file for file in ("ca.conf", "index.txt", "crl.pem"))
        index.touch()
        config.write_text(f"[ca]\ndefault_ca=it\n[it]\ndatabase={index}\ndefault_md=sha256\ndefault_crl_days=30\n")
        ca = ["ca", "-config", str(config), "-cert", str(self.ca), "-keyfile", str(self.directory / "ca.key")]
        self._run(*ca, "-revoke", str(self.path(f"{name}.pem")))
        self._run(*ca, "-gencrl", "-out", str(crl))
        return crl

    def path(self, name: str) -> Path:
        """Return the file ``name`` of the directory."""
        return self.directory / name

    def client(self, name: str = "") -> ssl.SSLContext:
        """Return the context of a client that trusts the CA, and has the certificate ``name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if name:
            context.load_cert_chain(self.path(f"{name}.pem"), self.path(f"{name}.key"))
        return context

    def server(self, name: str = "server") -> ssl.SSLContext:
        """Return the context of a server with the certificate ``name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(f"{name}.pem"), self.path(f"{name}.key"))
        return context

    def _key(self, name: str) -> list[str]:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        return [*key, "-keyout", str(self.directory / f"{name}.key")]

    def _run(self, *command: str) -> None:
        subprocess.run(["openssl", *command], check=True, stdin=subprocess.DEVNULL, capture_output=True)
