// What `make bench` measures, in JavaScript. Plain KEMI: this very file runs in polykemi and in Kamailio.
// bench.lua, bench.py and the request_route of ../kamailio/kamailio.cfg take the same steps.

function forward() {
	if (KSR.tm.t_relay() < 0) {
		KSR.sl.sl_reply_error();
	}
}

function handle_register() {
	var realm = KSR.pv.get("$fd");
	var checked;
	if (realm === "memory.test") {
		checked = KSR.auth.pv_auth_check(realm, KSR.pv.gete("$sht(pw=>$fU)"), 0, 1);
	} else {
		checked = KSR.auth_db.auth_check(realm, "subscriber", 1);
	}
	if (checked < 0) {
		KSR.auth.auth_challenge(realm, 0);
		return;
	}
	KSR.auth.consume_credentials();
	if (KSR.registrar.save("location", 0) < 0) {
		KSR.sl.sl_reply_error();
	}
}

function handle_dialog() {
	if (KSR.rr.loose_route() > 0) {
		forward();
	} else if (!KSR.is_ACK()) {
		KSR.sl.sl_send_reply(404, "Not Here");
	} else if (KSR.tm.t_check_trans() > 0) {
		KSR.tm.t_relay();
	}
}

function ksr_request_route() {
	if (KSR.maxfwd.process_maxfwd(10) < 0) {
		KSR.sl.sl_send_reply(483, "Too Many Hops");
		return;
	}
	if (KSR.sanity.sanity_check(1511, 7) < 0) {
		return;
	}
	if (KSR.is_REGISTER()) {
		handle_register();
		return;
	}
	if (KSR.is_OPTIONS()) {
		KSR.sl.sl_send_reply(200, "OK");
		return;
	}
	if (KSR.is_CANCEL()) {
		if (KSR.tm.t_check_trans() > 0) {
			KSR.tm.t_relay();
		}
		return;
	}
	if (KSR.siputils.has_totag() > 0) {
		handle_dialog();
		return;
	}
	if (KSR.tm.t_check_trans() === 0) {
		return; // a retransmission
	}
	if (KSR.is_INVITE()) {
		KSR.rr.record_route();
	}
	if (KSR.registrar.lookup("location") < 0) {
		KSR.sl.sl_send_reply(404, "Not Found");
		return;
	}
	forward();
}
