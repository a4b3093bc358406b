"""EDGE: unknown-aware multi-label learning by expanding the energy gap (Sun et al., AAAI 2025), over tensors.

timm's form is ``graftkit.timm``, plain torch's ``graftkit.torch``. This follows the released code
(`Yuchen-Sunflower/EDGE@6cce68f`, read only) and the abstract, not the paper's equations and tables, which
could not be read; each module says what differs.
"""

from graftkit.methods.edge.baselines import EnergyBoundedLoss
from graftkit.methods.edge.energies import joint_energy, none_probability, suggest_margin
from graftkit.methods.edge.gap import energy_gap_loss
from graftkit.methods.edge.losses import EDGELoss, EDGETerms
from graftkit.methods.edge.rows import ood_labels

__all__ = [
    "EDGELoss",
    "EDGETerms",
    "EnergyBoundedLoss",
    "energy_gap_loss",
    "joint_energy",
    "none_probability",
    "ood_labels",
    "suggest_margin",
]
