"""The command line: parse options, call one function, print. A user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from polykemi import __version__, compiled, config
from polykemi.errors import DataError, RpcError, UsageError
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.coverage import report
from polykemi.kemi.registry import exports_of
from polykemi.storage.provisioned import Database, Subscriber

_FILE = click.Path(path_type=Path, dir_okay=False)
_config_option = click.option(
    "--config", "file", type=_FILE, help=f"Configuration file; ./{config.FILE_NAME} when it is there."
)
_data_option = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Where data lives.  [default: ./polykemi.data]"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    0: done, 1: interrupted or refused by the server, 2: a user's mistake, 141: the output was not read to its end (as the
    shell says of those whom SIGPIPE ends).
    """
    if sys.stdout is None:  # it was closed by who has started us
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    try:
        commands.main(arguments, prog_name="polykemi", standalone_mode=False)
    except RpcError as error:
        _fail(str(error), 1)
    except UsageError as error:
        _fail(str(error))
    except click.ClickException as error:
        _fail(error.format_message() + _hint(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(1)


def _hint(error: click.ClickException) -> str:
    """Return where it stands what is missing, or what there is."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or "Did you mean" in error.format_message():
        return ""
    return f" See `{context.command_path} --help`."


def _fail(message: str, code: int = 2) -> None:
    click.echo(f"polykemi: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)


class _Commands(click.Group):
    """The commands; click itself would exit with 1 when nobody reads the output."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run one."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader, such as head, has seen enough
            sys.stderr.close()
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UsageError(f"cannot write the output: {error.strerror}") from None


@click.group(cls=_Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"polykemi %(version)s{', compiled' if compiled else ''}")
def commands() -> None:
    """A SIP server whose routing logic is a script in Lua, JavaScript or Python, written against KSR."""


@commands.command()
@click.argument("script", required=False, type=_FILE)
@click.option(
    "--engine", metavar="|".join(config.ENGINES), help="The language; that of the script's suffix by default."
)
@_config_option
@click.option(
    "--listen",
    multiple=True,
    metavar="PROTO:HOST:PORT",
    help="Address to listen on: udp:, tcp:, tls:, ws: or wss:; may be repeated.",
)
@click.option("--domain", "domains", multiple=True, metavar="NAME", help="Domain to serve; may be repeated.")
@_data_option
@click.option("--watch", is_flag=True, help="Reload the scripts when their files change.")
@click.option("--supervise", is_flag=True, help="Start the server anew when it crashes or is stuck.")
def serve(
    script: Path | None,
    engine: str | None,
    file: Path | None,
    listen: tuple[str, ...],
    domains: tuple[str, ...],
    data: Path | None,
    watch: bool,
    supervise: bool,
) -> None:
    """Run the server in the foreground. SCRIPT runs all route blocks."""
    settings = config.load(_config_file(file), engine=engine, script=script, listen=listen, domains=domains, data=data)
    if supervise:
        sys.exit(_supervise(settings))
    from polykemi import foreground

    foreground.serve(settings, click.echo, watch=watch)


@commands.command()
@click.argument("script", required=False, type=_FILE)
@click.option(
    "--engine", metavar="|".join(config.ENGINES), help="The language; that of the script's suffix by default."
)
@_config_option
@_data_option
def check(script: Path | None, engine: str | None, file: Path | None, data: Path | None) -> None:
    """Look through a configuration and its scripts without running a server. Exit code 2 when something is wrong."""
    settings = config.load(_config_file(file), engine=engine, script=script, data=data)
    from polykemi import check as checking

    checking.check(settings, click.echo)
    click.echo("in order")


def _supervise(settings: config.Settings) -> int:
    """Run this command without --supervise in a process of its own; return the exit code."""
    from polykemi.logs import Log
    from polykemi.supervisor import Supervisor

    if "NOTIFY_SOCKET" in os.environ:
        raise UsageError("--supervise: systemd does so already (NOTIFY_SOCKET is set)")
    command = [one for one in sys.orig_argv if one != "--supervise"]
    with Log(settings.log, scripts=False):
        return Supervisor(command, settings.service.watchdog, settings.service.drain).run()


@commands.group(no_args_is_help=False)
def subscriber() -> None:
    """Who may register: add, import, list, remove."""


@subscriber.command()
@click.argument("user", metavar="USER[@DOMAIN]")
@click.option("--password", help="The password; - reads it from the input, without the option it is asked for.")
@_config_option
@_data_option
def add(user: str, password: str | None, file: Path | None, data: Path | None) -> None:
    """Add a subscriber, or give one a new password. Without DOMAIN: the first domain of the configuration."""
    settings = _storage_settings(file, data)
    if password == "-":
        octets = (sys.stdin.buffer.readline() if sys.stdin else b"").rstrip(b"\r\n").decode("latin-1")
    else:
        if password is None:
            if not (sys.stdin and sys.stdin.isatty()):
                raise UsageError(
                    "expected --password, and nobody is there to ask; `--password -` reads it from the input"
                )
            password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        octets = to_octets(password)
    who = _subscriber(user, settings)
    with Database.at(settings.data) as database:
        database.add_subscriber(*who, octets)
    click.echo(f"added {_shown(who)}")


@subscriber.command("import")
@click.argument("rows", metavar="FILE.csv", type=_FILE)
@_config_option
@_data_option
def import_(rows: Path, file: Path | None, data: Path | None) -> None:
    """Add the rows of a file: username,domain,password. All or none; an empty domain is the configuration's first."""
    settings = _storage_settings(file, data)
    with Database.at(settings.data) as database:
        click.echo(f"imported {database.import_csv(rows, _subscriber('', settings).domain)}")


@subscriber.command("list")
@_config_option
@_data_option
def list_(file: Path | None, data: Path | None) -> None:
    """List the subscribers, one a line."""
    with Database.at(_storage_settings(file, data).data) as database:
        for who in database.list_subscribers():
            click.echo(_shown(who))


@subscriber.command()
@click.argument("user", metavar="USER[@DOMAIN]")
@_config_option
@_data_option
def remove(user: str, file: Path | None, data: Path | None) -> None:
    """Remove a subscriber."""
    settings = _storage_settings(file, data)
    who = _subscriber(user, settings)
    with Database.at(settings.data) as database:
        if not database.remove_subscriber(*who):
            others = [_shown(other) for other in database.list_subscribers() if other.username == who.username]
            hint = f", did you mean {' or '.join(others)}?" if others else ""
            raise DataError(f"no subscriber {_shown(who)} in {database.name}{hint}")
    click.echo(f"removed {_shown(who)}")


def _methods(context: click.Context, parameter: click.Parameter, beginning: str) -> list[str]:
    """Return what a shell may complete a method to: nothing when there is no server."""
    from polykemi.control import client

    given = context.params
    try:
        path = given.get("socket") or _control_socket(given.get("file"), given.get("data"))
        names: list[str] = client.call(path, "system.listMethods", seconds=1.0)
    except (RpcError, UsageError):
        return []
    return [name for name in names if name.startswith(beginning)]


def _asked(path: Path, method: str, arguments: list[Any], timeout: float) -> Any:
    """Return the result of a method. Raise RpcError, with the parameters when there were too few: Kamailio's words are short."""
    from polykemi.control import client

    try:
        return client.call(path, method, arguments, timeout)
    except RpcError as error:
        try:
            expected: str = client.call(path, "system.methodSignature", [method], timeout)
        except (RpcError, UsageError):
            raise error from None
        wanted = [] if expected == "no parameters" else [one for one in expected.split() if one[0] != "["]
        if len(arguments) < len(wanted) and expected not in str(error):
            raise RpcError(error.code, f"{error}: expected {expected}") from None
        raise


@commands.command(context_settings={"ignore_unknown_options": True})  # app.reload --dry-run, ul.rm sip:a@b -1
@click.argument("method", required=False, shell_complete=_methods)
@click.argument("arguments", metavar="[ARGS]...", nargs=-1)
@click.option("--list", "is_list", is_flag=True, help="List the methods that begin with METHOD, or all.")
@click.option("--socket", type=_FILE, help="The server's control socket.  [default: control.sock in its data]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may be silent.",
)
@_config_option
@_data_option
def rpc(
    method: str | None,
    arguments: tuple[str, ...],
    is_list: bool,
    socket: Path | None,
    as_json: bool,
    timeout: float,
    file: Path | None,
    data: Path | None,
) -> None:
    """Ask a running server; without METHOD it says what there is. Numbers in ARGS are sent as numbers, s:5060 as a text."""
    from polykemi.control import client, text

    path = socket or _control_socket(file, data)
    if is_list:
        result: Any = client.call(path, "system.describe", [method] if method else [], timeout)
    elif method is None:
        result = client.call(path, "system.groups", seconds=timeout)
    else:
        result = _asked(path, method, [client.argument(one) for one in arguments], timeout)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in [text.as_json(result)] if as_json else text.readable(result, width):
        click.echo(line)
    if result == [] and not as_json:
        click.echo("(nothing)", err=True)
    if method is None and not is_list and not as_json:
        click.echo("\npolykemi rpc --list GROUP tells of the methods of one, polykemi rpc METHOD [ARGS] asks one.")


@commands.command()
@click.option("--call-id", default="", metavar="ID", help="Only the call with this Call-ID.")
@click.option(
    "--user", default="", metavar="USER[@HOST]", help="Only calls that name this user in From, To or Request-URI."
)
@click.option("--ip", default="", metavar="ADDRESS", help="Only calls with a message from or to this address.")
@click.option("--once", is_flag=True, help="End with the first matching transaction.")
@click.option("--messages", is_flag=True, help="Print the whole text of the messages.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option("--socket", type=_FILE, help="The server's control socket.  [default: control.sock in its data]")
@_config_option
@_data_option
def trace(
    call_id: str,
    user: str,
    ip: str,
    once: bool,
    messages: bool,
    as_json: bool,
    socket: Path | None,
    file: Path | None,
    data: Path | None,
) -> None:
    """Watch what a running server does for the messages that match: route blocks, KSR calls, what is sent. Ctrl-C ends it."""
    from polykemi.control import trace_client

    path = socket or _control_socket(file, data)
    wanted = {"call_id": call_id, "user": user, "ip": ip}
    try:
        with trace_client.attached(path, **wanted, messages=messages, once=once) as events:
            click.echo(f"polykemi: attached to {path}", err=True)
            for line in trace_client.printed(events, sys.stdout, as_json=as_json):
                click.echo(line)
    except KeyboardInterrupt:
        pass


@commands.command()
@click.argument("module", required=False)
@click.option("--coverage", is_flag=True, help="Compare them with the functions that Kamailio has, module by module.")
def functions(module: str | None, coverage: bool) -> None:
    """List the functions that scripts can call, all or those of a KSR module."""
    from polykemi.modules import MODULES

    if coverage:
        if module is not None:
            raise UsageError("--coverage compares all modules: name none")
        for line in report(MODULES.values()):
            click.echo(line)
        return
    if module is not None and module not in MODULES:
        raise UsageError(f"module {module}: {config.unknown(module, MODULES)}")
    classes: list[Any] = [MODULES[module]] if module is not None else list(MODULES.values())
    for line in sorted(str(export) for one in classes for export, _ in exports_of(one).values()):
        click.echo(line)


def _config_file(given: Path | None) -> Path | None:
    here = Path(config.FILE_NAME)
    return given or (here if here.exists() else None)


def _storage_settings(file: Path | None, data: Path | None) -> config.Settings:
    return config.load(_config_file(file), data=data, serving=False)


def _control_socket(file: Path | None, data: Path | None) -> Path:
    from polykemi.control import client

    try:
        socket, directory = config.whereabouts(_config_file(file))
    except UsageError:
        if data is None:
            raise
        socket, directory = None, data
    return socket or (data or directory) / client.SOCKET


def _subscriber(text: str, settings: config.Settings) -> Subscriber:
    """Return the subscriber of ``USER[@DOMAIN]``; the domain is by default the first of the configuration."""
    username, _, domain = to_octets(text).partition("@")
    return Subscriber(username, domain or next(iter(settings.domains), ""))


def _shown(who: Subscriber) -> str:
    return from_octets(str(who))
