"""graftkit.diffusers: on a pipeline of a tiny network without text."""

import tempfile
from functools import cache
from typing import Any

import numpy as np
import torch

from graftkit import diffusers as host
from tests.adapters.diffusers.extraction_cases import NAMES, make_pipe, pictures
from tests.faults.entry import Entry


@cache
def pipe() -> Any:
    return make_pipe()


def extracted(**arguments: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return host.extract_features(pipe(), cache=folder, **arguments)


def stored(**arguments: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host.FeatureCache(folder).put(**arguments)


def entries() -> list[Entry]:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    size = ("height", "width", "size", "num_noise", "batch_size")
    return [
        Entry(
            "DiffusionBackbone",
            host.DiffusionBackbone,
            lambda: {
                "pipe": pipe(),
                "levels": [NAMES],
                "prompt": None,
                "timestep": 50,
                "trainable": False,
                "noise": "fixed",
                "seed": 0,
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
                "size": (16, 16),
            },
            sizes=size,
            says={"levels": ("features",), "size": ("height", "width")},
        ),
        Entry(
            "DiffusionFeaturePipeline.__call__",
            pipe(),
            lambda: {
                "image": images[:1],
                "features": NAMES,
                "timestep": 50,
                "num_noise": 1,
                "height": 16,
                "width": 16,
            },
            sizes=size,
        ),
        Entry(
            "FeatureAggregator",
            host.FeatureAggregator,
            lambda: {"size": 4, "mode": "bilinear", "normalize": None, "dtype": None},
            sizes=("size",),
        ),
        Entry(
            "FeatureAmalgamation",
            host.FeatureAmalgamation,
            lambda: {
                "channels": 4,
                "num_features": 2,
                "num_assigners": 1,
                "weights": "channel",
                "kind": "conv",
                "sparsity": 0.0,
                "diversity": 0.0,
                "dropout": 0.5,
            },
            sizes=("channels", "num_features", "num_assigners"),
        ),
        Entry(
            "FeatureAmalgamation.forward",
            lambda features: host.FeatureAmalgamation(4, 2)(features),
            lambda: {"features": torch.zeros(1, 2, 4, 2, 2)},
            says={"features": ("maps", "variants")},
        ),
        Entry("FeatureCache.put", stored, lambda: {"key": "abcd", "features": {"a": torch.zeros(1, 2, 2)}}),
        Entry(
            "FeatureCache.get",
            lambda **a: host.FeatureCache(tempfile.gettempdir()).get(**a),
            lambda: {"key": "abcd"},
        ),
        Entry(
            "Technique",
            host.Technique,
            lambda: {
                "name": "t",
                "prompt": "a",
                "negative_prompt": "b",
                "guidance_scale": 1.0,
                "controlnet_image": None,
                "controlnet_conditioning_scale": 1.0,
                "adapters": (),
                "adapter_weights": None,
                "ip_adapter_scale": 1.0,
                "denoise_from": 60,
                "apply": None,
            },
        ),
        Entry("Text", host.Text, lambda: {"embeds": torch.zeros(1, 2, 3), "pooled": None, "mask": None}),
        Entry(
            "extract_features",
            extracted,
            lambda: {
                "dataset": pictures()[:2],
                "features": NAMES,
                "timestep": 50,
                "num_noise": 1,
                "height": 16,
                "width": 16,
                "batch_size": 2,
                "image_key": "image",
                "seed": 0,
                "prompt": None,
            },
            sizes=size,
            says={"dataset": ("image",)},  # an item is read as the pipeline's image
        ),
        Entry(
            "rank_activations",
            lambda **a: host.rank_activations(pipe(), **a),
            lambda: {
                "images": images,
                "masks": [np.arange(16).reshape(4, 4) % 2] * 4,
                "names": NAMES[:1],
                "timesteps": (50,),
                "cv": 2,
                "pixels_per_image": 5,
                "ignore_index": 255,
                "batch_size": 4,
                "random_state": 0,
            },
            sizes=(*size, "pixels_per_image"),
            says={"names": ("features",), "timesteps": ("timestep",), "images": ("image", "masks")},
        ),
        Entry(
            "load_selection",
            host.load_selection,
            lambda: {"source": {"unet-out": True}},
            says={"source": ("could not read it",)},  # a path that no file can have
        ),
    ]
