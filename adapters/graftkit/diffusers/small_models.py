"""A small text-conditional diffusion model with a ControlNet and a LoRA, trained on the spot.

For examples, tests and benchmarks where no pretrained weights are at hand: diffusers' own classes, a text
encoder with random weights that is left so, and folding of pixels in place of a VAE.

>>> pipe = small_pipeline(("red", "disc"))
>>> type(pipe.unet).__name__, pipe.encode_text("red disc").embeds.shape
('UNet2DConditionModel', torch.Size([1, 16, 24]))
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel

import diffusers
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from graftkit.diffusers.pipeline import DiffusionFeaturePipeline
from graftkit.diffusers.small_training import train_controlnet, train_lora, train_pipeline

__all__ = ["FoldingVAE", "small_pipeline", "train_controlnet", "train_lora", "train_pipeline"]

WIDTH, TOKENS = 24, 16


class FoldingVAE(diffusers.ModelMixin, ConfigMixin):
    """Four by four pixels as channels: an exact stand-in for an autoencoder.

    Parameters
    ----------
    scaling_factor : float, default=1.0
        Of latents.
    block_out_channels : sequence of int, default=(1, 1, 1)
        As many as give the factor 4 by diffusers' rule.
    """

    @register_to_config
    def __init__(self, scaling_factor: float = 1.0, block_out_channels: Sequence[int] = (1, 1, 1)) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        del scaling_factor, block_out_channels  # read from the config
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # knows device and type

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Fold."""
        z = functional.pixel_unshuffle(x, 4)
        sure = DiagonalGaussianDistribution(torch.cat([z, torch.full_like(z, -30.0)], 1))
        return AutoencoderKLOutput(latent_dist=sure) if return_dict else (sure,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Unfold."""
        x = functional.pixel_shuffle(z, 4)
        return DecoderOutput(sample=x) if return_dict else (x,)


def small_pipeline(
    words: Sequence[str], *, channels: Sequence[int] = (32, 48, 64), seed: int = 0
) -> DiffusionFeaturePipeline:
    """An untrained feature pipeline whose prompts know these words.

    Parameters
    ----------
    words : sequence of str
        Lower-case words.
    channels : sequence of int, default=(32, 48, 64)
        Of the U-Net's levels.
    seed : int, default=0
        Of all weights.

    Returns
    -------
    DiffusionFeaturePipeline
        For pictures whose sides divide by ``size_unit``.
    """
    classes: Any = diffusers  # typed in part
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text: Any = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary), hidden_size=WIDTH, intermediate_size=2 * WIDTH,
                num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=TOKENS, pad_token_id=0,
                bos_token_id=2, eos_token_id=3,
            )
        )  # fmt: skip
        unet: Any = classes.UNet2DConditionModel(
            sample_size=(12, 16), in_channels=48, out_channels=48, block_out_channels=tuple(channels),
            down_block_types=("CrossAttnDownBlock2D",) * len(channels), layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D",) * len(channels), cross_attention_dim=WIDTH,
            attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip
    vae: Any = FoldingVAE()
    schedule = classes.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    tokenizer = BertTokenizer(vocab={word: k for k, word in enumerate(vocabulary)}, model_max_length=TOKENS)
    pipe = DiffusionFeaturePipeline(
        scheduler=schedule, unet=unet.eval(), vae=vae.eval(), text_encoder=text.eval(),
        tokenizer=tokenizer, source_class="StableDiffusionPipeline",
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
