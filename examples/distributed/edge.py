"""Train with outliers in several processes; accelerate shares each global batch of either side out.

    python examples/distributed/edge.py --beta 0                          # one process
    torchrun --nproc-per-node 2 examples/distributed/edge.py --beta 0     # two, the same result

With ``--beta`` above 0 results differ: the tail is that of each process's batch, and pairs of a row and an
outlier on two processes do not meet. Divide an integer `k` by the number of processes, as is done here.
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

from graftkit.torch import EDGELoss


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--beta", type=float, default=0.1, help="weight of the gap term")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    # One loader's batch is the global batch: each process takes its part of it.
    split = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), dataloader_config=split)
    set_seed(0)

    images, digits = load_digits(return_X_y=True)
    x, digits = torch.from_numpy(images / 16).float(), torch.from_numpy(digits).long()
    # Three labels, any number of them at once: even, above 4, a multiple of 3. Digits 8 and 9 are unknown.
    labels = torch.stack([digits % 2 == 0, digits > 4, digits % 3 == 0], dim=1).float()
    known, strange = digits < 8, digits >= 8
    sides = [
        DataLoader(TensorDataset(x[known], labels[known]), batch_size=64, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(x[strange]), batch_size=64, shuffle=True, drop_last=True),
    ]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = EDGELoss(beta=options.beta, margin=1.0, k=16 // accelerator.num_processes)
    model, optimizer, *sides = accelerator.prepare(model, optimizer, *sides)

    for epoch in range(options.epochs):
        criterion.set_epoch(epoch)
        for (inputs, targets), (outliers,) in zip(*sides, strict=False):  # as many steps as the shorter side
            optimizer.zero_grad()
            logits = model(torch.cat([inputs, outliers]))
            loss = criterion.split(logits[: len(inputs)], targets, logits[len(inputs) :])
            accelerator.backward(loss)
            optimizer.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch + 1}: loss {mean:.4f}, {accelerator.num_processes} process(es)")
    if accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(accelerator.unwrap_model(model).state_dict(), options.out / "edge_weights.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
