# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OAuth client of Identity-Aware Proxy: how to make it by hand, and what Google says about it before anything is built.

Since March 2026 no API creates such clients. What is wrong with one shows only when somebody signs in, unless it is asked for before.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

AUTHORISATION = "https://accounts.google.com/o/oauth2/v2/auth"
TOKEN = "https://oauth2.googleapis.com/token"
CLIENT_ID = re.compile(r"\d{6,}(-[0-9a-z]+)?\.apps\.googleusercontent\.com")
CLIENT_SECRET = re.compile(r"[A-Za-z0-9_-]{16,}")
SECRET_PREFIX = "GOCSPX-"

ACCEPTED, MISMATCH, UNKNOWN, DELETED, REFUSED, UNCLEAR = "accepted", "redirect_uri_mismatch", "unknown", "deleted", "refused", "unclear"
_MEANING = {"redirect_uri_mismatch": MISMATCH, "invalid_client": UNKNOWN, "deleted_client": DELETED}
_CODE = re.compile(r"[a-z]+(_[a-z]+)+")


@dataclass(frozen=True)
class Answer:
    """What Google says about a client: one of the constants above, Google's code, and its own words as far as there are any."""

    kind: str
    code: str = ""
    text: str = ""


def redirect_uri(client_id: str) -> str:
    """Where Google sends users of Identity-Aware Proxy back to; an authorised redirect URI of the client."""
    return f"https://iap.googleapis.com/v1/oauth/clientIds/{client_id}:handleRedirect"


def authorised_domain(project: str) -> str:
    """The domain of the platform's host names."""
    return f"{project}.cloud.goog"


def endpoint(url: str, moved_to: str = "") -> str:
    """The address to ask, with every service moved to `<moved_to>/<first label of its host>` where one is given."""
    parts = urlsplit(url)
    return f"{moved_to.rstrip('/')}/{parts.hostname.partition('.')[0]}{parts.path}" if moved_to else url


# -- what users gave ----------------------------------------------------------------------------------------------------


def faults(client_id: str, client_secret: str) -> list[str]:
    """What is wrong with the form of both, each with what to write instead. The secret is never repeated; empty ones are no fault."""
    found = []
    if client_id.startswith(SECRET_PREFIX):
        found.append("The client ID is a client secret: are both swapped?")
    elif client_id and not CLIENT_ID.fullmatch(client_id):
        found.append(
            f"The client ID {client_id!r} does not have the form of one: write it as the console shows it, "
            "123456789012-abc123def456.apps.googleusercontent.com"
        )
    if client_secret and CLIENT_ID.fullmatch(client_secret):
        found.append("The client secret is a client ID: are both swapped?")
    elif client_secret and not CLIENT_SECRET.fullmatch(client_secret):
        found.append(
            f"The client secret does not have the form of one: it has {len(client_secret)} characters and must be 16 or more letters, "
            f"digits, - and _, nowadays after {SECRET_PREFIX}. It may be the placeholder of a template, or still encrypted"
        )
    return found


def console_steps(project: str, application: str, email: str, client_id: str = "") -> str:
    """How to make the client, or, when its ID is known, how to complete it, with everything filled in."""
    query = f"?project={project}"
    console = "https://console.cloud.google.com/auth"
    uri = redirect_uri(client_id or "<CLIENT_ID>")
    if client_id:
        number = client_id.partition("-")[0]
        return (
            f"1. Open {console}/clients/{client_id}?project={number}\n"
            f"2. Authorised redirect URIs must have exactly this one: {uri}\n"
            "3. Client secrets: Add secret, and copy it at once, for the console shows it only now."
        )
    return (
        f"1. Consent screen: open {console}/branding{query} and enter\n"
        f"     Application name:   {application}\n"
        f"     User support e-mail: {email or '<an address of yours, or of a group that you own>'}\n"
        f"     Authorised domain:  {authorised_domain(project)}\n"
        f"     Developer contact:  {email or '<an address of yours>'}\n"
        f"2. Who may sign in: open {console}/audience{query} and choose Internal (accounts of your organisation) or External\n"
        "   (others too; while it is in testing, list them as test users).\n"
        f"3. Client: open {console}/clients/create{query} and enter\n"
        "     Application type:   Web application\n"
        f"     Name:               {application}\n"
        "   Create it, and copy the client ID and the client secret at once: the console shows the secret only now.\n"
        "4. Redirect URI, which contains the ID and so comes last: open the client again and add under Authorised redirect URIs\n"
        f"     {uri}"
    )


# -- what Google answers ------------------------------------------------------------------------------------------------


def authorisation_request(client_id: str) -> dict:
    """The query that a browser would bring to the authorisation endpoint from Identity-Aware Proxy."""
    return {"client_id": client_id, "redirect_uri": redirect_uri(client_id), "response_type": "code", "scope": "openid email"}


def authorisation_answer(status: int, location: str, body: str, client_id: str) -> Answer:
    """What the authorisation endpoint's answer means. `location` is that of its redirection, which must not have been followed.

    Google sends a browser on to an error page, whose parameter authError holds the code in a protobuf message, or to the sign-in page.
    """
    if 300 <= status < 400:
        target = urlsplit(location)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        if "authError" in query:
            return _refusal(*_auth_error(query["authError"]))
        if location.startswith(redirect_uri(client_id)):
            return Answer(ACCEPTED, query.get("error", ""))
        if "error" in query:
            return _refusal(query["error"], query.get("error_description", ""))
        if "/error" not in target.path and re.search(r"sign-?in|login|accountchooser|/consent|/auth/", target.path, re.IGNORECASE):
            return Answer(ACCEPTED)
        return Answer(UNCLEAR, text=f"a redirection to {target.scheme}://{target.netloc}{target.path}")
    if 400 <= status < 500 and status not in (407, 408, 429):
        return _refused_by_page(status, body)
    if status == 200 and re.search(r"identifierId|ServiceLogin|/signin/", body):
        return Answer(ACCEPTED)
    return Answer(UNCLEAR, text=f"HTTP {status}")


def token_request(client_id: str, client_secret: str) -> dict:
    """A request to the token endpoint that fails in any case: by its code if the secret is right, by the secret if not."""
    return {
        "grant_type": "authorization_code",
        "code": "none",
        "client_id": client_id,
        "client_secret": client_secret,
        "redirect_uri": redirect_uri(client_id),
    }


def token_answer(status: int, body: str) -> Answer:
    """What the token endpoint's answer to `token_request` means."""
    try:
        said = json.loads(body)
        code, text = str(said["error"]), str(said.get("error_description") or "")
    except (ValueError, TypeError, KeyError):
        return Answer(UNCLEAR, text=f"HTTP {status}")
    if code in ("invalid_grant", "redirect_uri_mismatch"):  # it got as far as the code, or to the URI that the other check is about
        return Answer(ACCEPTED, code)
    if code in ("invalid_client", "unauthorized_client", "deleted_client"):
        return Answer(REFUSED, code, text)
    return Answer(UNCLEAR, code, text)


def _refusal(code: str, text: str) -> Answer:
    return Answer(_MEANING.get(code, REFUSED if code else UNCLEAR), code, text)


def _refused_by_page(status: int, body: str) -> Answer:
    """An error page, as older forms of the endpoint answer, or the JSON of an OAuth error."""
    try:
        said = json.loads(body)
        return _refusal(str(said["error"]), str(said.get("error_description") or ""))
    except (ValueError, TypeError, KeyError):
        pass
    plain = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
    found = re.search(rf"Error(?: \d+)?: ({_CODE.pattern})", plain)
    return _refusal(found[1], "") if found else Answer(UNCLEAR, text=f"HTTP {status}")


def _auth_error(encoded: str) -> tuple[str, str]:
    """(code, text) of an authError: URL-safe base64 of a protobuf message whose first field is the code, whose second is the text."""
    try:
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        return "", ""
    try:
        fields = _strings(data)
    except (IndexError, ValueError):  # another message than it was: the code stands in it all the same
        found = re.search(_CODE.pattern.encode(), data)
        return (found[0].decode() if found else ""), ""
    return fields.get(1, ""), " ".join(fields.get(2, "").split())


def _strings(data: bytes) -> dict[int, str]:
    """The texts of a protobuf message by field number. IndexError or ValueError if it is none."""
    fields, position = {}, 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 0:
            _number, position = _varint(data, position)
        elif tag & 7 == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise IndexError(position)
            fields[tag >> 3] = data[position : position + length].decode()
            position += length
        else:
            raise ValueError(tag)
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        byte = data[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position


# -- which backends have a client of their own --------------------------------------------------------------------------


def custom_backends(backend_services: list[dict], service: str) -> dict[str, str]:
    """The client IDs by backend service, of those that stand for the Kubernetes service `namespace/name` and have a custom client.

    GKE writes the service into the description. A backend with Google's client has no ID, or one of blanks.
    """
    return {
        backend["name"]: backend["iap"]["oauth2ClientId"]
        for backend in backend_services
        if ((backend.get("iap") or {}).get("oauth2ClientId") or "").strip() and f'"{service}"' in (backend.get("description") or "")
    }
