"""Counting messages by their first octets."""

from __future__ import annotations

from polykemi.sip.tally import MessageTally, reply_counters


def test_requests_by_method_and_responses_by_status() -> None:
    tally = MessageTally()
    for data in (
        b"INVITE sip:bob@example.test SIP/2.0\r\n",
        b"INVITE sip:alice@example.test SIP/2.0\r\n",
        b"SUBSCRIBE sip:alice@example.test SIP/2.0\r\n",
        b"BYE tel:123 SIP/2.0\r\n",
        b"FROBNICATE sip:x SIP/2.0\r\n",
        b"X sip:x SIP/2.0\r\n",
        b"SIP/2.0 200 OK\r\n",
        b"SIP/2.0 200 Fine\r\n",
        b"SIP/2.0 603 Decline\r\n",
    ):
        tally.count(data)
    assert tally.requests() == {"INVITE": 2, "SUBSCRIBE": 1, "BYE": 1, "other": 2}
    assert list(tally.responses()) == [(200, 2), (603, 1)]


def test_what_is_no_sip_is_not_counted() -> None:
    tally = MessageTally()
    for data in (
        b"",
        b"\r\n\r\n",
        b"\0\0\0\0",
        b"HTTP/1.1 200 OK\r\n",
        b"GET / HTTP/1.1\r\n",
        b"SIP/2.0 999 X\r\n",
        b"HEP3",
    ):
        tally.count(data)
    assert (tally.requests(), list(tally.responses())) == ({}, [])


def test_users_without_end_are_counted_and_not_kept() -> None:
    tally = MessageTally()
    for i in range(10_000):
        tally.count(b"BYE sip:%05d@example.test SIP/2.0\r\n" % (i * 7 % 100_000))
    tally.count(b"FROBNICATE sip:x SIP/2.0\r\n")
    tally.count(b"SIP/2.0 200 OK\r\n")
    assert tally.requests() == {"BYE": 10_000, "other": 1}
    assert list(tally.responses()) == [(200, 1)]


def test_kamailio_counts_some_responses_by_method_and_some_by_status() -> None:
    assert reply_counters("INVITE", 183) == (
        "core.rcv_replies_1xx",
        "core.rcv_replies_1xx_invite",
        "core.rcv_replies_18x",
    )
    assert reply_counters("REGISTER", 401) == (
        "core.rcv_replies_4xx",
        "core.rcv_replies_4xx_reg",
        "core.rcv_replies_401",
    )
    assert reply_counters("OPTIONS", 200) == ("core.rcv_replies_2xx",)
