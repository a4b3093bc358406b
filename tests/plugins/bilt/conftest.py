"""Fixtures for the tests of BiLT."""

from contextlib import contextmanager

import pytest
import torch


@pytest.fixture
def default_dtype():
    """A context with another default type of torch."""

    @contextmanager
    def changed(dtype):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    return changed
