"""The errors of the runtime, typed by what the caller should do about them."""

from __future__ import annotations

from collections.abc import Sequence


class VigiloError(Exception):
    """Root of all errors that this package raises on purpose."""


class SettingsError(VigiloError):
    """Raised when a setting is missing, unknown or has a bad value. The operator must change it."""

    others: tuple[SettingsError, ...] = ()
    """What is wrong besides in the same file: its text is the first alone."""


def raise_all(errors: Sequence[SettingsError]) -> None:
    """Raise the first of `errors`, with the others beside it, if there is one."""
    if errors:
        first, *others = errors
        first.others = tuple(others)
        raise first


class StartError(VigiloError):
    """Raised when a part can't begin its work: socket in use, journal locked, directory not writable."""


class BusDown(VigiloError):
    """Raised when the broker can't be reached or the connection was lost. Try again."""


class LeaveBroker(BusDown):
    """Raised when this broker is of no use now, which time alone does not mend soon: it shuts down, does not answer, is
    blocked, confirms nothing or speaks no AMQP. Try another one at once."""


class BusRefused(VigiloError):
    """Raised when the broker answered and said no. Trying the same thing at once gives the same answer.

    `code` is the AMQP reply code (403, 404, 406, ...), 0 where the refusal had none.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class NoChannel(BusRefused):
    """Raised when the broker allows no further channel on this connection (its `channel_max`). Use fewer."""


class BadMessage(VigiloError):
    """Raised when a message can't be understood or can't be sent, now or ever. Park it or count it."""


class JournalFull(VigiloError):
    """Raised when the disk has no room for the journal. What could not be written was not accepted."""

    problem = "disk-full"
    """The name of the state's problem."""


class JournalBusy(VigiloError):
    """Raised when another program keeps the journal from being written. What waits must wait; nothing is full."""

    problem = "journal-busy"


class OutsideChange(VigiloError):
    """Raised when another program has written to the journal: its messages must be taken in before anything is done."""


class JournalDamaged(VigiloError):
    """Raised when the journal's file can't be read any more. It must be set aside."""


class NotNow(VigiloError):
    """Raised when nothing can be handled for now: what the work needs is away. Give the messages back and consume again
    after `after_s`; without it, once the handler's `probe` finds that it goes on."""

    def __init__(self, text: str = "not now", after_s: float | None = None) -> None:
        super().__init__(text)
        self.after_s = after_s


class BadMoment(VigiloError):
    """Raised when what an operator asks for can't be done in this moment. `soon`: in the next it may be."""

    def __init__(self, text: str, soon: bool = False) -> None:
        super().__init__(text)
        self.soon = soon


class PipeClosed(NotNow):
    """Raised when nobody reads the command pipe. Open it again later."""


class Retry(VigiloError):
    """Raised when this message is to be tried again after `after_s`, in its place: what must come behind it waits.

    Without `after_s` the handler's growing delays count, as for any other failure.
    """

    def __init__(self, text: str = "to be tried again", after_s: float | None = None) -> None:
        super().__init__(text)
        self.after_s = after_s


class RetryLater(Retry):
    """Raised when this message is to be tried again after `after_s` and what is behind it goes on."""
