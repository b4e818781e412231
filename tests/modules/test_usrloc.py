"""usrloc: contacts that are over."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.registry import exports_of
from polykemi.modules.base import Services
from polykemi.modules.usrloc import Usrloc, UsrlocParams
from polykemi.modules.usrloc_count import AT_ONCE
from polykemi.sip.flow import Flow, Listener, OpenFlow
from polykemi.sip.message import parse
from polykemi.storage.location import Binding
from tests.modules.test_registrar import register, server, uris
from tests.support import LISTENER, NOW


def test_expired_contacts_are_removed_by_the_timer_and_tell_an_event_route() -> None:
    made = server({"event_callback": "ksr_registrar_event"})
    register(made, "Contact: <sip:a@h1>;expires=100, <sip:b@h2>;expires=1000")
    usrloc = made.modules["usrloc"]
    assert usrloc.next_timeout() == NOW
    usrloc.handle_timer(NOW)
    assert usrloc.next_timeout() == NOW + 60
    usrloc.handle_timer(NOW + 30)  # not its time
    assert uris(made) == ["sip:b@h2", "sip:a@h1"]
    usrloc.handle_timer(NOW + 120)
    made.location.commit()
    assert uris(made) == ["sip:b@h2"]
    (ctx,) = made.events
    assert (ctx.callback, ctx.event) == ("ksr_registrar_event", "usrloc:contact-expired")
    accessor = made.variables.compile("$ulc(exp=>addr)")
    assert accessor is not None
    assert accessor.get(ctx) == "sip:a@h1"


def test_the_timer_does_a_bounded_amount_of_work_at_a_time() -> None:
    made = server()
    for n in range(250):
        made.location.put("location", f"u{n}", [Binding("sip:a@h", NOW - 1)])
    usrloc = made.modules["usrloc"]
    for left in (200, 150, 100, 50, 0):
        usrloc.handle_timer(usrloc.next_timeout())
        assert sum(1 for _ in made.location.items("location")) == left
    assert usrloc.next_timeout() - NOW > 60


def test_contacts_are_counted_when_somebody_asks() -> None:
    made = server()
    register(made, "Contact: <sip:a@h1>, <sip:b@h2>")
    made.location.put("location", "bob", [Binding("sip:b@h", 0)])
    made.location.commit()
    usrloc = made.modules["usrloc"]
    usrloc.start(NOW)
    expected = {"registered_users": 2, "location_users": 2, "location_contacts": 3, "location_expires": 0}
    assert {name: made.statistics[f"usrloc.{name}"] for name in expected} == expected
    usrloc.handle_timer(NOW + 100_000)
    assert made.statistics["usrloc.location_expires"] == 2


def test_many_contacts_are_counted_piece_by_piece() -> None:
    made = server()
    for n in range(AT_ONCE + 500):
        made.location.put("location", f"u{n}", [Binding("sip:a@h", 0), Binding("sip:b@h", 0)])
    usrloc = made.modules["usrloc"]
    usrloc.handle_timer(NOW)
    later = usrloc.next_timeout()
    assert usrloc.contacts("location") == AT_ONCE + 500  # nothing better is known yet
    pieces = 0
    while usrloc.next_timeout() < later:
        usrloc.handle_timer(max(usrloc.next_timeout(), NOW))
        pieces += 1
    assert pieces > 2
    assert usrloc.contacts("location") == 2 * (AT_ONCE + 500)


def test_expired_contacts_of_before_a_restart_are_removed_at_once() -> None:
    made = server()
    made.location.put("location", "alice", [Binding("sip:a@h", NOW - 1), Binding("sip:b@h", 0)])
    made.modules["usrloc"].handle_timer(NOW)
    assert uris(made) == ["sip:b@h"]


def test_contacts_of_the_same_q_come_in_the_order_of_their_time() -> None:
    bindings = [
        Binding("sip:a@h", 0, modified=1),
        Binding("sip:b@h", 0, modified=2),
        Binding("sip:c@h", 0, 500, modified=0),
    ]
    made = server()
    assert [b.uri for b in made.modules["usrloc"].in_order(bindings)] == ["sip:c@h", "sip:a@h", "sip:b@h"]
    made = server(usrloc={"desc_time_order": 1})
    assert [b.uri for b in made.modules["usrloc"].in_order(bindings)] == ["sip:b@h", "sip:a@h", "sip:c@h"]
    register(made, "Contact: <sip:a@h>;q=0.1, <sip:b@h>;q=0.9")
    assert [b.uri for b in made.modules["usrloc"].in_order(made.location.get("location", "alice"))] == [
        "sip:a@h",
        "sip:b@h",
    ]


def test_usrloc_exports_no_functions() -> None:
    assert not exports_of(Usrloc)


# ---- keepalive
TCP = Listener("tcp", "192.0.2.1", 5060)


def asking(bindings: list[Binding], **usrloc: Any) -> Services:
    """Return a server that asks its contacts."""
    made = server(usrloc={"timer_interval": 10, "nat_bflag": 6, **usrloc}, listeners=(LISTENER, TCP))
    for n, binding in enumerate(bindings):
        made.location.put("location", f"user{n}", [binding])
    return made


def run_until(made: Services, now: float) -> None:
    usrloc = made.modules["usrloc"]
    while usrloc.next_timeout() <= now:
        usrloc.handle_timer(usrloc.next_timeout())


def test_contacts_are_asked_whether_they_are_there_over_the_way_that_they_have() -> None:
    phones = [
        Binding("sip:a@10.0.0.1", NOW + 500, received="sip:198.51.100.7:1024", listener=str(LISTENER), ruid="r1"),
        Binding(
            "sip:b@10.0.0.1", NOW + 500, received="sip:198.51.100.8:1024;transport=tcp", listener=str(TCP), ruid="r2"
        ),
        Binding("sip:c@10.0.0.1", NOW + 500, path="<sip:192.0.2.30;lr>", listener=str(LISTENER), ruid="r3"),
        Binding("sip:d@10.0.0.1;transport=sctp", NOW + 500, ruid="r4"),
        Binding("nonsense", NOW + 500, ruid="r5"),
    ]
    made = asking(phones, ka_mode=1, ka_from="sip:server@e.test", ka_domain="e.test")
    run_until(made, NOW + 10)
    sent = {flow: parse(data) for data, flow in made.outbox.items}
    assert list(sent) == [(LISTENER, "198.51.100.7", 1024), (TCP, "198.51.100.8", 1024), (LISTENER, "192.0.2.30", 5060)]
    assert [type(flow) for flow in sent] == [Flow, OpenFlow, Flow]  # nobody is called
    first, second, third = sent.values()
    assert first.start_line == "OPTIONS sip:a@10.0.0.1 SIP/2.0"
    assert (first.from_.uri, first.to.uri) == ("sip:server@e.test", "sip:user0@e.test")
    assert (second.via.transport.lower(), third.list("route")) == ("tcp", ["<sip:192.0.2.30;lr>"])


def test_modes_leave_contacts_out() -> None:
    phones = [
        Binding("sip:a@10.0.0.1", NOW + 500, ruid="r1"),
        Binding("sip:b@10.0.0.2", NOW + 500, bflags=64, ruid="r2"),
        Binding("sip:c@10.0.0.3;transport=tcp", NOW + 500, bflags=64, ruid="r3"),
        Binding("sip:d@10.0.0.4", NOW - 1, bflags=64, ruid="r4"),
    ]
    for mode, hosts in ((1, "123"), (2, "23"), (4, "12"), (6, "2")):
        made = asking(phones, ka_mode=mode)
        run_until(made, NOW + 10)
        assert [flow.host for _, flow in made.outbox.items] == [f"10.0.0.{n}" for n in hosts]


def test_who_does_not_answer_goes_and_tells_an_event_route() -> None:
    phones = [Binding("sip:a@10.0.0.1", NOW + 500, ruid="r1"), Binding("sip:b@10.0.0.2", NOW + 500, ruid="r2")]
    made = asking(phones, ka_mode=1, ka_timeout=25)
    (absorbs,) = made.strays
    gone = []
    made.modules["usrloc"].on_expired.append(lambda table, aor, binding, now: gone.append((binding.uri, now - NOW)))
    for second in range(1, 100):
        run_until(made, NOW + second)
        for data, flow in made.outbox.items:
            if flow.host == "10.0.0.1":
                request = parse(data)
                lines = [f"{name}: {request.get(name.lower())}" for name in ("Via", "From", "To", "Call-ID", "CSeq")]
                assert absorbs(parse("\r\n".join(["SIP/2.0 404 Not Found", *lines, "", ""]).encode()))  # type: ignore[arg-type]
        made.outbox.items.clear()
    assert uris(made, "user0") == ["sip:a@10.0.0.1"]
    assert uris(made, "user1") == []
    ((uri, when),) = gone
    assert uri == "sip:b@10.0.0.2"
    assert 25 <= when <= 60


def test_parameters_of_usrloc_are_checked() -> None:
    for wrong in ({"ka_mode": 8}, {"ka_timeout": -1}, {"nat_bflag": 32}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            UsrlocParams(**wrong)  # type: ignore[arg-type]
