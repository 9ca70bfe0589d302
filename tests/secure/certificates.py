"""A certificate authority and what it signs, made for one run of the tests."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate and its key; `both` has one behind the other."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates for 127.0.0.1, and for clients."""

    def __init__(self, folder: Path) -> None:
        """Make a new authority; its certificate is `ca`."""
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rollcall test authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(**{name: name == "key_cert_sign" for name in _USAGES})
        certificate = self._builder(self._name, self._key.public_key()).add_extension(constraints, critical=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._sign(certificate.add_extension(usage, critical=True)))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        """Begin one with the identifiers of RFC 5280 (4.2.1.1, 4.2.1.2), on which Python insists from 3.13 on."""
        now = dt.datetime.now(dt.UTC)
        return (
            x509
            .CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, name: str, *, password: bytes | None = None) -> Certificate:
        """Return a certificate for `name` that also serves as 127.0.0.1's; its key is encrypted by `password`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = self._sign(self._builder(subject, key.public_key()).add_extension(names, critical=False))
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        files = Certificate(*(self._folder / f"{name}.{part}.pem" for part in ("cert", "key", "both")))
        files.cert.write_bytes(signed)
        files.key.write_bytes(private)
        files.both.write_bytes(private + signed)
        return files
