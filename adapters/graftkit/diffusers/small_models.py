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
from graftkit.core.extras import require
from graftkit.core.random import torch_generator
from graftkit.diffusers.pipeline import DiffusionFeaturePipeline
from graftkit.methods.content_shift import edge_image
from graftkit.methods.content_shift.training import train_steering
from graftkit.methods.diffusion_feature.training import train_denoiser

__all__ = ["FoldingVAE", "small_pipeline", "train_controlnet", "train_lora", "train_pipeline"]

WIDTH, TOKENS, EDGES = 24, 16, "sobel"


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


def train_pipeline(
    pipe: Any, images: Tensor, prompts: Sequence[str], *, steps: int, seed: int = 0, verbose: int = 0
) -> list[float]:
    """Train the U-Net on pictures under their prompts, half of the time under the empty one.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Its U-Net is trained in place.
    images : Tensor of shape (N, 3, H, W)
        In [0, 1].
    prompts : sequence of str
        One an image.
    steps : int
        Updates of 8 pictures.
    seed : int, default=0
        Of batches, times and noise.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    list of float
        The loss of each update.
    """
    latents, texts = _latents(images), _texts(pipe, prompts)
    empty = _texts(pipe, [""]).expand_as(texts)
    return train_denoiser(
        pipe.unet, latents.repeat(2, 1, 1, 1), torch.cat([texts, empty]), steps=steps, drop=0.0, flip=False,
        random_state=seed, verbose=verbose,
    )  # fmt: skip


def train_controlnet(
    pipe: Any, images: Tensor, prompts: Sequence[str], *, steps: int, seed: int = 0, verbose: int = 0
) -> list[float]:
    """Give the pipeline a ControlNet on edges; the U-Net stays as it is.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Its ``controlnet`` is set.
    images : Tensor of shape (N, 3, H, W)
        In [0, 1]; edges are Sobel's.
    prompts : sequence of str
        One an image.
    steps : int
        Updates of 8 pictures.
    seed : int, default=0
        Of weights, batches, times and noise.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    list of float
        The loss of each update.
    """
    unet = pipe.unet
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 32))
    unet.requires_grad_(False)
    net.train()

    def predict(noisy: Tensor, time: Tensor, text: Tensor, edges: Tensor) -> Tensor:
        down, mid = net(noisy, time, text, controlnet_cond=edges, return_dict=False)
        noise: Tensor = unet(
            noisy, time, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        )[0]
        return noise

    conditions = (_either(pipe, prompts, seed), edge_image(images, EDGES))
    losses = train_steering(
        predict, net.parameters(), _latents(images), conditions, steps=steps, lr=4e-3, random_state=seed,
        verbose=verbose,
    )  # fmt: skip
    pipe.register_modules(controlnet=net.eval())
    return losses


def train_lora(
    pipe: Any, images: Tensor, prompts: Sequence[str], name: str, *, steps: int, seed: int = 0
) -> list[float]:
    """Give the U-Net a LoRA adapter for these pictures; its other weights stay.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Its U-Net gets the adapter.
    images : Tensor of shape (N, 3, H, W)
        In [0, 1]; the paper takes 30.
    prompts : sequence of str
        One an image.
    name : str
        Of the adapter.
    steps : int
        Updates of 8 pictures.
    seed : int, default=0
        Of weights, batches, times and noise.

    Returns
    -------
    list of float
        The loss of each update.

    Raises
    ------
    ImportError
        Without peft.
    """
    peft: Any = require("peft", extra="diffusers", distribution="peft")
    unet = pipe.unet
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    unet.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(config, name)
    unet.set_adapters([name])
    own = [p for key, p in unet.named_parameters() if f".{name}." in key]
    for parameter in own:
        parameter.requires_grad_(True)
    try:
        return train_steering(
            lambda noisy, time, text: unet(noisy, time, text)[0], own, _latents(images),
            (_either(pipe, prompts, seed),), steps=steps, random_state=seed,
        )  # fmt: skip
    finally:
        unet.requires_grad_(False)


def _latents(images: Tensor) -> Tensor:
    return functional.pixel_unshuffle(2 * images - 1, 4)


def _texts(pipe: Any, prompts: Sequence[str]) -> Tensor:
    with torch.no_grad():
        found: Tensor = pipe.encode_text(list(prompts), batch=len(prompts)).embeds
    return found


def _either(pipe: Any, prompts: Sequence[str], seed: int) -> Tensor:
    """Texts, half of them empty."""
    empty = torch.rand(len(prompts), generator=torch_generator(seed)) < 0.5
    return _texts(pipe, ["" if none else text for text, none in zip(prompts, empty, strict=True)])
