"""One run at a time writes to a folder."""

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock


LOCK = ".hyperrep.lock"
SOFT_LOCK = ".hyperrep.held"  # where the file system knows no locks (NFS, Lustre): whoever made it holds it


def locked(path: Path) -> BaseFileLock:
    """The lock of a folder, held.

    Raises:
        Timeout: if another run holds it.
        OSError: if the folder cannot be written.
    """
    lock: BaseFileLock = FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        (path / LOCK).unlink(missing_ok=True)
        lock = SoftFileLock(path / SOFT_LOCK, timeout=0)
        lock.acquire()
    return lock


__all__ = ["LOCK", "SOFT_LOCK", "locked"]
