"""The keys of an encrypted registry and what they seal: bytes in, bytes out.

The master key lies outside the home. It wraps (encrypts) the registry key, from which come the key that blinds names
and the one of the index file, and the key of each artist, which seals what is kept of that artist. So a new master key
means only that these small keys are wrapped anew, and without its wrapped key an artist's data cannot be read again.

Everything is AES-256-GCM. Single values and wrapped keys have random nonces of 96 bits, good for 2**32 values a key
(NIST SP 800-38D, 8.3); files are streams of chunks, each stream with a key of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from registry.errors import StoreDamaged, WrongKey

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
#: A stream begins with this many random bytes, from which its key is derived.
SALT_BYTES = 32
#: Bytes of plain text in each chunk of a stream but the last: what is held in memory at a time.
CHUNK_BYTES = 2**20
#: What sealed text begins with.
TEXT_PREFIX = "enc1:"

_REGISTRY_KEY = b"likeness 1 registry key"


class SealBroken(Exception):
    """Sealed bytes are not what was sealed with this key, or not for this purpose."""

    def __str__(self) -> str:
        """Return the reason, which says nothing of the bytes."""
        return "not what was sealed with this key"


class Vault:
    """The registry's keys, open.

    Parameters
    ----------
    master : bytes
        The master key, 32 bytes.
    wrapped_registry_key : bytes
        As `create` or `rewrap` gave it.

    Attributes
    ----------
    index_key : bytes
        What the index file is sealed with, 32 bytes.

    Raises
    ------
    WrongKey
        The registry key was not wrapped with this master key.
    """

    def __init__(self, master: bytes, wrapped_registry_key: bytes) -> None:
        self._master = _cipher(master)
        try:
            self._registry_key = _open(self._master, wrapped_registry_key, _REGISTRY_KEY)
        except SealBroken:
            raise WrongKey("this key does not open the registry") from None
        self._blind_key = _derive(self._registry_key, b"likeness 1 names")
        self.index_key = _derive(self._registry_key, b"likeness 1 index")

    @classmethod
    def create(cls, master: bytes) -> tuple[Vault, bytes]:
        """A vault with a new registry key, and that key wrapped."""
        wrapped = _seal(_cipher(master), secrets.token_bytes(KEY_BYTES), _REGISTRY_KEY)
        return cls(master, wrapped), wrapped

    def blind(self, text: str) -> str:
        """HMAC-SHA256 of a text in hex: finds the same text again, and says nothing to who lacks the key."""
        return hmac.new(self._blind_key, text.encode(), hashlib.sha256).hexdigest()

    def new_artist_key(self, artist_id: int) -> bytes:
        """A new key for an artist's data, wrapped; it opens as no other artist's."""
        return _seal(self._master, secrets.token_bytes(KEY_BYTES), _artist_key_of(artist_id))

    def artist_key(self, artist_id: int, wrapped: bytes) -> ArtistKey:
        """The key of an artist's data; `StoreDamaged` if the wrapped one is not what `new_artist_key` gave for it."""
        return ArtistKey(artist_id, self._unwrap(artist_id, wrapped))

    def _unwrap(self, artist_id: int, wrapped: bytes) -> bytes:
        try:
            return _open(self._master, wrapped, _artist_key_of(artist_id))
        except SealBroken:
            raise StoreDamaged(f"artist {artist_id}: its key does not open") from None

    def rewrap(self, master: bytes, wrapped: Mapping[int, bytes]) -> tuple[bytes, dict[int, bytes]]:
        """The registry key and the artists' wrapped keys, by artist_id, wrapped with another master key."""
        cipher = _cipher(master)
        artist_keys = {
            artist_id: _seal(cipher, self._unwrap(artist_id, key), _artist_key_of(artist_id))
            for artist_id, key in wrapped.items()
        }
        return _seal(cipher, self._registry_key, _REGISTRY_KEY), artist_keys


class ArtistKey:
    """What seals an artist's data. Each seal is bound to the artist and to what was sealed, such as "template".

    Raises
    ------
    StoreDamaged
        From whatever opens: the bytes are not what was sealed for this artist under this name.
    """

    def __init__(self, artist_id: int, key: bytes) -> None:
        self._artist_id = artist_id
        self._key = key
        self._cipher = _cipher(key)

    def seal(self, data: bytes, what: str) -> bytes:
        """Nonce, cipher text and tag: 28 bytes more than `data`."""
        return _seal(self._cipher, data, self._context(what))

    def open(self, data: bytes, what: str) -> bytes:
        """What `seal` was given."""
        try:
            return _open(self._cipher, data, self._context(what))
        except SealBroken:
            raise self._damaged(what) from None

    def seal_text(self, text: str, what: str) -> str:
        """The same for text, as ``enc1:`` and base64url."""
        return TEXT_PREFIX + base64.urlsafe_b64encode(self.seal(text.encode(), what)).decode()

    def open_text(self, text: str, what: str) -> str:
        """What `seal_text` was given."""
        try:
            if not text.startswith(TEXT_PREFIX):
                raise SealBroken
            data = base64.b64decode(text.removeprefix(TEXT_PREFIX), altchars=b"-_", validate=True)
        except (SealBroken, ValueError):
            raise self._damaged(what) from None
        return self.open(data, what).decode()

    def _context(self, what: str) -> bytes:
        return b"likeness 1 artist %d %s" % (self._artist_id, what.encode())

    def _damaged(self, what: str) -> StoreDamaged:
        return StoreDamaged(f"artist {self._artist_id}: its {what} does not open with the artist's key")


def seal_stream(key: bytes, context: bytes, source: BinaryIO, target: BinaryIO) -> None:
    """Seal what `source` holds, in chunks, so that no more than two of them are in memory.

    Parameters
    ----------
    key : bytes
        32 bytes.
    context : bytes
        What this stream is; it opens only with the same.
    source, target : BinaryIO
        Buffered: a read gives all that is asked for but at the end.

    References
    ----------
    Hoang et al. 2015, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", STREAM: a chunk's nonce
    is its number and whether it is the last, so that chunks put elsewhere, left out or added do not open. The key of
    each stream is derived from a random salt, so that these nonces come once with it.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    cipher = _cipher(_derive(key, context, salt))
    target.write(salt)
    for nonce, chunk in _chunks(source, CHUNK_BYTES):
        target.write(cipher.encrypt(nonce, chunk, None))


def open_stream(key: bytes, context: bytes, source: BinaryIO, target: BinaryIO) -> None:
    """Open what `seal_stream` wrote; `SealBroken` if it is anything else, and then `target` holds a part of it."""
    cipher = _cipher(_derive(key, context, source.read(SALT_BYTES)))
    for nonce, chunk in _chunks(source, CHUNK_BYTES + TAG_BYTES):
        try:
            target.write(cipher.decrypt(nonce, chunk, None))
        except InvalidTag:
            raise SealBroken from None


def sealed_size(n_bytes: int) -> int:
    """How many bytes `seal_stream` makes of `n_bytes`."""
    n_chunks = max(1, -(-n_bytes // CHUNK_BYTES))
    return SALT_BYTES + n_bytes + n_chunks * TAG_BYTES


def _chunks(source: BinaryIO, n_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """(nonce, chunk) of a stream; of an empty one, one empty chunk."""
    chunk, number, is_last = source.read(n_bytes), 0, False
    while not is_last:
        following = source.read(n_bytes)
        is_last = not following
        yield number.to_bytes(NONCE_BYTES - 1) + bytes([is_last]), chunk
        chunk, number = following, number + 1


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return AESGCM(key)


def _seal(cipher: AESGCM, data: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, context)


def _open(cipher: AESGCM, data: bytes, context: bytes) -> bytes:
    view = memoryview(data)
    try:
        return cipher.decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], context)
    # A cut-off nonce is a ValueError.
    except (InvalidTag, ValueError):
        raise SealBroken from None


def _derive(key: bytes, purpose: bytes, salt: bytes | None = None) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(key)


def _artist_key_of(artist_id: int) -> bytes:
    return b"likeness 1 key of artist %d" % artist_id
