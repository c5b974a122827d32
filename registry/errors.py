"""What the registry refuses, and what can be wrong with it."""

from __future__ import annotations

from pathlib import Path


class RegistryError(Exception):
    """The registry refused or failed, and is unchanged; the message names the thing and the next step."""

    #: What the command line exits with; the table is in README.
    exit_code = 1


class StoreDamaged(RegistryError):
    """The store holds what it should never hold; the message names `likeness check`."""

    exit_code = 4

    def __str__(self) -> str:
        """Return the message with its next step."""
        message = super().__str__()
        # Said here once, so that no caller can forget the next step.
        return message if "likeness check" in message else f"{message}; run `likeness check`"


class IndexUnusable(RegistryError):
    """An index file cannot be used, for whichever reason; it is a cache, so nothing is lost.

    Parameters
    ----------
    reason : str
        For people, on one line: the value met and what was expected. Without the path and the next step.
    path : Path, optional
        The file; put in front of the reason.
    """

    def __init__(self, reason: str, path: Path | str | None = None) -> None:
        """Keep the reason and the path apart, so that either can be said alone."""
        self.reason = reason
        self.path = None if path is None else Path(path)
        # The arguments as given, so that the error survives the pickling between processes.
        super().__init__(reason, path)

    def __str__(self) -> str:
        """Return the message with its next step."""
        where = "index" if self.path is None else str(self.path)
        return f"{where}: {self.reason}; run `likeness rebuild-index`"


class IndexDamaged(IndexUnusable):
    """An index file's bytes are not those that were written."""

    exit_code = 4


class StaleIndex(IndexUnusable):
    """An index file is absent, or sound but made from another state of the store, encoder or format."""


class EncoderMismatch(RegistryError):
    """Vectors of one encoder would be compared with, or stored among, those of another."""


class AlreadyEnrolled(RegistryError):
    """The same audio is already a reference, and enrolling it again would say something else about it."""


class ConsentMissing(RegistryError):
    """An artist's voice would be enrolled or used without a consent on record that covers it."""


class UnknownArtist(RegistryError):
    """No artist of that name or id is enrolled."""


class UnknownTrack(RegistryError):
    """No track of that name or id has been scanned."""


class StoreBusy(RegistryError):
    """Another process holds the store for longer than this one waits."""


class NoThreshold(RegistryError):
    """A verdict is asked for and no threshold is on record for this encoder, calibration and budget."""


class TooFewRecordings(RegistryError):
    """Something would be fitted to fewer persons or recordings than it takes."""


class RunMismatch(RegistryError):
    """A run would be resumed with another registry, encoder, settings or list than it began with."""


class UndecidableRun(RegistryError):
    """A run cannot be decided again from what was kept of it."""


class StoreTooNew(RegistryError):
    """The store was written by a later release of Likeness than this one."""


class KeyMissing(RegistryError):
    """The key of an encrypted registry cannot be had: absent, unreadable, incomplete, or there is no place for it."""


class WrongKey(RegistryError):
    """The key that was found does not open this registry."""


class ManifestError(RegistryError):
    """A manifest of recordings or trials cannot be read, or contradicts itself."""
