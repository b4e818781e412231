-- A default SIP server: registrar and proxy for the users of its domains.
-- Runs in polykemi and in Kamailio (app_lua). Modules that are switched off are left out of the way.
--
-- Each step below answers true when it is done with the request; then the route ends.

FLT_NATS = 5 -- message flag: the sender is behind NAT
FLB_NATB = 6 -- branch flag: the receiver is behind NAT

SCANNERS = { "friendly-scanner", "sipvicious", "sipcli", "VaxSIPUserAgent" }

-- Web sites whose pages may connect over WebSocket, as "https://phone.example.com". None: those of our own domains.
ORIGINS = {}

function ksr_request_route()
    if refuse_bad_request() then return end
    detect_nat()
    if KSR.is_CANCEL() then
        if KSR.tm.t_check_trans() > 0 then relay() end
        return
    end
    if route_in_dialog() then return end
    if KSR.is_ACK() then return end -- outside of a dialog it acknowledges nothing
    if is_retransmission() then return end
    if not authenticate() then return end

    KSR.hdr.remove("Route") -- a route set that came with the first request is not followed
    if KSR.is_method_in("IS") then record_route() end

    if not KSR.is_myself_ruri() then relay() return end -- to another domain, from one of our users
    if KSR.is_REGISTER() then register() return end
    if KSR.corex.has_ruri_user() < 0 then
        KSR.sl.sl_send_reply(484, "Address Incomplete")
        return
    end
    route_to_user()
end

-- Requests that we do not want to see any further.
function refuse_bad_request()
    KSR.set_reply_no_connect()
    KSR.force_rport()
    if KSR.pike and KSR.htable and not KSR.is_myself_srcip() then
        if not KSR.pv.is_null("$sht(ipban=>$si)") then
            KSR.dbg("request from banned address " .. KSR.kx.get_srcip() .. "\n")
            return true
        end
        if KSR.pike.pike_check_req() < 0 then
            local address = KSR.kx.get_srcip()
            KSR.warn("too many requests: banning " .. address .. "\n")
            KSR.htable.sht_seti("ipban", address, 1)
            return true
        end
    end
    if KSR.corex.has_user_agent() > 0 then
        local agent = KSR.kx.gete_ua()
        for _, scanner in ipairs(SCANNERS) do
            if string.find(agent, scanner, 1, true) then return true end -- not worth a reply
        end
    end
    if KSR.maxfwd.process_maxfwd(70) < 0 then
        KSR.sl.sl_send_reply(483, "Too Many Hops")
        return true
    end
    if KSR.is_OPTIONS() and KSR.is_myself_ruri() and KSR.corex.has_ruri_user() < 0 then
        KSR.sl.sl_send_reply(200, "Keepalive")
        return true
    end
    if KSR.sanity.sanity_check(17895, 7) < 0 then -- it has replied by itself
        KSR.info("malformed request from " .. KSR.kx.get_srcip() .. "\n")
        return true
    end
    return false
end

-- Remember where a phone behind NAT, or a browser, really is: its Contact does not say so.
function detect_nat()
    if not KSR.nathelper or KSR.nathelper.nat_uac_test(83) < 0 then return end
    if KSR.is_REGISTER() then
        KSR.nathelper.fix_nated_register()
    elseif KSR.siputils.is_first_hop() > 0 then
        KSR.nathelper.set_contact_alias()
    end
    KSR.setflag(FLT_NATS)
end

-- Requests inside of a dialog follow its route set, if that was made here.
function route_in_dialog()
    if KSR.siputils.has_totag() < 0 then return false end
    if has_ticket() and KSR.rr.loose_route() > 0 then
        if not KSR.isdsturiset() and not find_by_gruu() and KSR.nathelper then KSR.nathelper.handle_ruri_alias() end
        if KSR.is_ACK() then
            manage_nat()
        elseif KSR.is_NOTIFY() then
            record_route() -- it may set up the dialog (RFC 6665)
        end
        relay()
    elseif KSR.is_ACK() then
        -- without a route set: to a reply of ours, or a call that another server record-routed
        if KSR.tm.t_check_trans() > 0 then relay() end
    else
        KSR.sl.sl_send_reply(404, "Not here")
    end
    return true
end

-- Who begins a dialog has been let pass, and gets a ticket into Record-Route, which all that belongs to the dialog has in Route.
-- Nobody can make one up: a To tag and a Route alone open nothing. In Kamailio, which has no KSR.x.sign, they do.
function record_route()
    if KSR.x.sign then KSR.rr.add_rr_param(";ticket=" .. ticket("$ft")) end
    KSR.rr.record_route()
end

function has_ticket()
    if not KSR.x.sign then return true end
    local brought = KSR.pv.gete("$(route_uri{uri.param,ticket})")
    return brought ~= "" and (brought == ticket("$ft") or brought == ticket("$tt"))
end

function ticket(tag)
    return KSR.x.sign(KSR.kx.get_callid() .. " " .. KSR.pv.gete(tag))
end

-- A phone whose Contact in the dialog is its GRUU (RFC 5627) is where it has registered.
function find_by_gruu()
    return KSR.siputils.is_gruu() > 0 and KSR.is_myself_ruri() and KSR.registrar.lookup("location") > 0
end

function is_retransmission()
    if KSR.tmx.t_precheck_trans() > 0 then
        KSR.tm.t_check_trans()
        return true
    end
    return KSR.tm.t_check_trans() == 0
end

-- Our users prove who they are; strangers may call our users, nobody else.
function authenticate()
    local register = KSR.is_REGISTER()
    if KSR.permissions and not register and KSR.permissions.allow_source_address(1) > 0 then return true end
    local from_us = KSR.is_myself_furi()
    if KSR.auth and (register or from_us) then
        local realm = KSR.kx.gete_fhost()
        if KSR.auth_db.auth_check(realm, "subscriber", 1) < 0 then
            KSR.auth.auth_challenge(realm, 1)
            return false
        end
        if not register then KSR.auth.consume_credentials() end
    end
    if not (KSR.auth and from_us) and not KSR.is_myself_ruri() then -- unproved, anybody is a stranger
        KSR.sl.sl_send_reply(403, "Not relaying")
        return false
    end
    return true
end

function register()
    if KSR.isflagset(FLT_NATS) then KSR.setbflag(FLB_NATB) end
    if KSR.registrar.save("location", 0) < 0 then KSR.sl.sl_reply_error() end
end

function route_to_user()
    local found = KSR.registrar.lookup("location")
    if found > 0 then
        relay()
        return
    end
    KSR.tm.t_newtran()
    if found == -2 then
        KSR.sl.send_reply(405, "Method Not Allowed")
    else
        KSR.sl.send_reply(404, "Not Found")
    end
end

function relay()
    if KSR.is_method_in("IBSU") and KSR.tm.t_is_set("branch_route") < 0 then
        KSR.tm.t_on_branch("ksr_branch_manage")
    end
    if KSR.is_method_in("ISU") and KSR.tm.t_is_set("onreply_route") < 0 then
        KSR.tm.t_on_reply("ksr_onreply_manage")
    end
    if KSR.is_INVITE() and KSR.tm.t_is_set("failure_route") < 0 then
        KSR.tm.t_on_failure("ksr_failure_manage")
    end
    if KSR.tm.t_relay() < 0 then KSR.sl.sl_reply_error() end
end

-- Let later requests of the dialog, and the Contacts of replies, know of a side behind NAT.
function manage_nat()
    if not KSR.nathelper then return end
    local request = KSR.siputils.is_request() > 0
    local in_dialog = KSR.siputils.has_totag() > 0
    if request and in_dialog and KSR.rr.check_route_param("nat=yes") > 0 then KSR.setbflag(FLB_NATB) end
    local receiver = KSR.isbflagset(FLB_NATB)
    if not receiver and not KSR.isflagset(FLT_NATS) then return end
    if request then
        if not in_dialog and KSR.tmx.t_is_branch_route() > 0 then KSR.rr.add_rr_param(";nat=yes") end
    elseif receiver then
        KSR.nathelper.set_contact_alias()
    end
end

function ksr_branch_manage()
    KSR.dbg("new branch " .. KSR.pv.gete("$T_branch_idx") .. " to " .. KSR.pv.gete("$ru") .. "\n")
    manage_nat()
end

function ksr_onreply_manage()
    local status = KSR.kx.get_status()
    if status > 100 and status < 300 then manage_nat() end
end

-- The call was not taken: busy, no answer, declined. Without a new target here the caller gets the best reply.
function ksr_failure_manage()
    if KSR.tm.t_is_canceled() > 0 then return end
    if KSR.tm.t_check_status("408|480|486|600|603") > 0 then
        KSR.info("call to " .. KSR.pv.gete("$ru") .. " was not answered\n")
    end
end

-- HTTP on a port of SIP, when [modules.xhttp] event_callback names this function: browsers that are to speak SIP (RFC 7118).
function ksr_xhttp_event(event)
    KSR.set_reply_close()
    KSR.set_reply_no_connect()
    if not KSR.websocket or string.lower(KSR.hdr.gete("Upgrade")) ~= "websocket" then
        KSR.xhttp.xhttp_reply(404, "Not Found", "", "")
    elseif not is_welcome_page() then
        KSR.xhttp.xhttp_reply(403, "Forbidden", "", "")
    else
        KSR.websocket.handle_handshake()
    end
end

-- A page calls us by one of our names, and is of a site that may use us. Other programs than browsers send no Origin.
function is_welcome_page()
    if not is_our_name(KSR.hdr.gete("Host")) then return false end
    local origin = KSR.hdr.gete("Origin")
    for _, welcome in ipairs(ORIGINS) do
        if origin == welcome then return true end
    end
    if origin == "" then return true end
    return #ORIGINS == 0 and is_our_name(string.gsub(origin, "^https?://", ""))
end

function is_our_name(authority)
    local host = string.gsub(authority, ":%d*$", "")
    return host ~= "" and KSR.is_myself("sip:" .. host)
end
