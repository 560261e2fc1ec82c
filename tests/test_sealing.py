import json
import stat

import pytest

from fedpurel_app.core.errors import ConfigError, DamagedError, StateError
from fedpurel_app.site.sealing import Key, is_sealed, make_key_file, read_key, seal, sealed_facts, unseal

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
FACTS: dict[str, str | int] = {"experiment": "e", "round": 3}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "key"


def test_what_was_sealed_comes_back_and_cannot_be_read(path):
    sealed = seal(b"private" * 10, FACTS, KEY)
    assert is_sealed(sealed) and not is_sealed(b"private") and b"private" not in sealed
    assert unseal(sealed, KEY, path) == b"private" * 10 and sealed_facts(sealed, path) == FACTS
    assert seal(b"private" * 10, FACTS, KEY) != sealed, "a nonce is never used twice"
    assert KEY.secret not in sealed and KEY.secret.hex() not in repr(KEY)


def test_no_byte_can_be_changed(path):
    """Facts, name of the cipher, nonce, content and tag are all bound to the key."""
    sealed = bytearray(seal(b"abc", FACTS, KEY))
    for index in range(len(b"fedpurel sealed 1\n"), len(sealed)):
        changed = bytes(sealed[:index]) + bytes([sealed[index] ^ 1]) + bytes(sealed[index + 1 :])
        with pytest.raises(StateError):
            unseal(changed, KEY, path)


@pytest.mark.parametrize("left", [19, 40, -1, -16, -28])
def test_a_cut_file_is_damaged(path, left):
    with pytest.raises(DamagedError, match="is damaged"):
        unseal(seal(b"abc", FACTS, KEY)[:left], KEY, path)


def test_no_key_and_another_key_are_told_from_damage(path):
    sealed = seal(b"abc", FACTS, KEY)
    for key, part in ((None, "without a key"), (OTHER, f"with key {OTHER.name}")):
        with pytest.raises(StateError, match=f"encrypted with key {KEY.name}, and this node was started {part}") as got:
            unseal(sealed, key, path)
        assert not isinstance(got.value, DamagedError) and "key-file" in str(got.value)


def test_the_facts_in_the_clear_cannot_be_exchanged(path):
    sealed = seal(b"abc", FACTS, KEY)
    changed = sealed.replace(b'"round": 3', b'"round": 4')
    assert sealed_facts(changed, path)["round"] == 4
    with pytest.raises(DamagedError):
        unseal(changed, KEY, path)


def test_a_key_file_is_new_random_and_its_owners(path):
    key = make_key_file(path)
    assert read_key(path) == key and len(key.secret) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert make_key_file(path.with_name("second")) != key
    with pytest.raises(ConfigError, match="exists, and is not overwritten"):
        make_key_file(path)
    assert read_key(path) == key


@pytest.mark.parametrize(
    ("size", "mode", "part"),
    [(32, 0o640, "chmod 600"), (32, 0o604, "chmod 600"), (31, 0o600, "31 bytes"), (0, 0o400, "0 bytes")],
)
def test_a_bad_key_file_is_refused(path, size, mode, part):
    path.write_bytes(bytes(size))
    path.chmod(mode)
    with pytest.raises(ConfigError, match=part):
        read_key(path)


def test_an_absent_key_file_says_how_to_make_one(path):
    with pytest.raises(ConfigError, match="fedpurel keygen"):
        read_key(path)


def test_the_header_is_what_it_is_documented_to_be(path):
    kind, header, _ = seal(b"abc", FACTS, KEY).split(b"\n", 2)
    assert kind == b"fedpurel sealed 1"
    assert json.loads(header) == {"cipher": "AES-256-GCM", "key": KEY.name, "facts": FACTS}
