"""TLS of a port and of those who connect to it, mutual if wanted, from files that are read anew when they change."""

import ssl
from pathlib import Path
from typing import Self

import grpc
import msgspec

from core.config import Section
from core.files import FileError, Reloaded, contents


class Tls(Section, frozen=True, kw_only=True):
    """PEM files, read anew when they change: connections made from then on go by the new ones."""

    certificate: str  # RSA or ECDSA, with those between it and its authority
    key: str  # without a passphrase
    # Clients have to show a certificate that one of these has signed, probes as well; "" asks for none.
    client_ca: str = ""

    def within(self, folder: Path) -> Self:
        """The same, with paths that are relative taken as of `folder`."""
        return msgspec.structs.replace(
            self,
            certificate=str(folder / self.certificate),
            key=str(folder / self.key),
            client_ca=str(folder / self.client_ca) if self.client_ca else "",
        )


class ClientTls(Section, frozen=True, kw_only=True):
    """PEM files of one who connects; each connection goes by what they hold when it is made."""

    # Who may have signed the server's certificate; "" for the authorities that gRPC, or the system, comes with.
    ca: str = ""
    # Its own, for a server with client_ca, with those between it and its authority; "" for none.
    certificate: str = ""
    key: str = ""  # of the certificate, without a passphrase

    def within(self, folder: Path) -> Self:
        """The same, with paths that are relative taken as of `folder`."""
        given = {key: str(folder / name) for key, name in msgspec.structs.asdict(self).items() if name}
        return msgspec.structs.replace(self, **given)


def channel_credentials(tls: ClientTls, prefix: str = "control.tls.") -> grpc.ChannelCredentials:
    """What a channel is opened with, of the files as they are; raises FileError that names the key after `prefix`."""
    ca, certificate, key = _client_files(tls, prefix)
    return grpc.ssl_channel_credentials(ca, key, certificate)


def client_context(tls: ClientTls, prefix: str) -> ssl.SSLContext:
    """As `channel_credentials`, for connections that are not gRPC's; by default with the system's authorities."""
    ca, _, _ = _client_files(tls, prefix)
    context = ssl.create_default_context(cadata=None if ca is None else ca.decode("ascii", "ignore"))
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key, password="")
    return context


def _client_files(tls: ClientTls, prefix: str) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Authorities, certificate and key, None for what is not given; raises FileError that names the key."""
    for given, missing in (("certificate", "key"), ("key", "certificate")):
        if getattr(tls, given) and not getattr(tls, missing):
            raise FileError(f"{prefix}{missing}: expected a file beside {prefix}{given}")
    ca = _certificates(f"{prefix}ca", tls.ca) if tls.ca else None
    certificate, key = _identity(prefix, tls.certificate, tls.key) if tls.certificate else (None, None)
    return ca, certificate, key


def credentials(tls: Tls) -> grpc.ServerCredentials:
    """What a port is opened with; raises FileError that names the key."""
    paths = [Path(name) for name in (tls.certificate, tls.key, tls.client_ca) if name]
    files = Reloaded(lambda: _read(tls), *paths)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """For each new connection; gRPC takes None for no change."""
        return files.value if files.reload() else None

    return grpc.dynamic_ssl_server_credentials(
        files.value,
        changed,  # type: ignore[arg-type]  # the stub knows no None
        require_client_authentication=bool(tls.client_ca),
    )


def _read(tls: Tls) -> grpc.ServerCertificateConfiguration:
    """What the files hold, once it is known to fit together: gRPC would only say that it cannot listen."""
    certificate, key = _identity("server.tls.", tls.certificate, tls.key)
    client_ca = _certificates("server.tls.client_ca", tls.client_ca) if tls.client_ca else None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _identity(prefix: str, certificate: str, key: str) -> tuple[bytes, bytes]:
    """What the files of a certificate and its key hold; raises FileError that names the key after `prefix`."""
    read = _certificates(f"{prefix}certificate", certificate), contents(f"{prefix}key", Path(key))
    try:
        # Without a passphrase of its own, OpenSSL would ask for one at the terminal.
        _context().load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise FileError(
            f"{prefix}key: expected the private key of {prefix}certificate, in PEM and without a passphrase;"
            f" {key} is not: {_reason(error)}"
        ) from error
    return read


def _certificates(key: str, name: str) -> bytes:
    data = contents(key, Path(name))
    try:
        # Comments between certificates may hold any text.
        _context().load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise FileError(f"{key}: expected certificates in PEM, {name} holds none") from error
    return data


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _reason(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "not PEM"
