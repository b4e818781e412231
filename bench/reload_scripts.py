"""The script of ``reloads`` in three languages, and what is wrong with the broken ones; @ stands for the name of the version."""

from __future__ import annotations

from typing import Final

SUFFIXES: Final = {"lua": "lua", "js": "js", "python": "py"}

SCRIPTS: Final = {
    "lua": r"""
function ksr_request_route()
    KSR.hdr.append_to_reply("X-Version: @\r\n")
    if KSR.is_REGISTER() then KSR.registrar.save("location", 0) return end
    if KSR.is_CANCEL() then KSR.tm.t_relay() return end
    KSR.hdr.append("X-Request: @\r\n")
    KSR.tm.t_on_branch("mark_branch")
    KSR.tm.t_on_reply("mark_reply")
    if KSR.siputils.has_totag() > 0 then
        if KSR.rr.loose_route() > 0 then KSR.tm.t_relay() else KSR.sl.send_reply(404, "No Route") end
        return
    end
    KSR.dialog.dlg_manage()
    KSR.rr.record_route()
    KSR.tm.t_on_failure("mark_failure")
    if KSR.registrar.lookup("location") < 0 then KSR.sl.send_reply(404, "Not Found") return end
    KSR.tm.t_relay()
end
function mark_branch() KSR.hdr.append("X-Branch: @\r\n") end
function mark_reply() KSR.hdr.append("X-Reply: @\r\n") end
function mark_failure() KSR.tm.t_reply(480, "@") end
""",
    "js": r"""
function ksr_request_route() {
    KSR.hdr.append_to_reply("X-Version: @\r\n");
    if (KSR.is_REGISTER()) { KSR.registrar.save("location", 0); return; }
    if (KSR.is_CANCEL()) { KSR.tm.t_relay(); return; }
    KSR.hdr.append("X-Request: @\r\n");
    KSR.tm.t_on_branch("mark_branch");
    KSR.tm.t_on_reply("mark_reply");
    if (KSR.siputils.has_totag() > 0) {
        if (KSR.rr.loose_route() > 0) KSR.tm.t_relay(); else KSR.sl.send_reply(404, "No Route");
        return;
    }
    KSR.dialog.dlg_manage();
    KSR.rr.record_route();
    KSR.tm.t_on_failure("mark_failure");
    if (KSR.registrar.lookup("location") < 0) { KSR.sl.send_reply(404, "Not Found"); return; }
    KSR.tm.t_relay();
}
function mark_branch() { KSR.hdr.append("X-Branch: @\r\n"); }
function mark_reply() { KSR.hdr.append("X-Reply: @\r\n"); }
function mark_failure() { KSR.tm.t_reply(480, "@"); }
""",
    "python": r"""
import KSR

def ksr_request_route():
    KSR.hdr.append_to_reply("X-Version: @\r\n")
    if KSR.is_REGISTER():
        KSR.registrar.save("location", 0)
        return
    if KSR.is_CANCEL():
        KSR.tm.t_relay()
        return
    KSR.hdr.append("X-Request: @\r\n")
    KSR.tm.t_on_branch("mark_branch")
    KSR.tm.t_on_reply("mark_reply")
    if KSR.siputils.has_totag() > 0:
        if KSR.rr.loose_route() > 0:
            KSR.tm.t_relay()
        else:
            KSR.sl.send_reply(404, "No Route")
        return
    KSR.dialog.dlg_manage()
    KSR.rr.record_route()
    KSR.tm.t_on_failure("mark_failure")
    if KSR.registrar.lookup("location") < 0:
        KSR.sl.send_reply(404, "Not Found")
        return
    KSR.tm.t_relay()

def mark_branch():
    KSR.hdr.append("X-Branch: @\r\n")

def mark_reply():
    KSR.hdr.append("X-Reply: @\r\n")

def mark_failure():
    KSR.tm.t_reply(480, "@")
""",
}

# what begins with a line break comes behind a good script, the others stand alone
BROKEN: Final = {
    "lua": {
        "syntax": "\nfunction broken(",
        "fails while it loads": "\nlocal nothing = nil\nnothing.at_all()",
        "a function that is not there": '\nfunction never() KSR.sl.sen_reply(200, "OK") end',
        "a handler that is not there": '\nfunction never() KSR.tm.t_on_failure("nowhere") end',
        "no request route": "local version = '@'",
    },
    "js": {
        "syntax": "\nfunction broken( {",
        "fails while it loads": "\nundefined.at_all();",
        "a function that is not there": '\nfunction never() { KSR.sl.sen_reply(200, "OK"); }',
        "a handler that is not there": '\nfunction never() { KSR.tm.t_on_failure("nowhere"); }',
        "no request route": "const version = '@';",
    },
    "python": {
        "syntax": "\ndef broken(",
        "fails while it loads": "\nNone.at_all()",
        "a function that is not there": '\ndef never():\n    KSR.sl.sen_reply(200, "OK")',
        "a handler that is not there": '\ndef never():\n    KSR.tm.t_on_failure("nowhere")',
        "no request route": "version = '@'",
    },
}
