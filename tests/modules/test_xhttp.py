"""xhttp, jsonrpcs, xmlrpc: HTTP requests through a whole server. The answers are those that Kamailio 5.6.3 gave to curl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.modules.jsonrpcs import JsonrpcsParams
from polykemi.modules.xhttp import XhttpParams
from polykemi.sip.flow import LastFlow, Listener
from polykemi.testing import ServerUnderTest

SCRIPT = """
function ksr_request_route() KSR.sl.send_reply(200, "SIP") end
function http(event)
    local url = KSR.xhttp.get_hu()
    if url == "/rpc" then KSR.jsonrpcs.dispatch()
    elseif url == "/xml" then KSR.xmlrpc.dispatch_rpc()
    elseif url == "/sl" then KSR.hdr.append_to_reply("X-A: 1\\r\\n") KSR.sl.send_reply(404, "No")
    elseif url == "/code" then KSR.xhttp.xhttp_reply(999, "Nine", "", "")
    elseif url == "/odd" then
        KSR.xhttp.xhttp_reply(200, "O\\nK", "", "")
        KSR.xhttp.xhttp_reply(200, "OK", "a\\r\\nb", "")
        KSR.xhttp.xhttp_reply(99, "OK", "", "")
    else KSR.xhttp.xhttp_reply(200, "OK", "text/html", event) end
end
"""
TCP = Listener("tcp", "192.0.2.1", 5060)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Write the script."""
    path = tmp_path / "script.lua"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def server(script: Path) -> Iterator[ServerUnderTest]:
    """A server that takes HTTP requests."""
    modules: dict[str, dict[str, Any]] = {
        "xhttp": {"event_callback": "http", "url_skip": "^/skip"},
        "xmlrpc": {"event_callback": "http", "url_match": "^/RPC2"},
        "jsonrpcs": {"transport": 1},
    }
    with ServerUnderTest({"lua": script}, listeners=[TCP], modules=modules) as one:
        yield one


def ask(server: ServerUnderTest, start: str, body: str = "") -> str:
    """Return what one request is answered, "" for nothing."""
    data = f"{start} HTTP/1.1\r\nHost: example.test\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"
    sent = server.receive(data.encode(), "192.0.2.10:4000")
    assert all(one.to == "192.0.2.10:4000" for one in sent)
    return "".join(one.data.decode() for one in sent)


HEAD = "Sia: SIP/2.0/TCP 192.0.2.10:4000\r\n"


@pytest.mark.parametrize(
    ("start", "reply"),
    [
        (
            "GET /x?y=z",
            f"HTTP/1.1 200 OK\r\n{HEAD}Content-Type: text/html\r\nServer: polykemi\r\nContent-Length: 13\r\n\r\nxhttp:request",
        ),
        ("PUT /sl", f"HTTP/1.1 404 No\r\n{HEAD}X-A: 1\r\nServer: polykemi\r\nContent-Length: 0\r\n\r\n"),
        ("GET /code", f"HTTP/1.1 999 Nine\r\n{HEAD}Server: polykemi\r\nContent-Length: 0\r\n\r\n"),
        ("GET /odd", ""),
        ("GET /skip/it", ""),
    ],
)
def test_the_script_replies_to_http_requests(server: ServerUnderTest, start: str, reply: str) -> None:
    assert ask(server, start) == reply


def test_xmlrpc_takes_what_its_parameters_say_before_xhttp(server: ServerUnderTest) -> None:
    assert ask(server, "POST /RPC2").endswith("xmlrpc:request")
    assert ask(server, "PUT /RPC2").endswith("xhttp:request")


def test_sip_goes_its_own_way(server: ServerUnderTest) -> None:
    message = (
        "OPTIONS sip:example.test SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.10;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
        "To: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    (sent,) = server.receive(message.encode(), "192.0.2.10:4000")
    assert sent.start_line == "SIP/2.0 200 SIP"
    assert sent.to == "192.0.2.10:4000"  # the connection, not the port of the Via


@pytest.mark.parametrize(
    ("version", "connection", "is_last"),
    [
        ("HTTP/1.1", "", False),
        ("HTTP/1.1", "Connection: keep-alive, Close\r\n", True),
        ("HTTP/1.1", "Connection: keep-alive\r\n", False),
        ("HTTP/1.0", "", True),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", False),
    ],
)
def test_a_connection_is_kept_for_the_next_request_unless_somebody_says_no(
    server: ServerUnderTest, version: str, connection: str, is_last: bool
) -> None:
    data = f"GET / {version}\r\n{connection}\r\n"
    (sent,) = server.receive(data.encode(), "192.0.2.10:4000")
    assert isinstance(sent.flow, LastFlow) == is_last


def test_a_malformed_request_is_refused_and_the_connection_closed(server: ServerUnderTest) -> None:
    (sent,) = server.receive(b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", "192.0.2.10:4000")
    assert (sent.start_line, isinstance(sent.flow, LastFlow)) == ("HTTP/1.1 400 Bad Request", True)
    assert server.receive(b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "192.0.2.10:4000") == []


def test_without_a_callback_http_is_dropped(script: Path) -> None:
    with ServerUnderTest({"lua": script}, listeners=[TCP]) as server:
        assert ask(server, "GET /") == ""


@pytest.mark.parametrize(
    ("body", "start", "end"),
    [
        (
            '{"jsonrpc":"2.0","id":1,"method":"no.version"}',
            (
                f"HTTP/1.1 500 Method Not Found\r\n{HEAD}Content-Type: application/json\r\nServer: polykemi\r\n"
                "Content-Length: 94\r\n\r\n"
            ),
            '{\n\t"jsonrpc":\t"2.0",\n\t"error":\t{\n\t\t"code":\t500,\n\t\t"message":\t"Method Not Found"\n\t},\n\t"id":\t1\n}',
        ),
        (
            '{"jsonrpc":"1.0","id":1,"method":"core.version"}',
            "HTTP/1.1 200 OK\r\n",
            '{\n\t"jsonrpc":\t"2.0",\n\t"result":\t{\n\t},\n\t"id":\t1\n}',
        ),
        (
            '{"jsonrpc":"2.0","id":"\\u00e4","method":"core.version"}',
            "HTTP/1.1 200 OK\r\n",
            ',\n\t"id":\t"ä"\n}',
        ),
        (
            '{"jsonrpc":"2.0","id":1,"method":"system.methodHelp"}',
            "HTTP/1.1 400 Method Name Expected",
            '"Method Name Expected"\n\t},\n\t"id":\t1\n}',
        ),
        ('{"jsonrpc":"2.0","id":1,"method":"system.methodHelp","params":["no"]}', "HTTP/1.1 400 method no", ""),
        ("junk", "", ""),
        ("[" * 100_000, "", ""),
    ],
)
def test_commands_over_json(server: ServerUnderTest, body: str, start: str, end: str) -> None:
    reply = ask(server, "POST /rpc", body)
    assert reply.startswith(start)
    assert reply.endswith(end)
    assert bool(reply) == bool(start)


@pytest.mark.parametrize(
    ("body", "has"),
    [
        ("<methodCall><methodName>core.version</methodName></methodCall>", "<value><string>polykemi "),
        (("<methodCall><methodName>stats.fetchn</methodName><params><param><value>core.none_such</value></param>"
         "</params></methodCall>"), "<struct></struct>"),
        (("<methodCall><methodName>jsonrpc.echo</methodName><params><param><value><string>ä&lt;</string></value></param>"
         "<param><value><i4>7</i4></value></param></params></methodCall>"),
         "<array><data>\n<value><string>ä&lt;</string></value>\n<value><int>7</int></value>\n</data></array>"),
        (("<methodCall><methodName>jsonrpc.echo</methodName><params><param><value><int>x</int></value></param></params>"
         "</methodCall>"), "Invalid int Value"),
        (("<methodCall><methodName>jsonrpc.echo</methodName><params><param><value><struct/></value></param></params>"
         "</methodCall>"), "Unsupported Parameter Type struct"),
        ("<methodCall><methodName/></methodCall>", "Cannot Extract Method Name"),
        ("<methodCall><methodName>core.version</methodName><params><param><value>1</value></param></params></methodCall>",
         "<int>-32602</int>"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><methodCall><methodName>&a;</methodName></methodCall>', "Invalid XML-RPC Document"),
        ("", "Invalid XML-RPC Document"),
    ],
)  # fmt: skip
def test_commands_over_xml(server: ServerUnderTest, body: str, has: str) -> None:
    reply = ask(server, "POST /xml", body)
    assert reply.startswith("HTTP/1.1 200 OK\r\n")
    assert has in reply


@pytest.mark.parametrize("params", [{"url_match": "("}, {"url_skip": "["}])
def test_a_parameter_that_is_no_expression_is_refused(params: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(params))}: expected a regular expression: "):
        XhttpParams(**params)


def test_a_transport_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="transport: expected a sum of 1, 2 and 4, got 8"):
        JsonrpcsParams(transport=8)
