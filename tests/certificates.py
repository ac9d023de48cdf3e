"""A certificate authority of the tests' own, and the TLS of servers that it vouches for."""

import datetime as dt
import ipaddress
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_DAY = dt.timedelta(days=1)
_PEM = serialization.Encoding.PEM


class Authority:
    """Vouches for servers; who is to believe it gets its certificate, `pem`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("Gatehook's tests")
        signing = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        own = self._begun(self._name, self._key, 1).add_extension(signing, critical=True)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        own = own.add_extension(self._own, critical=False)
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(_PEM).decode()

    def _begun(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        begun = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key.public_key())
        begun = begun.serial_number(x509.random_serial_number())
        return begun.not_valid_before(now - 10 * _DAY).not_valid_after(now + days * _DAY)

    def chain(self, *names: str, days: int = 1) -> bytes:
        """Key and certificate of a server with these names or addresses, in PEM; `days` may be negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._begun(_named("a server"), key, days)
        known = x509.SubjectAlternativeName([_general(name) for name in names])
        certificate = certificate.add_extension(known, critical=False)
        ours = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._own)
        signed = certificate.add_extension(ours, critical=False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return private + signed.public_bytes(_PEM)

    def server(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """The TLS of such a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder) / "chain.pem"
            chain.write_bytes(self.chain(*names, days=days))
            context.load_cert_chain(chain)
        return context


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
