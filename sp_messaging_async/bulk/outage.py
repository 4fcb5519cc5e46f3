"""A seller's pause while Amazon, or the way to it, is down."""

from __future__ import annotations

import asyncio
from typing import Literal

from ..errors import (
    ApiError,
    AuthenticationError,
    InvalidMessage,
    MessagingError,
    ServerError,
    SessionClosed,
    Throttled,
    TransportError,
)
from ..session import MessagingSession
from .messages import Outcome

__all__ = ["Outage", "Passage"]

IN_A_ROW = 5  # failures after which a seller pauses
_LONGEST_PAUSE = 600.0  # seconds


class Outage:
    """Holds a seller's messages back after five failures in a row that nobody can help.

    Unknown outcomes are counted, and messages known to be unsent because nobody answered. A read
    that is answered ends the pause; then one message goes alone, and its success lets the others
    follow. So an outage makes a handful of unknowns, however long the list.

    pause: seconds before the first read; doubled for each one after it, until a message succeeds.
    """

    def __init__(self, session: MessagingSession, pause: float = 1.0) -> None:
        self._session = session
        self._state: Literal["open", "closed", "trial"] = "open"
        self._on_trial = False
        self._first_pause = self._pause = pause
        self._failures = 0
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a message may line up for its plan."""
        return self._state == "open" or (self._state == "trial" and not self._on_trial)

    @property
    def is_closed(self) -> bool:
        """Whether nothing goes until Amazon answers again."""
        return self._state == "closed"

    async def opens(self) -> None:
        """Return when it is open."""
        while not self.is_open:
            self._changed.clear()
            await self._changed.wait()

    def enter(self) -> bool:
        """Whether a message may be written now; on trial, one at a time."""
        if not self.is_open:
            return False
        self._on_trial = self._state == "trial"
        return True

    def leave(self) -> None:
        """One that might go lines up again; if it was on trial, another may be."""
        if self._on_trial:
            self._become("trial")

    def noted(self, outcome: Outcome) -> Outcome:
        """Note what became of a message; returns the same."""
        if isinstance(outcome.error, InvalidMessage):
            return outcome  # nobody was asked
        if outcome.status == "unknown" or _is_of_an_outage(outcome.error):
            self._failures += 1
            if self._failures >= IN_A_ROW and self._state != "closed":
                self._close(outcome.message.amazon_order_id)
        elif outcome.status != "planned":
            self._failures, self._pause = 0, self._first_pause
            self._become("open")
        else:
            self.leave()
        return outcome

    def cancel(self) -> None:
        """Ask no more."""
        if self._reading is not None and not self._reading.get_loop().is_closed():
            self._reading.cancel()

    async def aclose(self) -> None:
        """Ask no more, and wait for the end of it."""
        if self._reading is not None:
            self.cancel()
            await asyncio.wait((self._reading,))

    def _become(self, state: Literal["open", "closed", "trial"]) -> None:
        self._state, self._on_trial = state, False
        self._changed.set()

    def _close(self, amazon_order_id: str) -> None:
        self._become("closed")
        if self._reading is not None and not self._reading.done():
            return  # of a pause that a late answer ended; it asks on for this one
        self._reading = asyncio.create_task(self._read_until_answered(amazon_order_id))

    async def _read_until_answered(self, amazon_order_id: str) -> None:
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
            try:
                await self._session.get_attributes(amazon_order_id)
            except SessionClosed:
                return
            except MessagingError as error:
                if not _is_an_answer(error):
                    continue
            self._become("trial")
            return


class Passage:
    """A message's own way through: what was recorded of it before says nothing of now."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._entered = False

    @property
    def is_open(self) -> bool:
        """Whether it may line up for its plan."""
        return self._outage.is_open

    async def opens(self) -> None:
        """Return when it is open."""
        await self._outage.opens()

    def enter(self) -> bool:
        """Whether it may be written now."""
        self._entered = self._outage.enter()
        return self._entered

    def leave(self) -> None:
        """It was not written, or in vain, and lines up again or is gone."""
        if self._entered:
            self._entered = False
            self._outage.leave()

    def noted(self, outcome: Outcome) -> Outcome:
        """Note what became of it, if that was found out now; returns the same."""
        if self._entered or outcome.status == "planned":
            return self._outage.noted(outcome)
        return outcome


def _is_of_an_outage(error: MessagingError | None) -> bool:
    """Whether nobody answered, or Amazon failed at what comes before a message."""
    if isinstance(error, TransportError | AuthenticationError):
        return error.repeatable
    return isinstance(error, ServerError)


def _is_an_answer(error: MessagingError) -> bool:
    """Whether Amazon is up: a refusal of the order is an answer as good as any."""
    if isinstance(error, ServerError | Throttled) or not isinstance(error, ApiError):
        return False
    return error.status >= 300
