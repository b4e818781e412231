"""Web pages with JsSIP in a headless Chromium, driven by the DevTools protocol over pipes: nothing else is needed for that.

JsSIP comes from npm, at the version of browser/package-lock.json, into a cache outside of the tree.
"""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import os
import posixpath
import re
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from tests.e2e.peers import PeerProcess, missing, tool

BROWSER: Final = Path(__file__).parent / "browser"
_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # it does not work as root, nor in many containers, and the only pages are ours
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # it calls nobody else
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--ignore-certificate-errors",
)
_PATIENCE: Final = 30.0  # seconds for an answer of the browser
_PAGE: Final = b"<!doctype html><title>phone</title><script src=/jssip.js></script><script src=/phone.js></script>"
_REQUIRE: Final = re.compile(r"""\brequire\(['"]([^'"]+)['"]\)""")
_BUNDLE: Final = """(() => {
const sources = {%s}, made = {};
function load(name) {
  if (!made[name]) {
    made[name] = {exports: {}};
    const [source, names] = sources[name];
    source(made[name], made[name].exports, (wanted) => load(names[wanted]));
  }
  return made[name].exports;
}
window.JsSIP = load(%s);
})();"""


# ---- JsSIP
@cache
def node_modules() -> Path:
    """Return the directory with JsSIP and what it needs, installed at the first call."""
    npm = tool("npm", "Debian: npm")
    lock = (BROWSER / "package-lock.json").read_bytes()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polykemi-tests"
    place = home / f"browser-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not place.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as directory:
            made = Path(directory) / "made"
            made.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(BROWSER / name, made)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                missing(f"npm ci failed, and with it JsSIP is missing: {done.stderr[-500:]}")
            with suppress(OSError):  # another run was first
                made.rename(place)
    return place / "node_modules"


def bundle(root: Path) -> str:
    """Return JsSIP as one script for a page: its CommonJS modules, each behind a function."""
    entry, waiting, made = "jssip/lib/JsSIP.js", ["jssip/lib/JsSIP.js"], dict[str, str]()
    while waiting:
        name = waiting.pop()
        if name in made:
            continue
        source = (root / name).read_text()
        if name.endswith(".json"):
            source = f"module.exports = {source};"
        names = {wanted: _resolve(root, name, wanted) for wanted in _REQUIRE.findall(source)}
        made[name] = f"{json.dumps(name)}: [(module, exports, require) => {{{source}\n}}, {json.dumps(names)}]"
        waiting += names.values()
    return _BUNDLE % (",\n".join(made.values()), json.dumps(entry))


def _resolve(root: Path, of: str, wanted: str) -> str:
    if wanted.startswith("."):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(of), wanted))
    else:
        package = json.loads((root / wanted / "package.json").read_text())
        path = posixpath.normpath(posixpath.join(wanted, package.get("browser") or package["main"]))
    return next(one for one in (path, f"{path}.js", f"{path}/index.js") if (root / one).is_file())


# ---- pages
class _Files(http.server.BaseHTTPRequestHandler):
    def __init__(self, jssip: bytes, *arguments: Any) -> None:
        self._jssip = jssip
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Give the page and its two scripts."""
        files = {"/": _PAGE, "/jssip.js": self._jssip, "/phone.js": (BROWSER / "phone.js").read_bytes()}
        body = files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/html" if self.path == "/" else "text/javascript")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@contextmanager
def web_site() -> Iterator[str]:
    """Serve the phone's page on loopback, which browsers trust with a microphone; give its URL."""
    handler = partial(_Files, bundle(node_modules()).encode())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class Page:
    """A page of the browser with a phone (``phone.js``)."""

    def __init__(self, browser: Chromium, url: str) -> None:
        self._browser, self._url = browser, url
        self._target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        self.command("Page.enable")
        self.load()

    def command(self, method: str, **params: Any) -> Any:
        """Send a command of the DevTools protocol for this page."""
        return self._browser.send(method, self._session, **params)

    def load(self) -> None:
        """Load the page, anew when it is there: connections of the old one end."""
        self._browser.forget_events()
        self.command("Page.navigate", url=self._url)
        self._browser.event("Page.loadEventFired", self._session)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript and return its value; a promise is waited for. A JavaScript error is an AssertionError."""
        answer = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", {}).get("description")
        return answer["result"].get("value")

    def until(self, event: str) -> None:
        """Wait for an event of the phone."""
        self.run(f"phone.until({json.dumps(event)})")

    def close(self) -> None:
        """Close the page."""
        self._browser.send("Target.closeTarget", targetId=self._target)


class Chromium:
    """A headless Chromium with a profile of its own."""

    def __init__(self, directory: Path) -> None:
        program = tool("chromium", "Debian: chromium")
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        # the protocol is spoken over the descriptors 3 and 4; sh may know those of one digit only
        shell = ["bash", "-c", f'exec "$@" 3<&{in_read} 4>&{out_write}', "bash", program, *_OPTIONS]
        self._process = PeerProcess(
            [*shell, f"--user-data-dir={directory / 'profile'}"], directory, pass_fds=(in_read, out_write)
        )
        os.close(in_read)
        os.close(out_write)
        self._commands, self._answers = os.fdopen(in_write, "wb", 0), os.fdopen(out_read, "rb", 0)
        self._numbers, self._buffer, self._events = itertools.count(1), b"", list[dict[str, Any]]()

    def send(self, method: str, session: str = "", **params: Any) -> Any:
        """Send a command and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self._events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def forget_events(self) -> None:
        """Forget the events that have come so far."""
        self._events.clear()

    def event(self, method: str, session: str) -> None:
        """Wait for an event of a page."""
        while not any(e.get("method") == method and e.get("sessionId") == session for e in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._answers], [], [], _PATIENCE)[0], "Chromium does not answer"
            data = os.read(self._answers.fileno(), 1 << 20)
            assert data, f"Chromium has ended: {self._process.output()[-2000:]}"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def close(self) -> None:
        """End it."""
        try:
            self.send("Browser.close")
        finally:
            self._commands.close()
            self._answers.close()
            self._process.stop()
