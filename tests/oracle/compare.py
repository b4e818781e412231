"""What both servers gave, made comparable: what each makes up (branches, tags, nonces, Call-IDs, times) is masked."""

from __future__ import annotations

import re
from typing import Final

from tests.conformance.export_cases import Call, Case
from tests.oracle.replay import Outcome

_MASKS: Final = (
    # a branch of the server's own, a nonce, ids that it makes: what stays is that they are there
    (
        re.compile(
            r"(Via: SIP/2\.0/\w+ (?:192\.0\.2\.1|sip\.example\.test)(?::\d+)?;(?:\S*;)?branch=)[^;,\s]+", re.IGNORECASE
        ),
        r"\1<branch>",
    ),
    (re.compile(r"^([\w-]+):[ \t]+", re.MULTILINE), r"\1: "),  # Kamailio writes "Max-Forwards:  9" over "10"
    (re.compile(r"^SIP/2\.0 500 I'm terribly sorry[^\r\n]*", re.MULTILINE), "SIP/2.0 500 Server Internal Error"),
    (re.compile(r'(nonce|opaque)="[^"]*"'), r'\1="<\1>"'),
    (re.compile(r'(cnonce="<nonce>", )response="[^"]*"'), r'\1response="<response>"'),  # which follows from it
    (re.compile(r"^(Date): [^\r\n]*", re.MULTILINE), r"\1: <date>"),
    (re.compile(r"uloc-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"), "<ruid>"),
    (re.compile(r'temp-gruu="sip:[^@"]+@'), 'temp-gruu="sip:<gruu>@'),
    (re.compile(r"^((?:Path|Record-Route): <sip:)[\w.+/=-]{30,}@", re.MULTILINE), r"\1<flow>@"),
    (re.compile(r"srid-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"), "<ruid>"),
    (re.compile(r";(did|call)=[0-9a-f]+\.[0-9a-f]+"), r";\1=<did>"),
)
_TAG: Final = re.compile(r"^((?:To|From|t|f): [^\r\n]*;tag=)([^;\s]+)", re.MULTILINE | re.IGNORECASE)
_CALL_ID: Final = re.compile(r"^((?:Call-ID|i): )(\S+)", re.MULTILINE | re.IGNORECASE)


def comparable(outcome: Outcome, case: Case) -> tuple[dict[str, list[str]], list[list[str]]]:
    """Return values and datagrams with what cannot be equal masked; what the case itself brings stays."""
    given = "\n".join(step.head for step in case.steps) + " callee case 192.0.2.10"
    seen = {}
    for block, values in sorted(outcome.seen.items()):
        unknown = {f"{i + 1} " for i, call in enumerate(calls_of(case, block)) if call.expected == "*"}
        seen[block] = [
            f"{i} *" if any(value.startswith(one) for one in unknown) else _masked(value, given)
            for i, value in enumerate(values)
        ]
    sent = [[f"{peer}\n{_masked(data.decode('latin-1'), given)}" for peer, data in step] for step in outcome.sent]
    return seen, sent


def calls_of(case: Case, block: str) -> list[Call]:
    """Return the calls of ``block``, written as NAME@STEP."""
    name, _, step = block.partition("@")
    found = case.blocks.get((name, int(step)))
    return found or next((calls for (other, _), calls in case.blocks.items() if other == name), [])


def _masked(text: str, given: str) -> str:
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    text = _TAG.sub(lambda m: m[0] if m[2] in given else f"{m[1]}<tag>", text)
    return _CALL_ID.sub(lambda m: m[0] if m[2] in given or m[2].endswith("@192.0.2.10") else f"{m[1]}<call-id>", text)
