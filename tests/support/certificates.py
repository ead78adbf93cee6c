"""Certificates for tests: an authority, pairs signed by it, and the kubelet's way of putting them into a folder."""

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CHAIN, KEY = "tls.crt", "tls.key"


class Authority:
    """Signs pairs for 127.0.0.1."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        builder = _builder(self._name, self._name, self._key.public_key())
        ca = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = builder.add_extension(ca, critical=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def pair(self, *, password: bytes = b"", days: float = 90) -> tuple[bytes, bytes]:
        """A new certificate, good for so long, and its key, PEM both."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = _builder(name, self._name, key.public_key(), days).add_extension(address, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        return signed.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked)

    def client_context(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        return ssl.create_default_context(cadata=self.pem.decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float = 3650
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def mount(folder: Path, pair: tuple[bytes, bytes]) -> tuple[Path, Path]:
    """Put a pair into a folder as the kubelet does: names that lead through `..data`, which is swapped at once."""
    folder.mkdir(exist_ok=True)
    content = folder / f"..{os.urandom(4).hex()}"
    content.mkdir()
    for name, text in zip((CHAIN, KEY), pair, strict=True):
        (content / name).write_bytes(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..new").symlink_to(content.name)
    (folder / "..new").rename(folder / "..data")
    return folder / CHAIN, folder / KEY


def serial_of(certificate: bytes) -> int:
    """Serial number of a PEM certificate."""
    return x509.load_pem_x509_certificate(certificate).serial_number
