"""What `make bench` measures, in Python. Plain KEMI: this very file runs in polykemi and in Kamailio.

bench.lua, bench.js and the request_route of ../kamailio/kamailio.cfg take the same steps.
"""

import KSR as KSR


def mod_init():
    return Routes()


class Routes:
    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        if KSR.maxfwd.process_maxfwd(10) < 0:
            KSR.sl.sl_send_reply(483, "Too Many Hops")
            return 1
        if KSR.sanity.sanity_check(1511, 7) < 0:
            return 1
        if KSR.is_REGISTER():
            return self.handle_register()
        if KSR.is_OPTIONS():
            KSR.sl.sl_send_reply(200, "OK")
            return 1
        if KSR.is_CANCEL():
            if KSR.tm.t_check_trans() > 0:
                KSR.tm.t_relay()
            return 1
        if KSR.siputils.has_totag() > 0:
            return self.handle_dialog()
        if KSR.tm.t_check_trans() == 0:
            return 1  # a retransmission
        if KSR.is_INVITE():
            KSR.rr.record_route()
        if KSR.registrar.lookup("location") < 0:
            KSR.sl.sl_send_reply(404, "Not Found")
            return 1
        return self.forward()

    def handle_register(self):
        realm = KSR.pv.get("$fd")
        if realm == "memory.test":
            checked = KSR.auth.pv_auth_check(realm, KSR.pv.gete("$sht(pw=>$fU)"), 0, 1)
        else:
            checked = KSR.auth_db.auth_check(realm, "subscriber", 1)
        if checked < 0:
            KSR.auth.auth_challenge(realm, 0)
            return 1
        KSR.auth.consume_credentials()
        if KSR.registrar.save("location", 0) < 0:
            KSR.sl.sl_reply_error()
        return 1

    def handle_dialog(self):
        if KSR.rr.loose_route() > 0:
            return self.forward()
        if not KSR.is_ACK():
            KSR.sl.sl_send_reply(404, "Not Here")
        elif KSR.tm.t_check_trans() > 0:
            KSR.tm.t_relay()
        return 1

    def forward(self):
        if KSR.tm.t_relay() < 0:
            KSR.sl.sl_reply_error()
        return 1
