"""Train RCPMOD in several processes: each encodes its share of a step's rows, and all see all latents.

    python examples/distributed/rcpmod.py                                # one process
    torchrun --nproc-per-node 2 examples/distributed/rcpmod.py           # two, the same result

The losses contrast every row of a batch with every other, with neighbours and with the bank, so that a part
of a batch has another loss than the whole. Hence the processes share the encoding (of a batch, its neighbours
and negatives, and the bank), and each computes the loss of the whole batch. Decoding, of the batch alone, and
the neighbour tables are not shared. The trained model scores new rows anywhere (`FittedPairs.score`).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from graftkit.methods.rcpmod import Settings, fit_pairs
from graftkit.methods.rcpmod.data import make_multiview_outliers


class SharedEncoder(nn.Module):
    """An encoder whose rows are dealt out to the processes."""

    def __init__(self, encoder: nn.Module, accelerator: Accelerator) -> None:
        super().__init__()
        self.encoder, self.accelerator = accelerator.prepare(encoder), accelerator

    def forward(self, x: Tensor) -> Tensor:
        """Latents of shape (rows, d) on every process."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        share = -(-len(x) // world)
        # As many rows for each: the last one is repeated.
        own = torch.arange(rank * share, (rank + 1) * share).clamp(max=len(x) - 1)
        z = self.encoder(x[own])
        latents = self.accelerator.gather(z.detach()).split(share)
        if z.requires_grad:
            # All compute the same loss: what reaches a process's rows is their whole gradient, of which
            # DistributedDataParallel would take the mean.
            z.register_hook(lambda gradient: gradient * world)
        return torch.cat([z if part == rank else latents[part] for part in range(world)])[: len(x)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())

    data = make_multiview_outliers(400, missing=0.3, random_state=0)
    # Short schedules, so that tables are refreshed and imputed rows join within these epochs.
    settings = Settings(
        n_epochs=options.epochs, hidden_layer_sizes=(64,), latent_dim=16, batch_size=64,
        neighbor_refresh=2, negative_refresh=2, impute_from=3, device=str(accelerator.device),
    )  # fmt: skip
    names = tuple(range(len(data.views)))
    model, scores, curve = fit_pairs(
        list(data.views), data.mask, names, settings, np.random.default_rng(0),
        wrap=lambda encoder: SharedEncoder(encoder, accelerator),
    )  # fmt: skip
    accelerator.print(f"loss {curve[-1]['total']:.4f}, {accelerator.num_processes} process(es)")
    if accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        state = {"scores": torch.from_numpy(scores)}
        for pair, scorer in zip(model.pairs, model.scorers, strict=True):
            for view, network in zip(pair, scorer.networks, strict=True):
                for side, layers in (("encoder", network.encoder), ("decoder", network.decoder)):
                    for depth, (weight, _) in enumerate(layers):
                        state[f"{pair}.{view}.{side}.{depth}"] = torch.from_numpy(weight)
        save_file(state, options.out / "rcpmod_weights.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
