"""A default SIP server: registrar and proxy for the users of its domains.

Runs in polykemi and in Kamailio (app_python3). Modules that are switched off are left out of the way.
Each step below answers true when it is done with the request; then the route ends.
"""

import re

import KSR

FLT_NATS = 5  # message flag: the sender is behind NAT
FLB_NATB = 6  # branch flag: the receiver is behind NAT

SCANNERS = ("friendly-scanner", "sipvicious", "sipcli", "VaxSIPUserAgent")

# Web sites whose pages may connect over WebSocket, as "https://phone.example.com". None: those of our own domains.
ORIGINS = ()

CAN_SIGN = hasattr(KSR, "x") and hasattr(KSR.x, "sign")


def mod_init():
    return Server()


class Server:
    """What is called from outside. Kamailio wants a number from each; nothing reads it."""

    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        route_request()
        return 1

    def ksr_branch_manage(self, msg):
        KSR.dbg(f"new branch {KSR.pv.gete('$T_branch_idx')} to {KSR.pv.gete('$ru')}\n")
        manage_nat()
        return 1

    def ksr_onreply_manage(self, msg):
        if 100 < KSR.kx.get_status() < 300:
            manage_nat()
        return 1

    def ksr_failure_manage(self, msg):
        if KSR.tm.t_is_canceled() <= 0:
            note_missed_call()
        return 1

    def ksr_xhttp_event(self, msg, event):
        answer_http()
        return 1


def route_request():
    if refuse_bad_request():
        return
    detect_nat()
    if KSR.is_CANCEL():
        if KSR.tm.t_check_trans() > 0:
            relay()
        return
    if route_in_dialog():
        return
    if KSR.is_ACK():  # outside of a dialog it acknowledges nothing
        return
    if is_retransmission():
        return
    if not authenticate():
        return

    KSR.hdr.remove("Route")  # a route set that came with the first request is not followed
    if KSR.is_method_in("IS"):
        record_route()

    if not KSR.is_myself_ruri():  # to another domain, from one of our users
        relay()
    elif KSR.is_REGISTER():
        register()
    elif KSR.corex.has_ruri_user() < 0:
        KSR.sl.sl_send_reply(484, "Address Incomplete")
    else:
        route_to_user()


def refuse_bad_request():
    """Requests that we do not want to see any further."""
    KSR.set_reply_no_connect()
    KSR.force_rport()
    if hasattr(KSR, "pike") and hasattr(KSR, "htable") and not KSR.is_myself_srcip():
        if not KSR.pv.is_null("$sht(ipban=>$si)"):
            KSR.dbg(f"request from banned address {KSR.kx.get_srcip()}\n")
            return True
        if KSR.pike.pike_check_req() < 0:
            address = KSR.kx.get_srcip()
            KSR.warn(f"too many requests: banning {address}\n")
            KSR.htable.sht_seti("ipban", address, 1)
            return True
    if KSR.corex.has_user_agent() > 0:
        agent = KSR.kx.gete_ua()
        if any(scanner in agent for scanner in SCANNERS):
            return True  # not worth a reply
    if KSR.maxfwd.process_maxfwd(70) < 0:
        KSR.sl.sl_send_reply(483, "Too Many Hops")
        return True
    if KSR.is_OPTIONS() and KSR.is_myself_ruri() and KSR.corex.has_ruri_user() < 0:
        KSR.sl.sl_send_reply(200, "Keepalive")
        return True
    if KSR.sanity.sanity_check(17895, 7) < 0:  # it has replied by itself
        KSR.info(f"malformed request from {KSR.kx.get_srcip()}\n")
        return True
    return False


def detect_nat():
    """Remember where a phone behind NAT, or a browser, really is: its Contact does not say so."""
    if not hasattr(KSR, "nathelper") or KSR.nathelper.nat_uac_test(83) < 0:
        return
    if KSR.is_REGISTER():
        KSR.nathelper.fix_nated_register()
    elif KSR.siputils.is_first_hop() > 0:
        KSR.nathelper.set_contact_alias()
    KSR.setflag(FLT_NATS)


def route_in_dialog():
    """Requests inside of a dialog follow its route set, if that was made here."""
    if KSR.siputils.has_totag() < 0:
        return False
    if has_ticket() and KSR.rr.loose_route() > 0:
        if not KSR.isdsturiset() and not find_by_gruu() and hasattr(KSR, "nathelper"):
            KSR.nathelper.handle_ruri_alias()
        if KSR.is_ACK():
            manage_nat()
        elif KSR.is_NOTIFY():
            record_route()  # it may set up the dialog (RFC 6665)
        relay()
    elif KSR.is_ACK():
        # without a route set: to a reply of ours, or a call that another server record-routed
        if KSR.tm.t_check_trans() > 0:
            relay()
    else:
        KSR.sl.sl_send_reply(404, "Not here")
    return True


def record_route():
    """Who begins a dialog has been let pass, and gets a ticket into Record-Route, which all that belongs to it has in Route.

    Nobody can make one up: a To tag and a Route alone open nothing. In Kamailio, which has no KSR.x.sign, they do.
    """
    if CAN_SIGN:
        KSR.rr.add_rr_param(";ticket=" + ticket("$ft"))
    KSR.rr.record_route()


def has_ticket():
    if not CAN_SIGN:
        return True
    brought = KSR.pv.gete("$(route_uri{uri.param,ticket})")
    return brought != "" and (brought == ticket("$ft") or brought == ticket("$tt"))


def ticket(tag):
    return KSR.x.sign(f"{KSR.kx.get_callid()} {KSR.pv.gete(tag)}")


def find_by_gruu():
    """A phone whose Contact in the dialog is its GRUU (RFC 5627) is where it has registered."""
    return KSR.siputils.is_gruu() > 0 and KSR.is_myself_ruri() and KSR.registrar.lookup("location") > 0


def is_retransmission():
    if KSR.tmx.t_precheck_trans() > 0:
        KSR.tm.t_check_trans()
        return True
    return KSR.tm.t_check_trans() == 0


def authenticate():
    """Our users prove who they are; strangers may call our users, nobody else."""
    has_auth = hasattr(KSR, "auth")
    is_register = KSR.is_REGISTER()
    if hasattr(KSR, "permissions") and not is_register and KSR.permissions.allow_source_address(1) > 0:
        return True
    from_us = KSR.is_myself_furi()
    if has_auth and (is_register or from_us):
        realm = KSR.kx.gete_fhost()
        if KSR.auth_db.auth_check(realm, "subscriber", 1) < 0:
            KSR.auth.auth_challenge(realm, 1)
            return False
        if not is_register:
            KSR.auth.consume_credentials()
    if not (has_auth and from_us) and not KSR.is_myself_ruri():  # unproved, anybody is a stranger
        KSR.sl.sl_send_reply(403, "Not relaying")
        return False
    return True


def register():
    if KSR.isflagset(FLT_NATS):
        KSR.setbflag(FLB_NATB)
    if KSR.registrar.save("location", 0) < 0:
        KSR.sl.sl_reply_error()


def route_to_user():
    found = KSR.registrar.lookup("location")
    if found > 0:
        relay()
        return
    KSR.tm.t_newtran()
    if found == -2:
        KSR.sl.send_reply(405, "Method Not Allowed")
    else:
        KSR.sl.send_reply(404, "Not Found")


def relay():
    if KSR.is_method_in("IBSU") and KSR.tm.t_is_set("branch_route") < 0:
        KSR.tm.t_on_branch("ksr_branch_manage")
    if KSR.is_method_in("ISU") and KSR.tm.t_is_set("onreply_route") < 0:
        KSR.tm.t_on_reply("ksr_onreply_manage")
    if KSR.is_INVITE() and KSR.tm.t_is_set("failure_route") < 0:
        KSR.tm.t_on_failure("ksr_failure_manage")
    if KSR.tm.t_relay() < 0:
        KSR.sl.sl_reply_error()


def manage_nat():
    """Let later requests of the dialog, and the Contacts of replies, know of a side behind NAT."""
    if not hasattr(KSR, "nathelper"):
        return
    request = KSR.siputils.is_request() > 0
    in_dialog = KSR.siputils.has_totag() > 0
    if request and in_dialog and KSR.rr.check_route_param("nat=yes") > 0:
        KSR.setbflag(FLB_NATB)
    receiver = KSR.isbflagset(FLB_NATB)
    if not receiver and not KSR.isflagset(FLT_NATS):
        return
    if request:
        if not in_dialog and KSR.tmx.t_is_branch_route() > 0:
            KSR.rr.add_rr_param(";nat=yes")
    elif receiver:
        KSR.nathelper.set_contact_alias()


def note_missed_call():
    """The call was not taken: busy, no answer, declined. Without a new target here the caller gets the best reply."""
    if KSR.tm.t_check_status("408|480|486|600|603") > 0:
        KSR.info(f"call to {KSR.pv.gete('$ru')} was not answered\n")


def answer_http():
    """HTTP on a port of SIP, when [modules.xhttp] event_callback names ksr_xhttp_event: browsers that are to speak SIP
    (RFC 7118)."""
    KSR.set_reply_close()
    KSR.set_reply_no_connect()
    if not hasattr(KSR, "websocket") or KSR.hdr.gete("Upgrade").lower() != "websocket":
        KSR.xhttp.xhttp_reply(404, "Not Found", "", "")
    elif not is_welcome_page():
        KSR.xhttp.xhttp_reply(403, "Forbidden", "", "")
    else:
        KSR.websocket.handle_handshake()


def is_welcome_page():
    """A page calls us by one of our names, and is of a site that may use us. Other programs than browsers send no Origin."""
    if not is_our_name(KSR.hdr.gete("Host")):
        return False
    origin = KSR.hdr.gete("Origin")
    if origin == "" or origin in ORIGINS:
        return True
    return not ORIGINS and is_our_name(re.sub("^https?://", "", origin))


def is_our_name(authority):
    host = re.sub(":[0-9]*$", "", authority)
    return host != "" and KSR.is_myself(f"sip:{host}")
