"""What a user did wrong, told in one line."""

from __future__ import annotations


class UserError(Exception):
    """Bad usage or bad input; the message says what is wrong and how to mend it. The command line exits with code 2."""


class PeersLost(Exception):
    """Another process that trains with this one has gone; the message is one line. The command line exits with 1."""
