"""The modules of KSR: one file each, named as in KSR. ``MODULES`` lists those that can be loaded."""

from __future__ import annotations

from typing import Final

from polykemi.modules.acc import Acc
from polykemi.modules.alias_db import AliasDb
from polykemi.modules.app_jsdt import AppJsdt
from polykemi.modules.app_lua import AppLua
from polykemi.modules.app_python3 import AppPython3, AppPython3s
from polykemi.modules.auth import Auth
from polykemi.modules.auth_db import AuthDb
from polykemi.modules.auth_ephemeral import AuthEphemeral
from polykemi.modules.auth_xkeys import AuthXkeys
from polykemi.modules.base import Module
from polykemi.modules.cfgutils import Cfgutils
from polykemi.modules.core import Core
from polykemi.modules.corex import Corex
from polykemi.modules.dialog import DialogModule
from polykemi.modules.dialplan import Dialplan
from polykemi.modules.dispatcher import Dispatcher
from polykemi.modules.domain import Domain
from polykemi.modules.enum import Enum
from polykemi.modules.group import Group
from polykemi.modules.hdr import Hdr
from polykemi.modules.htable import Htable
from polykemi.modules.ipops import Ipops
from polykemi.modules.jansson import Jansson
from polykemi.modules.jsonrpcs import Jsonrpcs
from polykemi.modules.kex import Kex
from polykemi.modules.kx import Kx
from polykemi.modules.log_systemd import LogSystemd
from polykemi.modules.maxfwd import MaxFwd
from polykemi.modules.mqueue import Mqueue
from polykemi.modules.nathelper import NatHelper
from polykemi.modules.outbound import Outbound
from polykemi.modules.path import PathModule
from polykemi.modules.permissions import Permissions
from polykemi.modules.pike import Pike
from polykemi.modules.pipelimit import Pipelimit
from polykemi.modules.pv import Pv
from polykemi.modules.pvx import Pvx
from polykemi.modules.ratelimit import Ratelimit
from polykemi.modules.regex import Regex
from polykemi.modules.registrar import Registrar
from polykemi.modules.rr import Rr
from polykemi.modules.rtpengine import Rtpengine
from polykemi.modules.rtpproxy import Rtpproxy
from polykemi.modules.sanity import Sanity
from polykemi.modules.sdpops import Sdpops
from polykemi.modules.sipjson import SipJson
from polykemi.modules.siputils import SipUtils
from polykemi.modules.sl import Sl
from polykemi.modules.sqlops import Sqlops
from polykemi.modules.statistics import Statistics
from polykemi.modules.stun import Stun
from polykemi.modules.textops import TextOps
from polykemi.modules.textopsx import TextOpsX
from polykemi.modules.tls import TlsModule
from polykemi.modules.tm import Tm
from polykemi.modules.tmx import Tmx
from polykemi.modules.uac import Uac
from polykemi.modules.uac_redirect import UacRedirect
from polykemi.modules.usrloc import Usrloc
from polykemi.modules.uuid import Uuid
from polykemi.modules.websocket import WebSocketModule
from polykemi.modules.x import X
from polykemi.modules.xhttp import Xhttp
from polykemi.modules.xlog import Xlog
from polykemi.modules.xmlrpc import Xmlrpc

# name in polykemi.toml -> class; what stands on KSR itself is "core"
MODULES: Final[dict[str, type[Module]]] = {
    "core": Core,
    "x": X,
    "pv": Pv,
    "pvx": Pvx,
    "hdr": Hdr,
    "kex": Kex,
    "kx": Kx,
    "sl": Sl,
    "tm": Tm,
    "tmx": Tmx,
    "rr": Rr,
    "maxfwd": MaxFwd,
    "sanity": Sanity,
    "siputils": SipUtils,
    "textops": TextOps,
    "usrloc": Usrloc,
    "uac": Uac,
    "uac_redirect": UacRedirect,
    "registrar": Registrar,
    "auth": Auth,
    "auth_db": AuthDb,
    "auth_ephemeral": AuthEphemeral,
    "auth_xkeys": AuthXkeys,
    "permissions": Permissions,
    "pike": Pike,
    "ipops": Ipops,
    "pipelimit": Pipelimit,
    "ratelimit": Ratelimit,
    "htable": Htable,
    "nathelper": NatHelper,
    "corex": Corex,
    "xlog": Xlog,
    "dispatcher": Dispatcher,
    "sqlops": Sqlops,
    "outbound": Outbound,
    "path": PathModule,
    "acc": Acc,
    "dialog": DialogModule,
    "dialplan": Dialplan,
    "regex": Regex,
    "domain": Domain,
    "alias_db": AliasDb,
    "group": Group,
    "textopsx": TextOpsX,
    "sdpops": Sdpops,
    "cfgutils": Cfgutils,
    "jansson": Jansson,
    "log_systemd": LogSystemd,
    "mqueue": Mqueue,
    "sipjson": SipJson,
    "statistics": Statistics,
    "uuid": Uuid,
    "app_lua": AppLua,
    "app_jsdt": AppJsdt,
    "app_python3": AppPython3,
    "app_python3s": AppPython3s,
    "xhttp": Xhttp,
    "jsonrpcs": Jsonrpcs,
    "xmlrpc": Xmlrpc,
    "websocket": WebSocketModule,
    "tls": TlsModule,
    "stun": Stun,
    "rtpengine": Rtpengine,
    "rtpproxy": Rtpproxy,
    "enum": Enum,
}
