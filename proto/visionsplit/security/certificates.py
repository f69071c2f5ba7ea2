"""Loads and validates PEM certificates and keys before gRPC uses them: it fails at a handshake without a reason."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from visionsplit.security.reloaded_files import CredentialsError, read_file

_log = logging.getLogger(__name__)
_SOON = timedelta(days=14)


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its chain of intermediate certificates, and its private key, both in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def load_pair(certificate: Path, key: Path) -> KeyPair:
    """Read a certificate and its key.

    Raises:
        CredentialsError: a file is missing or has other content, the key does not belong to the certificate, the key is
            encrypted or of a type that gRPC does not accept, or a certificate is not valid now.
    """
    chain_pem, key_pem = read_file(certificate, "the certificate"), read_file(key, "the key")
    chain = _certificates(chain_pem, certificate)
    for one in chain:
        _check_dates(one, certificate)
    private = _private_key(key_pem, key)
    if private.public_key() != chain[0].public_key():
        raise CredentialsError(f"the key {key} does not belong to the certificate {certificate}")
    return KeyPair(chain_pem, key_pem)


def load_authorities(path: Path) -> bytes:
    """Read certificates of authorities, at least one of which must be valid now.

    Raises:
        CredentialsError: the file is missing, contains no certificate, or only expired ones.
    """
    pem = read_file(path, "the certificate authority")
    problem: CredentialsError | None = None
    for certificate in _certificates(pem, path):
        try:
            _check_dates(certificate, path)
        except CredentialsError as error:
            problem = error
        else:
            return pem
    raise problem or CredentialsError(f"{path} holds no certificate")


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CredentialsError(f"{path} holds no certificate in PEM") from None


def _check_dates(certificate: x509.Certificate, path: Path) -> None:
    now = datetime.now(UTC)
    if now < certificate.not_valid_before_utc:
        raise CredentialsError(f"the certificate in {path} is valid only from {_day(certificate.not_valid_before_utc)}")
    if now > certificate.not_valid_after_utc:
        raise CredentialsError(f"the certificate in {path} expired on {_day(certificate.not_valid_after_utc)}")
    if certificate.not_valid_after_utc - now < _SOON:
        _log.warning("the certificate in %s expires on %s", path, _day(certificate.not_valid_after_utc))


def _private_key(pem: bytes, path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise CredentialsError(f"the key {path} is encrypted; an unencrypted key is needed") from None
    except ValueError:
        raise CredentialsError(f"{path} holds no private key in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CredentialsError(f"the key {path} is of a type that gRPC does not accept; RSA and ECDSA are accepted")
    return key


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
