"""Devices that cannot compute are refused by name."""

import pytest

from graftkit.core.devices import check_device


@pytest.mark.parametrize("device", ["nowhere", "meta", "cpu:x"])
@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_unusable_devices(device, error):
    words = rf"^device: expected a torch device of this machine \(.+\), got '{device}'$"
    with pytest.raises(error, match=words):
        check_device(device, error=error)


def test_the_default_is_a_value_error_and_the_cpu_is_there():
    check_device("cpu")
    with pytest.raises(ValueError, match="device: expected"):
        check_device("nowhere")


@pytest.mark.parametrize("device", [None, 0, 1.5, True, b"cpu", ["cpu"]])
def test_what_is_no_device_at_all(device):
    with pytest.raises(TypeError, match="device: expected the name of a torch device"):
        check_device(device)
