"""The tables of RFC 3261."""

from __future__ import annotations

from polykemi.sip import constants
from polykemi.sip.constants import METHODS, REASONS


def test_every_status_of_rfc_3261_section_21_has_its_reason() -> None:
    assert (REASONS[100], REASONS[200], REASONS[407]) == ("Trying", "OK", "Proxy Authentication Required")
    assert (REASONS[481], REASONS[606]) == ("Call/Transaction Does Not Exist", "Not Acceptable")
    assert all(100 <= status <= 699 and reason.isascii() for status, reason in REASONS.items())


def test_methods_hold_the_six_of_rfc_3261() -> None:
    assert {"INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS"} <= METHODS


def test_timers_are_those_of_rfc_3261_table_4() -> None:
    assert (constants.T1, constants.T2, constants.T4) == (0.5, 4, 5)
    assert constants.TIMER_B == constants.TIMER_F == constants.TIMER_H == constants.TIMER_J == 32
    assert constants.TIMER_C > 180 - 1
    assert constants.TIMER_D >= 32
    assert constants.TIMER_I == constants.TIMER_K == 5
