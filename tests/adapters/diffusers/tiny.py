"""Tiny random models and pipelines of every family, built by code: no weights, no network."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WORDS = ["a", "photo", "of", "horse", "street"]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def golden_unet() -> Any:
    """The U-Net of the specification's golden values."""
    model = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=6, attention_head_dim=2,
        norm_num_groups=4,
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            if parameter.ndim > 1:
                values = torch.sin(0.7 * i + 1.3 * k) / (parameter.numel() // len(parameter)) ** 0.5
            else:
                values = 0.1 * torch.sin(i + k) + (1.0 if name.endswith("weight") else 0.0)
            parameter.copy_(values.reshape(parameter.shape))
    return model


def seeded(build: Any) -> Any:
    """A model from a private stretch of the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def sd_unet(**changes: Any) -> Any:
    """Stable Diffusion 1.x's structure, 16 to 32 channels."""
    config: dict[str, Any] = {
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 2, "cross_attention_dim": 12, "attention_head_dim": 2, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    }  # fmt: skip
    return seeded(lambda: diffusers.UNet2DConditionModel(**{**config, **changes}))


def sdxl_unet(**changes: Any) -> Any:
    """SDXL's structure, with the pooled text and the sizes."""
    config: dict[str, Any] = dict(  # noqa: C408
        block_out_channels=(8, 16, 16), down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), transformer_layers_per_block=(1, 2, 10),
        addition_embed_type="text_time", addition_time_embed_dim=4, use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 4 + 12, cross_attention_dim=24,
    )  # fmt: skip
    return sd_unet(**{**config, **changes})


def vae(channels: int = 4, **changes: Any) -> Any:
    """An autoencoder that divides sides by 2."""
    return seeded(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 8), latent_channels=channels, norm_num_groups=4, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **changes,
        )
    )  # fmt: skip


def clip(projection: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=40, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return seeded(lambda: (CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


def clip_tokenizer(folder: Path) -> Any:
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *(f"{word}</w>" for word in WORDS), *"aphotfrse"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(dict.fromkeys(vocabulary))})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def t5(width: int = 12) -> Any:
    config = T5Config(vocab_size=40, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return seeded(lambda: T5EncoderModel(config))


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=10)


def sd_pipe(folder: Path, **changes: Any) -> Any:
    """A StableDiffusionPipeline, as a user has it."""
    parts = {
        "vae": vae(), "text_encoder": clip(), "tokenizer": clip_tokenizer(folder), "unet": sd_unet(),
        "scheduler": diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1, **SCHEDULE),
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    return diffusers.StableDiffusionPipeline(**{**parts, **changes})


def sdxl_pipe(folder: Path) -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(projection=True),
        tokenizer=clip_tokenizer(folder),
        tokenizer_2=clip_tokenizer(folder),
        unet=sdxl_unet(),
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )


def pixart() -> Any:
    return seeded(
        lambda: diffusers.PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            cross_attention_dim=16,
            caption_channels=12,
            patch_size=2,
            norm_num_groups=4,
            use_additional_conditions=False,
        )
    )


def pixart_pipe() -> Any:
    return diffusers.PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=pixart(),
        scheduler=diffusers.DPMSolverMultistepScheduler(**SCHEDULE),
    )  # fmt: skip


def dit() -> Any:
    return seeded(
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
            norm_num_groups=4,
        )
    )


def sd3() -> Any:
    return seeded(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=16,
            qk_norm="rms_norm",
        )
    )


def sd3_pipe(folder: Path) -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=sd3(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        text_encoder=clip(projection=True),
        tokenizer=clip_tokenizer(folder),
        text_encoder_2=clip(projection=True),
        tokenizer_2=clip_tokenizer(folder),
        text_encoder_3=t5(32),
        tokenizer_3=t5_tokenizer(),
    )


def flux(**changes: Any) -> Any:
    return seeded(
        lambda: diffusers.FluxTransformer2DModel(
            **{
                "patch_size": 1,
                "in_channels": 16,
                "num_layers": 2,
                "num_single_layers": 2,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 12,
                "pooled_projection_dim": 12,
                "axes_dims_rope": (4, 6, 6),
                **changes,
            }
        )
    )


def flux_pipe(folder: Path) -> Any:
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae(shift_factor=0.1), text_encoder=clip(),
        tokenizer=clip_tokenizer(folder), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(), transformer=flux(),
    )  # fmt: skip


def hunyuan() -> Any:
    return seeded(
        lambda: diffusers.HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=16,
            num_layers=4,
            mlp_ratio=2.0,
            cross_attention_dim=12,
            cross_attention_dim_t5=16,
            pooled_projection_dim=8,
            text_len=77,
            text_len_t5=256,
        )
    )


def hunyuan_pipe(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    config = BertConfig(
        vocab_size=40, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=80,
    )  # fmt: skip
    return diffusers.HunyuanDiTPipeline(
        vae=vae(),
        text_encoder=seeded(lambda: BertModel(config)),
        transformer=hunyuan(),
        tokenizer=BertTokenizer(str(folder / "vocab.txt"), model_max_length=77),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(16),
        tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.DDPMScheduler(**SCHEDULE),
    )


def image(count: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    """Pictures in [0, 1]."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
