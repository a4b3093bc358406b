"""Which activation of this model knows most about these labels: a table, by a cheap probe.

>>> rows = rank_activations(pipe, images, masks, names="up-*-out", cv=3)  # doctest: +SKIP
>>> rows[0]["name"], rows[0]["miou"]  # doctest: +SKIP
"""

from collections.abc import Sequence, Sized
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from graftkit.core.progress import progress_bar
from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_integer, check_iterable, raise_invalid
from graftkit.methods.diffusion_feature.ranking import make_probe, read_splits, score_maps

__all__ = ["rank_activations"]


def rank_activations(
    pipe: Any,
    images: Any,
    masks: Any,
    names: Any = "pool",
    timesteps: Sequence[int] = (50,),
    *,
    prompt: Any = None,
    probe: Any = "ridge",
    cv: Any = 3,
    pixels_per_image: int | None = 500,
    ignore_index: int | None = 255,
    batch_size: int = 8,
    random_state: int = 0,
    verbose: int = 0,
    **call: Any,
) -> list[dict[str, Any]]:
    """Compare activations, each alone, by a probe's mIoU on images that it was not fitted on.

    The maps of all names and images are held in memory at their own resolution (see ``activation_info`` for
    the bytes); rank long lists in parts.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Whose activations.
    images : list of pictures, array, tensor or None
        As in the pipeline's call, of shape (N, H, W, 3) or (N, 3, H, W). ``None`` where ``latents`` are
        among `call`.
    masks : sequence of ndarray of int, of shape (H, W)
        Label maps of any size.
    names : str, list of str or dict, default="pool"
        Names, globs, ``"pool"`` or a preset.
    timesteps : sequence of int, default=(50,)
        Literal; several share one encoding.
    prompt : str, list of str or None, default=None
        As in the call.
    probe : {"ridge", "logistic"} or object with fit and predict, default="ridge"
        Fitted on pixels of shape (n, C).
    cv : int or sequence of (train, test), default=3
        Folds over images, or indices.
    pixels_per_image : int or None, default=500
        Pixels drawn from each training image.
    ignore_index : int or None, default=255
        Pixels without a label.
    batch_size : int, default=8
        Images a forward.
    random_state : int, default=0
        Seeds the noise (one stream an image), folds and pixels.
    verbose : int, default=0
        1 shows progress over activations.
    **call : object
        Further arguments of the pipeline's call, such as ``height`` and ``class_labels``.

    Returns
    -------
    list of dict
        Best first: ``name``, ``timestep``, ``miou`` (mean over splits), ``sd`` (None for one split),
        ``scores``, ``channels`` and ``size``.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If lengths differ, a mask is not 2-D, or the splits are refused.
    """
    seed = check_integer("random_state", random_state, low=0)
    labels = [np.asarray(mask) for mask in check_iterable("masks", masks, "a label map an image")]
    if pixels_per_image is not None:
        check_integer("pixels_per_image", pixels_per_image, low=1)
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index)
    for label in labels:
        if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
            raise_invalid("masks", label, "integer label maps of shape (H, W)")
    source = call.get("latents", images)
    if source is not None and (not isinstance(source, Sized) or getattr(source, "shape", None) == ()):
        raise_invalid("images", source, "pictures in a list, array or tensor", error=TypeError)
    if source is None or len(source) != len(labels):
        raise_invalid("masks", masks, f"one mask for each of {0 if source is None else len(source)} images")
    for key in ("features", "timestep", "generator", "return_dict", "output_device"):
        if key in call:
            raise_invalid("call", key, "other arguments: this one is set here")
    make_probe(probe)
    splits = read_splits(cv, len(labels), numpy_generator(seed))
    generators = [torch.Generator(pipe._execution_device).manual_seed(seed + i) for i in range(len(labels))]
    steps = list(check_iterable("timesteps", timesteps, "timesteps, several or one in a list"))
    out = pipe(
        images,
        prompt,
        names,
        timestep=steps,
        generator=generators,
        batch_size=batch_size,
        output_device="cpu",
        **call,
    )
    rows = []
    for key in progress_bar(list(out.features), verbose=verbose, desc="probes"):
        maps = list(out.features.pop(key).float().numpy())
        scores = score_maps(
            maps, labels, splits, probe,
            pixels_per_image=pixels_per_image, ignore_index=ignore_index, random_state=seed,
        )  # fmt: skip
        name, _, step = key.partition("@")
        rows.append(
            {
                "name": name, "timestep": int(step) if step else steps[0], "miou": mean(scores),
                "sd": stdev(scores) if len(scores) > 1 else None, "scores": scores,
                "channels": maps[0].shape[0], "size": maps[0].shape[1:],
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row["miou"])
