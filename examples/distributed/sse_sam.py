"""Train with SSE-SAM in several processes; accelerate shares each global batch out.

    python examples/distributed/sse_sam.py                                # one process
    torchrun --nproc-per-node 2 examples/distributed/sse_sam.py           # two, the same result
    accelerate launch --num_processes 2 examples/distributed/sse_sam.py

The perturbation is that of the global batch (``sync_perturbation``, the default), so that the result does not
depend on the number of processes but for the order of sums.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from graftkit.torch import SSESAM, tail_classes_from_counts


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    # One loader's batch is the global batch: each process takes its part of it.
    split = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), dataloader_config=split)
    set_seed(0)

    x, y = load_digits(return_X_y=True)
    keep = (y < 7) | (torch.arange(len(y)).numpy() % 10 == 0)  # digits 7 to 9 become rare
    data = TensorDataset(torch.from_numpy(x[keep] / 16).float(), torch.from_numpy(y[keep]).long())
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    tail = tail_classes_from_counts(torch.bincount(data.tensors[1]), 100)
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh(), nn.Linear(64, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = SSESAM(
        model.parameters(), lr=0.05, momentum=0.9, tail_classes=tail, total_steps=options.epochs * len(loader)
    )
    model, prepared, loader = accelerator.prepare(model, optimizer, loader)
    optimizer.watch(model, criterion)

    for epoch in range(options.epochs):
        for inputs, targets in loader:
            prepared.zero_grad()
            loss = criterion(model(inputs), targets)
            accelerator.backward(loss)
            prepared.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch + 1}: loss {mean:.4f}, {accelerator.num_processes} process(es)")
    if accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(accelerator.unwrap_model(model).state_dict(), options.out / "sse_sam_weights.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
