"""Reading taps during one forward: hooks that are always removed, and a stop once everything has been seen.

>>> with Capture(taps) as seen:  # doctest: +SKIP
...     seen.run(lambda: unet(latents, 50, text))
>>> seen.features["up-level1-repeat2-res-out"].shape  # doctest: +SKIP
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graftkit.diffusers.attention_maps import MapReader
from graftkit.diffusers.taps import Tap
from graftkit.methods.diffusion_feature.attention import MAX_MAP_ELEMENTS

__all__ = ["Capture"]


class Stopped(Exception):
    """Ends a forward early."""


class Capture:
    """Context that holds the hooks of some taps.

    Parameters
    ----------
    taps : sequence of Tap
        What to read, each name once.
    grid : (int, int) or None, default=None
        The token grid of a transformer; a U-Net says it itself.
    stop : bool, default=False
        End the forward when the last tap has fired.
    clone : bool, default=False
        Copy activations: something later changes them in place.
    map_reduce : {"mean", "none"}, default="mean"
        Heads of attention maps.
    max_map_elements : int, default=2**26
        Larger maps are refused.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        *,
        grid: tuple[int, int] | None = None,
        stop: bool = False,
        clone: bool = False,
        map_reduce: str = "mean",
        max_map_elements: int = MAX_MAP_ELEMENTS,
    ) -> None:
        self.taps, self.grid, self.stop, self.clone = list(taps), grid, stop, clone
        self.features: dict[str, Tensor] = {}
        self.stopped = False
        self._fired = {tap.name: 0 for tap in taps}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._maps = MapReader(reduce=map_reduce, limit=max_map_elements)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Capture":
        try:
            # Where tokens lie is known before anything inside that module runs.
            for module in {id(t.spatial): t.spatial for t in self.taps if t.spatial is not None}.values():
                self._handles.append(module.register_forward_pre_hook(self._size_hook, with_kwargs=True))
            for module in {id(t.module): t.module for t in self.taps if t.map}.values():
                self._handles += self._maps.attach(module)
            for tap in self.taps:
                if tap.side == "input":
                    hook: Any = self._input_hook(tap)
                    self._handles.append(tap.module.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    self._handles.append(tap.module.register_forward_hook(self._output_hook(tap)))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def run(self, forward: Callable[[], Any]) -> Any:
        """Call `forward`; its result, or None where it was stopped.

        Raises
        ------
        RuntimeError
            If a tap was not reached, or fired more than once.
        """
        result = None
        try:
            result = forward()
        except Stopped:
            self.stopped = True
        missed = [name for name, count in self._fired.items() if count == 0]
        if missed:
            raise RuntimeError(f"features: {', '.join(map(repr, missed))} not reached by the forward")
        for name, count in self._fired.items():
            if count > 1:
                raise RuntimeError(
                    f"features: {name!r} fired {count} times in one forward (a shared module, or chunked "
                    "feed-forward); only one of them would be kept"
                )
        return result

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._maps.clear()

    def _size_hook(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = args[0] if args else kwargs["hidden_states"]
        if tensor.ndim == 4:
            self._sizes[id(module)] = (tensor.shape[-2], tensor.shape[-1])

    def _input_hook(self, tap: Tap) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._take(tap, args[0] if args else next(iter(kwargs.values())))

        return hook

    def _output_hook(self, tap: Tap) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._take(tap, output)

        return hook

    def _take(self, tap: Tap, value: Any) -> None:
        self._fired[tap.name] += 1
        if tap.name in self.features:
            return
        grid = self._sizes.get(id(tap.spatial), self.grid) if tap.spatial is not None else self.grid
        if tap.window is not None and grid is not None and not _within(grid, tap.window):
            tensor = torch.empty(0)
        else:
            tensor = self._maps.read(tap, grid) if tap.map else self._read(tap, value, grid)
        if not torch.is_grad_enabled():
            tensor = tensor.detach()
        self.features[tap.name] = tensor.clone() if self.clone else tensor
        if self.stop and len(self.features) == len(self.taps):
            raise Stopped

    def _read(self, tap: Tap, value: Any, grid: tuple[int, int] | None) -> Tensor:
        if isinstance(value, tuple | list):
            value = value[tap.element or 0]
        elif hasattr(value, "sample"):
            value = value.sample
        if not isinstance(value, Tensor):
            raise RuntimeError(f"features: {tap.name!r} is {type(value).__name__}, not a tensor")
        tensor: Tensor = value
        if tap.part is not None:
            tensor = tensor.chunk(tap.part[1], dim=-1)[tap.part[0]]
        if tensor.ndim == 4 or tap.text:
            return tensor
        return to_grid(tap.name, tensor, grid, cut=tap.text_first)


def _within(grid: tuple[int, int], window: tuple[float, float]) -> bool:
    return window[0] <= grid[0] * grid[1] <= window[1]


def to_grid(name: str, tokens: Tensor, grid: tuple[int, int] | None, *, cut: bool = False) -> Tensor:
    """Tokens (B, N, C) as a view of shape (B, C, H, W), with the true grid and not a guessed square."""
    if tokens.ndim != 3 or grid is None:
        raise RuntimeError(f"features: {name!r} has shape {tuple(tokens.shape)}, which has no spatial grid")
    count = grid[0] * grid[1]
    if cut and tokens.shape[1] > count:
        tokens = tokens[:, -count:]
    if tokens.shape[1] != count:
        raise RuntimeError(
            f"features: {name!r} has {tokens.shape[1]} tokens, the grid {grid} has {count}; "
            "chunked feed-forward or text tokens have no spatial grid"
        )
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
