"""A file is there whole or not at all."""

import stat

import pytest

from graftkit.core.files import readable_file, whole_file


def test_replaces_at_the_end_only(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    with whole_file(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, error):
    target = tmp_path / "a"
    target.write_text("old")

    def fail():
        with whole_file(target) as file:
            file.write(b"half")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_replace_that_fails_leaves_no_part(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError, match="folder"), whole_file(target) as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_any_new_file(tmp_path):
    with whole_file(tmp_path / "ours") as file:
        file.write(b"x")
    (tmp_path / "plain").write_bytes(b"x")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "error", [KeyError("a"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), RuntimeError(), TypeError("x")]
)
def test_whatever_a_damaged_file_causes_names_it(error):
    with pytest.raises(ValueError, match=r"^a\.txt: expected a letter, could not read it \(") as caught:
        read("some/a.txt", error)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [FileNotFoundError("none"), ValueError("a.txt: no letter"), KeyboardInterrupt("now")]
)
def test_what_says_it_already_passes(error):
    with pytest.raises(type(error)) as caught:
        read("some/a.txt", error)
    assert caught.value is error


def read(path, error):
    with readable_file(path, "a letter"):
        raise error
