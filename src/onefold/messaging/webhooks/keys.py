"""The key file: what the secrets of all endpoints are derived from, so that no database holds any.

A secret is HMAC-SHA256(key, label, endpoint, generation): a pseudo-random function as in NIST SP 800-108.
Whoever has the database but not this file can sign nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Generator, Mapping
from pathlib import Path

from onefold.core.errors import Conflict, Invalid, NotFound, Retry
from onefold.host.files import try_lock, write_whole
from onefold.messaging.webhooks.records import Endpoint
from onefold.messaging.webhooks.signing import SECRET_PREFIX

KEY_BYTES = 32
KEYS_MAX = 100
FILE_BYTES_MAX = 16_384
MODE = 0o600
PRINT_DIGITS = 16
_ID_SHOWN_MAX = 40

_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,39}) ([A-Za-z0-9+/]{43}=)")
_log = logging.getLogger("onefold.webhooks")

_Seen = tuple[int, ...]


class Keys:
    """The keys of a file, the newest last. New endpoints and rotations take the newest.

    The file is looked at whenever a key is asked for, so a running process goes on with what `add` and
    `retire` made of it. When it cannot be read any more, that is logged, and the keys read before stay.
    """

    def __init__(self, path: Path, keys: dict[str, bytes], seen: _Seen) -> None:
        """See `create` and `open`."""
        self._path = path
        self._keys = keys
        self._seen = seen

    @property
    def newest(self) -> str:
        """The id of the key that new secrets are derived from."""
        return next(reversed(self._present()))

    @property
    def prints(self) -> dict[str, str]:
        """Id and fingerprint of every key, the newest last: whether two files hold the same, without the keys."""
        return {
            name: hashlib.sha256(b"onefold/webhooks/key\0" + key).hexdigest()[:PRINT_DIGITS]
            for name, key in self._present().items()
        }

    def secrets_of(self, endpoint: Endpoint, *, now_ms: int) -> list[str]:
        """The secrets that sign for the endpoint at `now_ms`: the present one, during a rotation the one before.

        Give the first to the receiver's people, once, over a channel that you trust.

        Raises:
            NotFound: the file has no key of that id.
        """
        keys = self._present()
        found = [_derived(keys, endpoint.key_id, endpoint.id, endpoint.generation)]
        if endpoint.old_key_id is not None and (endpoint.old_until_ms or 0) > now_ms:
            found.append(_derived(keys, endpoint.old_key_id, endpoint.id, endpoint.generation - 1))
        return found

    def check_known(self, key_id: str) -> None:
        """Whether the file has a key of that id. What takes one from elsewhere asks here, before its transaction.

        Raises:
            Invalid: it has none, so nothing could be signed.
        """
        keys = self._present()
        if key_id not in keys:
            raise Invalid(
                "The key file has no key of that id.", code="key_id", key_id=key_id[:_ID_SHOWN_MAX],
                newest=next(reversed(keys)),
            )  # fmt: skip

    def check_retirable(self, key_id: str) -> None:
        """Whether `retire` would take the key, as far as the file goes; it raises the same."""
        _check_retirable(self._present(), key_id)

    def _present(self) -> dict[str, bytes]:
        """The keys as the file has them now."""
        try:
            if _seen_of(self._path.stat()) != self._seen:
                self._keys, self._seen = _read(self._path)
                _log.info("the key file has changed; its newest key is %s", next(reversed(self._keys)))
        except (Invalid, OSError) as error:
            self._unreadable(error)
        return self._keys

    def _unreadable(self, error: Exception) -> None:
        """Say so, once for each change of the file."""
        seen: _Seen = ()
        with contextlib.suppress(OSError):
            seen = _seen_of(self._path.stat())
        if seen != self._seen:
            self._seen = seen
            _log.error("the key file cannot be read any more, the keys of before go on: %s", error)

    @classmethod
    def create(cls, path: str | Path) -> Keys:
        """A new file with one key, readable by its owner only.

        Raises:
            Conflict: the file is there already; it is left as it is.
        """
        try:
            write_whole(Path(path), _text_of({"k1": secrets.token_bytes(KEY_BYTES)}), mode=MODE, replace=False)
        except FileExistsError:
            raise Conflict("The file is there already.", path=str(path)) from None
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Keys:
        """The keys of a file.

        Raises:
            NotFound: there is no such file.
            Invalid: others than its owner may read or write it, or it is no key file.
        """
        where = Path(path).absolute()
        try:
            return cls(where, *_read(where))
        except FileNotFoundError:
            raise NotFound("There is no such key file; onefold keys create makes one.", path=str(path)) from None

    @classmethod
    def add(cls, path: str | Path) -> Keys:
        """Add a key, which is the newest then. Old ones stay: endpoints sign with them until they are rotated.

        Processes that have the file open go on with it by themselves; bring it to other machines before
        the next `create` or `rotate` there.

        Raises:
            NotFound: there is no such file.
            Invalid: it is no key file, or has 100 keys.
            Retry: another process is changing it.
        """
        with _changing(path) as (real, keys):
            if len(keys) == KEYS_MAX:
                raise Invalid("A key file holds at most 100 keys; retire one.", most=KEYS_MAX)
            numbers = (int(name[1:]) for name in keys if re.fullmatch(r"k[0-9]{1,9}", name))
            name = f"k{1 + max(numbers, default=0)}"
            write_whole(real, _text_of({**keys, name: secrets.token_bytes(KEY_BYTES)}), mode=MODE, replace=True)
        return cls.open(path)

    @classmethod
    def retire(cls, path: str | Path, key_id: str) -> Keys:
        """Take a key out of the file, for good. Ask `list_key_uses` first: what is derived from it is lost with it.

        Raises:
            NotFound: there is no such file, or no such key in it.
            Conflict: it is the newest key, which new secrets are derived from.
            Invalid: it is no key file.
            Retry: another process is changing it.
        """
        with _changing(path) as (real, keys):
            _check_retirable(keys, key_id)
            left = {name: key for name, key in keys.items() if name != key_id}
            write_whole(real, _text_of(left), mode=MODE, replace=True)
        return cls.open(path)


def _check_retirable(keys: Mapping[str, bytes], key_id: str) -> None:
    if key_id not in keys:
        raise _no_key(key_id)
    if key_id == next(reversed(list(keys))):
        raise Conflict("The newest key cannot be retired; add one first.", code="newest", key_id=key_id)


def _derived(keys: Mapping[str, bytes], key_id: str, endpoint_id: str, generation: int) -> str:
    key = keys.get(key_id)
    if key is None:
        raise _no_key(key_id)
    label = f"onefold/webhooks/secret\0{endpoint_id}\0{generation}".encode()
    return SECRET_PREFIX + base64.b64encode(hmac.digest(key, label, hashlib.sha256)).decode()


def _no_key(key_id: str) -> NotFound:
    return NotFound("The key file has no such key.", code="key", key_id=key_id[:40])


def _seen_of(status: os.stat_result) -> _Seen:
    """What differs when the file was replaced, written or given to others."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path) -> tuple[dict[str, bytes], _Seen]:
    with path.open("rb") as file:
        return _parsed(path, file.fileno())


def _parsed(path: Path, descriptor: int) -> tuple[dict[str, bytes], _Seen]:
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Invalid("The key file may be read by others; chmod 600 it.", path=str(path))
    text = os.pread(descriptor, FILE_BYTES_MAX + 1, 0).decode("ascii", "replace")
    keys: dict[str, bytes] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None or found[1] in keys or len(text) > FILE_BYTES_MAX:
            raise Invalid("The file is no key file.", path=str(path))
        try:
            keys[found[1]] = base64.b64decode(found[2], validate=True)
        except binascii.Error:
            raise Invalid("The file is no key file.", path=str(path)) from None
    if not 1 <= len(keys) <= KEYS_MAX:
        raise Invalid("A key file holds 1 to 100 keys.", path=str(path), count=len(keys))
    return keys, _seen_of(status)


def _text_of(keys: Mapping[str, bytes]) -> bytes:
    return "".join(f"{name} {base64.b64encode(key).decode()}\n" for name, key in keys.items()).encode()


@contextlib.contextmanager
def _changing(path: str | Path) -> Generator[tuple[Path, dict[str, bytes]]]:
    """The file behind all links, and its keys, with all others kept from changing it."""
    real = Path(os.path.realpath(path))
    try:
        descriptor = os.open(real, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("There is no such key file; onefold keys create makes one.", path=str(path)) from None
    try:
        # Who waited for the lock of a file that was replaced meanwhile holds that of a file without a name.
        if not try_lock(descriptor) or not os.fstat(descriptor).st_nlink:
            raise Retry("Another process is changing the key file.", code="busy", path=str(path))
        yield real, _parsed(real, descriptor)[0]
    finally:
        os.close(descriptor)
