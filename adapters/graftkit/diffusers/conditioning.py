"""What each family's denoiser wants beside the noisy latent: text, pooled text, sizes, labels, positions.

Prompts are encoded by the family's own diffusers pipeline, built from our components without copying
anything; no encoder is rewritten here.

>>> text = encode_prompts(pipe, ["a horse", "a horse"])  # doctest: +SKIP
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import diffusers
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from graftkit.core.validation import raise_invalid

__all__ = ["Text", "denoiser_arguments", "encode_prompts", "read_prompt"]


@dataclass(frozen=True)
class Text:
    """Encoded prompts, one row an image; what a family does not have is None.

    Parameters
    ----------
    embeds, pooled : Tensor of shape (B, T, d), of shape (B, p), or None
        Token and sentence embeddings.
    mask : Tensor of shape (B, T) or None
        Which tokens count.
    embeds_2, mask_2 : Tensor of shape (B, T2, d2), of shape (B, T2), or None
        The second encoder's, where they stay apart.
    """

    embeds: Tensor | None = None
    pooled: Tensor | None = None
    mask: Tensor | None = None
    embeds_2: Tensor | None = None
    mask_2: Tensor | None = None

    def rows(self, index: Any) -> "Text":
        """The text of some images.

        Parameters
        ----------
        index : slice or Tensor of shape (n,)
            Which rows.

        Returns
        -------
        Text
            Those rows.
        """
        return self._each(lambda tensor: tensor[index])

    def expanded(self, batch: int) -> "Text":
        """One row for all, or as many rows as images.

        Parameters
        ----------
        batch : int
            Number of images.

        Returns
        -------
        Text
            With `batch` rows.

        Raises
        ------
        ValueError
            If there are neither 1 nor `batch` rows.
        """
        for name, tensor in vars(self).items():
            if tensor is not None and len(tensor) not in (1, batch):
                raise_invalid(
                    f"prompt {name}", tensor, f"1 or {batch} rows, one an image (got {len(tensor)})"
                )
        return self._each(lambda t: t.expand(batch, *t.shape[1:]) if len(t) != batch else t)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Text":
        """Moved, floating tensors cast.

        Parameters
        ----------
        device : torch.device
            Where to.
        dtype : torch.dtype
            Of embeddings; integer masks keep theirs.

        Returns
        -------
        Text
            The moved text.
        """
        return self._each(lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device))

    def _each(self, change: Any) -> "Text":
        return replace(self, **{k: change(v) for k, v in vars(self).items() if v is not None})


def read_prompt(prompt: Any, batch: int) -> list[str] | None:
    """Prompts as a list of length 1 or `batch`; None stays None.

    Raises
    ------
    TypeError
        If it is neither a string nor a list of strings.
    ValueError
        If the lengths differ.
    """
    if prompt is None:
        return None
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
        raise_invalid("prompt", prompt, "a string or a list of strings", error=TypeError)
    if len(prompts) not in (1, batch):
        raise ValueError(f"prompt: expected 1 or {batch} prompts for {batch} images, got {len(prompts)}")
    return list(prompts)


SOURCES = {
    "unet": "StableDiffusionPipeline",
    "unet-xl": "StableDiffusionXLPipeline",
    "pixart": "PixArtAlphaPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
    "hunyuan": "HunyuanDiTPipeline",
}


def encode_prompts(pipe: Any, prompts: list[str], *, lora_scale: float | None = None) -> Text:
    """Encode each distinct prompt once, by the family's own pipeline."""
    distinct = list(dict.fromkeys(prompts))
    with torch.no_grad():
        text = _encode(pipe, distinct, lora_scale)
    order = [distinct.index(prompt) for prompt in prompts]
    return text if len(prompts) == len(distinct) else text.rows(torch.tensor(order, device=_device_of(text)))


def _device_of(text: Text) -> torch.device:
    device: torch.device = next(t.device for t in vars(text).values() if t is not None)
    return device


def _encode(pipe: Any, prompts: list[str], lora_scale: float | None) -> Text:
    family = pipe.family
    key = "unet-xl" if family == "unet" and pipe.text_encoder_2 is not None else family
    if key not in SOURCES:
        raise_invalid("prompt", prompts[0], f"none: {type(pipe.denoiser).__name__} takes no text_encoder")
    name = SOURCES[key]
    if family == "pixart" and "Sigma" in (pipe.config.source_class or ""):
        name = "PixArtSigmaPipeline"
    source = _source(getattr(diffusers, name), pipe)
    device = pipe._execution_device
    plain = {"prompt": prompts, "device": device, "num_images_per_prompt": 1}
    if key == "flux":
        # The tokens of the T5 encoder, of the length that its tokenizer allows.
        length = min(512, getattr(pipe.tokenizer_2, "model_max_length", 512))
        embeds, pooled, _ = source.encode_prompt(
            prompt_2=None, max_sequence_length=length, lora_scale=lora_scale, **plain
        )
        return Text(embeds, pooled)
    plain["do_classifier_free_guidance"] = False
    if key == "unet":
        return Text(source.encode_prompt(lora_scale=lora_scale, **plain)[0])
    if key == "unet-xl":
        embeds, _, pooled, _ = source.encode_prompt(lora_scale=lora_scale, **plain)
        return Text(embeds, pooled)
    if key == "sd3":
        embeds, _, pooled, _ = source.encode_prompt(
            prompt_2=None, prompt_3=None, lora_scale=lora_scale, **plain
        )
        return Text(embeds, pooled)
    if key == "pixart":
        embeds, mask, _, _ = source.encode_prompt(**plain)
        return Text(embeds, mask=mask)
    dtype = pipe.denoiser.dtype
    embeds, _, mask, _ = source.encode_prompt(dtype=dtype, text_encoder_index=0, **plain)
    embeds_2, _, mask_2, _ = source.encode_prompt(dtype=dtype, text_encoder_index=1, **plain)
    return Text(embeds, None, mask, embeds_2, mask_2)


def _source(cls: Any, pipe: Any) -> Any:
    """The family's pipeline over our encoders; what prompts do not need stays out (and unchanged)."""
    expected, _ = cls._get_signature_keys(cls)
    # A VAE or a scheduler is not needed, and some pipelines rewrite an old scheduler's configuration.
    kept = {key: value for key, value in pipe.components.items() if key not in ("vae", "scheduler")}
    arguments = {key: kept.get(key) for key in expected}
    if "requires_safety_checker" in cls.__init__.__code__.co_varnames:
        arguments["requires_safety_checker"] = False
    return cls(**arguments)


def denoiser_arguments(
    pipe: Any,
    text: Text,
    latents: Tensor,
    *,
    image_size: tuple[int, int],
    class_labels: Tensor | None = None,
    original_size: tuple[int, int] | None = None,
    crops_coords_top_left: tuple[int, int] = (0, 0),
    target_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of the denoiser, without latent and timestep.

    Raises
    ------
    ValueError
        If the model needs text or labels that are missing.
    """
    model, family, batch = pipe.denoiser, pipe.family, len(latents)
    original, target = original_size or image_size, target_size or image_size
    device, dtype = latents.device, latents.dtype
    labels = _labels(model, family, class_labels, batch, device)
    if family in ("unet2d", "dit"):
        return {"class_labels": labels}
    needs_text = family != "unet" or getattr(model.config, "cross_attention_dim", None) is not None
    if needs_text and text.embeds is None:
        raise_invalid("prompt_embeds", None, "embeddings, as the pipeline has no text_encoder")
    if family == "unet":
        arguments: dict[str, Any] = {"encoder_hidden_states": text.embeds, "class_labels": labels}
        if text.mask is not None:
            arguments["encoder_attention_mask"] = text.mask
        if model.config.addition_embed_type == "text_time":
            sizes: list[float] = [*original, *crops_coords_top_left, *target]
            room, each = model.add_embedding.linear_1.in_features, model.config.addition_time_embed_dim
            if text.pooled is not None and text.pooled.shape[-1] == room - 5 * each:
                # SDXL's refiner takes an aesthetic score, by default 6, in place of the target's size.
                sizes = [*original, *crops_coords_top_left, 6.0]
            expected = room - len(sizes) * each
            if text.pooled is None or text.pooled.shape[-1] != expected:
                raise_invalid(
                    "pooled_prompt_embeds", text.pooled, f"shape (B, {expected}), as this U-Net needs"
                )
            arguments["added_cond_kwargs"] = {
                "text_embeds": text.pooled,
                "time_ids": torch.tensor([sizes], device=device, dtype=dtype).expand(batch, -1),
            }
        return arguments
    if family == "pixart":
        added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if model.use_additional_conditions:
            added["resolution"] = torch.tensor([image_size], device=device, dtype=dtype).repeat(batch, 1)
            ratio = image_size[0] / image_size[1]
            added["aspect_ratio"] = torch.full((batch, 1), ratio, device=device, dtype=dtype)
        arguments = {"encoder_hidden_states": text.embeds, "added_cond_kwargs": added}
        return arguments if text.mask is None else {**arguments, "encoder_attention_mask": text.mask}
    if family == "hunyuan":
        return _hunyuan(model, text, latents, (*original, *target, *crops_coords_top_left))
    if text.pooled is None:
        raise_invalid("pooled_prompt_embeds", None, "pooled embeddings, as the pipeline has no text_encoder")
    arguments = {"encoder_hidden_states": text.embeds, "pooled_projections": text.pooled}
    if family == "flux":
        rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
        assert text.embeds is not None
        arguments["txt_ids"] = torch.zeros(text.embeds.shape[1], 3, device=device, dtype=dtype)
        arguments["img_ids"] = diffusers.FluxPipeline._prepare_latent_image_ids(
            batch, rows, columns, device, dtype
        )
        if model.config.guidance_embeds:
            # As without guidance: the distilled models' neutral value.
            arguments["guidance"] = torch.ones(batch, device=device)
    return arguments


def _labels(
    model: Any, family: str, labels: Tensor | None, batch: int, device: torch.device
) -> Tensor | None:
    needed = family == "dit" or (
        family in ("unet", "unet2d")
        and (model.config.class_embed_type is not None or model.config.num_class_embeds is not None)
    )
    if labels is None:
        if needed:
            raise_invalid("class_labels", None, "labels, as this model is class-conditional")
        return None
    if not needed:
        raise_invalid("class_labels", labels, "None: this model takes no labels")
    if len(labels) not in (1, batch):
        raise_invalid("class_labels", labels, f"1 or {batch} labels, one an image")
    kind = getattr(model.config, "class_embed_type", None)
    if kind in ("projection", "simple_projection"):
        width = model.config.projection_class_embeddings_input_dim
        if labels.ndim != 2 or labels.shape[1] != width or not labels.is_floating_point():
            raise_invalid("class_labels", labels, f"floating vectors of shape (1 or B, {width})")
    elif labels.ndim != 1:
        raise_invalid("class_labels", labels, "shape (1,) or (B,)")
    elif kind is None:
        # DiT has one more, for no class.
        last = model.config.num_embeds_ada_norm if family == "dit" else model.config.num_class_embeds - 1
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise_invalid("class_labels", labels, f"integers in 0..{last}", error=TypeError)
        # A stand-in on the meta device has no values.
        if labels.device.type != "meta" and not 0 <= int(labels.min()) <= int(labels.max()) <= last:
            raise_invalid("class_labels", labels.tolist(), f"integers in 0..{last}")
    return labels.to(device).expand(batch, *labels.shape[1:])


def _hunyuan(model: Any, text: Text, latents: Tensor, sizes: tuple[int, ...]) -> dict[str, Any]:
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    batch, device, dtype = len(latents), latents.device, latents.dtype
    if text.embeds_2 is None or text.mask is None or text.mask_2 is None:
        raise_invalid("prompt_embeds_2", text.embeds_2, "embeddings and masks of both text encoders")
    patch = model.config.patch_size
    grid = (latents.shape[-2] // patch, latents.shape[-1] // patch)
    base = 512 // 8 // patch
    region = get_resize_crop_region_for_grid(grid, base)  # type: ignore[no-untyped-call]
    rotation = get_2d_rotary_pos_embed(
        model.inner_dim // model.num_heads,
        region,
        grid,
        device=device,
        output_type="pt",
    )
    arguments: dict[str, Any] = {
        "encoder_hidden_states": text.embeds,
        "text_embedding_mask": text.mask,
        "encoder_hidden_states_t5": text.embeds_2.contiguous(),  # which the model flattens by view
        "text_embedding_mask_t5": text.mask_2,
        "image_rotary_emb": rotation,
    }
    if model.config.use_style_cond_and_image_meta_size:
        arguments["image_meta_size"] = torch.tensor([sizes], device=device, dtype=dtype).repeat(batch, 1)
        arguments["style"] = torch.zeros(batch, dtype=torch.long, device=device)
    return arguments
