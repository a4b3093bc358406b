"""SSE-SAM under Hugging Face's Trainer: the optimizer is handed over, the Trainer is untouched."""

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the transformers extra")
pytest.importorskip("accelerate", reason="needs the transformers extra")

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import Work, weights


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(
            BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=16, max_position_embeddings=8, num_labels=3, hidden_dropout_prob=0.1)
        )  # fmt: skip


class Sentences(torch.utils.data.Dataset):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, 20, (24, 6), generator=generator)
        self.labels = torch.tensor([0, 1, 0, 2, 0, 1] * 4)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.labels[i]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("precision", "accumulation"), [("fp32", 1), ("fp32", 2), ("bf16", 1)])
def test_trainer_runs_the_second_passes(tmp_path, precision, accumulation):
    net = model()
    optimizer = SSESAM(net.parameters(), torch.optim.AdamW, lr=1e-3, tail_classes=[2], switch_step=2)
    optimizer.watch(net, None)
    work = Work(6)
    net.bert.embeddings.register_forward_hook(
        lambda _m, _a, out: setattr(work, "forward", work.forward + len(out))
    )
    before = weights(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 1.0)
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=6, max_steps=4, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_strategy="no", save_strategy="no", bf16=precision == "bf16",
        gradient_accumulation_steps=accumulation,
        max_grad_norm=1.0,
    )  # fmt: skip
    trainer = Trainer(net, arguments, train_dataset=Sentences(), optimizers=(optimizer, scheduler))
    trainer.train()
    assert optimizer.completed_steps == 4
    # Forwards a micro-batch: its own; two steps of stage 1 repeat it three times (and the first once more to
    # be verified), two of stage 2 twice. Models with their own loss take full passes.
    assert work.forward / 6 / accumulation == pytest.approx(2 * 4 + 2 * 3 + 1)
    assert not torch.equal(weights(net), before)
    assert torch.isfinite(weights(net)).all()
