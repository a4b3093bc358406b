"""graftkit for diffusers: a pipeline that returns features instead of pictures."""

from graftkit.core.extras import require

require("diffusers", extra="diffusers", minimum="0.40")
require("transformers", extra="diffusers", minimum="5.5")

from graftkit.diffusers.backbone import DiffusionBackbone, FeatureInfo  # noqa: E402  (after the checks)
from graftkit.diffusers.cache import FeatureCache  # noqa: E402
from graftkit.diffusers.conditioning import Text  # noqa: E402
from graftkit.diffusers.extraction import extract_features  # noqa: E402
from graftkit.diffusers.output import DiffusionFeatureOutput  # noqa: E402
from graftkit.diffusers.pipeline import DiffusionFeaturePipeline  # noqa: E402
from graftkit.diffusers.ranking import rank_activations  # noqa: E402
from graftkit.diffusers.variant_backbone import VariantBackbone  # noqa: E402
from graftkit.methods.content_shift import RECIPES, FeatureAmalgamation, GateReport, Technique  # noqa: E402
from graftkit.methods.diffusion_feature.aggregation import FeatureAggregator  # noqa: E402
from graftkit.methods.diffusion_feature.presets import load_selection  # noqa: E402

__all__ = [
    "DiffusionBackbone",
    "DiffusionFeatureOutput",
    "DiffusionFeaturePipeline",
    "FeatureAggregator",
    "FeatureAmalgamation",
    "FeatureCache",
    "FeatureInfo",
    "GateReport",
    "RECIPES",
    "Technique",
    "Text",
    "VariantBackbone",
    "extract_features",
    "load_selection",
    "rank_activations",
]
