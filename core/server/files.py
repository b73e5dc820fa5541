"""Files that workers made for clients: checked, served while their URLs are good, and swept.

`worker.results` writes and signs them, so this has the names, the signature and the sweep from there.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import time
from pathlib import Path

from ..errors import Forbidden, NotFound
from ..worker.contract import ResultFiles
from ..worker.results import is_name, sign, sweep

__all__ = ["FILES_PATH", "FileStore"]

log = logging.getLogger(__name__)

FILES_PATH = "/v1/files/"
"""Where they are served. Their signatures say who may have them, so that these paths need no key."""

KEY_BYTES = 32
_SWEEP_S = 15.0


class FileStore:
    """The files of one home folder.

    The key that signs is made once and stays in the home, so that workers which outlive a server go on, and so do the
    URLs that they gave out.
    """

    def __init__(self, place: ResultFiles) -> None:
        self.place = place
        self._folder = Path(place.folder)
        self._key_file = Path(place.key_file)
        self._key = _read_key(self._key_file) or secrets.token_bytes(KEY_BYTES)
        self.sweep()

    def sweep(self) -> None:
        """Remove what has expired or is too much; put the folder and the key back where somebody has removed them."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _read_key(self._key_file) != self._key:
                _write_key(self._key_file, self._key)
        except OSError as error:
            log.error("Files for clients cannot be kept in %s: %s", self._folder, error)
        removed = sweep(self._folder, self.place.ttl_s, self.place.max_bytes)
        if removed:
            log.debug("removed %d files that were kept for clients", removed)

    async def keep_swept(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(min(max(self.place.ttl_s / 4, 1.0), _SWEEP_S))
            await asyncio.to_thread(self.sweep)

    def find(self, name: str, expires: str, signature: str) -> Path:
        """Return the file that a URL stands for.

        Raises: Forbidden: the URL is not one that was given out, or it has expired. NotFound: the file is gone.
        """
        until = int(expires) if expires.isascii() and expires.isdigit() and len(expires) <= 15 else 0
        expected = sign(self._key, name, until)
        if not hmac.compare_digest(signature.encode(errors="replace"), expected.encode()) or not is_name(name):
            raise Forbidden("The signature of this URL is not valid.")
        if time.time() > until:
            raise Forbidden("This URL has expired.", remedy="MODELRACK_FILES_TTL_S sets how long URLs are good.")
        path = self._folder / name
        if not path.is_file():
            raise NotFound("The file is gone: newer ones needed its room.")
        return path


def _read_key(path: Path) -> bytes | None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) >= KEY_BYTES else None


def _write_key(path: Path, key: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
