"""Train DPCML's vectors in several processes; DistributedDataParallel averages the rows' sparse gradients.

    python examples/distributed/dpcml.py                                # one process
    torchrun --nproc-per-node 2 examples/distributed/dpcml.py           # two, the same result

All processes draw one order and the same candidates, and each takes its part of every batch, weighed by its
length. The users of the whole batch are dealt out for the diversity penalty, so that one who stands in two
parts counts once. One process takes the steps of `graftkit.sklearn.DPCML`: row-wise Adam, then the norms.
Sparse gradients are summed by gloo, on CPUs.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from graftkit.methods.dpcml import Settings, make_multi_interest
from graftkit.methods.dpcml.constraints import project
from graftkit.methods.dpcml.diversity import diversity_penalty
from graftkit.methods.dpcml.losses import triplet_gradients
from graftkit.methods.dpcml.optimizers import RowOptimizer
from graftkit.methods.dpcml.sampling import NegativeSampler
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.vectors import padded_rows


class Vectors(nn.Module):
    """Tables whose gradients come in closed form: the value returned has them as its derivative."""

    def __init__(self, state: TrainingState, settings: Settings, world: int) -> None:
        super().__init__()
        for name in ("user", "item"):
            table = torch.from_numpy(state.tables()[name])
            setattr(self, name, nn.Embedding.from_pretrained(table, freeze=False, sparse=True))
        self.rows = torch.from_numpy(padded_rows(state.user_ptr))
        self.settings, self.world = settings, world

    def forward(self, batch: Tensor, rank: int) -> Tensor:
        """Share of a batch (user, item, candidates in a row); the mean has the whole's gradient."""
        settings, part = self.settings, batch[rank :: self.world]
        users, items, candidates = part[:, 0], part[:, 1], part[:, 2:]
        with torch.no_grad():
            found = triplet_gradients(
                self.user.weight, self.item.weight, self.rows[users], items, candidates,
                margin=settings.margin, sampling=settings.sampling,
            )  # fmt: skip
            share = len(part) * self.world / len(batch)
            distinct = batch[:, 0].unique()
            own = self.rows[distinct[rank :: self.world]]
            penalty, pulls = diversity_penalty(
                self.user(own), torch.full((len(own),), own.shape[1]), form=str(settings.dcrs),
                delta_min=settings.delta_min, delta_max=settings.delta_max,
            )  # fmt: skip
            # Row-wise Adam moves every row that is named, so users within the bounds are left out.
            own, pulls = own[penalty > 0], pulls[penalty > 0]
            pulls = pulls * (settings.dcrs_weight * self.world / len(distinct))
        value = (self.user(found.user_rows) * found.user_gradients).sum() * share
        value = value + (self.item(found.item_rows) * found.item_gradients).sum() * share
        return value + (self.user(own) * pulls).sum()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes

    train = make_multi_interest(random_state=0).train
    settings = Settings(n_components=16, n_vectors=3, delta_max=0.1, batch_size=256)
    rng = np.random.default_rng(0)
    state = TrainingState.initial(np.full(train.shape[0], 3), train.shape[1], settings, rng)
    sampler = NegativeSampler(train)
    users, items = (part.astype(np.int64) for part in train.nonzero())
    vectors = Vectors(state, settings, world)
    model = accelerator.prepare(vectors)
    rules = {"user": settings.user_norm, "item": settings.item_norm}
    optimizers = {
        name: RowOptimizer(
            getattr(vectors, name).weight.data, settings.optimizer, learning_rate=settings.learning_rate,
            constrain=lambda rows, rule=rule: project(rows, rule, settings.max_norm),
        )
        for name, rule in rules.items()
    }  # fmt: skip

    for epoch in range(options.epochs):
        order = rng.permutation(len(users))
        candidates = sampler.draw(users[order], settings.n_negatives, rng)
        table = np.column_stack((users[order], items[order], candidates))
        for batch in torch.from_numpy(table).split(settings.batch_size):
            if len(batch) < world:
                continue  # the last batch, where a process would have nothing
            vectors.zero_grad(set_to_none=True)
            accelerator.backward(model(batch, rank))
            for name, optimizer in optimizers.items():
                gradient = getattr(vectors, name).weight.grad.coalesce()
                optimizer.step(gradient.indices()[0], gradient.values())
        accelerator.print(f"epoch {epoch + 1}: {len(users)} positives, {world} process(es)")
    if accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(vectors.state_dict(), options.out / "dpcml_weights.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main()
