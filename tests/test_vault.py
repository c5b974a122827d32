from __future__ import annotations

import io
import secrets
import tracemalloc

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.errors import StoreDamaged, WrongKey
from registry.vault import (
    CHUNK_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    ArtistKey,
    SealBroken,
    Vault,
    open_stream,
    seal_stream,
    sealed_size,
)

MASTER = bytes(range(32))
VECTOR = secrets.token_bytes(768)
BROKEN = "^not what was sealed with this key$"
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES


@pytest.fixture
def vault() -> Vault:
    return Vault.create(MASTER)[0]


@pytest.fixture
def key(vault) -> ArtistKey:
    return vault.artist_key(7, vault.new_artist_key(7))


def flipped(data: bytes, position: int) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= 0x01
    return bytes(damaged)


# --- the vault ---


def test_the_same_master_key_opens_the_same_registry():
    vault, wrapped = Vault.create(MASTER)

    again = Vault(MASTER, wrapped)

    assert again.index_key == vault.index_key
    assert again.blind("Ada Vale") == vault.blind("Ada Vale")
    assert again.artist_key(7, vault.new_artist_key(7)) is not None


def test_every_registry_has_keys_of_its_own():
    one, other = (Vault.create(MASTER)[0] for _ in range(2))

    assert one.index_key != other.index_key
    assert one.blind("Ada Vale") != other.blind("Ada Vale")


@pytest.mark.parametrize("damage", [lambda w: flipped(w, 0), lambda w: flipped(w, 40), lambda w: w[:-1], lambda w: b""])
def test_a_registry_key_that_is_not_as_it_was_does_not_open(damage):
    _, wrapped = Vault.create(MASTER)

    with pytest.raises(WrongKey, match="this key does not open the registry"):
        Vault(MASTER, damage(wrapped))


def test_another_master_key_does_not_open_the_registry():
    _, wrapped = Vault.create(MASTER)

    with pytest.raises(WrongKey, match="this key does not open the registry"):
        Vault(bytes(32), wrapped)


@pytest.mark.parametrize("n_bytes", [0, 16, 31, 33])
def test_a_master_key_has_32_bytes(n_bytes):
    with pytest.raises(ValueError, match=f"a key has 32 bytes, not {n_bytes}"):
        Vault.create(bytes(n_bytes))


def test_blinding_tells_texts_apart_and_shows_none(vault):
    names = ["Ada Vale", "ada vale", "Ada Vale ", "Zoë", ""]

    blinded = [vault.blind(name) for name in names]

    assert len(set(blinded)) == len(names)
    assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in blinded)


def test_an_artists_key_opens_for_that_artist_only(vault):
    wrapped = vault.new_artist_key(7)

    with pytest.raises(StoreDamaged, match="artist 8: its key does not open; run `likeness check`"):
        vault.artist_key(8, wrapped)


def test_a_wrapped_artist_key_is_no_registry_key(vault):
    with pytest.raises(WrongKey, match="does not open"):
        Vault(MASTER, vault.new_artist_key(7))


def test_after_rewrapping_only_the_new_master_key_opens_and_what_was_sealed_stays_readable():
    vault, wrapped = Vault.create(MASTER)
    artist_keys = {7: vault.new_artist_key(7), 8: vault.new_artist_key(8)}
    sealed = vault.artist_key(7, artist_keys[7]).seal(VECTOR, "template")
    new_master = secrets.token_bytes(32)

    new_wrapped, new_artist_keys = vault.rewrap(new_master, artist_keys)

    new_vault = Vault(new_master, new_wrapped)
    assert new_vault.artist_key(7, new_artist_keys[7]).open(sealed, "template") == VECTOR
    assert (new_vault.index_key, new_vault.blind("Ada")) == (vault.index_key, vault.blind("Ada"))
    assert sorted(new_artist_keys) == [7, 8]
    with pytest.raises(WrongKey, match="does not open"):
        Vault(MASTER, new_wrapped)
    with pytest.raises(WrongKey, match="does not open"):
        Vault(new_master, wrapped)
    with pytest.raises(StoreDamaged, match="artist 7: its key does not open"):
        vault.artist_key(7, new_artist_keys[7])
    with pytest.raises(StoreDamaged, match="artist 7: its key does not open"):
        new_vault.artist_key(7, artist_keys[7])


# --- an artist's data ---


@pytest.mark.parametrize("data", [b"", b"x", VECTOR, bytes(3_000_000)], ids=len)
def test_what_is_sealed_opens(key, data):
    sealed = key.seal(data, "template")

    assert len(sealed) == len(data) + 28
    assert len(data) < 8 or data not in sealed  # a byte or two stand there by chance
    assert key.open(sealed, "template") == data


def test_a_seal_is_aes_256_gcm_with_the_nonce_before_it():
    """Whoever has the key reads it with any library."""
    sealed = ArtistKey(7, MASTER).seal(VECTOR, "template")

    assert AESGCM(MASTER).decrypt(sealed[:12], sealed[12:], b"likeness 1 artist 7 template") == VECTOR


def test_the_same_data_is_never_sealed_the_same(key):
    assert len({key.seal(VECTOR, "template") for _ in range(100)}) == 100


def test_a_seal_opens_for_the_same_artist_and_purpose_only(vault, key):
    sealed = key.seal(VECTOR, "template")
    other = vault.artist_key(8, vault.new_artist_key(8))

    with pytest.raises(StoreDamaged, match="artist 7: its windows does not open with the artist's key; run `likeness"):
        key.open(sealed, "windows")
    with pytest.raises(StoreDamaged, match="artist 8: its template does not open with the artist's key; run `likeness"):
        other.open(sealed, "template")
    with pytest.raises(StoreDamaged, match="artist 8: its template does not open"):
        ArtistKey(8, MASTER).open(ArtistKey(7, MASTER).seal(VECTOR, "template"), "template")


def test_no_flipped_byte_and_no_cut_opens(key):
    sealed = key.seal(VECTOR[:20], "template")

    for damaged in [flipped(sealed, i) for i in range(len(sealed))] + [sealed[:i] for i in range(len(sealed))]:
        with pytest.raises(StoreDamaged, match="artist 7: its template does not open"):
            key.open(damaged, "template")


@pytest.mark.parametrize("text", ["", "Ada Vale", "Zoë 🎤", "enc1:", "a\nb"])
def test_text_is_sealed_as_text(key, text):
    sealed = key.seal_text(text, "name")

    assert sealed.startswith("enc1:")
    assert sealed.isascii() and (not text or text not in sealed.removeprefix("enc1:"))
    assert key.open_text(sealed, "name") == text


@pytest.mark.parametrize(
    "text", ["Ada Vale", "", "enc1:", "enc1:Ada", "enc1:é", "enc2:" + 60 * "A", "enc1:" + 80 * "A"]
)
def test_text_that_was_not_sealed_is_damage(key, text):
    with pytest.raises(StoreDamaged, match="artist 7: its name does not open with the artist's key"):
        key.open_text(text, "name")


# --- streams ---


def sealed_stream(data: bytes, key: bytes = MASTER, context: bytes = b"a test") -> bytes:
    target = io.BytesIO()
    seal_stream(key, context, io.BytesIO(data), target)
    return target.getvalue()


def opened_stream(sealed: bytes, key: bytes = MASTER, context: bytes = b"a test") -> bytes:
    target = io.BytesIO()
    open_stream(key, context, io.BytesIO(sealed), target)
    return target.getvalue()


@pytest.mark.parametrize(
    "n_bytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5]
)
def test_a_stream_of_any_length_opens_and_has_the_size_that_was_foretold(n_bytes):
    data = secrets.token_bytes(n_bytes)

    sealed = sealed_stream(data)

    assert len(sealed) == sealed_size(n_bytes)
    assert opened_stream(sealed) == data


def test_a_stream_opens_with_its_key_and_context_only():
    sealed = sealed_stream(b"a song")

    with pytest.raises(SealBroken, match=BROKEN):
        opened_stream(sealed, key=bytes(32))
    with pytest.raises(SealBroken, match=BROKEN):
        opened_stream(sealed, context=b"another")


def test_the_same_stream_is_never_sealed_the_same():
    one, other = sealed_stream(b"a song"), sealed_stream(b"a song")

    assert one[:SALT_BYTES] != other[:SALT_BYTES]
    assert one[SALT_BYTES:] != other[SALT_BYTES:]


def chunks_of(sealed: bytes) -> tuple[bytes, list[bytes]]:
    body = sealed[SALT_BYTES:]
    return sealed[:SALT_BYTES], [body[i : i + SEALED_CHUNK] for i in range(0, len(body), SEALED_CHUNK)]


@pytest.mark.parametrize(
    "change",
    [
        lambda chunks: [chunks[1], chunks[0], *chunks[2:]],
        lambda chunks: [chunks[0], *chunks[2:]],
        lambda chunks: [chunks[0], chunks[0], *chunks[1:]],
        lambda chunks: chunks[:-1],
        lambda chunks: chunks[:1],
        lambda chunks: [],
        lambda chunks: [*chunks[:-1], chunks[-1][:-1]],
        lambda chunks: [*chunks, chunks[-1]],
        lambda chunks: [*chunks, b"x"],
        lambda chunks: [*chunks[:-1], chunks[-1] + bytes(SEALED_CHUNK)],
    ],
    ids=[
        "swapped",
        "left out",
        "doubled",
        "last gone",
        "cut to one",
        "none",
        "cut",
        "last twice",
        "byte more",
        "zeros",
    ],
)
def test_chunks_put_elsewhere_left_out_or_added_do_not_open(change):
    salt, chunks = chunks_of(sealed_stream(secrets.token_bytes(3 * CHUNK_BYTES + 5)))
    assert len(chunks) == 4

    with pytest.raises(SealBroken, match=BROKEN):
        opened_stream(salt + b"".join(change(chunks)))


def test_a_chunk_of_another_stream_of_the_same_key_does_not_open():
    data = secrets.token_bytes(2 * CHUNK_BYTES)
    (salt, chunks), (_, others) = chunks_of(sealed_stream(data)), chunks_of(sealed_stream(data))

    with pytest.raises(SealBroken, match=BROKEN):
        opened_stream(salt + chunks[0] + others[1])


def test_no_flipped_byte_and_no_cut_of_a_stream_opens():
    sealed = sealed_stream(b"a short song")

    for damaged in [flipped(sealed, i) for i in range(len(sealed))] + [sealed[:i] for i in range(len(sealed))]:
        with pytest.raises(SealBroken, match=BROKEN):
            opened_stream(damaged)


class Zeros(io.RawIOBase):
    """A long file of which nothing is in memory: gives `n_bytes` zeros, counts what is written."""

    def __init__(self, n_bytes: int) -> None:
        self.n_left, self.n_written = n_bytes, 0

    def read(self, n_bytes: int = -1) -> bytes:
        n_bytes = min(n_bytes, self.n_left)
        self.n_left -= n_bytes
        return bytes(n_bytes)

    def write(self, data: bytes) -> int:
        self.n_written += len(data)
        return len(data)


def test_a_file_of_any_length_takes_a_few_chunks_of_memory():
    source, target = Zeros(200 * CHUNK_BYTES), Zeros(0)
    tracemalloc.start()
    try:
        seal_stream(MASTER, b"a test", source, target)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert target.n_written == sealed_size(200 * CHUNK_BYTES)
    assert peak_bytes < 5 * CHUNK_BYTES
