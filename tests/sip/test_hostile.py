"""Input made to hurt: 64 KiB of it costs no more than a small multiple of what 64 KiB of plain input cost.

The bounds are some ten times above what a slow machine needs and far below what anything quadratic takes.
"""

from __future__ import annotations

import contextlib

import pytest

from polykemi.errors import ParseError
from polykemi.sip.build import cancel, forward_request, forward_response, mark_via, response
from polykemi.sip.digest import check, parse_credentials
from polykemi.sip.header import Via, parse_name_addr, parse_params, split_quoted, unfold, unquote
from polykemi.sip.message import Edits, Request, parse
from polykemi.sip.rewrite import rewrite_uris
from polykemi.sip.uri import parse_uri, same_uri
from tests.waiting import cpu_seconds

SIZE = 65_000
SECONDS = 1.0

VALUES = {
    "quotes": '"' * SIZE,
    "quoted strings": '"a"' * (SIZE // 3),
    "escaped quotes": '"' + '\\"' * (SIZE // 2),
    "backslashes": "\\" * SIZE,
    "an open quote": '"' + "a" * SIZE,
    "quotes and brackets": '"<' * (SIZE // 2),
    "open brackets": "<" * SIZE,
    "closing brackets": ">" * SIZE,
    "brackets": "<>" * (SIZE // 2),
    "white space": "a" + " " * SIZE + "b",
    "tabs and spaces": "a" + " \t" * (SIZE // 2) + ":b",
    "folding": "a" + "\r\n " * (SIZE // 3) + "b",
    "folds of white space": "a" + (" " * 100 + "\r\n") * (SIZE // 102) + " b",
    "semicolons": ";" * SIZE,
    "parameters": "".join(f";p{i}=v" for i in range(SIZE // 8)),
    "quoted parameters": ';a="x;y"' * (SIZE // 8),
    "commas": "," * SIZE,
    "Vias": "SIP/2.0/UDP h," * (SIZE // 14),
    "a Via of spaces": "SIP/2.0/UDP " + " " * SIZE + "x",
    "a Via of slashes": "SIP" + " /" * (SIZE // 2),
    "a Via of colons": "SIP/2.0/UDP " + ": " * (SIZE // 2),
    "a Via of brackets": "SIP/2.0/UDP " + "[" * SIZE,
    "name-addrs": '"a" <sip:a@h>,' * (SIZE // 14),
    "display names": 'a "b" ' * (SIZE // 6),
    "at signs": "sip:" + "@" * SIZE,
    "colons": "sip:" + ":" * SIZE,
    "escapes": "sip:" + "%61" * (SIZE // 3) + "@h",
    "percent signs": "sip:" + "%" * SIZE + "@h",
    "question marks": "sip:a@h" + "?" * SIZE,
    "URI headers": "sip:a@h?" + "a=b&" * (SIZE // 4),
    "URI parameters": "sip:a@h" + ";a=b" * (SIZE // 4),
    "dots": "sip:" + "." * SIZE,
    "digits": "1" * SIZE,
    "equals": "Digest " + "=" * SIZE,
    "pairs": "Digest " + "".join(f"p{i}=1," for i in range(SIZE // 8)),
    "quoted pairs": "Digest " + "".join(f'p{i}="1",' for i in range(SIZE // 10)),
    "escaped pairs": "Digest " + "".join(f'p{i}="\\"",' for i in range(SIZE // 11)),
    "controls": "\x00\x85\xa0\xff" * (SIZE // 4),
}


def everything(value: str) -> None:
    """Give ``value`` to each reader of values."""
    unfold(value)
    unquote(value)
    parse_params(value)
    mark_via("Via: " + value, "192.0.2.1", 5060)
    same_uri(value, value + "x")
    for separator in ",;":
        split_quoted(value, separator)
    for parser in (Via, parse_name_addr, parse_uri):
        with contextlib.suppress(ParseError):
            parser(value)
    with contextlib.suppress(ParseError):
        assert parse_name_addr(value).tag != ""
    with contextlib.suppress(ParseError):
        check(parse_credentials(value), "a" * 32, "REGISTER")


def everything_of(data: bytes) -> None:
    """Read all that can be read of a message and build all that can be built of it."""
    with contextlib.suppress(ParseError):
        message = parse(data)
        for name in ("via", "from_", "to", "cseq", "call_id", "content_length", "body", "has_whole_body", "parsed_uri"):
            with contextlib.suppress(ParseError, AttributeError):
                getattr(message, name)
        for name in sorted(set(message.names))[:50]:
            message.get(name)
            message.list(name)
        with contextlib.suppress(ParseError):
            rewrite_uris(message, Edits(), "contact", lambda value: value.uri)
        if isinstance(message, Request):
            response(message, 200, "OK", to_tag="t", received="192.0.2.1", rport=9)
            cancel(message.lines, "sip:h", "SIP/2.0/UDP h")
            with contextlib.suppress(ParseError):
                forward_request(message, Edits(), uri="sip:h", via="SIP/2.0/UDP h", received="192.0.2.1", rport=9)
        else:
            with contextlib.suppress(ParseError):
                forward_response(message, Edits())


@pytest.mark.parametrize("kind", VALUES)
def test_a_hostile_value_is_read_in_time(kind: str) -> None:
    assert cpu_seconds(lambda: everything(VALUES[kind])) < SECONDS


@pytest.mark.parametrize("kind", VALUES)
def test_a_message_full_of_a_hostile_value_is_handled_in_time(kind: str) -> None:
    value = VALUES[kind].encode("latin-1")

    def handle() -> None:
        for name in (b"Via: ", b"To: ", b"m: ", b"CSeq: ", b"l: ", b"", b" "):
            everything_of(b"OPTIONS sip:h SIP/2.0\r\nX: y\r\n" + name + value + b"\r\n\r\n")
        everything_of(b"SIP/2.0 200 OK\r\nVia: " + value + b"\r\n\r\n")
        everything_of(b"OPTIONS " + value + b" SIP/2.0\r\n\r\n")

    assert cpu_seconds(handle) < 3 * SECONDS


@pytest.mark.parametrize(
    "data",
    [
        b"OPTIONS sip:h SIP/2.0\r\n" + b"v: x\r\n" * 10_000 + b"\r\n",
        b"OPTIONS sip:h SIP/2.0\r\n" + b"v: SIP/2.0/UDP h\r\n" * 4_000 + b"\r\n",
        b"OPTIONS sip:h SIP/2.0\n" + b"v: x\n" * 4_000 + b"\n",
        b"OPTIONS sip:h SIP/2.0\r\nX: y\r\n" + b" \r\n" * 20_000 + b"\r\n",
        b"OPTIONS sip:h SIP/2.0\r\n" + b"l: 0\r\n" * 4_000 + b"\r\n",
        b"OPTIONS sip:h SIP/2.0\r\n" + b"".join(b"%x:\r\n" % i for i in range(4_000)) + b"\r\n",
        b"\r\n" * 32_000,
        b"\n" * 65_000,
        b"\r" * 65_000,
        b"\x00" * 65_000,
        b"a\r" * 32_000 + b"\n",
    ],
    ids=range(11),
)
def test_a_message_of_very_many_lines_is_handled_in_time(data: bytes) -> None:
    assert cpu_seconds(lambda: everything_of(data)) < SECONDS
