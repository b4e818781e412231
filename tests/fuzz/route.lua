-- What a fuzzed server does: a little of everything, and nothing leaves the loopback interface.
local SHOWN = {
    "$ru", "$rU", "$rd", "$rp", "$du", "$fu", "$fU", "$fd", "$ft", "$fn", "$tu", "$tU", "$tt", "$tn", "$ci", "$cs", "$rm", "$si", "$sp",
    "$ua", "$ct", "$cT", "$cl", "$rb", "$ml", "$mb", "$hdr(Via)", "$(hdr(Via)[-1])", "$hdrc(Via)", "$(hfl(Contact)[*])", "$ai", "$di",
    "$au", "$aU", "$ar", "$adu", "$aa", "$re", "$rr_count", "$(ru{uri.params})", "$(fu{uri.user}{s.escape.user})", "$(tu{nameaddr.uri})",
    "$(ct{nameaddr.len})", "$(rb{line.at,2})", "$(hdr(X-Odd){s.select,1,;})", "$(ua{s.sha256})", "$via0(branch)", "$sdp(c:ip)", "$msg(lpart)",
}

function ksr_request_route()
    if KSR.maxfwd.process_maxfwd(70) < 0 then KSR.sl.sl_send_reply(483, "Too Many Hops") return end
    if KSR.is_OPTIONS() and KSR.is_myself_ruri() and KSR.corex.has_ruri_user() < 0 then KSR.sl.sl_send_reply(200, "OK") return end
    for _, name in ipairs(SHOWN) do KSR.pv.get(name) end
    KSR.force_rport()
    KSR.nathelper.nat_uac_test(255)
    KSR.sdpops.sdp_content()
    KSR.sdpops.sdp_with_media("audio")
    KSR.sdpops.remove_codecs_by_name("iLBC", "audio")
    KSR.sdpops.remove_line_by_prefix("a=candidate", "")
    KSR.textops.search("branch=[a-z]+")
    KSR.textops.has_body()
    KSR.textopsx.fnmatch(KSR.pv.gete("$ru"), "sip:*")
    KSR.siputils.is_uri(KSR.pv.gete("$fu"))
    KSR.siputils.is_request()
    KSR.hdr.append("X-Seen: " .. KSR.pv.gete("$(ua{s.escape.common})") .. "\r\n")
    KSR.htable.sht_sets("t", KSR.pv.gete("$ci"), KSR.pv.gete("$ru"))
    if KSR.sanity.sanity_check(131071, 15) < 0 then return end
    if KSR.is_CANCEL() then
        if KSR.tm.t_check_trans() > 0 then KSR.tm.t_relay() end
        return
    end
    if KSR.is_REGISTER() then
        KSR.nathelper.fix_nated_register()
        KSR.path.add_path()
        if KSR.auth_db.auth_check("fuzz.test", "subscriber", 0) > 0 then KSR.info("that was no fuzz") end
        if KSR.registrar.save("location", 0) < 0 then KSR.sl.sl_reply_error() end
        return
    end
    if KSR.is_PUBLISH() then KSR.auth.auth_challenge("fuzz.test", 1) return end
    if KSR.siputils.has_totag() > 0 then KSR.rr.loose_route() end
    if KSR.is_INVITE() then
        KSR.rr.record_route()
        KSR.dialog.dlg_manage()
    end
    KSR.registrar.lookup("location")
    KSR.nathelper.set_contact_alias()
    KSR.pv.sets("$du", "sip:NEXT_HOP")
    KSR.tm.t_on_branch("branch")
    KSR.tm.t_on_reply("answered")
    KSR.tm.t_on_failure("failed")
    if KSR.tm.t_relay() < 0 then KSR.sl.sl_reply_error() end
end

function branch()
    KSR.pv.sets("$du", "sip:NEXT_HOP")
    KSR.pv.get("$T_branch_idx")
end

function answered()
    KSR.nathelper.fix_nated_contact()
    for _, name in ipairs(SHOWN) do KSR.pv.get(name) end
end

function failed()
    if KSR.tm.t_is_canceled() > 0 then return end
    if KSR.tm.t_check_status("302|404") > 0 then
        KSR.pv.sets("$du", "sip:NEXT_HOP")
        KSR.tm.t_relay()
    end
end

-- a response of no transaction may go to the loopback interface only, whichever of its Vias counts
function ksr_reply_route()
    if KSR.tm.t_check_trans() > 0 then return end
    for i = 0, 80 do
        local via = KSR.pv.get("$(hdr(Via)[" .. i .. "])")
        if via == nil then return end
        for value in string.gmatch(via, "[^,]+") do
            if not string.find(value, "^ *SIP/2%.0/UDP 127%.0%.16%.%d[;:]") then KSR.x.drop() end
        end
    end
    KSR.x.drop()
end

function ksr_xhttp_event(event)
    if KSR.websocket.handle_handshake() < 0 then KSR.xhttp.xhttp_reply(404, "Not here", "text/plain", "no") end
end
