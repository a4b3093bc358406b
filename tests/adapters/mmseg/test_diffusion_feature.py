"""The backbone inside mmsegmentation: built from a config, trained one step, predicting, resumed."""

import warnings

import pytest
import torch

pytest.importorskip("mmseg", reason="needs the mmseg extra")
pytest.importorskip("diffusers", reason="needs the diffusers extra")

with warnings.catch_warnings():  # mmcv without compiled operators says what it lacks
    warnings.simplefilter("ignore")
    import mmseg.models  # noqa: F401
import diffusers
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint, save_checkpoint
from mmengine.structures import PixelData

import graftkit.mmseg
from graftkit.diffusers import DiffusionFeaturePipeline
from tests.adapters.diffusers import tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # the host's own, dozens

LEVELS = [[f"up-level{level}-repeat1-res-out"] for level in (3, 2, 1)]
PREPROCESSOR = {
    "type": "SegDataPreProcessor", "mean": [127.5] * 3, "std": [127.5] * 3, "size": (32, 32), "pad_val": 0,
    "seg_pad_val": 255,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    tiny.sd_pipe(tmp_path / "tokenizer").save_pretrained(tmp_path / "sd")
    return str(tmp_path / "sd")


def segmentor(**backbone):
    from mmseg.registry import MODELS as SEGMENTORS

    init_default_scope("mmseg")
    source = {"type": "DiffusionFeatureBackbone", "levels": LEVELS, "mean": [127.5] * 3, "std": [127.5] * 3}
    return SEGMENTORS.build(
        {
            "type": "EncoderDecoder",
            "data_preprocessor": PREPROCESSOR,
            "backbone": {**source, **backbone},
            "decode_head": {
                "type": "UPerHead", "in_channels": [8, 8, 16], "in_index": [0, 1, 2], "pool_scales": (1, 2),
                "channels": 8, "num_classes": 3, "norm_cfg": {"type": "BN"}, "align_corners": False,
            },
            "test_cfg": ConfigDict(mode="whole"),
        }
    )  # fmt: skip


def batch():
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(2)]
    samples = []
    for _ in images:
        sample = SegDataSample(metainfo={"img_shape": (32, 32), "ori_shape": (32, 32), "pad_shape": (32, 32)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, 32, 32), generator=generator))
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}


def test_registered_under_its_name():
    assert MODELS.get("DiffusionFeatureBackbone") is graftkit.mmseg.DiffusionFeatureBackbone


def test_an_encoder_decoder_trains_predicts_and_resumes(folder, tmp_path):
    model = segmentor(pretrained=folder, prompt="a street").train()
    from mmengine.optim import OptimWrapper

    trained = [p for p in model.parameters() if p.requires_grad]
    assert not any(p.requires_grad for p in model.backbone.parameters())
    wrapper = OptimWrapper(torch.optim.AdamW(trained, lr=1e-2))
    before = [p.detach().clone() for p in model.decode_head.parameters()]
    unet = {k: v.clone() for k, v in model.backbone.body.denoiser.state_dict().items()}
    log = model.train_step(batch(), wrapper)
    assert torch.isfinite(log["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, model.decode_head.parameters(), strict=True))
    assert all(torch.equal(v, unet[k]) for k, v in model.backbone.body.denoiser.state_dict().items())
    model.eval()
    predicted = model.test_step(batch())
    assert predicted[0].pred_sem_seg.data.shape == (1, 32, 32)
    save_checkpoint({"state_dict": model.state_dict()}, str(tmp_path / "iter.pth"))
    again = segmentor(pretrained=folder, prompt=None).eval()
    load_checkpoint(again, str(tmp_path / "iter.pth"), strict=True)
    for a, b in zip(predicted, again.test_step(batch()), strict=True):
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)


def test_a_trainable_backbone_learns(folder):
    from mmengine.optim import OptimWrapper

    model = segmentor(pretrained=folder, trainable=True, noise="random").train()
    weight = model.backbone.body.denoiser.conv_in.weight
    before = weight.detach().clone()
    model.train_step(batch(), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert not torch.equal(weight, before)
    assert model.backbone.out_channels == [8, 8, 16]


def test_there_is_one_source(tmp_path):
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path))
    assert isinstance(pipe.unet, diffusers.UNet2DConditionModel)
    with pytest.raises(ValueError, match="expected exactly one of them, got 'neither'"):
        graftkit.mmseg.DiffusionFeatureBackbone()
    with pytest.raises(ValueError, match="expected exactly one of them, got 'both'"):
        graftkit.mmseg.DiffusionFeatureBackbone("folder", pipe)
    assert (
        len(graftkit.mmseg.DiffusionFeatureBackbone(pipe=pipe, levels=LEVELS)(torch.zeros(1, 3, 32, 32))) == 3
    )
