"""Train a graph classifier with outlier exposure in several processes; each takes its part of every batch.

    python examples/distributed/hgoe.py                                # one process
    torchrun --nproc-per-node 2 examples/distributed/hgoe.py           # two, the same result

Loaders with one seed give every process the same pair of batches, whatever its workers; both losses are means
over graphs. The GIN has no batch normalisation, whose statistics would be each process's own.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_geometric.data import Batch
from torch_geometric.datasets import FakeDataset
from torch_geometric.nn import GIN, global_mean_pool

from graftkit.pyg import BoundaryAwareOELoss, OutlierExposureDataset, OutlierExposureLoader


class Classifier(nn.Module):
    """Three classes of graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.gin = GIN(4, 32, num_layers=2, out_channels=3)

    def forward(self, data: Any) -> Tensor:
        """Logits of shape (graphs, 3)."""
        return global_mean_pool(self.gin(data.x, data.edge_index), data.batch)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    rank, world = accelerator.process_index, accelerator.num_processes

    set_seed(0)  # PyG's fake graphs draw from the global generators
    graphs = list(FakeDataset(num_graphs=128, avg_num_nodes=20, avg_degree=4, num_channels=4, num_classes=3))
    others = list(FakeDataset(num_graphs=128, avg_num_nodes=30, avg_degree=10, num_channels=4))
    outliers = OutlierExposureDataset(graphs, external={"others": others})
    loader = OutlierExposureLoader(graphs, outliers, batch_size=32, seed=0)
    model, criterion = Classifier(), BoundaryAwareOELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    model, optimizer = accelerator.prepare(model, optimizer)

    for epoch in range(options.epochs):
        for pair in loader:
            # Graphs dealt out in turn: as many for each process where the batch divides.
            known, strange = (
                Batch.from_data_list(batch[rank::world]).to(accelerator.device) for batch in pair
            )
            optimizer.zero_grad()
            # One forward: DistributedDataParallel wants one for each backward.
            logits = model(Batch.from_data_list(known.to_data_list() + strange.to_data_list()))
            energy = -logits[known.num_graphs :].logsumexp(dim=1)
            loss = cross_entropy(logits[: known.num_graphs], known.y) + criterion(energy)
            accelerator.backward(loss)
            optimizer.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch + 1}: loss {mean:.4f}, {world} process(es)")
    if accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(accelerator.unwrap_model(model).state_dict(), options.out / "hgoe_weights.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
