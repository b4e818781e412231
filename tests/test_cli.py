"""The command line as a user types it: what it prints, what it leaves behind, how it fails."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import click
import pytest

import polykemi
from polykemi.cli import main, rpc
from polykemi.config import EngineSettings, Settings
from polykemi.control.commands import System
from polykemi.control.jsonrpc import Answer, JsonRpc
from polykemi.control.unix import ControlSocket
from polykemi.errors import DataError, ScriptLoadError
from polykemi.kemi.binding import to_octets
from polykemi.kemi.rpc import rpc as command
from polykemi.sip.flow import Listener
from polykemi.storage.provisioned import Database


class Ran(NamedTuple):
    """What a command left: exit code, output, errors."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "", terminal: bool = False) -> Ran:
        keyboard = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        monkeypatch.setattr(keyboard, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stdin", keyboard)
        try:
            main(arguments)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Put a server in place that only notes with which settings it was started."""
    started: list[Settings] = []
    replace_server(monkeypatch, started.append)
    return started


def replace_server(monkeypatch: pytest.MonkeyPatch, serve: Callable[[Settings], object]) -> None:
    foreground = ModuleType("polykemi.foreground")
    foreground.serve = lambda settings, say, watch: serve(settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polykemi.foreground", foreground)
    monkeypatch.setattr(polykemi, "foreground", foreground, raising=False)


def one_line(ran: Ran) -> str:
    """Check that the command failed as a user's mistake does and return the line."""
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("polykemi: ")
    assert ran.err.count("\n") == 1
    return ran.err.removeprefix("polykemi: ").rstrip("\n")


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == Ran(
        0, f"polykemi {polykemi.__version__}{', compiled' if polykemi.compiled else ''}\n", ""
    )


def test_python_dash_m_does_the_same() -> None:
    command = [sys.executable, "-m", "polykemi", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert ran.stdout.startswith(f"polykemi {polykemi.__version__}")


@pytest.mark.parametrize("command", [(), ("serve",), ("subscriber",), ("subscriber", "add"), ("functions",)])
def test_each_command_explains_itself(run: Run, command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: {' '.join(('polykemi', *command))} ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Missing command. See `polykemi --help`."),
        (("subscriber",), "Missing command. See `polykemi subscriber --help`."),
        (("server",), "No such command 'server'"),
        (("serve", "--engin", "lua"), "No such option"),
        (("serve", "a.lua", "b.lua"), "Got unexpected extra argument (b.lua)"),
        (("subscriber", "add"), "Missing argument 'USER[@DOMAIN]'."),
        (("serve", "--engine", "jsx", "a.lua"), "--engine jsx: unknown, did you mean js?"),
        (("serve",), "no script to run: give one, as in `polykemi serve --engine lua SCRIPT`"),
        (("serve", "--config", "none.toml"), "none.toml: No such file or directory"),
        (("serve", "a.lua", "--listen", "sctp:127.0.0.1"), "--listen sctp:127.0.0.1: sctp is not supported"),
        (
            ("serve", "a.lua", "--listen", "upd:127.0.0.1:5060"),
            "--listen upd:127.0.0.1:5060: expected udp:HOST:PORT (or tcp:",
        ),
        (("serve", "a.lua", "--listen", "upd:127.0.0.1"), "--listen upd:127.0.0.1: expected udp:HOST:PORT (or tcp:"),
        (("subscriber", "import", "none.csv"), "none.csv: No such file or directory"),
        (
            ("subscriber", "add", "a:b", "--password", "x"),
            "polykemi.data/polykemi.sqlite: username 'a:b' has ':' in it",
        ),
        (("subscriber", "remove", "bob"), "no subscriber bob in polykemi.data/polykemi.sqlite"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    assert one_line(run(*arguments)).startswith(says)


# ---- serve


def test_serve_starts_with_what_the_flags_say(run: Run, served: list[Settings], tmp_path: Path) -> None:
    listen = ("--listen", "udp:127.0.0.1:5070", "--listen", "[::1]")
    domains = ("--domain", "example.com", "--domain", "b.test")
    assert run("serve", "--engine", "js", "a.js", *listen, *domains, "--data", "state").code == 0
    assert served == [
        Settings(
            listen=(Listener("udp", "127.0.0.1", 5070), Listener("udp", "::1", 5060)),
            domains=("example.com", "b.test"),
            data=Path("state"),
            engines=(EngineSettings("js", Path("a.js")),),
            routes=served[0].routes,
        )
    ]


def test_serve_reads_the_polykemi_toml_of_this_directory(run: Run, served: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "polykemi.toml").write_text('domains = ["here.test"]\n[engines]\nlua = "a.lua"\n')
    (tmp_path / "other.toml").write_text('domains = ["other.test"]\n[engines]\nlua = "a.lua"\n')
    assert run("serve").code == 0
    assert run("serve", "--config", "other.toml").code == 0
    assert [one.domains for one in served] == [("here.test",), ("other.test",)]


@pytest.mark.parametrize("error", [ScriptLoadError("a.lua", 3, "unexpected symbol"), DataError("x: two\nlines")])
def test_what_stops_the_start_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def serve(settings: Settings) -> None:
        raise error

    replace_server(monkeypatch, serve)
    assert one_line(run("serve", "a.lua")) == " ".join(str(error).split("\n"))


def test_an_interrupt_while_starting_leaves_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(settings: Settings) -> None:
        raise KeyboardInterrupt

    replace_server(monkeypatch, serve)
    assert run("serve", "a.lua") == Ran(1, "", "\n")


# ---- subscriber


def credentials(data: Path, username: str) -> str | None:
    with Database.at(data) as database:
        return database.credentials("subscriber", "password", username)


def test_a_subscriber_is_added_listed_and_removed(run: Run, tmp_path: Path) -> None:
    assert run("subscriber", "add", "alice", "--password", "secret") == Ran(0, "added alice\n", "")
    assert run("subscriber", "add", "bob@example.com", "--password", "x") == Ran(0, "added bob@example.com\n", "")
    assert run("subscriber", "list") == Ran(0, "alice\nbob@example.com\n", "")
    assert credentials(tmp_path / "polykemi.data", "alice") == "secret"
    assert run("subscriber", "remove", "bob@example.com") == Ran(0, "removed bob@example.com\n", "")
    assert run("subscriber", "list").out == "alice\n"


def test_data_says_where(run: Run, tmp_path: Path) -> None:
    run("subscriber", "add", "alice", "--password", "secret", "--data", "elsewhere")
    assert credentials(tmp_path / "elsewhere", "alice") == "secret"
    assert not (tmp_path / "polykemi.data").exists()


def test_the_configuration_gives_data_and_domain(run: Run, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "my.toml").write_text('data = "state"\ndomains = ["example.com", "b.test"]\n')
    (tmp_path / "users.csv").write_text("bob,,x\n")
    config = ("--config", "etc/my.toml")
    assert run("subscriber", "add", "alice", "--password", "secret", *config).out == "added alice@example.com\n"
    assert run("subscriber", "import", "users.csv", *config).out == "imported 1\n"
    assert run("subscriber", "list", *config).out == "alice@example.com\nbob@example.com\n"
    assert credentials(tmp_path / "etc" / "state", "alice") == "secret"
    assert run("subscriber", "remove", "alice", *config).out == "removed alice@example.com\n"


def test_a_password_is_read_from_the_input(run: Run, tmp_path: Path) -> None:
    run("subscriber", "add", "alice", "--password", "-", stdin="spaced secret \nnext line\n")
    assert credentials(tmp_path / "polykemi.data", "alice") == "spaced secret "
    assert "password of bob is empty" in one_line(run("subscriber", "add", "bob", "--password", "-", stdin=""))
    assert "password of bob is empty" in one_line(run("subscriber", "add", "bob", "--password", ""))


def test_a_password_is_asked_for_and_not_shown(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream=None: "topsecret")
    ran = run("subscriber", "add", "alice", terminal=True)
    assert ran.code == 0
    assert "topsecret" not in ran.out + ran.err
    assert credentials(tmp_path / "polykemi.data", "alice") == "topsecret"


def test_without_a_terminal_nobody_is_asked(run: Run) -> None:
    assert one_line(run("subscriber", "add", "alice")).startswith("expected --password")


def test_a_name_beyond_ascii_is_found_by_its_octets_and_shown_as_typed(run: Run, tmp_path: Path) -> None:
    assert run("subscriber", "add", "jürgen", "--password", "geheim-ß").out == "added jürgen\n"
    assert run("subscriber", "list").out == "jürgen\n"
    assert credentials(tmp_path / "polykemi.data", "j\xc3\xbcrgen") == to_octets("geheim-ß")


def test_removing_one_that_is_not_there_names_those_that_are_meant(run: Run) -> None:
    run("subscriber", "add", "alice@example.com", "--password", "x")
    line = one_line(run("subscriber", "remove", "alice"))
    assert line == "no subscriber alice in polykemi.data/polykemi.sqlite, did you mean alice@example.com?"


def test_a_wrong_row_imports_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("alice,example.com,x\nbob,example.com\n")
    line = one_line(run("subscriber", "import", "users.csv"))
    assert line == "users.csv:2: expected username,domain,password, got 2 columns"
    assert run("subscriber", "list").out == ""


def test_a_data_directory_that_is_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "'file' is a file" in one_line(run("subscriber", "list", "--data", "file"))


# ---- rpc


class Answering:
    """A control socket in a data directory that gives each request the answer it is told."""

    def __init__(self, data: Path, member: str) -> None:
        data.mkdir(exist_ok=True)
        self.requests: list[dict[str, Any]] = []
        self._answer = f'{{"jsonrpc":"2.0",{member},"id":1}}'.encode()
        self._socket = ControlSocket(data / "control.sock")
        self._loop = asyncio.new_event_loop()
        self.rpc: JsonRpc | None = None  # what answers in place of that
        self._socket.open(self._loop, self._take)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _take(self, request: bytes, _client: object) -> Answer:
        self.requests.append(json.loads(request))
        return self._answer if self.rpc is None else self.rpc.answer(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._socket.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def test_rpc_asks_the_server_of_the_data_directory_and_prints_a_table(run: Run, tmp_path: Path) -> None:
    with Answering(tmp_path / "polykemi.data", '"result":[{"block":"main","cnt":2}]') as server:
        assert run("rpc", "route.stats", "a", "5", "s:6") == Ran(0, "block  cnt\nmain     2\n", "")
        assert json.loads(run("rpc", "route.stats", "--json").out) == [{"block": "main", "cnt": 2}]
    assert [(r["method"], r["params"]) for r in server.requests] == [
        ("route.stats", ["a", 5, "6"]),
        ("route.stats", []),
    ]


def test_rpc_finds_the_server_by_socket_data_or_configuration(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('data = "state"\n')
    with Answering(tmp_path / "state", '"result":"here"'):
        for place in (("--socket", "state/control.sock"), ("--data", "state"), ("--config", "my.toml")):
            assert run("rpc", "core.version", *place) == Ran(0, "here\n", "")


def test_rpc_finds_the_server_while_its_configuration_has_mistakes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "polykemi.toml").write_text('data = "state"\n[reload]\nsmoke = "is not there"\n[nonsense]\n')
    with Answering(tmp_path / "state", '"result":"here"'):
        assert run("rpc", "app.rollback") == Ran(0, "here\n", "")
        (tmp_path / "polykemi.toml").write_text("data = [")
        assert run("rpc", "app.rollback", "--data", "state") == Ran(0, "here\n", "")
        assert "polykemi.toml:1" in one_line(run("rpc", "app.rollback"))


def test_an_error_of_the_server_is_one_line_and_exit_code_1(run: Run, tmp_path: Path) -> None:
    with Answering(tmp_path / "polykemi.data", '"error":{"code":404,"message":"not\\nhere"}'):
        assert run("rpc", "ul.lookup", "a") == Ran(1, "", "polykemi: not here\n")


@pytest.mark.parametrize(
    ("number", "code", "says"), [(errno.EPIPE, 141, ""), (errno.ENOSPC, 2, "cannot write the output")]
)
def test_an_output_that_takes_no_more_is_no_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, says: str
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # which is closed when nobody reads
    with Answering(tmp_path / "polykemi.data", '"result":"here"'), pytest.raises(SystemExit) as ended:
        main(["rpc", "core.version"])
    assert ended.value.code == code
    if says:
        assert says in sys.stderr.getvalue()  # type: ignore[union-attr]


def test_an_output_that_was_closed_at_the_start_is_no_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with Answering(tmp_path / "polykemi.data", '"result":"here"'):
        main(["rpc", "core.version"])
    assert sys.stdout is not None
    sys.stdout.close()


def test_an_empty_list_is_said_to_be_empty_beside_the_output(run: Run, tmp_path: Path) -> None:
    with Answering(tmp_path / "polykemi.data", '"result":[]'):
        assert run("rpc", "tm.list") == Ran(0, "", "(nothing)\n")
        assert run("rpc", "--json", "tm.list") == Ran(0, "[]\n", "")


def test_too_few_arguments_are_answered_with_those_that_are_expected(run: Run, tmp_path: Path) -> None:
    class Lookup:
        @command("ul.lookup", missing=(500, "Not enough parameters"))
        def lookup(self, table: str, aor: str, more: str = "") -> None:
            """Look up."""

    server = JsonRpc()
    server.add(Lookup(), System(server.commands))
    with Answering(tmp_path / "polykemi.data", "") as socket:
        socket.rpc = server
        expected = "polykemi: Not enough parameters: expected table aor [more]\n"
        assert run("rpc", "ul.lookup", "location") == Ran(1, "", expected)
        assert run("rpc", "system.methodHelp") == Ran(1, "", "polykemi: Method Name Expected: expected method\n")
        assert "did you mean ul.lookup?" in run("rpc", "ul.lokup").err


def test_a_server_that_cannot_be_reached_is_one_line_and_exit_code_2(run: Run) -> None:
    line = one_line(run("rpc", "core.version"))
    assert line == "cannot reach a server: polykemi.data/control.sock is not there"
    assert one_line(run("rpc")) == one_line(run("rpc", "--list")) == line


def test_rpc_tells_what_there_is(run: Run, tmp_path: Path) -> None:
    with Answering(tmp_path / "polykemi.data", '"result":[{"group":"ul","count":1,"methods":"dump"}]') as server:
        assert run("rpc").out.splitlines()[:2] == ["group  count  methods", "ul         1  dump"]
        assert "polykemi rpc --list GROUP" in run("rpc").out
        assert run("rpc", "--list", "ul").out.splitlines() == ["group  count  methods", "ul         1  dump"]
        run("rpc", "--list")
    assert [(r["method"], r["params"]) for r in server.requests] == [
        *[("system.groups", [])] * 2,
        ("system.describe", ["ul"]),
        ("system.describe", []),
    ]


def test_a_shell_completes_methods(run: Run, tmp_path: Path) -> None:
    (method, *_) = rpc.params
    context = click.Context(rpc)
    assert method.shell_complete(context, "ul.") == []  # no server, no mistake
    with Answering(tmp_path / "polykemi.data", '"result":["ul.dump","ul.add","tm.list"]'):
        assert [one.value for one in method.shell_complete(context, "ul.")] == ["ul.dump", "ul.add"]


# ---- functions


def test_functions_are_listed_from_the_registry_sorted(run: Run) -> None:
    ran = run("functions")
    lines = ran.out.split("\n")[:-1]
    assert ran.code == 0
    assert "KSR.sl.send_reply(int, str) -> int" in lines
    assert "KSR.pv.get(str) -> xval" in lines
    assert lines == sorted(set(lines))


def test_functions_of_one_module(run: Run) -> None:
    lines = run("functions", "sl").out.split("\n")[:-1]
    assert "KSR.sl.send_reply(int, str) -> int" in lines
    assert all(line.startswith("KSR.sl.") for line in lines)


def test_the_functions_of_kamailio_are_counted_module_by_module(run: Run) -> None:
    lines = run("functions", "--coverage").out.split("\n")[:-1]
    assert "maxfwd            2 of 2    100 %" in lines
    assert next(line for line in lines if line.startswith("not here: ")).count("kazoo (") == 1
    assert [line.partition(":")[0] for line in lines[-2:]] == ["the modules that are here", "all of Kamailio"]
    assert one_line(run("functions", "sl", "--coverage")) == "--coverage compares all modules: name none"


def test_an_unknown_module_is_named_with_the_closest_one(run: Run) -> None:
    assert one_line(run("functions", "registar")) == "module registar: unknown, did you mean registrar?"
