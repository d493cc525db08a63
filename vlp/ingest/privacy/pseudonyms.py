"""Keyed pseudonyms: HMAC-SHA256 (RFC 2104) of an id, so that only who has the key can tell which id it was.

A pseudonym is a letter for what it names (p for person, s study, i image, g group), 24 characters of the keyed hash
(120 bits), and 4 characters by which the same key knows its own pseudonyms again.  It depends on the id and the key
alone, so it stays the same as an archive grows.  120 bits make the chance that any two of 10 million ids share a
pseudonym 4e-23.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Literal

from vlp.errors import PrivacyError
from vlp.ingest.privacy.config import PrivacyConfig

Domain = Literal["person", "study", "image", "group"]
MIN_KEY_CHARACTERS = 32
_MIN_DIFFERENT = 8
"""Different characters a key must have: "aaaa..." is long and no secret."""
_MAX_KEY_BYTES = 4096
_BODY, _CHECK = 24, 4
_FORM = re.compile(rf"[psig][a-z2-7]{{{_BODY + _CHECK}}}")


class Pseudonyms:
    """Makes pseudonyms and everything else that is drawn from the key.  The key itself cannot be read from it."""

    def __init__(self, key: bytes, *, namespace: str = "") -> None:
        self._key = key
        self._namespace = namespace

    def __repr__(self) -> str:
        return "Pseudonyms(key hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a key does not travel between processes; send the configuration and read it there")

    def make(self, domain: Domain, id_: str) -> str:
        """The pseudonym of `id_`, 29 characters a-z and 2-7, different in each domain.

        Raises:
            PrivacyError: if `id_` is a pseudonym that this key has made already.
        """
        if self.made(id_):
            raise PrivacyError(f"a {domain} id is a pseudonym of this key already; pseudonyms are given once")
        body = domain[0] + _letters(self.digest(domain, id_))[:_BODY]
        return body + self._check(body)

    def made(self, id_: str) -> bool:
        """Whether `id_` is a pseudonym that this key has made."""
        if not _FORM.fullmatch(id_):
            return False
        return hmac.compare_digest(self._check(id_[:-_CHECK]), id_[-_CHECK:])

    def digest(self, domain: str, id_: str) -> bytes:
        """32 bytes that depend on key, namespace, domain and `id_`."""
        # Neither a domain nor a namespace holds a NUL, so that no two triples give the same message.
        message = f"{domain}\0{self._namespace}\0{id_}".encode(errors="surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).digest()

    def fingerprint(self) -> str:
        """Tells builds with different keys apart and says nothing of the key."""
        return self.digest("fingerprint", "").hex()[:16]

    def _check(self, body: str) -> str:
        return _letters(hmac.new(self._key, f"check\0{body}".encode(), hashlib.sha256).digest())[:_CHECK]


def _letters(digest: bytes) -> str:
    return base64.b32encode(digest).decode("ascii").lower()


def read_key(config: PrivacyConfig) -> bytes:
    """The key that `config` points to.

    Raises:
        PrivacyError: if it is missing, shorter than 32 characters or made of few different ones, or in a file that
            everybody can read.  The message names the file or variable and never the key.
    """
    if config.key_env is not None:
        where, text = f"environment variable {config.key_env}", os.environ.get(config.key_env)
        if text is None:
            raise PrivacyError(f"{where} is not set; it should hold the key of the pseudonyms")
        key = text.strip().encode(errors="surrogateescape")
    else:
        assert config.key_file is not None
        where, key = f"key file {config.key_file}", _read_key_file(config.key_file)
    if len(key) < MIN_KEY_CHARACTERS or len(set(key)) < _MIN_DIFFERENT:
        raise PrivacyError(
            f"{where}: the key is too short or too plain; use at least {MIN_KEY_CHARACTERS} random characters"
        )
    return key


def _read_key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IRWXO:
                raise PrivacyError(f"key file {path}: everybody can read it; make it private first: chmod 600")
            content = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise PrivacyError(f"key file {path}: cannot be read: {error.strerror}; make_key_file makes one") from None
    if len(content) > _MAX_KEY_BYTES:
        raise PrivacyError(f"key file {path}: larger than {_MAX_KEY_BYTES} bytes; is it a key?")
    return content.strip()


def make_key_file(path: Path) -> None:
    """Writes a new random key of 256 bits to `path`, which only its owner can read.

    Raises:
        PrivacyError: if `path` exists (a key is never replaced: all pseudonyms would change) or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PrivacyError(f"key file {path}: cannot be made: {error.strerror}") from None
