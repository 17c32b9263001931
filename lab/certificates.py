"""Certificates of an authority of our own, with keys of any size. Runs in the host's Python, which has cryptography."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

# The subjects of the test certificates in DIRAC's wheel.
_AUTHORITY = [("O", "DIRAC Computing"), ("CN", "DIRAC Computing Signing Certification Authority")]
_HOST = [("O", "Dirac Computing"), ("O", "CERN"), ("CN", "VOBox")]
_USER = [("O", "Dirac Computing"), ("O", "CERN"), ("CN", "MrUser")]
_DAYS = 30


def make(folder: str, authority: str, bits: int) -> None:
    """Make certificates and keys of an authority, a host ("localhost") and a user, valid for a month.

    folder: for hostcert.pem, hostkey.pem, usercert.pem and userkey.pem; authority: the file for its certificate;
    bits: of every RSA key.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signing = _key(bits)
    issued = _certificate(_AUTHORITY, signing, _AUTHORITY, signing, [(x509.BasicConstraints(True, None), True)])
    Path(authority).write_bytes(_text(issued))
    names: Any = x509.SubjectAlternativeName([x509.DNSName("VOBox"), x509.DNSName("localhost")])
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    for name, subject, extensions in (
        ("host", _HOST, [(names, False), (both, False)]),
        ("user", _USER, [(client, False)]),
    ):
        key = _key(bits)
        issued = _certificate(subject, key, _AUTHORITY, signing, extensions)
        (Path(folder) / f"{name}cert.pem").write_bytes(_text(issued))
        (Path(folder) / f"{name}key.pem").write_bytes(_key_text(key))
        os.chmod(Path(folder) / f"{name}key.pem", 0o400)


def _key(bits: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _certificate(subject: Any, key: Any, issuer: Any, signing: Any, extensions: Any) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.utcnow()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(_usage(authority=key is signing), critical=True)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing, hashes.SHA256())


def _usage(authority: bool) -> Any:
    from cryptography import x509

    names = ["content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"]
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        **dict.fromkeys(names, False),
    )


def _name(parts: Any) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    oids = {"O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}
    return x509.Name([x509.NameAttribute(oids[kind], value) for kind, value in parts])


def _text(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate.public_bytes(Encoding.PEM))


def _key_text(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
