// A default SIP server: registrar and proxy for the users of its domains.
// Runs in polykemi and in Kamailio (app_jsdt). Modules that are switched off are left out of the way.
//
// Each step below answers true when it is done with the request; then the route ends.

var FLT_NATS = 5; // message flag: the sender is behind NAT
var FLB_NATB = 6; // branch flag: the receiver is behind NAT

var SCANNERS = ["friendly-scanner", "sipvicious", "sipcli", "VaxSIPUserAgent"];

// Web sites whose pages may connect over WebSocket, as "https://phone.example.com". None: those of our own domains.
var ORIGINS = [];

function ksr_request_route() {
    if (refuse_bad_request()) return;
    detect_nat();
    if (KSR.is_CANCEL()) {
        if (KSR.tm.t_check_trans() > 0) relay();
        return;
    }
    if (route_in_dialog()) return;
    if (KSR.is_ACK()) return; // outside of a dialog it acknowledges nothing
    if (is_retransmission()) return;
    if (!authenticate()) return;

    KSR.hdr.remove("Route"); // a route set that came with the first request is not followed
    if (KSR.is_method_in("IS")) record_route();

    if (!KSR.is_myself_ruri()) return relay(); // to another domain, from one of our users
    if (KSR.is_REGISTER()) return register();
    if (KSR.corex.has_ruri_user() < 0) {
        KSR.sl.sl_send_reply(484, "Address Incomplete");
        return;
    }
    route_to_user();
}

// Requests that we do not want to see any further.
function refuse_bad_request() {
    KSR.set_reply_no_connect();
    KSR.force_rport();
    if (KSR.pike && KSR.htable && !KSR.is_myself_srcip()) {
        if (!KSR.pv.is_null("$sht(ipban=>$si)")) {
            KSR.dbg("request from banned address " + KSR.kx.get_srcip() + "\n");
            return true;
        }
        if (KSR.pike.pike_check_req() < 0) {
            var address = KSR.kx.get_srcip();
            KSR.warn("too many requests: banning " + address + "\n");
            KSR.htable.sht_seti("ipban", address, 1);
            return true;
        }
    }
    if (KSR.corex.has_user_agent() > 0) {
        var agent = KSR.kx.gete_ua();
        for (var i = 0; i < SCANNERS.length; i++) {
            if (agent.indexOf(SCANNERS[i]) >= 0) return true; // not worth a reply
        }
    }
    if (KSR.maxfwd.process_maxfwd(70) < 0) {
        KSR.sl.sl_send_reply(483, "Too Many Hops");
        return true;
    }
    if (KSR.is_OPTIONS() && KSR.is_myself_ruri() && KSR.corex.has_ruri_user() < 0) {
        KSR.sl.sl_send_reply(200, "Keepalive");
        return true;
    }
    if (KSR.sanity.sanity_check(17895, 7) < 0) { // it has replied by itself
        KSR.info("malformed request from " + KSR.kx.get_srcip() + "\n");
        return true;
    }
    return false;
}

// Remember where a phone behind NAT, or a browser, really is: its Contact does not say so.
function detect_nat() {
    if (!KSR.nathelper || KSR.nathelper.nat_uac_test(83) < 0) return;
    if (KSR.is_REGISTER()) {
        KSR.nathelper.fix_nated_register();
    } else if (KSR.siputils.is_first_hop() > 0) {
        KSR.nathelper.set_contact_alias();
    }
    KSR.setflag(FLT_NATS);
}

// Requests inside of a dialog follow its route set, if that was made here.
function route_in_dialog() {
    if (KSR.siputils.has_totag() < 0) return false;
    if (has_ticket() && KSR.rr.loose_route() > 0) {
        if (!KSR.isdsturiset() && !find_by_gruu() && KSR.nathelper) KSR.nathelper.handle_ruri_alias();
        if (KSR.is_ACK()) {
            manage_nat();
        } else if (KSR.is_NOTIFY()) {
            record_route(); // it may set up the dialog (RFC 6665)
        }
        relay();
    } else if (KSR.is_ACK()) {
        // without a route set: to a reply of ours, or a call that another server record-routed
        if (KSR.tm.t_check_trans() > 0) relay();
    } else {
        KSR.sl.sl_send_reply(404, "Not here");
    }
    return true;
}

// Who begins a dialog has been let pass, and gets a ticket into Record-Route, which all that belongs to the dialog has in Route.
// Nobody can make one up: a To tag and a Route alone open nothing. In Kamailio, which has no KSR.x.sign, they do.
function record_route() {
    if (KSR.x.sign) KSR.rr.add_rr_param(";ticket=" + ticket("$ft"));
    KSR.rr.record_route();
}

function has_ticket() {
    if (!KSR.x.sign) return true;
    var brought = KSR.pv.gete("$(route_uri{uri.param,ticket})");
    return brought != "" && (brought == ticket("$ft") || brought == ticket("$tt"));
}

function ticket(tag) {
    return KSR.x.sign(KSR.kx.get_callid() + " " + KSR.pv.gete(tag));
}

// A phone whose Contact in the dialog is its GRUU (RFC 5627) is where it has registered.
function find_by_gruu() {
    return KSR.siputils.is_gruu() > 0 && KSR.is_myself_ruri() && KSR.registrar.lookup("location") > 0;
}

function is_retransmission() {
    if (KSR.tmx.t_precheck_trans() > 0) {
        KSR.tm.t_check_trans();
        return true;
    }
    return KSR.tm.t_check_trans() == 0;
}

// Our users prove who they are; strangers may call our users, nobody else.
function authenticate() {
    var register = KSR.is_REGISTER();
    if (KSR.permissions && !register && KSR.permissions.allow_source_address(1) > 0) return true;
    var from_us = KSR.is_myself_furi();
    if (KSR.auth && (register || from_us)) {
        var realm = KSR.kx.gete_fhost();
        if (KSR.auth_db.auth_check(realm, "subscriber", 1) < 0) {
            KSR.auth.auth_challenge(realm, 1);
            return false;
        }
        if (!register) KSR.auth.consume_credentials();
    }
    if (!(KSR.auth && from_us) && !KSR.is_myself_ruri()) { // unproved, anybody is a stranger
        KSR.sl.sl_send_reply(403, "Not relaying");
        return false;
    }
    return true;
}

function register() {
    if (KSR.isflagset(FLT_NATS)) KSR.setbflag(FLB_NATB);
    if (KSR.registrar.save("location", 0) < 0) KSR.sl.sl_reply_error();
}

function route_to_user() {
    var found = KSR.registrar.lookup("location");
    if (found > 0) return relay();
    KSR.tm.t_newtran();
    if (found == -2) {
        KSR.sl.send_reply(405, "Method Not Allowed");
    } else {
        KSR.sl.send_reply(404, "Not Found");
    }
}

function relay() {
    if (KSR.is_method_in("IBSU") && KSR.tm.t_is_set("branch_route") < 0) {
        KSR.tm.t_on_branch("ksr_branch_manage");
    }
    if (KSR.is_method_in("ISU") && KSR.tm.t_is_set("onreply_route") < 0) {
        KSR.tm.t_on_reply("ksr_onreply_manage");
    }
    if (KSR.is_INVITE() && KSR.tm.t_is_set("failure_route") < 0) {
        KSR.tm.t_on_failure("ksr_failure_manage");
    }
    if (KSR.tm.t_relay() < 0) KSR.sl.sl_reply_error();
}

// Let later requests of the dialog, and the Contacts of replies, know of a side behind NAT.
function manage_nat() {
    if (!KSR.nathelper) return;
    var request = KSR.siputils.is_request() > 0;
    var in_dialog = KSR.siputils.has_totag() > 0;
    if (request && in_dialog && KSR.rr.check_route_param("nat=yes") > 0) KSR.setbflag(FLB_NATB);
    var receiver = KSR.isbflagset(FLB_NATB);
    if (!receiver && !KSR.isflagset(FLT_NATS)) return;
    if (request) {
        if (!in_dialog && KSR.tmx.t_is_branch_route() > 0) KSR.rr.add_rr_param(";nat=yes");
    } else if (receiver) {
        KSR.nathelper.set_contact_alias();
    }
}

function ksr_branch_manage() {
    KSR.dbg("new branch " + KSR.pv.gete("$T_branch_idx") + " to " + KSR.pv.gete("$ru") + "\n");
    manage_nat();
}

function ksr_onreply_manage() {
    var status = KSR.kx.get_status();
    if (status > 100 && status < 300) manage_nat();
}

// The call was not taken: busy, no answer, declined. Without a new target here the caller gets the best reply.
function ksr_failure_manage() {
    if (KSR.tm.t_is_canceled() > 0) return;
    if (KSR.tm.t_check_status("408|480|486|600|603") > 0) {
        KSR.info("call to " + KSR.pv.gete("$ru") + " was not answered\n");
    }
}

// HTTP on a port of SIP, when [modules.xhttp] event_callback names this function: browsers that are to speak SIP (RFC 7118).
function ksr_xhttp_event(event) {
    KSR.set_reply_close();
    KSR.set_reply_no_connect();
    if (!KSR.websocket || KSR.hdr.gete("Upgrade").toLowerCase() != "websocket") {
        KSR.xhttp.xhttp_reply(404, "Not Found", "", "");
    } else if (!is_welcome_page()) {
        KSR.xhttp.xhttp_reply(403, "Forbidden", "", "");
    } else {
        KSR.websocket.handle_handshake();
    }
}

// A page calls us by one of our names, and is of a site that may use us. Other programs than browsers send no Origin.
function is_welcome_page() {
    if (!is_our_name(KSR.hdr.gete("Host"))) return false;
    var origin = KSR.hdr.gete("Origin");
    if (origin == "" || ORIGINS.indexOf(origin) >= 0) return true;
    return ORIGINS.length == 0 && is_our_name(origin.replace(/^https?:\/\//, ""));
}

function is_our_name(authority) {
    var host = authority.replace(/:\d*$/, "");
    return host != "" && KSR.is_myself("sip:" + host);
}
