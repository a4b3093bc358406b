"""Audit a digits classifier: how many queries until it is copied, and what a defence would buy.

A small network learns scikit-learn's digits; then a data-free attacker with hard labels copies it. You will
see the ledger of every query, a table of attack and baselines at equal queries and training, the same audit
with two defences in front of the model and what they cost its owner, and a figure of the curve. Scores that
are rounded change nothing for an attacker who reads labels. Real digits, if the attacker has some, copy far
faster than made queries. Digits ship with scikit-learn, so ``--data`` is accepted and not needed.

    python examples/qedg.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftkit.torch import QEDGAuditor, QEDGConfig, compare_defences

SHAPE = (1, 8, 8)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="not needed, the digits are shipped")
    parser.add_argument("--seed", type=int, default=0, help="seed of model and attack")
    parser.add_argument("--quick", action="store_true", help="a smaller budget, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for figure and report")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    budget, console = 200 if options.quick else 500, Console()
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(options.seed))
    images = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, *SHAPE)[order]
    labels = torch.tensor(y)[order]
    train, test = (images[:900], labels[:900]), (images[900:], labels[900:])
    model = _trained(_network(64, options.seed), *train)

    # The audit: a callable of this process, a substitute, a budget, and the owner's word.
    common = {"substitute": _network(32, options.seed + 1), "budget": budget, "owner_confirmation": True,
              "target_id": "digits network, example", "seed": options.seed,
              "config": QEDGConfig.preset("digits")}  # fmt: skip
    result = QEDGAuditor(model, SHAPE, 10, **common).run(
        test, eval_every=budget // 2, finish_each=True, public_data=train[0], eval_origin="held-out digits"
    )
    title = f"Copying the digits network, {budget} queries"
    table = Table("arm", "queries", "kappa (95 %)", "agreement", "transfer", title=title)
    for row in (row for row in result.curve if row["phase"] == "final" or row["queries"] < budget):
        kappa = f"{row['kappa']:.2f} ({row['kappa_low']:.2f} to {row['kappa_high']:.2f})"
        transfer = "-" if row["transfer_success"] is None else f"{row['transfer_success']:.2f}"
        name = {"qedg": "QEDG", "public": "real digits"}.get(row["arm"], row["arm"])
        table.add_row(name, str(row["queries"]), kappa, f"{row['agreement']:.2f}", transfer)
    console.print(table)
    console.print({"ledger": result.ledger, **result.baseline_ledgers})

    # The same audit with something in front of the model.
    variants = {"as it is": model, "rounded": _rounded(model), "wrong if unsure": _deceptive(model)}
    once = {"eval_every": budget}
    compared = compare_defences(variants, SHAPE, 10, eval_data=test, run_options=once, **common)
    console.print(compared.report(), soft_wrap=True)
    own = {name: float((_labels(f(test[0])) == test[1]).double().mean()) for name, f in variants.items()}
    console.print({f"own accuracy, {name}": round(value, 3) for name, value in own.items()})

    options.out.mkdir(parents=True, exist_ok=True)
    result.plot().figure.savefig(figure := options.out / "qedg.png", dpi=120)
    result.to_html(page := options.out / "qedg.html")
    console.print(f"report: {page}")
    kappas = {arm: result.final(arm)["kappa"] for arm in result.arms}
    return {
        "method": "QEDG",
        "host": "torch",
        "data": "digits",
        "metric": f"kappa of a copy, {budget} queries",
        "baseline": f"noise {kappas['noise']:.2f} (with real digits {kappas['public']:.2f})",
        "ours": f"{kappas['qedg']:.2f}",
        "seconds": round(time.perf_counter() - start, 1),
        "figure": str(figure),
        "figures": {"kappa": kappas, "defences": compared.rows, "own_accuracy": own},
    }


def _network(hidden: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def _trained(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def _rounded(model: nn.Module) -> Any:
    return lambda x: (1000 * model(x).softmax(1)).round() + 1e-3 * torch.eye(10)[model(x).argmax(1)]


def _deceptive(model: nn.Module) -> Any:
    """Below 80 % confidence the label is the next class: a defence that reaches the labels."""
    return lambda x: (model(x).argmax(1) + (model(x).softmax(1).amax(1) < 0.8)) % 10


def _labels(answer: Tensor) -> Tensor:
    return answer if answer.ndim == 1 else answer.argmax(1)


if __name__ == "__main__":
    main()
