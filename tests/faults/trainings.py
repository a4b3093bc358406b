"""One training a method that keeps a state: each goes on from whatever it finds in its folder, to one end.

A training takes a folder, notes at which step it starts, saves after each step as a user's loop would (one
file, there whole or not at all), and returns its end state: a flat mapping of names to tensors.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.files import whole_file

State = dict[str, Tensor]


def note_start(folder: Path, step: int) -> None:
    """One unbuffered line, so that a killed process has said where it began."""
    file = os.open(folder / "starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{step}\n".encode())
    os.close(file)


def save(path: Path, **state: Any) -> None:
    with whole_file(path) as file:
        torch.save(state, file)


def flat(**parts: Any) -> State:
    """State dicts as one flat mapping, numbers as tensors."""
    found: State = {}
    for name, value in parts.items():
        if isinstance(value, Tensor):
            found[name] = value.detach().clone()
        elif isinstance(value, dict):
            found |= {
                f"{name}/{key}": each for key, each in flat(**{str(k): v for k, v in value.items()}).items()
            }
        elif isinstance(value, list | tuple):
            found |= flat(**{f"{name}/{k}": each for k, each in enumerate(value)})
        elif isinstance(value, int | float):
            found[name] = torch.tensor(value, dtype=torch.float64)
    return found


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def sse_sam(folder: Path) -> State:
    """A watched loop over both stages, with momentum, batch norm and a scheduler."""
    from graftkit.torch import SSESAM
    from tests.plugins.sse_sam.loops import by_loop, mixed_batches

    batches = mixed_batches(n=40)
    model = seeded(
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).double()
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = SSESAM(model.parameters(), lr=0.1, momentum=0.9, tail_classes=[3], switch_step=20)
    optimizer.watch(model, criterion)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first = resume(folder, parts)
    for step in range(first, len(batches)):
        by_loop(optimizer, model, criterion, batches[step : step + 1])
        scheduler.step()
        save(folder / "state.pt", step=step + 1, **{name: part.state_dict() for name, part in parts.items()})
    return flat(**{name: part.state_dict() for name, part in parts.items()})


def edge(folder: Path) -> State:
    """The batcher, the criterion's warm-up and momentum, an epoch a step."""
    from graftkit.torch import EDGELoss, OutlierExposureBatcher
    from tests.adapters.torch.test_edge import KNOWN, OPTIONS, OUTLIERS, net

    model, criterion = net(), EDGELoss(**{**OPTIONS, "warmup_epochs": 8})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = OutlierExposureBatcher(KNOWN, OUTLIERS, criterion=criterion)
    parts = {"model": model, "optimizer": optimizer, "criterion": criterion}
    for epoch in range(resume(folder, parts), 20):
        loader.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        save(folder / "state.pt", step=epoch + 1, **{name: part.state_dict() for name, part in parts.items()})
    return flat(**{name: part.state_dict() for name, part in parts.items()})


def bilt(folder: Path) -> State:
    """A wrapped timm model: its own weights file a step, and the optimizer's state that names it."""
    from graftkit.timm import BiLTLoss
    from tests.adapters.timm.bilt_cases import TREE, pictures, small

    model, criterion = small().train(), BiLTLoss(TREE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    parts = {"optimizer": optimizer, "criterion": criterion}
    first = resume(folder, parts)
    if first:
        model.load_weights(folder / f"weights-{first}.safetensors")
    for step in range(first, 12):
        x, y = pictures(6, 32, seed=step)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        model.save_weights(folder / f"weights-{step + 1}.safetensors")
        save(folder / "state.pt", step=step + 1, **{name: part.state_dict() for name, part in parts.items()})
    return flat(model=model.state_dict(), **{name: part.state_dict() for name, part in parts.items()})


@cache
def _graphs() -> tuple[Any, ...]:
    from graftkit.pyg import HGOEStructuralEncoding
    from tests.adapters.pyg.hgoe_cases import family, id_graphs

    encode = HGOEStructuralEncoding(4, 8)
    return encode, [encode(graph) for graph in id_graphs(24)], family("tree", 40)


def _hgoe(folder: Path, make: Callable[[], Any]) -> State:
    from graftkit.pyg import (
        BoundaryAwareOELoss,
        HGOEConfig,
        OutlierExposureDataset,
        OutlierExposureLoader,
        fit_outlier_exposure,
    )

    encode, inside, trees = _graphs()
    outliers = OutlierExposureDataset(
        inside,
        {"trees": trees},
        HGOEConfig(rate_external=0.8),
        transform=encode,
        cache_dir=folder / "outliers",
    )
    detector = make()
    optimizer = torch.optim.Adam(detector.parameters(), lr=0.01)
    parts = {"detector": detector, "optimizer": optimizer}

    def keep(record: dict[str, float]) -> None:
        step = int(record["epoch"]) + 1
        save(folder / "state.pt", step=step, **{name: part.state_dict() for name, part in parts.items()})

    first = resume(folder, parts)
    loader = OutlierExposureLoader(inside, outliers, batch_size=16)
    fit_outlier_exposure(
        detector, loader, BoundaryAwareOELoss(), optimizer, epochs=6, callbacks=[keep], start_epoch=first
    )
    return flat(
        outliers=outliers._data.to_dict(), **{name: part.state_dict() for name, part in parts.items()}
    )


def hgoe_svdd(folder: Path) -> State:
    """Outliers through their cache; a detector that looks at the ID graphs before it starts."""
    from graftkit.pyg import GraphSVDD

    return _hgoe(folder, lambda: GraphSVDD(1, hidden=8))


def hgoe_goodd(folder: Path) -> State:
    """A coupled detector whose weights of the parts follow the last epoch."""
    from graftkit.pyg import GOODDLite

    return _hgoe(folder, lambda: GOODDLite(1, 12, hidden=4, layers=1, alpha=1.0))


def dpcml(folder: Path) -> State:
    """A pass at a time through partial_fit, saved and loaded."""
    from graftkit.sklearn import DPCML
    from tests.adapters.sklearn.dpcml_cases import interactions, tiny

    X, path = interactions(), folder / "model.npz"
    model = DPCML.load(path) if path.exists() else tiny(max_iter=1)
    done = getattr(model, "n_iter_", 0)
    note_start(folder, done)
    for _ in range(done, 15):
        model.partial_fit(X)
        model.save(path)
    return flat(
        users=torch.from_numpy(model.user_vectors_), items=torch.from_numpy(model.item_vectors_),
        losses=[record["loss"] for record in model.history_], moments=vars(model._state),
    )  # fmt: skip


def diffusion_feature(folder: Path) -> State:
    """Features of 24 pictures into the cache."""
    from graftkit.diffusers import FeatureCache, extract_features
    from tests.adapters.diffusers import tiny
    from tests.adapters.diffusers.extraction_cases import NAMES, make_pipe

    note_start(folder, len(list(FeatureCache(folder / "cache").keys())))
    pictures = list(tiny.image(24, 16, 16))
    found = extract_features(make_pipe(), pictures, folder / "cache", features=NAMES, batch_size=4, seed=3)
    keys = "".join(found.order).encode()
    return flat(
        order=torch.frombuffer(bytearray(keys), dtype=torch.uint8), maps=[found[i] for i in range(24)]
    )


def aucseg(folder: Path) -> State:
    """mmengine's Runner with the loss and the memory bank, a checkpoint every iteration."""
    warnings.simplefilter("ignore")  # the host's own, dozens
    from tests.adapters.mmseg.aucseg_cases import hook_of, scene_config, trained, weights, write_scenes

    scenes = folder.parent / "scenes"
    if not scenes.exists():
        write_scenes(scenes)
    last = folder / "work" / "last_checkpoint"
    cfg = scene_config(scenes, folder / "work", iterations=24, resume=last.exists())
    cfg.default_hooks.checkpoint.interval = 1
    note_start(folder, int(Path(last.read_text()).stem.split("_")[1]) if last.exists() else 0)
    runner = trained(cfg)
    return flat(weights=weights(runner), bank=hook_of(runner, "TMemoryBankHook").bank.state_dict())


def records(folder: Path) -> State:
    """A benchmark's figures, skipped by key."""
    from tests.benchmarks.results_io import Records

    found = Records("x", folder / "records.json")
    note_start(folder, len(found.records))
    for k in range(60):
        if not found.has(f"{k:02d}"):
            value = float(torch.randn(200, 200, generator=torch.Generator().manual_seed(k)).svd()[1].sum())
            found.add(f"{k:02d}", {"cpu": "x"}, value=value)
    return flat(values=[record["value"] for _, record in sorted(Records("x", found.path).records.items())])


def resume(folder: Path, parts: dict[str, Any]) -> int:
    """Load what a process that is gone has saved; the number of steps that are done."""
    path, step = folder / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        step = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    note_start(folder, step)
    return int(step)


# By name: the training, the kills, and how far floats may be apart. Whole batches of the denoiser and parts
# of one differ by rounding; everything else is the same to the bit.
TRAININGS: dict[str, tuple[Callable[[Path], State], int, float]] = {
    "sse_sam": (sse_sam, 8, 0.0),
    "aucseg": (aucseg, 5, 0.0),
    "bilt": (bilt, 6, 0.0),
    "edge": (edge, 8, 0.0),
    "hgoe_svdd": (hgoe_svdd, 6, 0.0),
    "hgoe_goodd": (hgoe_goodd, 6, 0.0),
    "dpcml": (dpcml, 8, 0.0),
    "diffusion_feature": (diffusion_feature, 6, 1e-5),
    "records": (records, 8, 0.0),
}
