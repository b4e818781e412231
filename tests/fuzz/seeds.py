"""What the mutations start from: valid messages of all kinds, values of their headers, frames, descriptions, DNS answers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).parents[1] / "data"
TORTURE: Final = [path.read_bytes() for rfc in ("rfc4475", "rfc5118") for path in sorted((DATA / rfc).glob("*.dat"))]

SDP: Final = (
    b"v=0\r\no=alice 2890844526 2890844526 IN IP4 127.0.16.2\r\ns=-\r\nc=IN IP4 127.0.16.2\r\nt=0 0\r\n"
    b"m=audio 49170 RTP/AVP 0 8 97\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:97 iLBC/8000\r\na=fmtp:97 mode=30\r\na=sendrecv\r\n"
    b"m=video 51372 RTP/SAVP 31 32\r\nc=IN IP6 ::1\r\na=rtpmap:31 H261/90000\r\na=rtcp:51373\r\na=inactive\r\n"
    b"a=ice-options:trickle\r\na=candidate:1 1 UDP 2130706431 127.0.16.2 8998 typ host\r\n"
)
MULTIPART: Final = (
    b"preamble\r\n--b1\r\nContent-Type: application/sdp\r\nContent-Disposition: session\r\n\r\n"
    + SDP
    + b"\r\n--b1\r\nc: text/plain\r\n\r\nhello\r\n--b1\r\n\r\nno headers\r\n--b1--\r\nepilogue"
)
DIGEST: Final = (
    'Digest username="alice", realm="fuzz.test", nonce="5f8d0cf200000001aabbccddeeff001122334455", uri="sip:fuzz.test",'
    ' response="0123456789abcdef0123456789abcdef", algorithm=MD5, cnonce="0a4f113b", qop=auth, nc=00000001, opaque=""'
)

VALUES: Final[dict[str, tuple[str, ...]]] = {
    "uri": (
        "sip:alice@fuzz.test",
        "sips:alice:secret@[::1]:5061;transport=tcp;lr?Subject=x&Priority=urgent",
        "sip:a%20b;x=y@127.0.16.2:5070;maddr=127.0.16.3;ttl=1;user=phone;method=INVITE",
        "tel:+1-201-555-0123;phone-context=example.com",
        "urn:service:sos",
    ),
    "name_addr": (
        '"Alice \\"A\\" <a>" <sip:alice@fuzz.test;lr>;tag=1928301774;q=0.7;expires=3600',
        "sip:alice@fuzz.test;tag=88",
        "Alice <sip:alice@fuzz.test>",
        "*",
        '<sip:alice@127.0.16.2;ob>;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>";reg-id=1',
    ),
    "via": (
        "SIP/2.0/UDP 127.0.16.2:5060;branch=z9hG4bK776asdhds;rport;received=127.0.16.2",
        "SIP / 2.0 / TCP [::1]:5060 ;branch=z9hG4bK1;alias",
        "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK56sdasks;keep",
    ),
    "credentials": (
        DIGEST,
        'Digest username="a\\"b",realm="",nonce="x",uri="sip:h",response="y"',
        "Basic QWxhZGRpbg==",
    ),
    "list": (
        'a, "b, c", <sip:d,e@f>;g="h;i", j',
        "<sip:p1.fuzz.test;lr>, <sip:p2.fuzz.test;lr>",
        "100rel, timer;x=y",
    ),
    "pv": (
        "$ru",
        "$(ru{uri.user}{s.substr,0,3})",
        "$(hdr(Via)[-1]{param.value,branch})",
        "$xavp(a[0]=>b[1])",
        "$sht(t=>$fU::$var(x))",
        "$(avp(s:x)[*])",
        "$T_rpl($rs)",
        "$(fu{re.subst,/^sip:(.*)@(.*)$/\\1:\\2/g})",
        "$(time(%Y-%m-%d))",
        "<$rU> of $fd$$",
    ),
    "substitution": ("/^sip:([^@]+)@(.*)$/sip:\\1@$rd/gi", "/a(b|c)*d/\\0/", "|x|y|"),
    "pcre": (r"^\+?(\d{2,5})[-. ]?(?:x|y)*+(?=z)$", r"(?i)a(?P<n>b)\1[[:alpha:]-]\x41\Q*\E"),
}

REQUEST: Final = (
    "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.16.2:{port};branch=z9hG4bK{n};rport\r\nMax-Forwards: 70\r\n"
    'From: "Alice" <sip:alice@fuzz.test>;tag=1928301774\r\nTo: Bob <sip:bob@fuzz.test>{tag}\r\nCall-ID: a84b4c76e66710-{n}\r\n'
    "CSeq: {n} {method}\r\nContact: <sip:alice@127.0.16.2:{port};transport={transport}>;expires=60\r\n{more}"
    "Content-Length: {length}\r\n\r\n"
)
_MORE: Final = (
    "",
    "Route: <sip:127.0.16.1;lr>\r\nRecord-Route: <sip:127.0.16.2;lr>\r\nRecord-Route: <sip:127.0.16.3;lr>\r\n",
    f"Authorization: {DIGEST}\r\nProxy-Authorization: {DIGEST}\r\nExpires: 60\r\nSupported: path, outbound, gruu\r\n",
    "Via: SIP/2.0/TCP 127.0.16.3;branch=z9hG4bKx, SIP/2.0/UDP 127.0.16.4;branch=z9hG4bKy\r\nAllow: INVITE, ACK, BYE, CANCEL\r\n",
    "P-Asserted-Identity: <sip:alice@fuzz.test>\r\nDiversion: <sip:c@fuzz.test>;reason=unconditional\r\nReason: Q.850;cause=16\r\n",
    "Session-Expires: 1800;refresher=uac\r\nMin-SE: 90\r\nRequire: timer\r\nEvent: presence;id=1\r\nAccept: application/pidf+xml\r\n",
    "Subject: a\r\n b\r\n\tc\r\nUser-Agent: fuzz\r\nDate: Sat, 13 Nov 2010 23:29:00 GMT\r\nX-Odd: ;;,,;;,;\r\n",
    "Refer-To: <sip:carol@fuzz.test?Replaces=12345%40h%3Bto-tag%3D1%3Bfrom-tag%3D2>\r\nReplaces: a;to-tag=1;from-tag=2\r\n",
)
_METHODS: Final = (
    ("INVITE", "sip:bob@fuzz.test", ""),
    ("REGISTER", "sip:fuzz.test", ""),
    ("OPTIONS", "sip:bob@127.0.16.1;transport=udp", ""),
    ("ACK", "sip:bob@fuzz.test", ";tag=x"),
    ("BYE", "sip:bob@fuzz.test", ";tag=x"),
    ("CANCEL", "sip:bob@fuzz.test", ""),
    ("MESSAGE", "sip:bob@fuzz.test", ""),
    ("SUBSCRIBE", "sip:bob@fuzz.test", ""),
    ("NOTIFY", "sip:bob@fuzz.test", ";tag=x"),
    ("PUBLISH", "sip:alice@fuzz.test", ""),
    ("PRACK", "sip:bob@fuzz.test", ";tag=x"),
    ("UPDATE", "sip:bob@fuzz.test", ";tag=x"),
    ("REFER", "sip:bob@fuzz.test", ""),
    ("INFO", "tel:+12015550123", ";tag=x"),
)


def request(number: int, *, transport: str = "UDP", port: int = 5060) -> bytes:
    """Return the valid request ``number``: method, further headers and body take turns."""
    method, uri, tag = _METHODS[number % len(_METHODS)]
    more, body = _MORE[number // 3 % len(_MORE)], b""
    if number % 3 == 0:
        more, body = more + "Content-Type: application/sdp\r\n", SDP
    elif number % 7 == 0:
        more, body = more + 'Content-Type: multipart/mixed;boundary="b1"\r\n', MULTIPART
    head = REQUEST.format(
        method=method, uri=uri, tag=tag, transport=transport, port=port, n=number + 1, more=more, length=len(body)
    )
    return head.encode() + body


def response(number: int) -> bytes:
    """Return a response to nothing, with two Vias."""
    head = (
        f"SIP/2.0 {(100, 180, 200, 302, 404, 486, 503, 603)[number % 8]} Reason\r\n"
        "Via: SIP/2.0/UDP 127.0.16.1;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP 127.0.16.2;branch=z9hG4bK2\r\n"
        f"From: <sip:a@fuzz.test>;tag=1\r\nTo: <sip:b@fuzz.test>;tag=2\r\nCall-ID: r{number}\r\nCSeq: 1 INVITE\r\n"
        f"Contact: <sip:b@127.0.16.2>\r\n{_MORE[number % len(_MORE)]}Content-Length: {len(SDP)}\r\n\r\n"
    )
    return head.encode() + SDP


MESSAGES: Final = [*(request(n) for n in range(84)), *(response(n) for n in range(16))]
HTTP: Final = (
    (
        b"GET /ws HTTP/1.1\r\nHost: fuzz.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
    ),
    b'POST /RPC HTTP/1.1\r\nHost: h\r\nContent-Length: 47\r\n\r\n{"jsonrpc":"2.0","method":"core.version","id":1}',
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
)
# an answer of each kind that is asked for: SRV, NAPTR, A, AAAA, TXT
DNS: Final = tuple(
    bytes.fromhex(text.replace(" ", ""))
    for text in (
        "0001 8180 0001 0001 0000 0000 045f736970 045f756470 0168 00 0021 0001 c00c 0021 0001 0000003c 000c 000a 0014 13c4 026e31 c015 00",
        "0001 8180 0001 0001 0000 0000 0168 00 0023 0001 c00c 0023 0001 0000003c 0018 000a 0032 0173 075349502b443255 00 045f736970 c00c",
        "0001 8180 0001 0002 0000 0000 0168 00 0001 0001 c00c 0001 0001 0000003c 0004 7f001001 c00c 001c 0001 0000003c 0010 00000000000000000000000000000001",
        "0001 8180 0001 0001 0000 0000 0168 00 0010 0001 c00c 0010 0001 0000003c 0006 0568656c6c6f",
        "0001 8183 0001 0000 0000 0000 0168 00 0021 0001",
    )
)
