"""Cross-entropy alone: the baseline."""

_base_ = "base.py"
