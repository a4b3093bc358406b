"""Diffusion features: names, pools, presets and numerics (Meng et al., NeurIPS 2024, arXiv 2410.03558).

The pipeline is ``graftkit.diffusers.DiffusionFeaturePipeline``. This package holds what needs no host.
"""

from graftkit.methods.diffusion_feature.aggregation import FeatureAggregator
from graftkit.methods.diffusion_feature.attention import attention_map
from graftkit.methods.diffusion_feature.correspondence import nearest_points
from graftkit.methods.diffusion_feature.metrics import confusion_matrix, correct_points, mean_iou
from graftkit.methods.diffusion_feature.names import ActivationName, expand_names, match_names, parse_name
from graftkit.methods.diffusion_feature.noise import matched_sigma
from graftkit.methods.diffusion_feature.pools import generic_pool, paper_pool
from graftkit.methods.diffusion_feature.presets import ENSEMBLES, PRESETS, Preset, load_selection
from graftkit.methods.diffusion_feature.probes import RidgeProbe, VotingMLP

__all__ = [
    "ActivationName",
    "ENSEMBLES",
    "FeatureAggregator",
    "PRESETS",
    "Preset",
    "RidgeProbe",
    "VotingMLP",
    "attention_map",
    "confusion_matrix",
    "correct_points",
    "expand_names",
    "generic_pool",
    "load_selection",
    "match_names",
    "matched_sigma",
    "mean_iou",
    "nearest_points",
    "paper_pool",
    "parse_name",
]
