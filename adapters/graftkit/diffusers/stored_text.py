"""An encoded prompt as a module: it moves and is saved with the module that it is part of.

>>> list(StoredText(Text(embeds=torch.zeros(1, 4, 8))).state_dict())
['embeds']
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.techniques import applied
from graftkit.methods.content_shift import Technique

__all__ = ["StoredText", "stored_text"]


class StoredText(nn.Module):
    """A text's tensors as buffers.

    Parameters
    ----------
    text : Text
        The encoded prompt.
    """

    def __init__(self, text: Text) -> None:
        super().__init__()
        for key, tensor in vars(text).items():
            self.register_buffer(key, None if tensor is None else tensor.detach().clone())

    def read(self) -> Text:
        """The text."""
        return Text(**dict(self._buffers))


def stored_text(pipe: Any, technique: Technique, prompt: str | None) -> StoredText:
    """The technique's prompt, encoded once under its adapters; `prompt` where it has none."""
    words = technique.prompt[0] if isinstance(technique.prompt, tuple) else technique.prompt
    # Text encoders may carry a LoRA too; fusing would change the denoiser's weights as well, for nothing.
    with applied(pipe, replace(technique, fuse=False)), torch.no_grad():
        return StoredText(pipe.encode_text(prompt if words is None else words))
