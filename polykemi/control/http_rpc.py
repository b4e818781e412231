"""JSON-RPC over HTTP, as Kamailio's jsonrpcs over xhttp: POST /RPC, ``application/json`` both ways.

Pages of a web browser cannot ask: what a browser sends for a page carries an Origin, and JSON alone is taken.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from polykemi.control.http import Post, Response
from polykemi.control.jsonrpc import Answer
from polykemi.kemi.rpc import Later

PATH: Final = "/RPC"
_JSON: Final = "application/json"


def rpc_over_http(answer: Callable[[bytes], Answer], token: str) -> Post:
    """Return what answers requests that carry ``token`` (RFC 6750; "": none is needed) by ``answer``."""

    def post(headers: Mapping[str, str], body: bytes) -> Response | Later:
        if "origin" in headers:
            return HTTPStatus.FORBIDDEN, None
        if token and not _has(headers.get("authorization", ""), token):
            return HTTPStatus.UNAUTHORIZED, None
        if headers.get("content-type", "").partition(";")[0].strip(" \t").lower() != _JSON:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, None
        content = answer(body)
        return content.made(_response) if isinstance(content, Later) else _response(content)

    return post


def _response(content: bytes | None) -> Response:
    return (HTTPStatus.OK, content) if content is not None else (HTTPStatus.NO_CONTENT, None)


def _has(authorization: str, token: str) -> bool:
    """Tell whether a client knows ``token``; how long it takes tells nothing of it."""
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip(" ").encode("latin-1"), token.encode("ascii")) and scheme.lower() == "bearer"
