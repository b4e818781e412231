"""uac: the client's side of digest authentication (RFC 3261 section 22.3, RFC 7616). Part of uac."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.ids import Ids
from polykemi.modules.tm_local import LocalRequest
from polykemi.sip.digest import ha1, is_supported
from polykemi.sip.digest import response as digest_response
from polykemi.sip.grammar import LWS
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Response

_CHALLENGES: Final = {401: "www-authenticate", 407: "proxy-authenticate"}
_ANSWERS: Final = {401: "Authorization", 407: "Proxy-Authorization"}
_CREDENTIAL: Final = re.compile(r"\s*([^:\s]+)\s*:\s*([^:\s]+)\s*:\s*(\S+)\s*")
_COUNT: Final = "00000001"  # each nonce is used once


@dataclass(frozen=True, slots=True)
class Credential:
    """What we are known by in one realm; ``is_ha1``: ``password`` is H(user:realm:password)."""

    realm: str
    user: str
    password: str
    is_ha1: bool = False

    @classmethod
    def parse(cls, text: str) -> Credential:
        """Parse ``user:realm:password``. Raise ValueError."""
        match = _CREDENTIAL.fullmatch(text)
        if match is None:
            raise ValueError(f"credential: expected user:realm:password, got {text!r}")
        user, realm, password = match.groups()
        return cls(realm, user, password)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 or 407 asks for. Texts are as they stand inside of the quotes."""

    status: int
    realm: str
    nonce: str
    opaque: str
    algorithm: str
    wants_qop: bool


def challenge_of(response: Response) -> Challenge:
    """Return the first challenge of a response. Raise ParseError when it has none that can be met."""
    status = response.status
    name = _CHALLENGES.get(status)
    value = response.get(name) if name is not None else None
    if value is None:
        raise ParseError("no challenge in the response")
    scheme, _, rest = value.strip(LWS).replace("\t", " ").partition(" ")
    if scheme.lower() != "digest":
        raise ParseError(f"a challenge for {scheme}, not Digest")
    fields: dict[str, str] = {}
    for item in split_quoted(rest, ","):
        field, equals, text = item.partition("=")
        text = text.strip(LWS)
        if equals:
            fields[field.strip(LWS).lower()] = text[1:-1] if text[:1] == '"' and text[-1:] == '"' else text
    algorithm = fields.get("algorithm", "") or "MD5"
    if not fields.get("realm") or not fields.get("nonce"):
        raise ParseError("realm or nonce is missing in the challenge")
    if not is_supported(algorithm):
        raise ParseError(f"unknown algorithm {algorithm} in the challenge")
    wants_qop = fields.get("qop", "").startswith("auth")
    return Challenge(status, fields["realm"], fields["nonce"], fields.get("opaque", ""), algorithm, wants_qop)


def authorization(challenge: Challenge, credential: Credential, method: str, uri: str, cnonce: str) -> str:
    """Return the header line that meets ``challenge`` for a request ``method`` to ``uri``."""
    key = credential.password
    if not credential.is_ha1:
        key = ha1(credential.user, challenge.realm, credential.password, challenge.algorithm)
    qop, count, mine = ("auth", _COUNT, cnonce) if challenge.wants_qop else ("", "", "")
    answer = digest_response(
        key, challenge.nonce, method, uri, algorithm=challenge.algorithm, qop=qop, nc=count, cnonce=mine
    )
    parts = [
        f'username="{credential.user}"',
        f'realm="{challenge.realm}"',
        f'nonce="{challenge.nonce}"',
        f'uri="{uri}"',
    ]
    if challenge.opaque:
        parts.append(f'opaque="{challenge.opaque}"')
    if qop:
        parts += [f"qop={qop}", f"nc={count}", f'cnonce="{mine}"']
    parts += [f'response="{answer}"', f"algorithm={challenge.algorithm}"]
    return f"{_ANSWERS[challenge.status]}: Digest " + ", ".join(parts)


def once_more(request: LocalRequest, response: Response, credential: Credential, ids: Ids) -> LocalRequest:
    """Return a request of ours again, now with credentials for the challenge of ``response``. Raise ParseError."""
    line = authorization(challenge_of(response), credential, request.method, request.uri, ids.tag())
    # names stay with the first request, as Kamailio does
    sender, receiver = parse_name_addr(request.from_), parse_name_addr(request.to)
    return replace(
        request,
        from_=f"<{sender.uri}>;tag={sender.tag}",
        to=f"<{receiver.uri}>",
        cseq=request.cseq + 1,
        headers=[*request.headers, line],
    )
