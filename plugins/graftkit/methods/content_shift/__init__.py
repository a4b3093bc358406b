"""Content-shift suppression with GATE (Meng et al., NeurIPS 2024): measure, steer, blend.

The pipeline's methods ``gate`` and ``content_shift_score`` are in ``graftkit.diffusers``. This package holds
what needs no diffusion library: the score, the paired guideline, the blend, techniques as data.
"""

from graftkit.methods.content_shift.amalgamation import FeatureAmalgamation
from graftkit.methods.content_shift.assignment import amalgamate, amalgamation_penalty, assignment_weights
from graftkit.methods.content_shift.contours import (
    cosine_difference,
    laplacian_difference,
    laplacian_norm,
    shift_score,
)
from graftkit.methods.content_shift.edges import edge_image
from graftkit.methods.content_shift.fitting import fit_amalgamation
from graftkit.methods.content_shift.gains import GainSummary, paired_gain, summarise, verdict
from graftkit.methods.content_shift.recipes import RECIPES, Recipe
from graftkit.methods.content_shift.report import GateReport
from graftkit.methods.content_shift.similarity import image_distance, psnr, ssim
from graftkit.methods.content_shift.technique import Technique, check_techniques

__all__ = [
    "FeatureAmalgamation",
    "GainSummary",
    "GateReport",
    "RECIPES",
    "Recipe",
    "Technique",
    "amalgamate",
    "amalgamation_penalty",
    "assignment_weights",
    "check_techniques",
    "cosine_difference",
    "edge_image",
    "fit_amalgamation",
    "image_distance",
    "laplacian_difference",
    "laplacian_norm",
    "paired_gain",
    "psnr",
    "shift_score",
    "ssim",
    "summarise",
    "verdict",
]
