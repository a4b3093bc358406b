"""Train a hierarchical head on a timm model in several processes; accelerate shares each global batch out.

    python examples/distributed/bilt.py --no-chain                       # one process
    torchrun --nproc-per-node 2 examples/distributed/bilt.py --no-chain  # two, the same

The loss is a mean over samples, so that the processes' mean gradient is the global batch's. With the chain
results differ a little: its batch normalisation sees each process's part of the batch. On GPUs convert it
with ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``; torch has no such layer for CPUs.
"""

import argparse
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from graftkit.timm import BiLTLoss, LabelTree, wrap_timm

SHAPES = {"round": "0689", "straight": "147", "mixed": "235"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--no-chain", action="store_true", help="heads that do not feed one another")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    # One loader's batch is the global batch: each process takes its part of it.
    split = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), dataloader_config=split)
    set_seed(0)

    paths = [(shape, digit) for shape, digits in SHAPES.items() for digit in digits]
    tree = LabelTree.from_paths(paths).align({str(digit): digit for digit in range(10)})
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images[:512] / 16).float().reshape(-1, 1, 8, 8)
    data = TensorDataset(x.repeat(1, 3, 4, 4), torch.from_numpy(labels[:512]).long())
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    model = wrap_timm(timm.create_model("test_vit", img_size=32), tree, neck=None, chain=not options.no_chain)
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=0.05, momentum=0.9)
    criterion = BiLTLoss(tree)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    for epoch in range(options.epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch + 1}: loss {mean:.4f}, {accelerator.num_processes} process(es)")
    if accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        state = {k: v.contiguous() for k, v in accelerator.unwrap_model(model).state_dict().items()
                 if v.is_floating_point()}  # fmt: skip
        save_file(state, options.out / "bilt_weights.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
