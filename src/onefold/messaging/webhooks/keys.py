"""The key file: what the secrets of all endpoints are derived from, so that no database holds any.

A secret is HMAC-SHA256(key, label, endpoint, generation): a pseudo-random function as in NIST SP 800-108.
Whoever has the database but not this file can sign nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.messaging.webhooks.records import Endpoint
from onefold.messaging.webhooks.signing import SECRET_PREFIX

KEY_BYTES = 32
KEYS_MAX = 100
FILE_BYTES_MAX = 16_384

_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,39}) ([A-Za-z0-9+/]{43}=)")


class Keys:
    """The keys of a file, the newest last. New endpoints and rotations take the newest."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        """See `create` and `open`."""
        if not 1 <= len(keys) <= KEYS_MAX:
            raise Invalid("A key file holds 1 to 100 keys.", count=len(keys))
        self._keys = dict(keys)

    @property
    def newest(self) -> str:
        """The id of the key that new secrets are derived from."""
        return next(reversed(self._keys))

    def secrets_of(self, endpoint: Endpoint, *, now_ms: int) -> list[str]:
        """The secrets that sign for the endpoint at `now_ms`: the present one, during a rotation the one before.

        Give the first to the receiver's people, once, over a channel that you trust.

        Raises:
            NotFound: the file has no key of that id.
        """
        found = [self._derived(endpoint.key_id, endpoint.id, endpoint.generation)]
        if endpoint.old_key_id is not None and (endpoint.old_until_ms or 0) > now_ms:
            found.append(self._derived(endpoint.old_key_id, endpoint.id, endpoint.generation - 1))
        return found

    def _derived(self, key_id: str, endpoint_id: str, generation: int) -> str:
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound("The key file has no such key.", code="key", key_id=key_id)
        label = f"onefold/webhooks/secret\0{endpoint_id}\0{generation}".encode()
        return SECRET_PREFIX + base64.b64encode(hmac.digest(key, label, hashlib.sha256)).decode()

    @classmethod
    def create(cls, path: str | Path) -> Keys:
        """A new file with one key, readable by its owner only.

        Raises:
            Conflict: the file is there already; it is left as it is.
        """
        keys = {"k1": secrets.token_bytes(KEY_BYTES)}
        _write(Path(path), keys)
        return cls(keys)

    @classmethod
    def open(cls, path: str | Path) -> Keys:
        """The keys of a file.

        Raises:
            NotFound: there is no such file.
            Invalid: others than its owner may read or write it, or it is no key file.
        """
        try:
            with Path(path).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(FILE_BYTES_MAX + 1).decode("ascii", "replace")
        except FileNotFoundError:
            raise NotFound("There is no such key file; Keys.create makes one.", path=str(path)) from None
        if stat.S_IMODE(mode) & 0o077:
            raise Invalid("The key file may be read by others; chmod 600 it.", path=str(path))
        keys: dict[str, bytes] = {}
        for line in text.splitlines():
            found = _LINE.fullmatch(line)
            if found is None or found[1] in keys or len(text) > FILE_BYTES_MAX:
                raise Invalid("The file is no key file.", path=str(path))
            try:
                keys[found[1]] = base64.b64decode(found[2], validate=True)
            except binascii.Error:
                raise Invalid("The file is no key file.", path=str(path)) from None
        return cls(keys)

    @classmethod
    def add(cls, path: str | Path) -> Keys:
        """Add a key, which is the newest then. Old ones stay: endpoints sign with them until they are rotated.

        Bring the file to all processes before the next `create` or `rotate`. Not for two at once.
        """
        present = cls.open(path)
        number = 1 + max((int(name[1:]) for name in present._keys if re.fullmatch(r"k[0-9]{1,9}", name)), default=0)
        keys = {**present._keys, f"k{number}": secrets.token_bytes(KEY_BYTES)}
        grown = cls(keys)
        beside = Path(f"{path}.new")
        _write(beside, keys)
        beside.replace(path)
        return grown


def _write(path: Path, keys: dict[str, bytes]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict("The file is there already.", path=str(path)) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(f"{name} {base64.b64encode(key).decode()}\n" for name, key in keys.items())
        file.flush()
        os.fsync(file.fileno())
