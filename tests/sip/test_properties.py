"""Properties that hold for all input (hypothesis)."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from polykemi.errors import ParseError
from polykemi.sip.build import ack, cancel, forward_request, forward_response, mark_via, response
from polykemi.sip.digest import challenge, check, ha1, parse_credentials, quote
from polykemi.sip.digest import response as digest_response
from polykemi.sip.grammar import LWS
from polykemi.sip.header import (
    Via,
    first_value,
    parse_name_addr,
    parse_params,
    split_exact,
    split_quoted,
    unfold,
    unquote,
)
from polykemi.sip.message import Edits, Request, Response, parse
from polykemi.sip.uri import Uri, parse_uri, same_uri, unescape

more = settings(max_examples=150)

CORPUS = [path.read_bytes() for path in sorted((Path(__file__).parent.parent / "data" / "rfc4475").glob("*.dat"))]

octets = st.text(st.characters(max_codepoint=0xFF), max_size=40)
# text in which what has a meaning is frequent
syntax = st.text(st.sampled_from('",;<>\\@:?=%[]*/ \t\r\n\x00\xa0\xffaA1&.-'), max_size=40)
values = st.one_of(octets, syntax, st.sampled_from(["SIP/2.0/UDP h;branch=b", "<sip:a@h;lr>;tag=1", 'Digest a="b",']))
token = st.text(st.sampled_from("abcXYZ019-.!%*_+`'~"), min_size=1, max_size=12)
header_value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=30)


def parsed(read: object, *args: object) -> object:
    """Return what ``read`` gives, or the text of its ParseError; another exception is the test's failure."""
    try:
        return read(*args)  # type: ignore[operator]
    except ParseError as error:
        return str(error)


ACCESSORS = ("via", "from_", "to", "cseq", "call_id", "content_length", "body", "has_whole_body", "parsed_uri")


def use(data: bytes) -> None:
    """Read and build all there is, twice: the outcome is the same, and never another exception than ParseError."""
    message = parsed(parse, data)
    if isinstance(message, str):
        assert parsed(parse, data) == message
        return
    assert isinstance(message, Request | Response)
    for name in ACCESSORS:
        if hasattr(type(message), name):
            first = parsed(getattr, message, name)
            second = parsed(getattr, message, name)
            assert first == second or type(first) is type(second) is Uri
    assert len(message.names) == len(message.lines)
    for name in message.names:
        assert message.get(name) == message.all(name)[0]
        for value in message.list(name):
            for read in (Via, parse_name_addr, parse_uri, parse_credentials):
                parsed(read, value)
    if isinstance(message, Request):
        for status in (100, 200, 404):
            parse(response(message, status, "x", to_tag="t", received="::1", rport=9))
        parsed(lambda: forward_request(message, Edits(), uri="sip:x", via="SIP/2.0/UDP h", received="::1", rport=9))
        cancel(message.lines, "sip:x", "SIP/2.0/UDP h")
        ack(message.lines, "sip:x", "SIP/2.0/UDP h", "x")
    else:
        parsed(forward_response, message, Edits())


@more
@given(st.binary(max_size=200))
def test_any_octets_are_a_message_or_a_parse_error(data: bytes) -> None:
    use(data)
    use(b"OPTIONS sip:h SIP/2.0\r\n" + data + b"\r\n\r\n")
    use(b"SIP/2.0 200 OK\r\n" + data + b"\r\n\r\n")


@more
@given(
    st.lists(st.tuples(st.sampled_from(["Via", "v", "From", "t", "CSeq", "l", "Contact", "x y"]), values), max_size=8)
)
def test_any_header_values_are_read_or_a_parse_error(headers: list[tuple[str, str]]) -> None:
    text = "".join(f"{name}: {value}\r\n" for name, value in headers)
    use(f"INVITE sip:h SIP/2.0\r\n{text}\r\n".encode("latin-1"))


@more
@given(st.sampled_from(CORPUS), st.data())
def test_torture_messages_with_some_octets_changed_never_surprise(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(changed)))
        changed[at : at + draw.draw(st.integers(0, 3))] = draw.draw(
            st.sampled_from([b"", b'"', b"<", b",", b"\n", b"\r\n", b":", b"\xff"])
        )
    use(bytes(changed))


lines = st.lists(
    st.builds(
        "{}{}:{}{}{}".format,
        token,
        st.sampled_from(["", " ", "\t"]),
        st.sampled_from(["", " ", "\r\n "]),
        header_value,
        st.sampled_from(["", " "]),
    ),
    max_size=6,
)


@more
@given(lines, st.binary(max_size=20))
def test_a_forwarded_request_is_the_one_that_came_but_for_our_via(headers: list[str], body: bytes) -> None:
    head = "\r\n".join(["Via: SIP/2.0/UDP h", *headers, f"Content-Length: {len(body)}"]).encode("latin-1")
    data = b"OPTIONS sip:h SIP/2.0\r\n" + head + b"\r\n\r\n" + body
    message = parse(data)
    assert isinstance(message, Request)
    assert "\r\n".join([message.start_line, *message.lines]).encode("latin-1") == data.partition(b"\r\n\r\n")[0]
    sent = forward_request(message, Edits(), uri="sip:h", via="SIP/2.0/UDP p")
    assert sent == data.replace(b"\r\n", b"\r\nVia: SIP/2.0/UDP p\r\n", 1)
    back = parse(sent.replace(b"OPTIONS sip:h SIP/2.0", b"SIP/2.0 200 OK", 1))
    assert isinstance(back, Response)
    assert forward_response(back, Edits()) == data.replace(b"OPTIONS sip:h SIP/2.0", b"SIP/2.0 200 OK", 1)


@more
@given(values, st.sampled_from(",;"))
def test_a_split_list_joins_to_the_same_text(text: str, separator: str) -> None:
    parts = split_exact(text, separator)
    assert separator.join(parts) == text
    assert split_quoted(text, separator) == [part.strip(LWS) for part in parts]
    if separator == ",":
        assert first_value(text) == parts[0]


@more
@given(st.lists(octets, min_size=1, max_size=5))
def test_quoted_strings_hide_their_content_from_lists(texts: list[str]) -> None:
    quoted = [quote(text) for text in texts]
    assert split_quoted(", ".join(quoted), ",") == quoted
    assert [unquote(text) for text in quoted] == [text.replace("\r", " ").replace("\n", " ") for text in texts]


@more
@given(values)
def test_no_value_surprises_a_reader(text: str) -> None:
    unfold(text)
    unescape(text)
    parse_params(text)
    assert same_uri(text, text)
    for read in (Via, parse_name_addr, parse_uri, parse_credentials):
        first, second = parsed(read, text), parsed(read, text)
        assert type(first) is type(second)
        assert not isinstance(first, str) or first == second


host = st.one_of(st.text(st.sampled_from("abz019-._"), min_size=1, max_size=12), st.just("[2001:db8::1]"))
user = st.text(st.sampled_from("abcXYZ019-_.!~*'()&=+$,;?/%\xe9"), max_size=10)
word = st.text(st.sampled_from("abcXYZ019"), max_size=4)
params = st.dictionaries(st.sampled_from(["a", "lr", "transport", "x-y"]), word, max_size=3)


@more
@given(
    st.sampled_from(["sip", "sips"]), user, host, st.integers(0, 65535), params, st.sampled_from(["", "subject=x&to=y"])
)
def test_a_uri_is_taken_apart_into_what_it_was_made_of(
    scheme: str, user: str, host: str, port: int, params: dict[str, str], headers: str
) -> None:
    pairs = ";".join(f"{name}={value}" for name, value in params.items())
    text = f"{scheme}:{user + '@' if user else ''}{host}"
    text += (f":{port}" if port else "") + (f";{pairs}" if pairs else "") + (f"?{headers}" if headers else "")
    uri = parse_uri(text)
    assert (uri.scheme, uri.user, uri.host, uri.port, uri.params, uri.headers) == (
        scheme,
        user,
        host,
        port,
        pairs,
        headers,
    )
    assert str(uri) == text
    assert uri.changed() == text
    assert dict(uri.parsed_params) == params
    assert same_uri(text, uri.changed(host=host.upper()))
    name_addr = parse_name_addr(f'"x, <y>" <{text}> ;tag=1')
    assert (name_addr.uri, name_addr.tag) == (text, "1")


@more
@given(token, token, host, st.integers(0, 65535), st.sampled_from(["", " "]))
def test_a_via_is_taken_apart_into_what_it_was_made_of(
    transport: str, branch: str, host: str, port: int, space: str
) -> None:
    sent_by = f"{host}{space}:{space}{port}" if port else host
    via = Via(f'SIP{space}/2.0{space}/{transport} {sent_by}{space};x="a;b"{space};branch{space}={space}{branch}')
    assert (via.transport, via.host, via.port, via.branch) == (transport.upper(), host, port, branch)
    marked = Via(mark_via(f"Via: {via.text}", "192.0.2.1", 9)[5:])
    assert (marked.branch, marked.param("x"), marked.param("rport"), marked.param("received")) == (
        branch,
        '"a;b"',
        "9",
        "192.0.2.1",
    )


@more
@given(
    octets,
    st.sampled_from(["MD5", "SHA-256", "MD5-sess", "SHA-256-sess"]),
    st.sampled_from(["", "auth", "auth-int"]),
    octets,
)
def test_who_knows_the_password_passes_and_nobody_else(username: str, algorithm: str, qop: str, password: str) -> None:
    username = quote(username)[1:-1]
    stored = ha1(username, "x", password, algorithm)
    fields = {"algorithm": algorithm, "qop": qop, "nc": "0000002a" if qop else "", "cnonce": "c"}
    body_hash = ha1("", "", "", algorithm) if qop == "auth-int" else ""  # H("::")
    answer = digest_response(stored, "n", "INVITE", "sip:h", body_hash=body_hash, **fields)
    value = f'Digest username="{username}",realm="x",nonce="n",uri="sip:h",response="{answer}",algorithm={algorithm},cnonce="c"'
    credentials = parse_credentials(value + (f",qop={qop},nc=0000002a" if qop else ""))
    assert credentials.username == username
    assert check(credentials, stored, "INVITE", b"::")
    assert not check(credentials, ha1(username, "x", password + "x", algorithm), "INVITE", b"::")
    assert not check(credentials, stored, "BYE", b"::")


@more
@given(octets, octets)
def test_a_challenge_says_what_it_was_made_of(realm: str, nonce: str) -> None:
    value = challenge(realm, nonce)
    _, _, pairs = value.partition(" ")
    fields = dict(part.split("=", 1) for part in split_quoted(pairs, ","))
    assert unquote(fields["realm"]) == realm.replace("\r", " ").replace("\n", " ")
    assert unquote(fields["nonce"]) == nonce.replace("\r", " ").replace("\n", " ")
