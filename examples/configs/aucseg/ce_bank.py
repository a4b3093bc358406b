"""Cross-entropy and the memory bank."""

_base_ = "base.py"
tail_classes = ["pole", "pedestrian", "bicyclist"]
custom_hooks = [dict(type="TMemoryBankHook", tail_classes=tail_classes, sample_ratio=1, resize_ratio=1)]
