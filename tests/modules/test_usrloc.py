"""usrloc: contacts that are over."""

from __future__ import annotations

from polykemi.kemi.registry import exports_of
from polykemi.modules.usrloc import Usrloc
from polykemi.storage.location import Binding
from tests.modules.test_registrar import register, server, uris
from tests.support import NOW


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
    assert [b.uri for b in made.modules["usrloc"].in_order(bindings)] == ["sip:c@h", "sip:b@h", "sip:a@h"]


def test_usrloc_exports_no_functions() -> None:
    assert not exports_of(Usrloc)
