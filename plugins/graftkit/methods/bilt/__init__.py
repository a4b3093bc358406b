"""BiLT with AIGDL: hierarchical fine-grained classification (Lu et al., AAAI 2025).

``graftkit.torch`` offers these names, ``graftkit.timm`` also the wrapper for timm's models.
"""

from graftkit.methods.bilt.baselines import HXELoss, SoftLabelLoss, crm_scores
from graftkit.methods.bilt.decoding import decode, level_probabilities
from graftkit.methods.bilt.head import HierarchicalHead, HierarchicalOutput
from graftkit.methods.bilt.loss import BiLTLoss
from graftkit.methods.bilt.metric_display import HierarchicalMetricsDisplay
from graftkit.methods.bilt.metrics import HierarchicalMetrics
from graftkit.methods.bilt.settings import PRESETS, VARIANTS, Preset, Variant, variant_loss
from graftkit.methods.bilt.targets import check_labels
from graftkit.methods.bilt.tree import LabelTree

__all__ = [
    "BiLTLoss",
    "HXELoss",
    "HierarchicalHead",
    "HierarchicalMetrics",
    "HierarchicalMetricsDisplay",
    "HierarchicalOutput",
    "LabelTree",
    "PRESETS",
    "Preset",
    "SoftLabelLoss",
    "VARIANTS",
    "Variant",
    "check_labels",
    "crm_scores",
    "decode",
    "level_probabilities",
    "variant_loss",
]
