"""coverage: Kamailio's exports as data, and how ours compare."""

from __future__ import annotations

from polykemi.kemi.coverage import coverage, kamailio_exports, report
from polykemi.kemi.registry import exports_of
from polykemi.modules import MODULES
from polykemi.modules.maxfwd import MaxFwd


def test_the_data_tell_versions_and_types() -> None:
    exports = kamailio_exports()
    assert sum(map(len, exports.values())) > 1400
    reply = exports["sl"]["send_reply"]
    assert (reply.returns, reply.params, reply.later) == ("int", ("int", "str"), False)
    assert exports["auth"]["www_challenge"].later
    assert exports[""]["info"].params == ("str",)


def test_a_module_is_compared_by_the_names_of_its_functions() -> None:
    compared = {one.module: one for one in coverage([MaxFwd])}
    assert compared["maxfwd"].missing == compared["maxfwd"].own == ()
    assert compared["maxfwd"].have == ("is_maxfwd_lt", "process_maxfwd")
    assert compared["maxfwd"].all == 2
    assert compared["tm"].have == ()
    assert "t_relay" in compared["tm"].missing
    lines = list(report([MaxFwd]))
    assert lines[0] == "maxfwd            2 of 2    100 %"
    assert lines[1].startswith("not here: core (92), acc (3), ")
    assert lines[-1].startswith("all of Kamailio:    2 of ")


def test_functions_have_the_types_that_kamailio_gives_them() -> None:
    different = []
    for module in MODULES.values():
        for export, _ in exports_of(module).values():
            theirs = kamailio_exports().get(export.module, {}).get(export.name)
            ours = export.returns.replace("data", "xval"), tuple(param.type for param in export.params)
            if theirs is None or export.module.startswith("app_"):  # what a function of a script gives: any value here
                continue
            expected = theirs.returns, tuple("int" if param == "long" else param for param in theirs.params)
            if ours != expected:
                different.append((export.path, ours, expected))
    assert different == []
