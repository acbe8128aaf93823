"""Certificates for tests, as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import trustme

from core.tls import ClientTls, Tls


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key, and the authority that has signed it."""

    certificate: Path
    key: Path
    ca: Path

    @classmethod
    def issue(cls, directory: Path, authority: trustme.CA, name: str = "127.0.0.1") -> Self:
        """Write it into `directory`, over whatever was there."""
        directory.mkdir(exist_ok=True)
        identity = cls(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
        issued = authority.issue_cert(name)
        identity.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        identity.key.write_bytes(issued.private_key_pem.bytes())
        identity.ca.write_bytes(authority.cert_pem.bytes())
        return identity

    def tls(self, client_ca: Path | None = None) -> Tls:
        """For a server that is this."""
        return Tls(certificate=str(self.certificate), key=str(self.key), client_ca=str(client_ca or ""))

    def client_tls(self) -> ClientTls:
        """For a client that is this, and takes what its own authority has signed for a server."""
        return ClientTls(ca=str(self.ca), certificate=str(self.certificate), key=str(self.key))

    def credentials(self, ca: Path | None = None) -> grpc.ChannelCredentials:
        """For a client that is this, and takes what `ca` has signed for a server, by default its own."""
        return grpc.ssl_channel_credentials(
            (ca or self.ca).read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )
