"""SIP as text: messages, headers, URIs, digest. Pure: no socket, no clock, no asyncio.

Text inside polykemi is ``str`` with one character per octet (Latin-1), so that broken bytes are kept as they came and
lengths count octets. Engines whose strings are Unicode (Python, JavaScript) convert from and to UTF-8 at their border.
On such text use ``strip(" \\t\\r\\n")``, ``isdecimal()`` and ``split(" ")``: the bare forms also act on octets above 0x7F.
"""
