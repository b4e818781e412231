"""The measurement of idle connections: they are opened, answered and counted, of each kind."""

from __future__ import annotations

import shutil

import pytest

from bench import connections


def test_a_few_connections_of_two_kinds() -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    lines: list[str] = []
    connections.main(["--kinds", "tcp,wss", "--number", "3"], lines.append)
    assert [line.split()[0] for line in lines] == ["kB", "tcp", "wss"]
    for line in lines[1:]:
        each, total, cpu = map(float, line.split()[1:])
        assert each < total * 1024
        assert cpu > 0


@pytest.mark.parametrize("wrong", [["--kinds", "udp"], ["--number", "100000000"]])
def test_what_cannot_be_measured_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        connections.main(wrong)
