"""One noisy forward of a batch: arguments by family, ControlNet residuals, capture, early exit.

>>> run = Forwards(pipe, request, arguments, latents)  # doctest: +SKIP
>>> features, sample = run.capture(noisy, level)  # doctest: +SKIP
"""

from typing import Any

import torch
from torch import Tensor, nn

import diffusers
from graftkit.core.validation import raise_invalid
from graftkit.diffusers.capture import Capture
from graftkit.diffusers.noising import NoiseLevel
from graftkit.diffusers.placement import moves_weights
from graftkit.diffusers.requests import Request, may_stop

__all__ = ["Forwards", "early_exit_allowed"]


class Ended(Exception):
    """The network's last layer has run."""


class Forwards:
    """The denoiser with everything but the noisy latent fixed.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Whose denoiser runs.
    arguments : dict
        Its keyword arguments.
    control : (Tensor or list of Tensor, float or list of float) or None
        Images and scales of the ControlNet.
    stop : bool
        Whether forwards may end early.
    map_reduce : {"mean", "none"}
        Heads of attention maps.
    max_map_elements : int
        Larger maps are refused.
    """

    def __init__(
        self,
        pipe: Any,
        arguments: dict[str, Any],
        *,
        control: tuple[Any, Any] | None = None,
        stop: bool = True,
        map_reduce: str = "mean",
        max_map_elements: int = 2**26,
    ) -> None:
        self.model, self.family = eager(pipe.denoiser), pipe.family
        self.controlnet, self.control = pipe.controlnet, control
        self.arguments, self.stop = arguments, stop
        self.map_reduce, self.max_map_elements = map_reduce, max_map_elements
        self.patch = int(getattr(self.model.config, "patch_size", 1) or 1) if self.family != "flux" else 2
        # FreeU scales hidden states in place, after a tap has seen them.
        self.clone = any(getattr(b, "s1", None) is not None for b in getattr(self.model, "up_blocks", ()))

    def capture(
        self, noisy: Tensor, level: NoiseLevel, request: Request
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Activations by name, and the network's output unless it was stopped."""
        grid = None
        if not self.family.startswith("unet"):
            grid = (noisy.shape[-2] // self.patch, noisy.shape[-1] // self.patch)
        seen = Capture(
            request.taps,
            grid=grid,
            stop=self.stop,
            clone=self.clone,
            map_reduce=self.map_reduce,
            max_map_elements=self.max_map_elements,
        )
        with seen:
            output = seen.run(lambda: self.output(noisy, level))
        return seen.features, output

    def output(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        """The network's whole output, of the latent's height and width."""
        arguments = self.arguments
        batch, dtype = len(noisy), noisy.dtype
        # Timesteps between integers exist only where a sigma was given.
        whole = float(level.time).is_integer() and not level.is_flow
        time = torch.full(
            (batch,), level.time, device=noisy.device, dtype=torch.long if whole else torch.float32
        )
        if self.control is not None:
            arguments = {**arguments, **self._residuals(noisy, time)}
        if self.family == "flux":
            rows, columns = noisy.shape[-2], noisy.shape[-1]
            packed = diffusers.FluxPipeline._pack_latents(noisy, batch, noisy.shape[1], rows, columns)
            out = self.model(packed, timestep=(time / 1000).to(dtype), return_dict=False, **arguments)[0]
            unpacked = out.unflatten(1, (rows // 2, columns // 2)).unflatten(3, (-1, 2, 2))
            result: Tensor = unpacked.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
            return result
        if self.family == "hunyuan":
            time = time.to(dtype)  # this transformer embeds in the timestep's own dtype
        if self.family == "dit" and noisy.shape[-2] != noisy.shape[-1]:
            return self._unpatched(noisy, time, arguments)
        first: Tensor = self.model(noisy, timestep=time, return_dict=False, **arguments)[0]
        return first

    def _unpatched(self, noisy: Tensor, time: Tensor, arguments: dict[str, Any]) -> Tensor:
        """DiT's output on its true grid; diffusers takes the root of the number of tokens for both sides."""
        seen: list[Tensor] = []

        def last(_: nn.Module, __: Any, tokens: Tensor) -> None:
            seen.append(tokens)
            raise Ended

        handle = self.model.proj_out_2.register_forward_hook(last)
        try:
            self.model(noisy, timestep=time, return_dict=False, **arguments)
        except Ended:
            pass
        finally:
            handle.remove()
        grid = (noisy.shape[-2] // self.patch, noisy.shape[-1] // self.patch)
        cells = seen[0].unflatten(1, grid).unflatten(3, (self.patch, self.patch, -1))
        output: Tensor = cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return output

    def _residuals(self, noisy: Tensor, time: Tensor) -> dict[str, Any]:
        assert self.control is not None
        images, scales = self.control
        kept = {
            k: self.arguments[k]
            for k in ("added_cond_kwargs", "class_labels")
            if self.arguments.get(k) is not None
        }
        down, mid = self.controlnet(
            noisy,
            time,
            encoder_hidden_states=self.arguments["encoder_hidden_states"],
            controlnet_cond=images,
            conditioning_scale=scales,
            return_dict=False,
            **kept,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def eager(denoiser: nn.Module) -> Any:
    """The model behind ``torch.compile``, in which hooks would not run."""
    return getattr(denoiser, "_orig_mod", denoiser)


def early_exit_allowed(pipe: Any, request: Request, asked: Any) -> bool:
    """Whether this forward ends at the last tap.

    Raises
    ------
    ValueError
        If `asked` is none of "auto", True, False, or True for a compiled denoiser.
    """
    if asked not in ("auto", True, False) or (asked in (0, 1) and not isinstance(asked, bool)):
        raise_invalid("early_exit", asked, "'auto', True or False")
    denoiser = pipe.compiled_denoiser
    compiled = hasattr(denoiser, "_orig_mod") or getattr(denoiser, "_compiled_call_impl", None) is not None
    if asked is True and compiled:
        raise_invalid("early_exit", asked, "'auto' or False: a compiled denoiser cannot be stopped")
    if asked is False or compiled or not may_stop(request, eager(denoiser)):
        return False
    if asked is True:
        return True
    model = eager(denoiser)
    if torch.is_grad_enabled() and getattr(model, "is_gradient_checkpointing", False):
        return False
    # Offloading module by module puts weights back after each forward, which a stop would skip.
    return not moves_weights(model)
