"""SSE-SAM under Lightning's automatic optimization: the module only returns its loss."""

import logging

import pytest
import torch
from torch import nn

lightning = pytest.importorskip("lightning", reason="needs the lightning extra")

from graftkit.torch import SSESAM  # noqa: E402  (after the check)
from tests.plugins.sse_sam.loops import counted, mixed_batches, weights  # noqa: E402

DATA = [(x.float(), y) for x, y in mixed_batches(n=6)]


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4))
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch, index):
        del index
        x, y = batch
        return self.criterion(self.net(x), y)

    def configure_optimizers(self):
        optimizer = SSESAM(self.parameters(), lr=0.1, momentum=0.9, tail_classes=[3], switch_step=2)
        optimizer.watch(self.net, self.criterion)
        self.sharp = optimizer
        return optimizer


def trained(tmp_path, **kwargs):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, **kwargs,
    )  # fmt: skip
    with counted(module.net[0], 12) as work:
        trainer.fit(module, torch.utils.data.DataLoader(DATA, batch_size=None))
    return module, work


def plain(accumulation: int = 1, clip: float | None = None):
    module = Classifier()
    optimizer = module.configure_optimizers()
    for k in range(0, 6, accumulation):
        optimizer.zero_grad()
        for batch in DATA[k : k + accumulation]:
            (module.training_step(batch, 0) / accumulation).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
    return module


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("options", "accumulation", "clip"),
    [({}, 1, None), ({"accumulate_grad_batches": 2}, 2, None), ({"gradient_clip_val": 0.5}, 1, 0.5)],
)
def test_automatic_optimization_equals_the_plain_loop(tmp_path, options, accumulation, clip):
    module, work = trained(tmp_path, **options)
    assert module.sharp.completed_steps == 6 // accumulation
    assert work.units > 6 * 1.4
    torch.testing.assert_close(weights(module), weights(plain(accumulation, clip)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_bf16(tmp_path):
    module, _ = trained(tmp_path, precision="bf16-mixed")
    assert module.sharp.completed_steps == 6
    exact = weights(plain())
    assert (weights(module) - exact).norm() < 0.15 * (exact - weights(Classifier())).norm()
