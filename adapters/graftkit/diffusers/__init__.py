"""graftkit for diffusers: a pipeline that returns features instead of pictures."""

from graftkit.core.extras import require

require("diffusers", extra="diffusers", minimum="0.33")
require("transformers", extra="diffusers", minimum="4.50")

from graftkit.diffusers.output import DiffusionFeatureOutput  # noqa: E402  (the checks give the better message)
from graftkit.diffusers.pipeline import DiffusionFeaturePipeline  # noqa: E402
from graftkit.methods.content_shift import RECIPES, FeatureAmalgamation, GateReport, Technique  # noqa: E402
from graftkit.methods.diffusion_feature.aggregation import FeatureAggregator  # noqa: E402
from graftkit.methods.diffusion_feature.presets import load_selection  # noqa: E402

__all__ = [
    "RECIPES",
    "DiffusionFeatureOutput",
    "DiffusionFeaturePipeline",
    "FeatureAggregator",
    "FeatureAmalgamation",
    "GateReport",
    "Technique",
    "load_selection",
]
