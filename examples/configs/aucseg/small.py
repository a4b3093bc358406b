"""`base.py` at half size and for seconds: what examples/aucseg.py trains."""

_base_ = "base.py"

iterations = 50
size = (90, 120)
resize = dict(type="Resize", scale=(120, 90), keep_ratio=False)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            resize,
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            resize,  # before the labels, which keep their size: predictions are scaled back to it
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ]
    )
)
model = dict(data_preprocessor=dict(size=size))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=15),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=15, end=iterations),
]
train_cfg = dict(max_iters=iterations, val_interval=10**9)
default_hooks = dict(checkpoint=None, logger=None)
visualizer = dict(type="Visualizer", vis_backends=[])  # one would format the configuration once more
log_level = "ERROR"
