"""The errors that Rollcall raises: one small tree, so that every caller can tell what is whose fault.

A message says what was being done, what was wrong, the likely cause and what to do. It never holds a payload or
anything out of a customer's record.
"""

from collections.abc import Sequence
from typing import ClassVar


class RollcallError(Exception):
    """The root of the tree.

    `exit_code` is what the command line returns: 1 differs or failed, 2 usage or configuration, 3 unavailable.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Say what was being done and what was wrong in `message`, the likely cause and the remedy in `hint`."""
        super().__init__(message if hint is None else f"{message}\n  {hint}")
        self.message = message
        self.hint = hint


class ConfigError(RollcallError):
    """The configuration is wrong; `problems` lists every one, each with its path in the file."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, where: str = "the configuration") -> None:
        """Collect all `problems`; `where` names the file."""
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{where} has {count}:\n" + "\n".join(f"  - {problem}" for problem in self.problems))


class UsageError(RollcallError):
    """A command was called with something that cannot be."""

    exit_code = 2


class UnavailableError(RollcallError):
    """Something that Rollcall needs does not answer."""

    exit_code = 3


class KafkaUnavailableError(UnavailableError):
    """The Kafka cluster cannot be reached or does not do what was asked in time."""


class EmbeddedKafkaError(UnavailableError):
    """The embedded broker cannot be installed, started or stopped."""


class TopicError(RollcallError):
    """A topic is missing, or is not what it is declared to be."""

    exit_code = 2


class FencedError(RollcallError):
    """Another owner has taken the partition: nothing of this task's open transaction was or will be published."""


class TransactionError(RollcallError):
    """A transaction failed or timed out; its outcome is unknown here, and the task must be restored from Kafka."""


class StateError(RollcallError):
    """The state of a task cannot be used: made by a newer version, under another pepper, or lost by retention."""


class StoreError(StateError):
    """The local store is damaged, or its disk is full: nothing is lost, it is read anew from Kafka."""


class UpstreamError(RollcallError):
    """A source's or a target's API did not do what was asked."""


class UpstreamUnavailableError(UpstreamError):
    """No answer, or an answer that says 'later': worth trying again after `retry_after` seconds."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        """`retry_after`: seconds the upstream asked to wait, None where it did not say."""
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class TooManyRequestsError(UpstreamUnavailableError):
    """The upstream answers 429: it says nothing about what was asked for."""


class CredentialError(UpstreamError):
    """The upstream refuses our credential; only a person can mend that."""


class RefusedError(UpstreamError):
    """The upstream understood the request and refuses it; the same request will be refused again."""


class MalformedPageError(UpstreamError):
    """An answer cannot be read as the API's document describes it: the scan fails, the checkpoint stays."""


class CursorExpiredError(UpstreamError):
    """The upstream no longer knows the cursor: the feed starts over, and its enumeration proves nothing."""


class RecordTooLargeError(RollcallError):
    """A record is larger than the broker takes; nothing of it was written. `size` is in bytes."""

    def __init__(self, message: str, *, size: int) -> None:
        """Give the size beside the message."""
        super().__init__(message, hint="Raise kafka.max_record_bytes together with the topics' max.message.bytes.")
        self.size = size


class RecordError(RollcallError):
    """One record of a topic cannot be decoded or handled: it goes to the dead letters, the task goes on."""
