"""Our own transcriptions of published procedures, to be measured against; nothing of their code is copied.

``dift`` follows the description of DIFT (Tang et al., 2023): the image is repeated `draws` times through
the VAE, each copy gets its own noise, the U-Net runs up to one block of the up stage in one batch, and the
copies' features are averaged. ``StoreEverything`` follows arXiv 2410.03558's public code as the
specification describes it: explicit softmax in every layer, per-head maps kept, everything cast to float16.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor


@torch.no_grad()
def dift(pipe: Any, image: Tensor, text: Tensor, *, block: int, t: int, draws: int, generator: Any) -> Tensor:
    """Features of one image after `block` blocks of the up stage, the mean of `draws`."""
    unet = pipe.unet
    copies = (2 * image - 1).expand(draws, -1, -1, -1)
    latents = pipe.vae.encode(copies).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator)
    level = float(pipe.scheduler.alphas_cumprod[t])
    sample = level**0.5 * latents + (1 - level) ** 0.5 * noise
    words = text.expand(draws, -1, -1)
    embedding = unet.time_embedding(unet.time_proj(torch.tensor([t]).expand(draws)).to(sample.dtype))
    sample = unet.conv_in(sample)
    kept = (sample,)
    for down in unet.down_blocks:
        arguments = {"encoder_hidden_states": words} if getattr(down, "has_cross_attention", False) else {}
        sample, states = down(hidden_states=sample, temb=embedding, **arguments)
        kept += states
    sample = unet.mid_block(sample, embedding, encoder_hidden_states=words)
    for up in unet.up_blocks[: block + 1]:
        states, kept = kept[-len(up.resnets) :], kept[: -len(up.resnets)]
        arguments = {"encoder_hidden_states": words} if getattr(up, "has_cross_attention", False) else {}
        sample = up(hidden_states=sample, temb=embedding, res_hidden_states_tuple=states, **arguments)
    return sample.mean(0, keepdim=True)


class Storing(AttnProcessor):
    """diffusers' explicit softmax, its probabilities kept per head in float16."""

    def __init__(self, store: list[Tensor] | None) -> None:
        super().__init__()
        self.store = store

    def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        original = attn.get_attention_scores

        def scores(*a: Any, **k: Any) -> Tensor:
            found = original(*a, **k)
            if self.store is not None:
                self.store.append(found.half())
            return found

        attn.get_attention_scores = scores
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            del attn.get_attention_scores


class StoreEverything:
    """Context in which every attention of a model runs explicitly; its maps are in ``maps`` if asked."""

    def __init__(self, unet: Any, *, keep: bool) -> None:
        self.unet, self.maps = unet, [] if keep else None
        self._own = dict(unet.attn_processors)

    def __enter__(self) -> "StoreEverything":
        self.unet.set_attn_processor({name: Storing(self.maps) for name in self._own})
        return self

    def __exit__(self, *_: object) -> None:
        self.unet.set_attn_processor(dict(self._own))
