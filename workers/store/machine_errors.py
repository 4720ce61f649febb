"""Errors of the machine that a job runs on, which every other job on it would meet too.

MachineError (OSError)
├── NotPrivateError     a directory is another user's, or open to others
├── ScratchError        the temporary folder is full or cannot be written
└── CacheError          the node's cache is full or cannot be written
"""


class MachineError(OSError):
    """A folder of this machine cannot be used; the message names it and says what to do."""


class NotPrivateError(MachineError):
    """A directory is not this user's own, or cannot be made."""


class ScratchError(MachineError):
    """The temporary folder is full or cannot be written."""


class CacheError(MachineError):
    """The node's cache is full or cannot be written."""
