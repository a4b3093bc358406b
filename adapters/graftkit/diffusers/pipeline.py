"""Dense features from any activation of a diffusers model, by name.

One noising, one forward, no sampling; hooks only, nothing of diffusers is patched or subclassed, and the
forward ends at the last activation that was asked for. Method: Meng et al., NeurIPS 2024, arXiv 2410.03558.

>>> from graftkit.diffusers import DiffusionFeaturePipeline
>>> pipe = DiffusionFeaturePipeline.from_pipe(sd_pipe)  # doctest: +SKIP
>>> pipe(image, "a photo of a horse", features="up-level1-*-cross-q").features  # doctest: +SKIP
"""

from typing import Any, ClassVar

from transformers import (
    BertModel,
    BertTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

import diffusers
from diffusers import DiffusionPipeline
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from graftkit.core.validation import check_choice, raise_invalid
from graftkit.diffusers.calls import FeatureCalls
from graftkit.diffusers.gate import Guideline
from graftkit.diffusers.inspection import measure
from graftkit.diffusers.requests import resolve
from graftkit.diffusers.shift_scores import ShiftScores
from graftkit.diffusers.taps import FAMILIES, denoiser_taps, family_of
from graftkit.methods.diffusion_feature.layouts import recognize_layout
from graftkit.methods.diffusion_feature.names import match_names
from graftkit.methods.diffusion_feature.pools import generic_pool, paper_pool

__all__ = ["DiffusionFeaturePipeline"]

UNet = diffusers.UNet2DConditionModel | diffusers.UNet2DModel | None
Transformer = (
    diffusers.PixArtTransformer2DModel
    | diffusers.DiTTransformer2DModel
    | diffusers.HunyuanDiT2DModel
    | diffusers.SD3Transformer2DModel
    | diffusers.FluxTransformer2DModel
    | None
)
VAE = diffusers.AutoencoderKL | diffusers.AutoencoderTiny | diffusers.AsymmetricAutoencoderKL | None
Encoder = CLIPTextModel | CLIPTextModelWithProjection | T5EncoderModel | BertModel | None
Tokenizer = CLIPTokenizer | T5Tokenizer | BertTokenizer | None
ControlNet = diffusers.ControlNetModel | MultiControlNetModel | None
# Whatever may stand for a denoiser in the pipelines that components are taken from.
DENOISERS = tuple(getattr(diffusers, name) for name in FAMILIES)


Pipeline: Any = DiffusionPipeline  # typed in part; its attributes come from register_modules


class DiffusionFeaturePipeline(FeatureCalls, Guideline, ShiftScores, Pipeline):
    """Features of a frozen diffusion model; a diffusers pipeline that samples nothing.

    Supported are SD 1.x/2.x and SDXL U-Nets, other ``UNet2DConditionModel`` and ``UNet2DModel`` (pixel space,
    class-conditional), PixArt, DiT, SD3, Flux and Hunyuan-DiT. It saves and loads as other pipelines do,
    except that ``DiffusionPipeline.from_pretrained`` does not find a class that diffusers does not hold:
    load with this class.

    Parameters
    ----------
    scheduler : diffusers scheduler
        Only its noise schedule is read; it is never stepped or changed.
    unet, transformer : diffusers model or None, default=None
        The denoiser; exactly one of them.
    vae : diffusers autoencoder or None, default=None
        ``None``: the denoiser works on pixels in [-1, 1], or on `latents` that the caller gives.
    text_encoder, tokenizer : transformers model and tokenizer, or None, default=None
        As in the source pipeline. Without them pass ``prompt_embeds``.
    text_encoder_2, tokenizer_2 : transformers model and tokenizer, or None, default=None
        The second pair, of SDXL, SD3, Flux and Hunyuan-DiT.
    text_encoder_3, tokenizer_3 : transformers model and tokenizer, or None, default=None
        The third pair, of SD3.
    controlnet : ControlNetModel, MultiControlNetModel or None, default=None
        For ``controlnet_image``; U-Nets with text only.
    source_class : str or None, default=None
        The pipeline class that the components come from.

    Raises
    ------
    TypeError
        If the denoiser is of an unsupported class.
    ValueError
        If there is not exactly one denoiser, or no scheduler.
    """

    model_cpu_offload_seq = (
        "text_encoder->text_encoder_2->text_encoder_3->image_encoder->transformer->unet->vae"
    )
    _optional_components: ClassVar[list[str]] = [
        "unet", "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2",
        "text_encoder_3", "tokenizer_3", "controlnet",
    ]  # fmt: skip

    def __init__(
        self,
        scheduler: diffusers.SchedulerMixin,
        unet: UNet = None,
        transformer: Transformer = None,
        vae: VAE = None,
        text_encoder: Encoder = None,
        tokenizer: Tokenizer = None,
        text_encoder_2: Encoder = None,
        tokenizer_2: Tokenizer = None,
        text_encoder_3: Encoder = None,
        tokenizer_3: Tokenizer = None,
        controlnet: ControlNet = None,
        source_class: str | None = None,
    ) -> None:
        super().__init__()
        if (unet is None) == (transformer is None):
            both = [type(model).__name__ for model in (unet, transformer) if model is not None]
            raise_invalid("unet, transformer", both, "exactly one denoiser")
        denoiser: Any = transformer if unet is None else unet
        family_of(getattr(denoiser, "_orig_mod", denoiser))
        if scheduler is None:
            raise_invalid("scheduler", None, "a scheduler, for its noise schedule")
        self.register_modules(
            unet=unet,
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
            scheduler=scheduler,
            controlnet=controlnet,
        )
        self.register_to_config(source_class=source_class)

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> "DiffusionFeaturePipeline":
        """Take over the components of another pipeline, shared and unchanged.

        Unlike diffusers' own, it does not cast the shared modules to float32.

        Parameters
        ----------
        pipeline : DiffusionPipeline
            Such as a StableDiffusionXLPipeline; with a ControlNet that is taken over too.
        **kwargs : object
            Components to replace; ``torch_dtype`` or ``dtype`` casts, which the source shares.

        Returns
        -------
        DiffusionFeaturePipeline
            The feature pipeline.

        Raises
        ------
        TypeError
            If `pipeline` is none.
        ValueError
            If it holds several denoisers, or an unknown argument is given.
        """
        if not isinstance(pipeline, Pipeline):
            raise_invalid("pipeline", pipeline, "a diffusers pipeline", error=TypeError)
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
        expected, options = cls._get_signature_keys(cls)
        unknown = set(kwargs) - {*expected, *options}
        if unknown:
            raise_invalid(
                "kwargs", sorted(unknown), f"components or options: {sorted({*expected, *options})}"
            )
        given = {**pipeline.components, **kwargs}
        several = [name for name, part in given.items() if isinstance(part, DENOISERS)]
        several += [
            n
            for n, part in given.items()
            if part is not None and n in ("transformer_2", "unet_2", "prior_prior")
        ]
        if len(set(several)) > 1:
            raise_invalid("pipeline", several, "one denoiser; pass the one to use alone")
        components = {name: part for name, part in given.items() if name in expected}
        source = getattr(pipeline.config, "source_class", None) or type(pipeline).__name__
        own = cls(
            **{"source_class": source, **components, **{k: v for k, v in kwargs.items() if k in options}}
        )
        if dtype is not None:
            own.to(dtype=dtype)
        return own

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a folder of this class, or of the pipeline that the components come from.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path-like
            A folder, or a name on the hub.
        **kwargs : object
            As in diffusers, ``torch_dtype`` among them.

        Returns
        -------
        DiffusionFeaturePipeline
            The pipeline; ``config.source_class`` says what it was saved as.
        """
        if "source_class" not in kwargs:
            hub = ("cache_dir", "force_download", "local_files_only", "token", "revision")
            config = cls.load_config(
                pretrained_model_name_or_path, **{k: kwargs[k] for k in hub if k in kwargs}
            )
            kwargs["source_class"] = config.get("source_class") or config.get("_class_name")
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def compiled_denoiser(self) -> Any:
        """The U-Net or transformer as it is registered, compiled or not.

        Returns
        -------
        nn.Module
            Looked up now: a denoiser replaced after construction counts.
        """
        return self.unet if getattr(self, "unet", None) is not None else self.transformer

    @property
    def denoiser(self) -> Any:
        """The U-Net or transformer itself.

        Returns
        -------
        nn.Module
            Behind ``torch.compile`` if it was compiled.
        """
        return getattr(self.compiled_denoiser, "_orig_mod", self.compiled_denoiser)

    @property
    def family(self) -> str:
        """The denoiser's family.

        Returns
        -------
        str
            ``"unet"``, ``"unet2d"``, ``"pixart"``, ``"dit"``, ``"hunyuan"``, ``"sd3"`` or ``"flux"``.
        """
        return family_of(self.denoiser)

    @property
    def preset(self) -> str | None:
        """The published selection for this U-Net.

        Returns
        -------
        {"sd15", "sdxl"} or None
            By the structure of the up stage; ``None`` for every other model.
        """
        return recognize_layout([tap.name for tap in denoiser_taps(self.denoiser)])

    def activation_names(self, pattern: str = "*") -> list[str]:
        """Names that this model has, without running it.

        Parameters
        ----------
        pattern : str, default="*"
            A glob. Attention maps are listed only by a pattern that contains ``map``.

        Returns
        -------
        list of str
            In the order of execution; empty if nothing matches.
        """
        names = [tap.name for tap in denoiser_taps(self.denoiser) if not tap.text]
        try:
            return match_names(pattern, names)
        except ValueError:
            return []

    def activation_info(
        self, features: Any = "*", height: int | None = None, width: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Sizes of activations, from a forward without data or arithmetic (torch's meta device).

        Parameters
        ----------
        features : str, list of str or dict, default="*"
            As in the call, the extras excepted.
        height, width : int or None, default=None
            The image's size; ``None`` takes the model's own.

        Returns
        -------
        dict
            Name to ``channels``, ``size`` (rows, columns), ``stride`` (pixels down and across) and
            ``bytes`` an image in the denoiser's dtype.
        """
        return measure(self, resolve(self, features, as_tokens=True), height, width)

    def candidate_pool(self, rule: str = "paper", clean_fraction: float = 0.5) -> list[str]:
        """Activations that the qualitative filter leaves, to be compared with ``rank_activations``.

        Parameters
        ----------
        rule : {"paper", "generic"}, default="paper"
            The paper's list for SD 1.x/2.x (33 names) or SDXL (63), or its rules applied to this model.
        clean_fraction : float in (0, 1], default=0.5
            For ``"generic"``: the share of the up stage's modules taken as free of noise.

        Returns
        -------
        list of str
            In the order of execution.

        Raises
        ------
        ValueError
            If `rule` is unknown, or ``"paper"`` is asked for a model that the paper did not study.
        """
        check_choice("rule", rule, ("paper", "generic"))
        if rule == "generic":
            return generic_pool(self.activation_names(), clean_fraction=clean_fraction)
        if self.preset is None:
            raise_invalid(
                "rule", rule, f"'generic': the paper has no pool for this {type(self.denoiser).__name__}"
            )
        return paper_pool(self.preset)

    @property
    def vae_scale_factor(self) -> int:
        """Image pixels per latent cell.

        Returns
        -------
        int
            1 without a VAE.
        """
        vae = getattr(self, "vae", None)
        if vae is None:
            return 1
        blocks = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
        return int(2 ** (len(blocks) - 1))

    @property
    def size_unit(self) -> int:
        """What an image's sides must be divisible by.

        Returns
        -------
        int
            The VAE's factor times the denoiser's halvings or patch.
        """
        model = self.denoiser
        if self.family == "flux":
            return 2 * self.vae_scale_factor
        if not self.family.startswith("unet"):
            return int(model.config.patch_size) * self.vae_scale_factor
        halvings = sum(bool(getattr(block, "downsamplers", None)) for block in model.down_blocks)
        return int(2**halvings) * self.vae_scale_factor
