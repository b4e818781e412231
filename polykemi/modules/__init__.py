"""The modules of KSR: one file each, named as in KSR. ``MODULES`` lists those that can be loaded."""

from __future__ import annotations

from typing import Final

from polykemi.modules.acc import Acc
from polykemi.modules.alias_db import AliasDb
from polykemi.modules.auth import Auth
from polykemi.modules.auth_db import AuthDb
from polykemi.modules.auth_ephemeral import AuthEphemeral
from polykemi.modules.auth_xkeys import AuthXkeys
from polykemi.modules.base import Module
from polykemi.modules.core import Core
from polykemi.modules.corex import Corex
from polykemi.modules.dialplan import Dialplan
from polykemi.modules.dispatcher import Dispatcher
from polykemi.modules.domain import Domain
from polykemi.modules.enum import Enum
from polykemi.modules.group import Group
from polykemi.modules.hdr import Hdr
from polykemi.modules.htable import Htable
from polykemi.modules.ipops import Ipops
from polykemi.modules.kx import Kx
from polykemi.modules.maxfwd import MaxFwd
from polykemi.modules.nathelper import NatHelper
from polykemi.modules.path import PathModule
from polykemi.modules.permissions import Permissions
from polykemi.modules.pike import Pike
from polykemi.modules.pv import Pv
from polykemi.modules.pvx import Pvx
from polykemi.modules.regex import Regex
from polykemi.modules.registrar import Registrar
from polykemi.modules.rr import Rr
from polykemi.modules.rtpengine import Rtpengine
from polykemi.modules.rtpproxy import Rtpproxy
from polykemi.modules.sanity import Sanity
from polykemi.modules.sdpops import Sdpops
from polykemi.modules.siputils import SipUtils
from polykemi.modules.sl import Sl
from polykemi.modules.sqlops import Sqlops
from polykemi.modules.textops import TextOps
from polykemi.modules.textopsx import TextOpsX
from polykemi.modules.tm import Tm
from polykemi.modules.tmx import Tmx
from polykemi.modules.usrloc import Usrloc
from polykemi.modules.x import X
from polykemi.modules.xlog import Xlog

# name in polykemi.toml -> class; what stands on KSR itself is "core"
MODULES: Final[dict[str, type[Module]]] = {
    "core": Core,
    "x": X,
    "pv": Pv,
    "pvx": Pvx,
    "hdr": Hdr,
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
    "registrar": Registrar,
    "auth": Auth,
    "auth_db": AuthDb,
    "permissions": Permissions,
    "pike": Pike,
    "htable": Htable,
    "nathelper": NatHelper,
    "corex": Corex,
    "xlog": Xlog,
    "dispatcher": Dispatcher,
    "sqlops": Sqlops,
    "path": PathModule,
    "acc": Acc,
    "dialplan": Dialplan,
    "regex": Regex,
    "domain": Domain,
    "alias_db": AliasDb,
    "group": Group,
    "textopsx": TextOpsX,
    "sdpops": Sdpops,
    "rtpengine": Rtpengine,
    "rtpproxy": Rtpproxy,
    "ipops": Ipops,
    "enum": Enum,
    "auth_xkeys": AuthXkeys,
    "auth_ephemeral": AuthEphemeral,
}
