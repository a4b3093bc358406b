"""graftkit for ART: an extraction attack as an audit of a classifier that you own."""

from graftkit.core.extras import require

require("art.attacks", extra="art", distribution="adversarial-robustness-toolbox", minimum="1.20")

from graftkit.art.qedg import QEDGExtraction  # noqa: E402  (the check above gives the better message)

__all__ = ["QEDGExtraction"]
