"""EDGE: unknown-aware multi-label learning by expanding the energy gap (Sun et al., AAAI 2025), over tensors.

timm's form is ``graftkit.timm``, plain torch's ``graftkit.torch``. This follows the released code
(`Yuchen-Sunflower/EDGE@6cce68f`, read only) and the abstract, not the paper's equations and tables, which
could not be read; each module says what differs.
"""

from graftkit.methods.edge.baselines import EnergyBoundedLoss
from graftkit.methods.edge.batches import OutlierExposureBatcher
from graftkit.methods.edge.detectors import JointEnergy
from graftkit.methods.edge.energies import joint_energy, none_probability, suggest_margin
from graftkit.methods.edge.gap import energy_gap_loss
from graftkit.methods.edge.losses import EDGELoss
from graftkit.methods.edge.metrics import multilabel_map, ood_metrics, tail_sweep
from graftkit.methods.edge.postprocessors import JointEnergyPostprocessor
from graftkit.methods.edge.rows import ood_labels
from graftkit.methods.edge.selection import OEDatasetSelector, overlapping_files
from graftkit.methods.edge.spectra import dilation_distance
from graftkit.methods.edge.terms import EDGETerms

__all__ = [
    "EDGELoss",
    "EDGETerms",
    "EnergyBoundedLoss",
    "JointEnergy",
    "JointEnergyPostprocessor",
    "OEDatasetSelector",
    "OutlierExposureBatcher",
    "dilation_distance",
    "energy_gap_loss",
    "joint_energy",
    "multilabel_map",
    "none_probability",
    "ood_labels",
    "ood_metrics",
    "overlapping_files",
    "suggest_margin",
    "tail_sweep",
]
