"""Small targets, substitutes and settings for QEDG's tests."""

import torch
from torch import nn

from graftkit.methods.qedg import QEDGAuditor, QEDGConfig

SHAPE, CLASSES = (1, 8, 8), 4
TINY = QEDGConfig.preset(
    "digits", batch_size=16, latent=8, width=4, g_steps=3, inner_epochs=2, final_rounds=2
)


def network(hidden=8, seed=0, shape=SHAPE, classes=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = torch.Size(shape).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def batch_norm_network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(8, CLASSES),
        )


def quadrants(x):
    """Scores: the brightness of each quarter of the image."""
    return torch.stack([q.mean((1, 2, 3)) for half in x.split(4, 2) for q in half.split(4, 3)], 1)


class Counting:
    """A target that counts, and keeps, the rows that it is given."""

    def __init__(self, function=quadrants, fail_at=None, error=None):
        self.function, self.rows, self.batches = function, 0, []
        self.fail_at, self.error = fail_at, error
        self.calls = 0

    def __call__(self, x):
        self.rows += len(x)
        self.batches.append(x.clone())
        self.calls += 1
        if self.calls == self.fail_at:
            return self.error(x)
        return self.function(x)


def evaluation(n=40, seed=5):
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return x, quadrants(x).argmax(1)


def auditor(target=quadrants, budget=40, substitute=None, config=TINY, **kwargs):
    options = {"owner_confirmation": True, "target_id": "quadrants v1", "seed": 3, **kwargs}
    return QEDGAuditor(
        target, SHAPE, CLASSES, substitute=substitute or network(), budget=budget, config=config, **options
    )


def weights(result):
    return torch.cat([p.detach().flatten().double() for p in result.substitute.state_dict().values()])
