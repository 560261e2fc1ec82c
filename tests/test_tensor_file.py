from pathlib import Path

import numpy as np
import pytest

from fedpurel_app.core.errors import DamagedError, StateError
from fedpurel_app.core.tensor_file import dump, facts_of, parse, read

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
ARRAYS: dict[str, np.ndarray] = {"b": SIX, "a": np.ones((2, 0)), "c": np.array(3)}
PATH = Path("file")


def test_arrays_and_facts_come_back_and_equal_content_gives_equal_bytes():
    content = dump(ARRAYS, {"round": 3, "site": "a"})
    arrays, facts = parse(content, PATH)
    assert facts == {"round": 3, "site": "a"} and set(arrays) == set(ARRAYS)
    for name, value in ARRAYS.items():
        assert np.array_equal(arrays[name], value) and arrays[name].dtype == value.dtype
        assert arrays[name].flags.writeable
    assert dump(dict(reversed(ARRAYS.items())), {"site": "a", "round": 3}) == content


def test_no_byte_can_change_unnoticed():
    """Spaces that pad the header are the one exception: they say nothing."""
    content = dump(ARRAYS, {"round": 3})
    arrays, facts = parse(content, PATH)
    for index in range(len(content)):
        changed = content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]
        try:
            found, told = parse(changed, PATH)
        except DamagedError:
            continue
        assert content[index : index + 1] == b" ", index
        assert told == facts and all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_facts_alone_are_read_without_the_arrays():
    content = dump(ARRAYS, {"round": 3})
    assert facts_of(content[: -len(b"x" * 8)], PATH)["round"] == 3
    for damaged in (b"", b"x" * 100, content[:20]):
        with pytest.raises(DamagedError):
            facts_of(damaged, PATH)


def test_a_file_that_the_disk_refuses_is_not_called_damaged(tmp_path):
    with pytest.raises(StateError, match="cannot be read") as caught:
        read(tmp_path)  # a folder
    assert not isinstance(caught.value, DamagedError)
