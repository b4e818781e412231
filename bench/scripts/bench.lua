-- What `make bench` measures, in Lua. Plain KEMI: this very file runs in polykemi and in Kamailio.
-- bench.js, bench.py and the request_route of ../kamailio/kamailio.cfg take the same steps.

local function forward()
	if KSR.tm.t_relay() < 0 then
		KSR.sl.sl_reply_error()
	end
end

local function handle_register()
	local realm = KSR.pv.get("$fd")
	local checked
	if realm == "memory.test" then
		checked = KSR.auth.pv_auth_check(realm, KSR.pv.gete("$sht(pw=>$fU)"), 0, 1)
	else
		checked = KSR.auth_db.auth_check(realm, "subscriber", 1)
	end
	if checked < 0 then
		KSR.auth.auth_challenge(realm, 0)
		return
	end
	KSR.auth.consume_credentials()
	if KSR.registrar.save("location", 0) < 0 then
		KSR.sl.sl_reply_error()
	end
end

local function handle_dialog()
	if KSR.rr.loose_route() > 0 then
		forward()
	elseif not KSR.is_ACK() then
		KSR.sl.sl_send_reply(404, "Not Here")
	elseif KSR.tm.t_check_trans() > 0 then
		KSR.tm.t_relay()
	end
end

function ksr_request_route()
	if KSR.maxfwd.process_maxfwd(10) < 0 then
		KSR.sl.sl_send_reply(483, "Too Many Hops")
		return
	end
	if KSR.sanity.sanity_check(1511, 7) < 0 then
		return
	end
	if KSR.is_REGISTER() then
		handle_register()
		return
	end
	if KSR.is_OPTIONS() then
		KSR.sl.sl_send_reply(200, "OK")
		return
	end
	if KSR.is_CANCEL() then
		if KSR.tm.t_check_trans() > 0 then
			KSR.tm.t_relay()
		end
		return
	end
	if KSR.siputils.has_totag() > 0 then
		handle_dialog()
		return
	end
	if KSR.tm.t_check_trans() == 0 then
		return -- a retransmission
	end
	if KSR.is_INVITE() then
		KSR.rr.record_route()
	end
	if KSR.registrar.lookup("location") < 0 then
		KSR.sl.sl_send_reply(404, "Not Found")
		return
	end
	forward()
end
