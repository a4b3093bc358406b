"""QEDG: how many queries until a classifier of your own is copied (AAAI 2025, arXiv 2412.15276)."""

from graftkit.methods.qedg.auditor import QEDGAuditor
from graftkit.methods.qedg.defences import DefenceTable, compare_defences
from graftkit.methods.qedg.generation import DivergenceError
from graftkit.methods.qedg.ledger import BudgetError, QueryLedger
from graftkit.methods.qedg.progress import Progress
from graftkit.methods.qedg.result import AuditResult
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.stalls import StallError
from graftkit.methods.qedg.target import TargetError

__all__ = [
    "AuditResult",
    "BudgetError",
    "DefenceTable",
    "DivergenceError",
    "Progress",
    "QEDGAuditor",
    "QEDGConfig",
    "QueryLedger",
    "StallError",
    "TargetError",
    "compare_defences",
]
