"""The four transaction machines as data: RFC 3261 section 17 as updated by RFC 6026. Nothing else is here.

A table is state -> event -> step; a step is the next state and what is done on the way, in order. An event that is not
in the row of a state is ignored there. Timers have the RFC's letters; Timer C is the proxy's (section 16.6 step 11).

    ICT    Calling -> Proceeding -> Completed (3xx-6xx, ACK sent) or Accepted (2xx) -> Terminated
    NICT   Trying -> Proceeding -> Completed -> Terminated
    IST    Proceeding -> Completed (3xx-6xx sent) -> Confirmed (ACK seen), or Accepted (2xx sent) -> Terminated
    NIST   Trying -> Proceeding -> Completed -> Terminated
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class State(enum.IntEnum):
    """A state of a machine."""

    TRYING = 0
    CALLING = 1
    PROCEEDING = 2
    COMPLETED = 3
    CONFIRMED = 4
    ACCEPTED = 5
    TERMINATED = 6


class Event(enum.IntEnum):
    """What can happen to a machine: a message from the network, one from the transaction user, a timer."""

    REQUEST = 0  # server: the request again
    ACK = 1  # IST: the ACK
    SEND_1XX = 2  # server: the transaction user answers
    SEND_2XX = 3
    SEND_3XX_6XX = 4
    RECEIVE_1XX = 5  # client: a response came
    RECEIVE_2XX = 6
    RECEIVE_3XX_6XX = 7
    TRANSPORT_ERROR = 8
    CANCELED = 9  # ICT: a CANCEL was sent; without a final response the end comes after 64*T1 (section 9.1)
    TIMER_A = 10
    TIMER_B = 11
    TIMER_C = 12
    TIMER_D = 13
    TIMER_E = 14
    TIMER_F = 15
    TIMER_G = 16
    TIMER_H = 17
    TIMER_I = 18
    TIMER_J = 19
    TIMER_K = 20
    TIMER_L = 21
    TIMER_M = 22


class Action(enum.IntEnum):
    """What a machine does on its way to the next state. START_x is the number of TIMER_x."""

    SEND = 0  # the request of a client, the last response of a server
    SEND_ACK = 1
    PASS = 2  # give the response to the transaction user
    FAIL = 3  # tell the transaction user: timeout or transport error
    STOP = 4  # stop all timers
    BACK_OFF = 5  # start the retransmission timer again with twice its interval
    SLOW_DOWN = 6  # start Timer E again with T2
    START_A = 10
    START_B = 11
    START_C = 12
    START_D = 13
    START_E = 14
    START_F = 15
    START_G = 16
    START_H = 17
    START_I = 18
    START_J = 19
    START_K = 20
    START_L = 21
    START_M = 22


class Step(NamedTuple):
    """Where an event leads and what is done on the way."""

    state: State
    actions: tuple[Action, ...] = ()


Table = dict[State, dict[Event, Step]]

# RFC 3261 17.1.1.2 and figure 5, RFC 6026 8.4 and figure 5
INVITE_CLIENT: Final[Table] = {
    State.CALLING: {
        Event.TIMER_A: Step(State.CALLING, (Action.SEND, Action.BACK_OFF)),
        Event.TIMER_B: Step(State.TERMINATED, (Action.FAIL,)),
        Event.TRANSPORT_ERROR: Step(State.TERMINATED, (Action.FAIL,)),
        Event.RECEIVE_1XX: Step(State.PROCEEDING, (Action.STOP, Action.START_C, Action.PASS)),
        Event.RECEIVE_2XX: Step(State.ACCEPTED, (Action.STOP, Action.START_M, Action.PASS)),
        Event.RECEIVE_3XX_6XX: Step(State.COMPLETED, (Action.STOP, Action.START_D, Action.SEND_ACK, Action.PASS)),
        Event.CANCELED: Step(State.CALLING, (Action.STOP, Action.START_B)),
    },
    State.PROCEEDING: {
        Event.RECEIVE_1XX: Step(State.PROCEEDING, (Action.START_C, Action.PASS)),
        Event.RECEIVE_2XX: Step(State.ACCEPTED, (Action.STOP, Action.START_M, Action.PASS)),
        Event.RECEIVE_3XX_6XX: Step(State.COMPLETED, (Action.STOP, Action.START_D, Action.SEND_ACK, Action.PASS)),
        Event.CANCELED: Step(State.PROCEEDING, (Action.STOP, Action.START_B)),
        Event.TIMER_B: Step(State.TERMINATED, (Action.FAIL,)),
        Event.TIMER_C: Step(State.PROCEEDING, (Action.START_B, Action.FAIL)),
    },
    State.COMPLETED: {
        Event.RECEIVE_3XX_6XX: Step(State.COMPLETED, (Action.SEND_ACK,)),
        Event.TRANSPORT_ERROR: Step(State.TERMINATED),
        Event.TIMER_D: Step(State.TERMINATED),
    },
    State.ACCEPTED: {
        Event.RECEIVE_2XX: Step(State.ACCEPTED, (Action.PASS,)),
        Event.TIMER_M: Step(State.TERMINATED),
    },
    State.TERMINATED: {},
}

# RFC 3261 17.1.2.2 and figure 6
NON_INVITE_CLIENT: Final[Table] = {
    State.TRYING: {
        Event.TIMER_E: Step(State.TRYING, (Action.SEND, Action.BACK_OFF)),
        Event.TIMER_F: Step(State.TERMINATED, (Action.FAIL,)),
        Event.TRANSPORT_ERROR: Step(State.TERMINATED, (Action.FAIL,)),
        Event.RECEIVE_1XX: Step(State.PROCEEDING, (Action.PASS,)),
        Event.RECEIVE_2XX: Step(State.COMPLETED, (Action.STOP, Action.START_K, Action.PASS)),
        Event.RECEIVE_3XX_6XX: Step(State.COMPLETED, (Action.STOP, Action.START_K, Action.PASS)),
    },
    State.PROCEEDING: {
        Event.TIMER_E: Step(State.PROCEEDING, (Action.SEND, Action.SLOW_DOWN)),
        Event.TIMER_F: Step(State.TERMINATED, (Action.FAIL,)),
        Event.TRANSPORT_ERROR: Step(State.TERMINATED, (Action.FAIL,)),
        Event.RECEIVE_1XX: Step(State.PROCEEDING, (Action.PASS,)),
        Event.RECEIVE_2XX: Step(State.COMPLETED, (Action.STOP, Action.START_K, Action.PASS)),
        Event.RECEIVE_3XX_6XX: Step(State.COMPLETED, (Action.STOP, Action.START_K, Action.PASS)),
    },
    State.COMPLETED: {
        Event.TIMER_K: Step(State.TERMINATED),
    },
    State.TERMINATED: {},
}

# RFC 3261 17.2.1 and figure 7, RFC 6026 8.5 and figure 7
INVITE_SERVER: Final[Table] = {
    State.PROCEEDING: {
        Event.REQUEST: Step(State.PROCEEDING, (Action.SEND,)),
        Event.SEND_1XX: Step(State.PROCEEDING, (Action.SEND,)),
        Event.SEND_2XX: Step(State.ACCEPTED, (Action.START_L, Action.SEND)),
        Event.SEND_3XX_6XX: Step(State.COMPLETED, (Action.START_G, Action.START_H, Action.SEND)),
    },
    State.COMPLETED: {
        Event.REQUEST: Step(State.COMPLETED, (Action.SEND,)),
        Event.ACK: Step(State.CONFIRMED, (Action.STOP, Action.START_I)),
        Event.TIMER_G: Step(State.COMPLETED, (Action.SEND, Action.BACK_OFF)),
        Event.TIMER_H: Step(State.TERMINATED),
        Event.TRANSPORT_ERROR: Step(State.TERMINATED),
    },
    State.CONFIRMED: {
        Event.TIMER_I: Step(State.TERMINATED),
    },
    State.ACCEPTED: {
        # RFC 6026 absorbs the INVITE here; a 2xx of our own is kept as data and sent again, in the UAS core's place
        Event.REQUEST: Step(State.ACCEPTED, (Action.SEND,)),
        Event.SEND_2XX: Step(State.ACCEPTED, (Action.SEND,)),
        Event.TIMER_L: Step(State.TERMINATED),
    },
    State.TERMINATED: {},
}

# RFC 3261 17.2.2 and figure 8
NON_INVITE_SERVER: Final[Table] = {
    State.TRYING: {
        Event.SEND_1XX: Step(State.PROCEEDING, (Action.SEND,)),
        Event.SEND_2XX: Step(State.COMPLETED, (Action.START_J, Action.SEND)),
        Event.SEND_3XX_6XX: Step(State.COMPLETED, (Action.START_J, Action.SEND)),
    },
    State.PROCEEDING: {
        Event.REQUEST: Step(State.PROCEEDING, (Action.SEND,)),
        Event.SEND_1XX: Step(State.PROCEEDING, (Action.SEND,)),
        Event.SEND_2XX: Step(State.COMPLETED, (Action.START_J, Action.SEND)),
        Event.SEND_3XX_6XX: Step(State.COMPLETED, (Action.START_J, Action.SEND)),
    },
    State.COMPLETED: {
        Event.REQUEST: Step(State.COMPLETED, (Action.SEND,)),
        Event.TIMER_J: Step(State.TERMINATED),
    },
    State.TERMINATED: {},
}
