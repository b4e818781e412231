"""Session descriptions: what is read, where it is, and what is refused."""

from __future__ import annotations

import time

import pytest

from polykemi.errors import ParseError
from polykemi.sip.multipart import boundary_of, media_type, parts_of
from polykemi.sip.sdp import parse_sdp

HEAD = "v=0\r\no=- 7 8 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\n"
SDP = (
    HEAD
    + "m=audio 4000 RTP/AVP 0 96\r\na=rtpmap:96 opus/48000/2\r\nm=video 5000 RTP/AVP\r\nc=IN IP6 ::1\r\na=rtcp:5003\r\n"
)


def test_places_are_those_of_the_text() -> None:
    sdp = parse_sdp(SDP, "application/sdp;x=y")
    assert sdp is not None
    (session,) = sdp.sessions
    audio, video = session.media
    assert SDP[session.version_at :][:1] == session.version == "8"
    assert SDP[audio.payloads_at :].startswith("0 96\r\n")
    assert SDP[audio.start : audio.end] + SDP[video.start : video.end] == SDP[len(HEAD) :]
    assert (audio.kind, audio.port, audio.transport, audio.encodings) == ("audio", "4000", "RTP/AVP", [("96", "opus")])
    assert (video.address, video.family, video.payloads, video.rtcp_port) == ("::1", 6, "", "5003")


def test_an_empty_body_has_none() -> None:
    assert parse_sdp("", None) is None


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "v=0\r\n",
        HEAD,
        SDP.replace("192.0.2.1\r", "\r"),
        SDP.replace(" RTP/AVP", ""),
        SDP.replace("c=IN IP4 192.0.2.2\r\n", ""),
    ],
)
def test_what_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_sdp(text, "application/sdp")


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/alternative;boundary=b", "multipart/mixed"])
def test_other_types_are_refused(content_type: str | None) -> None:
    with pytest.raises(ParseError):
        parse_sdp(SDP, content_type)


def test_parts_stand_between_delimiters() -> None:
    text = "preamble\r\n--b\r\nContent-Type: a/b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\nrest\r\n--b\r\n\r\nthree"
    found = [(part.content_type, text[part.body : part.end]) for part in parts_of(text, "b")]
    assert found == [("a/b", "one\r\n"), ("", "two\r\n")]
    assert list(parts_of(text, "")) == []


def test_content_types_are_taken_apart() -> None:
    assert media_type(" Multipart / Mixed ;boundary=x") == "multipart/mixed"
    assert boundary_of('multipart/mixed;boundary="a;b"') == "a;b"
    assert boundary_of("multipart/mixed") == ""


def test_hostile_bodies_take_no_time() -> None:
    begin = time.process_time()
    for text in (
        HEAD + "m=" * 30000,
        HEAD + "m=audio 1 x\r\n" * 5000,
        "v=0\r\n" * 10000,
        "o=" + " " * 60000 + "\r\nm=",
    ):
        with pytest.raises(ParseError):
            parse_sdp(text.replace("c=IN IP4 192.0.2.2\r\n", ""), "application/sdp")
    parse_sdp(HEAD + "m=audio 1 x\r\n" * 5000, "application/sdp")
    list(parts_of("--b\r\n" * 13000, "b"))
    assert time.process_time() - begin < 2
