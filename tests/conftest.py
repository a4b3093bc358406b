"""What every test can rely on: no network, no window, data where it is, a GPU only where there is one."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any host is imported: no hub look-ups, no window system.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.setdefault("MPLBACKEND", "Agg")

# A shared machine is sometimes slow; the same examples every run, so that a failure can be repeated.
settings.register_profile("graftkit", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("graftkit")

LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "", None, socket.gethostname()}


class NetworkUsed(AssertionError):
    """A test tried to leave the machine."""


def _refuse_remote(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in LOCAL and not str(name).startswith("127."):
        raise NetworkUsed(f"tests run without a network, yet something asked for {name!r}")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Block connections and name look-ups; loopback stays open, for tests with two processes."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _refuse_remote(address[0])
            return original(self, address)

        return call

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_remote(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the shared data sets; the test is skipped, with the reason, where there is none."""
    given = os.environ.get("GRAFTKIT_DATA")
    if not given:
        pytest.skip("GRAFTKIT_DATA is not set: no shared data sets here")
    root = Path(given)
    if not root.is_dir():
        pytest.skip(f"GRAFTKIT_DATA names no folder: {given}")
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where torch sees no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))
