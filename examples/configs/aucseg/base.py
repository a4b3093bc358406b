"""What the four CamVid configs share: data, a small network, schedule, evaluation by group of classes.

CamVid as folders ``{train,val}/{images,labels}`` under ``data_root`` (unpack the zip); train with mmseg's own
``tools/train.py examples/configs/aucseg/ce_auc_bank.py``. The network is small enough for a CPU: take the
``loss_decode`` and ``custom_hooks`` lines of the other files for yours.
"""

custom_imports = dict(imports=["graftkit.mmseg"], allow_failed_imports=False)
default_scope = "mmseg"

data_root = "data/camvid"
classes = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
           "bicyclist")  # fmt: skip
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
           [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]]  # fmt: skip
crop_size = (128, 160)
iterations = 600

train_dataset = dict(
    type="BaseSegDataset",
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix=".jpg",
    seg_map_suffix=".png",
    data_prefix=dict(img_path="train/images", seg_map_path="train/labels"),
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="RandomCrop", crop_size=crop_size),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackSegInputs"),
    ],
)
val_dataset = dict(
    type="BaseSegDataset",
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix=".jpg",
    seg_map_suffix=".png",
    data_prefix=dict(img_path="val/images", seg_map_path="val/labels"),
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ],
)
train_dataloader = dict(
    batch_size=6,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=train_dataset,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=val_dataset,
)
val_evaluator = dict(
    type="GroupIoUMetric",
    groups=dict(
        head=["road", "building", "sky", "tree"],
        middle=["car", "pavement", "sign", "fence"],
        tail=["pole", "pedestrian", "bicyclist"],
    ),
)

norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=crop_size,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type="ResNetV1c",
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        out_indices=(0, 1, 2),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=64,
        in_index=2,
        channels=32,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=len(classes),
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=[dict(type="CrossEntropyLoss", loss_weight=1.0)],
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=6e-3, weight_decay=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=iterations // 4),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=False,
        begin=iterations // 4,
        end=iterations,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations)
val_cfg = dict(type="ValLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=200),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
