"""Line breaks in what scripts pass on never become a header, a message or a status line that nobody wrote.

Every argument that is a text, of every KSR function, gets a line break and a header behind what the conformance cases give it.
What leaves is looked at: functions that take header lines may send that header, those that take a body may have it in there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.registry import exports_of
from polykemi.modules import MODULES
from polykemi.testing import Sent, ServerUnderTest
from tests.conformance.export_cases import REQUEST, Call, Case
from tests.conformance.test_exports import CASES, EXTENSIONS, play_case
from tests.support import message
from tests.test_hostile_calls import framing

PAYLOADS: Final = (r"\r\nX-Injected: 1", r"\nX-Injected: 1", r"\r\n\r\nX-Injected: 1", r"\rX-Injected: 1")
INJECTED: Final = re.compile(rb"[\r\n][ \t]*X-Injected")
TEXT: Final = re.compile(r'"(?:[^"\\]|\\["\\rn])*"')

# (function, argument): whole header lines, as many as the script likes
LINES: Final = frozenset(
    (
        *((f"KSR.hdr.{name}", 0) for name in ("append", "insert", "append_after", "insert_before", "append_to_reply")),
        *(("KSR.hdr.rmappend", 1), ("KSR.hdr.rminsert", 1)),
        # these change the text of the header, in which headers are lines
        *((f"KSR.textops.{name}", 1) for name in ("search_append", "replace", "replace_all", "replace_hdrs")),
        *((f"KSR.textops.{name}", 1) for name in ("replace_str", "replace_hdrs_str")),
        ("KSR.tm.t_uac_send", 4),
    )
)
# what has the octets of the message, or of what leaves, in its hands
OCTETS: Final = frozenset((("KSR.corex.send_data", 1), ("KSR.corex.sendx", 2), ("KSR.textopsx.msg_set_buffer", 0)))


def places(module: str) -> Iterator[tuple[Case, tuple[str, int], int, int, re.Match[str]]]:
    """Iterate over the texts that the module's functions are given: case, block, call, argument; each argument once."""
    seen: set[tuple[str, int]] = set()
    for case in CASES.values():
        for block, calls in case.blocks.items():
            for number, call in enumerate(calls):
                if not call.path.startswith(f"KSR.{module}." if module != "core" else "KSR.") or (
                    module == "core" and call.path.count(".") > 1
                ):
                    continue
                for argument, match in enumerate(TEXT.finditer(call.source)):
                    if (call.path, argument) not in seen:
                        seen.add((call.path, argument))
                        yield case, block, number, argument, match


def with_payload(case: Case, block: tuple[str, int], number: int, match: re.Match[str], payload: str) -> Case:
    """Return the case with a line break behind one text; what the route does to the message is seen in the end."""
    changed = deepcopy(case)
    calls = changed.blocks[block]
    source = calls[number].source
    calls[number] = replace(calls[number], source=source[: match.end() - 1] + payload + source[match.end() - 1 :])
    if block[0] == REQUEST and calls[-1].expected != "ends":
        calls += [Call("KSR.tm.t_relay()", "", "*"), Call('KSR.sl.send_reply(488, "no")', "", "*")]
    return changed


def wrong(one: Sent, place: tuple[str, int]) -> str:
    """Return what is wrong with a message that leaves, "" for nothing."""
    if place in OCTETS or one.data[:4] in (b"PING", b"PONG") or not one.data.strip(b"\r\n\0"):
        return ""
    if one.data.startswith(b"HTTP/1."):
        return "injected" if INJECTED.search(one.data.partition(b"\r\n\r\n")[0]) else ""
    return framing(one.data, b"", lines=place in LINES)


@pytest.mark.parametrize("module", MODULES)
def test_no_argument_becomes_a_header_by_a_line_break(module: str) -> None:
    for number, (case, block, call, argument, match) in enumerate(places(module)):
        changed = with_payload(case, block, call, match, PAYLOADS[number % len(PAYLOADS)])
        place = (case.blocks[block][call].path, argument)
        try:
            outcome = play_case(changed, "lua")
        except StopIteration:
            continue  # nothing has left that the next step of the case could answer
        except ParseError as error:
            pytest.fail(f"{place}: what left is no message: {error}")
        assert outcome.errors == 0, (place, outcome.log)
        for step in outcome.sent:
            for one in step:
                assert wrong(one, place) == "", (place, one.data)


def test_every_function_with_a_text_was_asked() -> None:
    asked = {case.blocks[block][call].path for module in MODULES for case, block, call, _, _ in places(module)}
    rows = (row for module in MODULES.values() for row, _ in exports_of(module).values())
    texts = {row.path for row in rows if any(param.type == "str" for param in row.params)}
    assert sorted(texts - asked) == []


@pytest.mark.parametrize("engine", ["js", "python"])
def test_the_other_languages_pass_no_line_break_on_either(engine: str) -> None:
    for module in ("hdr", "textops", "uac", "sl", "pv"):
        for number, (case, block, call, argument, match) in enumerate(places(module)):
            if number % 4 == 0:
                outcome = play_case(with_payload(case, block, call, match, PAYLOADS[0]), engine)
                place = (case.blocks[block][call].path, argument)
                assert [w for step in outcome.sent for one in step if (w := wrong(one, place))] == [], place


# ---- variables
SET: Final = """
local VALUES = { "sip:bob@192.0.2.20:5060", "bob", "192.0.2.20", "<sip:bob@192.0.2.20>", "5060", "" }
local BREAKS = { "\\r\\nX-Injected: 1", "\\nX-Injected: 1", "\\r\\n\\r\\nX-Injected: 1", "\\rX-Injected: 1" }
function ksr_request_route()
    local n = tonumber(KSR.pv.get("$hdr(X-Case)"))
    KSR.pv.sets("$du", "sip:192.0.2.20")
    KSR.pv.sets(KSR.pv.get("$hdr(X-Name)"), VALUES[n % 6 + 1] .. BREAKS[math.floor(n / 6) + 1])
    KSR.tm.t_relay()
    KSR.sl.send_reply(488, KSR.pv.gete("$hdr(X-Name)"))
end
"""


def settable(server: ServerUnderTest) -> list[str]:
    """Return one name of each kind of variable that can be written."""
    variables = server.node.services.variables
    names = []
    for name in sorted(variables._classes):
        for form in ("$%s", "$%s(x)", "$%s(s:x)", "$%s(x=>y)", "$%s(x[0]=>y[0])"):
            if variables.problem(form % name) is None:
                accessor = variables.compile(form % name)
                if accessor is not None and accessor.set is not None:
                    names.append(form % name)
    return names


def test_no_variable_becomes_a_header_by_a_line_break(tmp_path: Path) -> None:
    script = tmp_path / "script.lua"
    script.write_text(SET)
    with ServerUnderTest(
        {"lua": script}, domains=["example.test"], modules={"htable": {"htable": ["x=>size=4;"]}}
    ) as server:
        names = settable(server)
        assert {"$ru", "$rU", "$rd", "$rp", "$du", "$fu", "$fU", "$fn", "$tu", "$td", "$br", "$fs"} <= set(names)
        for number, (name, case) in enumerate((name, case) for name in names for case in range(24)):
            data = message(
                "OPTIONS sip:bob@example.test SIP/2.0",
                *("Max-Forwards: 70", f"X-Name: {name}", f"X-Case: {case}"),
                via=f"SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{number}",
                call_id=f"{number}",
            )
            for one in server.receive(data, "192.0.2.10:5060"):
                assert framing(one.data, data, lines=False) == "", (name, one.data)
        assert "core.internal_errors" not in server.node.services.counters


VIA: Final = r"""
function ksr_request_route()
    KSR.pv.sets("$xavp(v=>p)", "a\r\nX-Injected: 1")
    if KSR.is_method("OPTIONS") then KSR.corex.via_add_xavp_params(1) end
    KSR.pv.sets("$xavp(f=>address)", "192.0.2.1\r\nX-Injected: 1")
    KSR.pv.sets("$xavp(f=>port)", "5060")
    if KSR.is_method("MESSAGE") then KSR.corex.via_use_xavp_fields(1) end
    KSR.pv.sets("$du", "sip:192.0.2.20")
    if KSR.tm.t_relay() < 0 then KSR.forward() end
end
"""


@pytest.mark.parametrize("method", ["OPTIONS", "MESSAGE"])
def test_no_variable_gets_into_our_via_by_a_line_break(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.lua"
    script.write_text(VIA)
    data = message(f"{method} sip:bob@example.test SIP/2.0", "Max-Forwards: 70")
    core = {"xavp_via_params": "v", "xavp_via_fields": "f"}
    with ServerUnderTest({"lua": script}, domains=["example.test"], modules={"core": core}) as server:
        for one in server.receive(data, "192.0.2.10:5060"):
            assert framing(one.data, data, lines=False) == "", one.data
        assert [call.result for call in server.calls if "corex" in call.path] == [1]
        assert "core.internal_errors" not in server.node.services.counters


# ---- what a message brings, escaped
ESCAPED: Final = "a%0d%0aX-Injected:%201%0D%0A%0D%0A"
READ: Final = (
    *(
        "$rU",
        "$ru",
        "$fU",
        "$fu",
        "$tU",
        "$(ct{nameaddr.uri})",
        "$(fU{s.unescape.user})",
        "$(ru{uri.user}{s.unescape.param})",
    ),
    *(
        "$au",
        "$(hdr(X-Odd))",
        "$(hdr(X-Odd){s.unescape.user})",
        "$(fu{uri.params})",
        "$fn",
        "$ci",
        "$ua",
        "$rb",
        "$hdr(X-Fold)",
    ),
)
ADD: Final = {
    "lua": """
function ksr_request_route()
    for _, name in ipairs({%s}) do
        local value = KSR.pv.gete(name)
        KSR.hdr.append("X-Value: " .. value .. "\\r\\n")
        KSR.hdr.append_to_reply("X-Value: " .. value .. "\\r\\n")
        KSR.uac.uac_replace_from(value, "")
    end
    KSR.pv.sets("$du", "sip:192.0.2.20")
    KSR.tm.t_relay()
    KSR.sl.send_reply(488, KSR.pv.gete("$fU"))
end
""",
    "js": """
function ksr_request_route() {
    for (const name of [%s]) {
        const value = KSR.pv.gete(name);
        KSR.hdr.append("X-Value: " + value + "\\r\\n");
        KSR.hdr.append_to_reply("X-Value: " + value + "\\r\\n");
        KSR.uac.uac_replace_from(value, "");
    }
    KSR.pv.sets("$du", "sip:192.0.2.20");
    KSR.tm.t_relay();
    KSR.sl.send_reply(488, KSR.pv.gete("$fU"));
}
""",
    "python": """
import KSR

def ksr_request_route(msg):
    for name in [%s]:
        value = KSR.pv.gete(name)
        KSR.hdr.append("X-Value: " + value + "\\r\\n")
        KSR.hdr.append_to_reply("X-Value: " + value + "\\r\\n")
        KSR.uac.uac_replace_from(value, "")
    KSR.pv.sets("$du", "sip:192.0.2.20")
    KSR.tm.t_relay()
    KSR.sl.send_reply(488, KSR.pv.gete("$fU"))
""",
}


@pytest.mark.parametrize("engine", ADD)
def test_escapes_of_a_message_become_no_header(tmp_path: Path, engine: str) -> None:
    script = tmp_path / f"script.{EXTENSIONS[engine]}"
    script.write_text(ADD[engine] % ", ".join(f'"{name}"' for name in READ))
    uri = f"sip:{ESCAPED}@example.test"
    data = message(
        f"INVITE {uri} SIP/2.0",
        *(
            "Max-Forwards: 70",
            f"Contact: <{uri}>",
            f"X-Odd: {ESCAPED}",
            f"User-Agent: {ESCAPED}",
            "X-Fold: a\r\n X-Injected: 1",
        ),
        f'Proxy-Authorization: Digest username="{ESCAPED}", realm="x", nonce="y", uri="{uri}", response="z"',
        from_=f'"{ESCAPED}" <{uri};p={ESCAPED}>;tag=1',
        to=f"<{uri}>",
        call_id=ESCAPED,
    )
    with ServerUnderTest({engine: script}, domains=["example.test"]) as server:
        sent = server.receive(data, "192.0.2.10:5060") + server.advance(40)
        assert [one.start_line[:12] for one in sent if one.start_line.startswith("INVITE")]
        for one in sent:
            assert framing(one.data.replace(b"a\r\n X-Injected", b"a X-Folded"), data, lines=False) == ""
        (relayed, *_) = [one.data for one in sent if one.start_line.startswith("INVITE")]
        assert relayed.count(b"X-Value: a%0d%0aX-Injected:%201%0D%0A%0D%0A\r\n") >= 4
        assert b"X-Value: a X-Injected: 1\r\n" in relayed  # unfolded


# ---- what scripts may do
LEGITIMATE: Final = r"""
function ksr_request_route()
    KSR.hdr.append("X-One: 1\r\n")
    KSR.hdr.append("X-Two: 2\r\nX-Three: 3\r\n")
    KSR.hdr.append("X-Folded: 4\r\n 5\r\n")
    KSR.hdr.append("X-Bare: 6")
    KSR.hdr.append_to_reply("X-Reply: 7\r\nX-Reply: 8\r\n")
    KSR.textops.search_append("User-Agent: phone\r\n", "X-Behind: 9\r\n")
    KSR.pv.sets("$du", "sip:192.0.2.20")
    KSR.tm.t_relay()
    KSR.sl.send_reply(488, "no")
end
"""


def test_whole_header_lines_with_their_line_ends_are_what_scripts_mean(tmp_path: Path) -> None:
    script = tmp_path / "script.lua"
    script.write_text(LEGITIMATE)
    data = message("OPTIONS sip:bob@example.test SIP/2.0", "User-Agent: phone", "Subject: x")
    with ServerUnderTest({"lua": script}, domains=["example.test"]) as server:
        sent: dict[str, Any] = {one.start_line[:7]: one.data for one in server.receive(data, "192.0.2.10:5060")}
    relayed, reply = sent["OPTIONS"], sent["SIP/2.0"]
    assert b"\r\nX-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\nX-Folded: 4\r\n 5\r\nX-Bare: 6\r\n" in relayed
    assert b"\r\nUser-Agent: phone\r\nX-Behind: 9\r\nSubject: x\r\n" in relayed
    assert b"\r\nX-Reply: 7\r\nX-Reply: 8\r\n" in reply
