"""Certificates for tests, made with openssl: an authority, and what it signs for 127.0.0.1."""

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority in a folder; everything is PEM."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        _openssl(
            "req", "-x509", *_new_key(self._key), "-subj", f"/CN={name}", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", str(self.certificate),
        )  # fmt: skip

    def sign(self, name: str) -> tuple[Path, Path]:
        """Return the certificate and the key of a name, good for 127.0.0.1 as well."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", str(request))
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n", encoding="ascii")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate),
            "-CAkey", str(self._key), "-CAcreateserial", "-days", "2",
            "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def key_store(self, name: str) -> Path:
        """Return key, certificate and authority in one file, as Kafka's PEM key store wants it."""
        certificate, key = self.sign(name)
        store = self._folder / f"{name}.store.pem"
        parts = (key, certificate, self.certificate)
        store.write_text("".join(part.read_text("ascii") for part in parts), encoding="ascii")
        return store


def encrypt_key(key: Path, password: str) -> Path:
    """Return the same key, encrypted."""
    encrypted = key.with_suffix(".encrypted.key")
    _openssl("pkcs8", "-topk8", "-in", str(key), "-passout", f"pass:{password}",
             "-out", str(encrypted))  # fmt: skip
    return encrypted


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True, timeout=30)
