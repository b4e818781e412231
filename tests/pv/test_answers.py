"""What Kamailio 5.6.3 answered for each variable on the messages in ``answers/``, asked of it through KSR.pv.get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.pv.compiler import Environment, Variables
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Response, parse

ANSWERS: Final = Path(__file__).parent / "answers"
LISTENER: Final = Listener("udp", "127.0.0.1", 15970)

# what a script had set before it asked
PREPARED: Final[dict[str, int | str]] = {
    "$var(n)": "c",
    "$var(z)": 3,
    "$var(sep)": ":",
    "$var(sp)": "  a  b\r\n c\t ",
    "$var(br)": "<sip:x>",
    "$var(num)": "12ab",
    "$var(par)": 'a=1;b;c="x;y";q= z ;C=big',
    "$var(apar)": "a=1&b=2&c",
    "$var(odd)": "".join(map(chr, range(33, 127))),
}

# where polykemi answers otherwise on purpose
DIFFERENT: Final = {
    # what Kamailio's documentation says; 5.6.3 has faults there
    ("invite", "$(ru{s.rafter,:})"): "5070;transport=tcp;lr?h=v",
    ("invite", "$(ru{s.fmtlines,10,0})"): "sip:bob;x=\r\n1:pw@examp\r\nle.com:507\r\n0;transpor\r\nt=tcp;lr?h\r\n=v",
    (
        "invite",
        "$(ru{s.fmtlines,10,1})",
    ): "sip:bob;x=\r\n 1:pw@examp\r\n le.com:507\r\n 0;transpor\r\n t=tcp;lr?h\r\n =v",
    ("register", "$(hfl(Diversion)[1])"): "<sip:e@x>",
    # Contact: * and a broken one are values too; folded headers read as one line
    ("register", "$hflc(contact)"): 1,
    ("malformed", "$hflc(contact)"): 1,
    ("register", "$hdr(X-F)"): "a b",
    # the port of TLS is 5061 here as in $rp; port 0 is none
    ("ack", "$nh(p)"): "5061",
    ("malformed", "$rp"): "5060",
    ("malformed", "$op"): "5060",
    ("malformed", "$nh(p)"): "5060",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in ANSWERS.glob("*.json")))
def test_variables_answer_as_kamailio_does(name: str) -> None:
    message = parse((ANSWERS / f"{name}.sip").read_bytes())
    variables = Variables(environment=Environment(listeners=(LISTENER,), process={"HOME": "/h"}))
    kind = Route.REPLY if isinstance(message, Response) else Route.REQUEST
    ctx = RouteContext(kind, "ksr", message, Flow(LISTENER, "127.0.0.1", 15972), 1_800_000_000.0)
    ctx.reply_status = message.status if isinstance(message, Response) else 0
    for variable, value in PREPARED.items():
        accessor = variables.compile(variable)
        assert accessor is not None
        assert accessor.set is not None
        assert accessor.set(ctx, value)

    expected = json.loads((ANSWERS / f"{name}.json").read_text("ascii"))
    expected |= {expression: value for (where, expression), value in DIFFERENT.items() if where == name}
    answers = {expression: variables.getters[expression](ctx) for expression in expected}
    assert answers == expected
    assert {e: type(v) for e, v in answers.items()} == {e: type(v) for e, v in expected.items()}
