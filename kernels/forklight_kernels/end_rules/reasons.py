"""Why a sequence ended, as the rules write it."""

from enum import IntEnum


class EndReason(IntEnum):
    """Looked at in this order; the first that holds is the reason."""

    NONE = 0
    STOP = 1
    REPETITION = 2
    LENGTH = 3
