"""One writer at a time, across processes: a file's lock, which goes with the process that holds it."""

import errno
import fcntl
from typing import IO

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
"""What file systems without locks answer."""


def take_lock(file: IO[bytes] | int) -> bool:
    """Takes the lock of an open file for this process, without waiting.

    Returns:
        Whether it is held now; False where the file system knows no locks, which the caller should say.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: for any other failure.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
