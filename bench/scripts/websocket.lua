-- What browsers need besides bench.lua, in front of which it is put: the handshake, answered in the route of HTTP requests.
function ksr_xhttp_event(event)
	KSR.set_reply_close()
	KSR.websocket.handle_handshake()
end

