"""Silent unless asked, and then on standard error."""

import pytest

from graftkit.core.progress import progress_bar


@pytest.mark.parametrize("verbose", [0, False])
def test_silent_by_default(capfd, verbose):
    assert list(progress_bar(range(3), verbose=verbose, desc="fit")) == [0, 1, 2]
    assert list(progress_bar(range(3))) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [1, 2, True])
def test_shown_on_standard_error(capfd, verbose):
    assert list(progress_bar(iter("abc"), verbose=verbose, desc="epochs", total=3)) == ["a", "b", "c"]
    out, err = capfd.readouterr()
    assert out == ""
    assert "epochs: 100%" in err
    assert "3/3" in err


def test_advanced_by_hand(capfd):
    bar = progress_bar(verbose=1, total=4, desc="pairs")
    bar.update(3)
    bar.close()
    assert bar.n == 3
    assert "3/4" in capfd.readouterr().err


def test_by_hand_and_silent(capfd):
    bar = progress_bar(total=4)
    bar.update(3)
    bar.close()
    assert capfd.readouterr() == ("", "")
