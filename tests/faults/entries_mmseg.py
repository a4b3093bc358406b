"""graftkit.mmseg: what a config builds."""

import warnings

with warnings.catch_warnings():  # mmcv-lite says what it lacks
    warnings.simplefilter("ignore")
    from graftkit import mmseg as host

from tests.faults.entries_torch import draw, labels, net
from tests.faults.entry import Entry


def entries() -> list[Entry]:
    return [
        Entry(
            "AUCSegLoss",
            host.AUCSegLoss,
            lambda: {
                "surrogate": "square",
                "scheme": "ovo",
                "activation": "sigmoid",
                "margin": 1.0,
                "loss_weight": 1.0,
                "min_pixels": 1,
                "sync": False,
                "ignore_index": 255,
                "num_classes": 3,
                "loss_name": "loss_auc",
            },
        ),
        Entry(
            "AUCSegLoss.forward",
            lambda **a: host.AUCSegLoss()(**a),
            lambda: {"cls_score": draw(1, 3, 4, 4), "label": labels(16).reshape(1, 4, 4)},
            says={"cls_score": ("logits",), "label": ("target",)},
        ),
        Entry(
            "GroupIoUMetric",
            host.GroupIoUMetric,
            lambda: {
                "groups": {"tail": [0]},
                "per_class": False,
                "ignore_index": 255,
                "iou_metrics": ("mIoU",),
                "nan_to_num": None,
                "beta": 1,
            },
            only=("groups", "per_class", "iou_metrics"),
        ),
        Entry(
            "PixelAUCMetric",
            host.PixelAUCMetric,
            lambda: {
                "groups": {"tail": [0]},
                "pixels_a_picture": 60,
                "pixels_a_class": 200,
                "ignore_index": 255,
                "seed": 0,
            },
        ),
        Entry(
            "SSESAM",
            lambda **a: host.SSESAM(net().parameters(), **a),
            lambda: {"base_optimizer": "SGD", "lr": 0.1, "rho": 0.05, "tail_classes": [2], "switch_step": 3},
            only=("rho", "tail_classes", "switch_step"),
        ),
        Entry(
            "SSESAMOptimWrapper",
            host.SSESAMOptimWrapper,
            lambda: {
                "optimizer": host.SSESAM(net().parameters(), lr=0.1, tail_classes=[2], switch_step=3),
                "output_module": None,
                "targets_from": None,
                "membership": None,
                "dtype": None,
                "loss_scale": None,
                "verify": True,
            },
            only=("optimizer", "output_module", "targets_from", "dtype", "verify"),
        ),
        Entry(
            "TMemoryBankHook",
            host.TMemoryBankHook,
            lambda: {
                "tail_classes": [1, "sign"],
                "memory_size": 5,
                "sample_ratio": 0.05,
                "resize_ratio": 0.4,
                "update": "random",
                "scope": "image",
                "protect_tail": False,
                "ignore_index": 255,
                "max_bytes": 2**28,
                "seed": 0,
                "start_iter": 0,
                "stop_iter": 9,
                "log_interval": 50,
            },
            says={"start_iter": ("stop_iter",)},
        ),
    ]
