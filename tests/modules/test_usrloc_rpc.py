"""The commands of usrloc: shapes and errors are Kamailio's (tests/oracle/test_rpc.py compares), and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.rpc import commands_of
from polykemi.modules.base import Services
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import Binding
from tests.modules.test_registrar import register, server
from tests.support import NOW

CARL = ("location", "carol", "sip:carol@192.0.2.9", 60, 0.7, "0", 1, 2, 8191)


def ask(made: Services, method: str, *params: Any, now: float = NOW) -> Any:
    commands = {one.name: one for part in made.modules["usrloc"].commands() for one in commands_of(part)}
    return commands[method].run(params, now)


def refused(made: Services, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as raised:
        ask(made, method, *params)
    return raised.value.code, str(raised.value)


def test_contacts_are_listed_and_looked_up() -> None:
    made = server()
    register(made, 'Contact: <sip:a@192.0.2.10>;q=0.5;expires=300;+sip.instance="<urn:uuid:1>"')
    (domain,) = ask(made, "ul.dump", now=NOW + 10)["Domains"]
    table = domain["Domain"]
    assert (table["Domain"], table["Stats"]["Records"]) == ("location", 1)
    ((info,),) = ([one["Info"] for one in table["AoRs"]],)
    assert (info["AoR"], info["HashID"]) == ("alice", 1834153949)
    found = ask(made, "ul.lookup", "location", "Alice@example.test", now=NOW + 10)
    assert found == {"AoR": "alice", "Contacts": info["Contacts"]}
    (contact,) = (one["Contact"] for one in info["Contacts"])
    assert (contact["Address"], contact["Expires"], contact["Q"]) == ("sip:a@192.0.2.10", 290, 0.5)
    assert (contact["Path"], contact["Instance"]) == ("[not set]", "<urn:uuid:1>")
    assert contact["Tcpconn-Id"] == -1
    (domain,) = ask(made, "ul.dump", "brief")["Domains"]
    assert domain["Domain"]["AoRs"] == [{"AoR": "alice"}]


def test_a_contact_is_added_and_replaced_and_removed() -> None:
    made = server()
    assert ask(made, "ul.add", *CARL) == {}
    assert ask(made, "ul.add", "location", "CAROL@x", "sip:carol@192.0.2.9", "0", "1", "sip:p;lr", "0", "0", "7") == {}
    (one,) = made.location.get("location", "carol")
    assert (one.expires, one.q, one.path, one.methods, one.flags, one.bflags) == (0, 1000, "sip:p;lr", 7, 0, 0)
    assert one.ruid.startswith("ulcx-")
    (contact,) = ask(made, "ul.lookup", "location", "carol")["Contacts"]
    assert contact["Contact"]["Expires"] == "permanent"
    ask(made, "ul.add", "location", "carol", "sip:other@192.0.2.9", 60, 0, "0", 0, 0, 0)
    assert refused(made, "ul.rm_contact", "location", "carol", "sip:nobody@x") == (404, "Contact not found")
    assert ask(made, "ul.rm_contact", "location", "carol", "sip:carol@192.0.2.9") == {}
    ask(made, "ul.add", *CARL)
    assert ask(made, "ul.rm", "location", "carol", "sip:other@192.0.2.9") == {}
    assert [b.uri for b in made.location.get("location", "carol")] == ["sip:carol@192.0.2.9"]
    assert ask(made, "ul.rm", "location", "carol") == ask(made, "ul.rm", "location", "carol") == {}
    assert made.location.get("location", "carol") == []
    assert refused(made, "ul.rm_contact", "location", "carol", "sip:x@y") == (404, "AOR not found")


def test_with_use_domain_an_aor_has_its_domain() -> None:
    made = server(usrloc={"use_domain": 1})
    register(made, "Contact: <sip:a@192.0.2.10>")
    assert ask(made, "ul.lookup", "location", "alice@EXAMPLE.test")["AoR"] == "alice@example.test"
    assert refused(made, "ul.lookup", "location", "alice") == (500, "AOR not found in location table")


def test_mistakes_are_answered_as_kamailio_answers_them() -> None:
    made = server()
    lookup = (500, "Not enough parameters (table and AOR to lookup)")
    assert refused(made, "ul.lookup") == refused(made, "ul.rm", "location") == lookup
    for method, params in (("lookup", ("a",)), ("rm", ("a",)), ("rm_contact", ("a", "b")), ("add", CARL[1:])):
        assert refused(made, f"ul.{method}", "nowhere", *params) == (500, "Domain table not found")
    assert refused(made, "ul.add", "location") == (500, "Not enough parameters or wrong format")
    assert refused(made, "ul.rm_contact", "location")[1] == "Not enough parameters (table, AOR and contact)"
    assert refused(made, "ul.lookup", "location", "a") == (500, "AOR not found in location table")
    for wrong in (("nonsense", 60, 1), ("sip:a@b", -1, 1), ("sip:a@b", 60, 1.5)):
        assert refused(made, "ul.add", "location", "a", *wrong, "0", 0, 0, 0)[0] == 500
    assert made.location.get("location", "a") == []


def test_an_expired_contact_is_shown_as_one_and_counted() -> None:
    made = server()
    made.location.put("location", "a", [Binding("sip:a@h", NOW - 1), Binding("sip:b@h", NOW + 1)])
    contacts = ask(made, "ul.lookup", "location", "a")["Contacts"]
    assert [one["Contact"]["Expires"] for one in contacts] == ["expired", 1]
    assert ask(made, "ul.db_users", "location") == 1
    assert ask(made, "ul.db_contacts", "location") == 2
    assert ask(made, "ul.db_expired_contacts", "location") == 1
    made = server(usrloc={"db_mode": 0})
    assert refused(made, "ul.db_users", "location") == (500, "Command is not supported in db_mode=0")


def test_what_was_added_is_on_disk_when_it_is_answered(tmp_path: Path) -> None:
    made = server(location=LmdbLocation(tmp_path / "location"))
    ask(made, "ul.add", *CARL)
    made.location.discard()  # what a killed server loses
    assert ask(made, "ul.lookup", "location", "carol")["AoR"] == "carol"
    assert ask(made, "ul.flush") == {}
    made.location.close()


def test_a_long_list_ends_before_it_keeps_messages_waiting() -> None:
    made = server()
    for n in range(5010):
        made.location.put("location", f"u{n}", [Binding("sip:a@h", 0)])
    (domain,) = ask(made, "ul.dump", "brief")["Domains"]
    assert len(domain["Domain"]["AoRs"]) == 5000
    (whole,) = ask(made, "ul.dump")["Domains"]
    assert len(whole["Domain"]["AoRs"]) == 1000
    assert domain["Domain"]["Stats"]["Records"] == 5010
