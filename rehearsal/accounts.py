# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Google's pages that are no API with a description: the token endpoint and where a browser is sent to sign in."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from rehearsal.errors import Refused

if TYPE_CHECKING:
    from rehearsal.server import Rehearsal


def token(rehearsal: Rehearsal, query: str, data: bytes, headers: dict) -> tuple[int, dict]:
    """POST oauth2.googleapis.com/token: a token for a signed JWT or a refresh token; checks an OAuth client's secret on the way."""
    form = dict(parse_qsl(data.decode(errors="replace")))
    with rehearsal.lock:
        principal, scopes = rehearsal.credentials.exchange(form, rehearsal.state["oauthClients"])
        made = rehearsal.issue(principal, scopes)
    return 200, {"access_token": made, "expires_in": rehearsal.credentials.token_seconds, "token_type": "Bearer", "scope": " ".join(scopes)}


def token_info(rehearsal: Rehearsal, access_token: str) -> dict:
    """Whose a token is, and how long it is good for."""
    try:
        entry = rehearsal.credentials.check(access_token)
    except Refused as error:
        raise Refused(400, "", "Invalid Value") from error
    expires = int(entry["expires"] - time.time()) if entry["expires"] else 3600
    return {"email": entry["principal"], "expires_in": expires, "scope": " ".join(entry["scopes"]), "verified_email": True}


def token_page(rehearsal: Rehearsal, query: str, data: bytes, headers: dict) -> tuple[int, dict]:
    """GET or POST oauth2.googleapis.com/tokeninfo?access_token=…, the undescribed form of token_info, with text for numbers."""
    found = token_info(rehearsal, dict(parse_qsl(query or data.decode(errors="replace"))).get("access_token", ""))
    return 200, {"email": found["email"], "email_verified": "true", "expires_in": str(found["expires_in"]), "scope": found["scope"]}


def sign_in(rehearsal: Rehearsal, query: str, data: bytes, headers: dict) -> tuple[int, None]:
    """GET accounts.google.com/o/oauth2/v2/auth: sends on to the sign-in page, or to a page that tells the error.

    As with Google, the error is inside the parameter authError: base64 of a protocol buffer with the error's name, its text and its code.
    """
    asked = dict(parse_qsl(query))
    with rehearsal.lock:
        client = rehearsal.state["oauthClients"].get(asked.get("client_id", ""))
    error = None
    if not asked.get("client_id"):
        error = (400, "invalid_request", "Missing required parameter: client_id")
    elif client is None:
        error = (401, "invalid_client", "The OAuth client was not found.")
    elif not asked.get("redirect_uri"):
        error = (400, "invalid_request", "Missing required parameter: redirect_uri")
    elif not asked.get("response_type"):
        error = (400, "invalid_request", "Missing required parameter: response_type")
    elif not asked.get("scope"):
        error = (400, "invalid_request", "Missing required parameter: scope")
    elif asked["redirect_uri"] not in client.get("redirectUris", []):
        text = (
            "You can't sign in to this app because it doesn't comply with Google's OAuth 2.0 policy.\n\nIf you're the app developer, "
            f"register the redirect URI in the Google Cloud Console.\n\nredirect_uri: {asked['redirect_uri']}"
        )
        error = (400, "redirect_uri_mismatch", text)
    if error:
        parameters = {"authError": _protobuf(*error), "client_id": asked.get("client_id", ""), "flowName": "GeneralOAuthFlow"}
        headers["Location"] = f"https://accounts.google.com/signin/oauth/error/v2?{urlencode(parameters)}"
    else:
        parameters = {"continue": "https://accounts.google.com/signin/oauth/legacy/consent", "flowName": "GeneralOAuthFlow"}
        headers["Location"] = f"https://accounts.google.com/v3/signin/identifier?{urlencode(parameters)}"
    return 302, None


def _protobuf(code: int, name: str, text: str) -> str:
    def varint(value: int) -> bytes:
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    fields = b"".join(bytes([tag]) + varint(len(part.encode())) + part.encode() for tag, part in ((0x0A, name), (0x12, text)))
    return base64.b64encode(fields + b"\x20" + varint(code)).decode()


PAGES = {
    ("POST", "oauth2/token"): token,
    ("GET", "oauth2/tokeninfo"): token_page,
    ("POST", "oauth2/tokeninfo"): token_page,
    ("GET", "accounts/o/oauth2/v2/auth"): sign_in,
}
