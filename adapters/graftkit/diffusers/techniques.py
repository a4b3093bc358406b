"""A technique put onto a pipeline and taken off again: adapters, scales, a callable of the user's.

Whatever happens inside, the pipeline is left as it was found: active LoRA adapters, their weights and those
of the model, IP-Adapter scales, hooks. Schedulers are never stepped and prompts never stored, so there is
nothing to restore of them.

>>> with applied(pipe, technique):  # doctest: +SKIP
...     pipe(images, features="preset")
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from graftkit.core.validation import raise_invalid
from graftkit.diffusers.ip_adapters import image_embeds_of
from graftkit.diffusers.lora import adapters_of, models_of
from graftkit.methods.content_shift import Technique

__all__ = ["applied"]


@contextmanager
def applied(pipe: Any, technique: Technique, rows: Callable[[], Any] | None = None) -> Iterator[None]:
    """The pipeline under a technique; everything is as before afterwards, also after an error.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The pipeline.
    technique : Technique
        What to apply; checked before.
    rows : callable or None, default=None
        Gives the images that the next forward is about, for image embeddings that differ by image.

    Raises
    ------
    TypeError
        If the technique's callable gives no context manager.
    """
    with ExitStack() as stack:
        for model in models_of(pipe):
            stack.enter_context(adapters_of(model, technique))
        stack.enter_context(image_embeds_of(pipe.denoiser, technique, rows))
        context = nullcontext() if technique.apply is None else technique.apply(pipe)
        if not (hasattr(context, "__enter__") and hasattr(context, "__exit__")):
            label = f"technique {technique.name!r}: apply()"
            raise_invalid(label, context, "a context manager", error=TypeError)
        stack.enter_context(context)
        yield
