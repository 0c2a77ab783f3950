# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may call: the service account's file, a user's file, the tokens given out for them, and the proxy's certificates."""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.auth import exceptions, jwt

from rehearsal.errors import Refused, info
from rehearsal.state import ACCOUNT, PRIVATE, PROJECT, USER, write

HOSTS = ("*.googleapis.com", "accounts.google.com")  # what the proxy answers for
AUDIENCES = (
    "https://oauth2.googleapis.com/token",
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ALL = "https://www.googleapis.com/auth/cloud-platform"


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class OAuthError(Exception):
    """A refusal by the token endpoint, whose errors have their own shape."""

    def __init__(self, http: int, error: str, description: str):
        super().__init__(description)
        self.http, self.body = http, {"error": error, "error_description": description}


class Credentials:
    """Keys and tokens, kept in the state directory; of a token only its hash is kept."""

    def __init__(self, directory: Path, endpoint: str, token_seconds: int):
        self.directory, self.token_seconds = directory, token_seconds
        self.token_uri = f"{endpoint}/oauth2/token"
        self.file, self.tokens_file = directory / "credentials.json", directory / "tokens.json"
        self.tokens: dict[str, dict] = json.loads(self.tokens_file.read_text()) if self.tokens_file.exists() else {}
        self._account_file()

    def _account_file(self) -> None:
        """credentials.json and user.json; the keys stay, the token_uri follows the port."""
        account = json.loads(self.file.read_text()) if self.file.exists() else {}
        if not account:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            account = {"private_key_id": secrets.token_hex(20), "private_key": _pem(key).decode()}
        account |= {
            "type": "service_account", "project_id": PROJECT, "client_email": ACCOUNT, "client_id": "100000000000000000001",
            "token_uri": self.token_uri, "universe_domain": "googleapis.com",
        }  # fmt: skip
        write(self.file, json.dumps(account, indent=2))
        user_file = self.directory / "user.json"
        self.user = json.loads(user_file.read_text()) if user_file.exists() else {
            "type": "authorized_user", "client_id": "rehearsal.apps.googleusercontent.com", "client_secret": secrets.token_urlsafe(18),
            "refresh_token": f"1//{secrets.token_urlsafe(40)}", "quota_project_id": PROJECT,
        }  # fmt: skip
        write(user_file, json.dumps(self.user, indent=2))
        key = serialization.load_pem_private_key(account["private_key"].encode(), None)
        self._public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._key_id = account["private_key_id"]

    def issue(self, principal: str, scopes: list[str], *, seconds: int | None = None, token: str = "") -> str:
        """A token for the principal; seconds 0: without end. A token that was made elsewhere is taken as it is."""
        token = token or f"ya29.{secrets.token_urlsafe(48)}"
        seconds = self.token_seconds if seconds is None else seconds
        known = {digest: entry for digest, entry in self.tokens.items() if not entry["expires"] or entry["expires"] > time.time() - 3600}
        known[_digest(token)] = {"principal": principal, "scopes": scopes, "expires": time.time() + seconds if seconds else 0}
        self.tokens = known
        write(self.tokens_file, json.dumps(known))
        return token

    def expire(self, token: str) -> None:
        """From now on the token is refused."""
        if entry := self.tokens.get(_digest(token)):
            entry["expires"] = 1
            write(self.tokens_file, json.dumps(self.tokens))

    def check(self, token: str) -> dict:
        """The entry (principal, scopes, expires) of a token; 401 if it is missing, unknown or expired."""
        entry = self.tokens.get(_digest(token)) if token else None
        if entry and (not entry["expires"] or entry["expires"] > time.time()):
            return entry
        if not token:
            message, reason = "Request is missing required authentication credential.", "CREDENTIALS_MISSING"
        else:
            message = "Request had invalid authentication credentials."
            reason = "ACCESS_TOKEN_EXPIRED" if entry else "ACCESS_TOKEN_TYPE_UNSUPPORTED"
        message += (
            " Expected OAuth 2 access token, login cookie or other valid authentication credential."
            " See https://developers.google.com/identity/sign-in/web/devconsole-project."
        )
        raise Refused(401, "", message, [info(reason)])

    def exchange(self, form: dict, clients: dict) -> tuple[str, list[str]]:
        """Principal and scopes that a request for a token proves; raises OAuthError. clients: the OAuth clients in the state."""
        grant = form.get("grant_type", "")
        if grant == GRANT:
            return self._by_jwt(form.get("assertion", ""))
        if grant not in ("refresh_token", "authorization_code"):
            raise OAuthError(400, "unsupported_grant_type", f"Invalid grant_type: {grant}")
        known = {self.user["client_id"]: {f"{PRIVATE}secret": self.user["client_secret"]}, **clients}
        client = known.get(form.get("client_id", ""))
        if client is None:
            raise OAuthError(401, "invalid_client", "The OAuth client was not found.")
        if form.get("client_secret", "") != client.get(f"{PRIVATE}secret"):
            raise OAuthError(401, "invalid_client", "The provided client secret is invalid.")
        if grant == "authorization_code":  # nobody signs in here, so there is never a code; but the secret has been checked
            raise OAuthError(400, "invalid_grant", "Malformed auth code.")
        if form.get("refresh_token") != self.user["refresh_token"]:
            raise OAuthError(400, "invalid_grant", "Bad Request")
        return USER, [ALL]

    def _by_jwt(self, assertion: str) -> tuple[str, list[str]]:
        try:
            claims = jwt.decode(assertion, certs={self._key_id: self._public}, audience=[self.token_uri, *AUDIENCES])
        except (ValueError, exceptions.GoogleAuthError) as error:
            raise OAuthError(400, "invalid_grant", f"Invalid JWT: {error}") from error
        if claims.get("iss") != ACCOUNT:
            raise OAuthError(400, "invalid_grant", "Invalid grant: account not found")
        if not claims.get("scope"):
            raise OAuthError(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return ACCOUNT, claims["scope"].split()

    def tls(self) -> ssl.SSLContext:
        """TLS as Google's hosts, with a certificate by the CA in ca.pem (made once, for ten years)."""
        authority, leaf = self.directory / "ca.pem", self.directory / "proxy.pem"
        if not leaf.exists():
            key, ca_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
            issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mlops.platform rehearsal")])
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOSTS[0])])
            root = _certificate(issuer, issuer, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=0))
            server = _certificate(subject, issuer, key, ca_key, x509.BasicConstraints(ca=False, path_length=None), names, usage)
            write(authority, root)
            write(leaf, server + _pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf)
        return context


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ca_key: ec.EllipticCurvePrivateKey,
                 constraints: x509.BasicConstraints, *extensions: x509.ExtensionType) -> bytes:  # fmt: skip
    today = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=3650))
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=constraints.ca,
                crl_sign=constraints.ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )  # fmt: skip
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
