"""The four transaction machines as data: RFC 3261 section 17 as updated by RFC 6026. Nothing else is here.

A table is state -> event -> step; a step is the next state and what is done on the way, in order. An event that is not
in the row of a state is ignored there. Timers have the RFC's letters; Timer C is the proxy's (section 16.6 step 11).

    ICT    Calling -> Proceeding -> Completed (3xx-6xx, ACK sent) or Accepted (2xx) -> Terminated
    NICT   Trying -> Proceeding -> Completed -> Terminated
    IST    Proceeding -> Completed (3xx-6xx sent) -> Confirmed (ACK seen), or Accepted (2xx sent) -> Terminated
    NIST   Trying -> Proceeding -> Completed -> Terminated

States, events and actions are numbers and no enumerations: they are compared for every message.
"""

from __future__ import annotations

from typing import Final

# ---- states of a machine
TRYING: Final = 0
CALLING: Final = 1
PROCEEDING: Final = 2
COMPLETED: Final = 3
CONFIRMED: Final = 4
ACCEPTED: Final = 5
TERMINATED: Final = 6
STATES: Final = 7

# ---- events: a message from the network, one from the transaction user, a timer
REQUEST: Final = 0  # server: the request again
ACK: Final = 1  # IST: the ACK
SEND_1XX: Final = 2  # server: the transaction user answers
SEND_2XX: Final = 3
SEND_3XX_6XX: Final = 4
RECEIVE_1XX: Final = 5  # client: a response came
RECEIVE_2XX: Final = 6
RECEIVE_3XX_6XX: Final = 7
TRANSPORT_ERROR: Final = 8
CANCELED: Final = 9  # ICT: a CANCEL was sent; without a final response the end comes after 64*T1 (section 9.1)
TIMER_A: Final = 10
TIMER_B: Final = 11
TIMER_C: Final = 12
TIMER_D: Final = 13
TIMER_E: Final = 14
TIMER_F: Final = 15
TIMER_G: Final = 16
TIMER_H: Final = 17
TIMER_I: Final = 18
TIMER_J: Final = 19
TIMER_K: Final = 20
TIMER_L: Final = 21
TIMER_M: Final = 22
# ICT: a provisional response that does not lengthen the wait, as the 100 (section 16.7 step 2)
RECEIVE_AGAIN: Final = 23
EVENTS: Final = 24

# ---- actions: what a machine does on its way to the next state
SEND: Final = 1  # the request of a client, the last response of a server
SEND_ACK: Final = 2
PASS: Final = 3  # give the response to the transaction user
FAIL: Final = 4  # tell the transaction user: timeout or transport error
STOP: Final = 5  # stop all timers
BACK_OFF: Final = 6  # start the retransmission timer again with twice its interval
SLOW_DOWN: Final = 7  # start Timer E again with T2
START_A: Final = TIMER_A  # START_x has the number of TIMER_x; no other action has one as high
START_B: Final = TIMER_B
START_C: Final = TIMER_C
START_D: Final = TIMER_D
START_E: Final = TIMER_E
START_F: Final = TIMER_F
START_G: Final = TIMER_G
START_H: Final = TIMER_H
START_I: Final = TIMER_I
START_J: Final = TIMER_J
START_K: Final = TIMER_K
START_L: Final = TIMER_L
START_M: Final = TIMER_M


class Step:
    """Where an event leads and what is done on the way."""

    __slots__ = ("actions", "state")

    def __init__(self, state: int, actions: tuple[int, ...] = ()) -> None:
        self.state = state
        self.actions = actions


Table = dict[int, dict[int, Step]]

# RFC 3261 17.1.1.2 and figure 5, RFC 6026 8.4 and figure 5
INVITE_CLIENT: Final[Table] = {
    CALLING: {
        TIMER_A: Step(CALLING, (SEND, BACK_OFF)),
        # not Terminated: what comes late is no stray (RFC 6026 section 4) but gets its ACK, or a CANCEL when it rings
        TIMER_B: Step(PROCEEDING, (STOP, START_D, FAIL)),
        TRANSPORT_ERROR: Step(TERMINATED, (FAIL,)),
        RECEIVE_1XX: Step(PROCEEDING, (STOP, START_C, PASS)),
        RECEIVE_AGAIN: Step(PROCEEDING, (STOP, START_C, PASS)),
        RECEIVE_2XX: Step(ACCEPTED, (STOP, START_M, PASS)),
        RECEIVE_3XX_6XX: Step(COMPLETED, (STOP, START_D, SEND_ACK, PASS)),
        CANCELED: Step(CALLING, (STOP, START_B)),
    },
    PROCEEDING: {
        RECEIVE_1XX: Step(PROCEEDING, (START_C, PASS)),
        RECEIVE_AGAIN: Step(PROCEEDING, (PASS,)),
        RECEIVE_2XX: Step(ACCEPTED, (STOP, START_M, PASS)),
        RECEIVE_3XX_6XX: Step(COMPLETED, (STOP, START_D, SEND_ACK, PASS)),
        CANCELED: Step(PROCEEDING, (STOP, START_B)),
        TIMER_B: Step(PROCEEDING, (START_D, FAIL)),
        TIMER_C: Step(PROCEEDING, (START_D, FAIL)),
        TIMER_D: Step(TERMINATED),
    },
    COMPLETED: {
        RECEIVE_3XX_6XX: Step(COMPLETED, (SEND_ACK,)),
        TRANSPORT_ERROR: Step(TERMINATED),
        TIMER_D: Step(TERMINATED),
    },
    ACCEPTED: {
        RECEIVE_2XX: Step(ACCEPTED, (PASS,)),
        TIMER_M: Step(TERMINATED),
    },
    TERMINATED: {},
}

# RFC 3261 17.1.2.2 and figure 6
NON_INVITE_CLIENT: Final[Table] = {
    TRYING: {
        TIMER_E: Step(TRYING, (SEND, BACK_OFF)),
        TIMER_F: Step(COMPLETED, (STOP, START_K, FAIL)),  # not Terminated: a late response is absorbed
        TRANSPORT_ERROR: Step(TERMINATED, (FAIL,)),
        RECEIVE_1XX: Step(PROCEEDING, (PASS,)),
        RECEIVE_2XX: Step(COMPLETED, (STOP, START_K, PASS)),
        RECEIVE_3XX_6XX: Step(COMPLETED, (STOP, START_K, PASS)),
    },
    PROCEEDING: {
        TIMER_E: Step(PROCEEDING, (SEND, SLOW_DOWN)),
        TIMER_F: Step(COMPLETED, (STOP, START_K, FAIL)),
        TRANSPORT_ERROR: Step(TERMINATED, (FAIL,)),
        RECEIVE_1XX: Step(PROCEEDING, (PASS,)),
        RECEIVE_2XX: Step(COMPLETED, (STOP, START_K, PASS)),
        RECEIVE_3XX_6XX: Step(COMPLETED, (STOP, START_K, PASS)),
    },
    COMPLETED: {
        TIMER_K: Step(TERMINATED),
    },
    TERMINATED: {},
}

# RFC 3261 17.2.1 and figure 7, RFC 6026 8.5 and figure 7
INVITE_SERVER: Final[Table] = {
    PROCEEDING: {
        REQUEST: Step(PROCEEDING, (SEND,)),
        SEND_1XX: Step(PROCEEDING, (SEND,)),
        SEND_2XX: Step(ACCEPTED, (START_L, SEND)),
        SEND_3XX_6XX: Step(COMPLETED, (START_G, START_H, SEND)),
    },
    COMPLETED: {
        REQUEST: Step(COMPLETED, (SEND,)),
        ACK: Step(CONFIRMED, (STOP, START_I)),
        TIMER_G: Step(COMPLETED, (SEND, BACK_OFF)),
        TIMER_H: Step(TERMINATED),
        TRANSPORT_ERROR: Step(TERMINATED),
    },
    CONFIRMED: {
        TIMER_I: Step(TERMINATED),
    },
    ACCEPTED: {
        # RFC 6026 absorbs the INVITE here; a 2xx of our own is kept as data and sent again, in the UAS core's place
        REQUEST: Step(ACCEPTED, (SEND,)),
        SEND_2XX: Step(ACCEPTED, (SEND,)),
        # and until the ACK to it comes (section 13.3.1.4): Timer G runs for that, see layer.resend_2xx
        TIMER_G: Step(ACCEPTED, (SEND, BACK_OFF)),
        ACK: Step(ACCEPTED, (STOP, START_L)),
        TIMER_L: Step(TERMINATED),
    },
    TERMINATED: {},
}

# RFC 3261 17.2.2 and figure 8
NON_INVITE_SERVER: Final[Table] = {
    TRYING: {
        SEND_1XX: Step(PROCEEDING, (SEND,)),
        SEND_2XX: Step(COMPLETED, (START_J, SEND)),
        SEND_3XX_6XX: Step(COMPLETED, (START_J, SEND)),
    },
    PROCEEDING: {
        REQUEST: Step(PROCEEDING, (SEND,)),
        SEND_1XX: Step(PROCEEDING, (SEND,)),
        SEND_2XX: Step(COMPLETED, (START_J, SEND)),
        SEND_3XX_6XX: Step(COMPLETED, (START_J, SEND)),
    },
    COMPLETED: {
        REQUEST: Step(COMPLETED, (SEND,)),
        TIMER_J: Step(TERMINATED),
    },
    TERMINATED: {},
}

Rows = tuple[tuple[Step | None, ...], ...]


def rows(table: Table) -> Rows:
    """Return ``table`` as rows by state of columns by event; None where an event is ignored."""
    return tuple(tuple(table.get(state, {}).get(event) for event in range(EVENTS)) for state in range(STATES))
