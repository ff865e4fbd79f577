"""Files are written whole or not at all."""

import numpy as np
import pytest

from maskgit_export.files import whole, write_bytes, write_text


def test_what_is_written_takes_the_place_of_what_was_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "some.npy"
    with whole(path) as partial:
        np.save(partial, np.arange(3))
        assert not path.exists()
    for reason in (KeyboardInterrupt, OSError):
        with pytest.raises(reason), whole(path) as partial:
            partial.write_bytes(b"half of")
            raise reason
        assert np.load(path).tolist() == [0, 1, 2] and list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt), whole(path):
        raise KeyboardInterrupt
    with whole(path) as partial:
        np.save(partial, np.arange(2))
    assert np.load(path).tolist() == [0, 1] and list(tmp_path.iterdir()) == [path]


def test_texts_are_utf8_and_replaced(tmp_path):
    for text in ("first, longer", "Kynkäänniemi"):
        write_text(tmp_path / "a.json", text)
    write_bytes(tmp_path / "b", memoryview(b"\x00\xff"))
    assert (tmp_path / "a.json").read_bytes() == text.encode() and (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b"]
