"""The guard of the REGISTER path fails when it should, and counts what it says."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from bench.guard import __main__ as guard
from bench.guard import register_path

EXPECTED = {"challenge": 4.0, "save": 6.0}


@pytest.mark.parametrize(
    ("found", "grown"),
    [
        ({"challenge": 4.0, "save": 6.0}, False),
        ({"challenge": 4.39, "save": 6.59}, False),
        ({"challenge": 4.41, "save": 6.0}, True),
        ({"challenge": 2.0, "save": 6.61}, True),  # one that has shrunk does not make up for it
        ({"challenge": 2.0, "save": 3.0}, False),
    ],
)
def test_it_fails_when_a_section_has_grown_by_more_than_10_percent(found: dict[str, float], grown: bool) -> None:
    lines, any_grown = guard.compare(found, EXPECTED)
    assert any_grown is grown
    assert any("GROWN" in line for line in lines) is grown


def test_a_gain_is_to_be_held() -> None:
    (challenge, save), _ = guard.compare({"challenge": 3.5, "save": 6.0}, EXPECTED)
    assert "-12.5%" in challenge
    assert "--update" in challenge
    assert save.endswith(": ok")


def test_a_python_without_expectation_is_not_compared() -> None:
    assert guard.compare({"challenge": 1.0}, None, "3.99") == (
        ["nothing is expected of Python 3.99 yet: make guard ARGS=--update"],
        False,
    )


def test_another_build_of_python_cancels_out() -> None:
    counts = {"challenge": 300_000, "save": 600_000, "calibration": 100_000}
    faster = {section: n * 8 // 10 for section, n in counts.items()}
    assert guard.normalised(counts) == guard.normalised(faster) == {"challenge": 3.0, "save": 6.0}


def test_a_section_is_what_stands_between_two_marks() -> None:
    n = register_path.N
    dumps = [f"summary: 1\ntotals: {total}\n" for total in (9, 40 * n, 9, 60 * n, 9, 10 * n, 9)]
    assert guard.sections(dumps) == {"challenge": 40, "save": 60, "calibration": 10}
    with pytest.raises(ValueError, match="expected 6 marks, callgrind saw 5"):
        guard.sections(dumps[:-1])


def test_the_committed_expectation_is_complete() -> None:
    for sections in json.loads(guard.EXPECTED.read_text()).values():
        assert sections.keys() >= set(register_path.SECTIONS) - {"calibration"}


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--required"], 1)])
def test_without_valgrind_it_is_skipped_unless_it_is_required(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert guard.main(arguments) == code
    assert capsys.readouterr().out == "guard: skipped, valgrind is not installed (Debian: valgrind)\n"


@pytest.mark.parametrize(("instructions", "code"), [(300_000, 0), (340_000, 1)])
def test_the_exit_code_tells_and_an_update_makes_it_good(
    instructions: int, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = tmp_path / "expected.json"
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(guard, "EXPECTED", expected)
    monkeypatch.setattr(guard, "count", lambda: {"challenge": 300_000, "save": 600_000, "calibration": 100_000})
    assert guard.main(["--update"]) == 0
    monkeypatch.setattr(guard, "count", lambda: {"challenge": instructions, "save": 600_000, "calibration": 100_000})
    assert guard.main([]) == code
    assert guard.main(["--update"]) == 0
    assert guard.main([]) == 0


def test_what_is_counted_is_registrations_answered_200(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[int] = []
    monkeypatch.setattr(register_path, "mark", lambda: marks.append(1))
    monkeypatch.setattr(register_path, "WARM", 2)
    monkeypatch.setattr(register_path, "N", 3)
    try:
        register_path.main()
    finally:
        gc.enable()
        gc.unfreeze()
    assert len(marks) == 2 * len(register_path.SECTIONS)
