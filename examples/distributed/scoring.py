"""Score, recommend and extract features with joblib's workers: threads, processes (loky) or a Dask cluster.

    python examples/distributed/scoring.py                           # one process
    python examples/distributed/scoring.py --backend loky --jobs 2
    python examples/distributed/scoring.py --backend dask            # a local cluster, or --scheduler ADDRESS

The estimators take whatever ``joblib.parallel_config`` sets. Their blocks of rows do not depend on the number
of workers, so results are equal bit for bit where BLAS uses as many threads in each worker. A diffusion
pipeline serves one forward at a time: each task has a copy (load the weights there, if they are large).
For a folder of pictures take `graftkit.diffusers.extract_features` under ``accelerate launch``.
"""

import argparse
import copy
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from graftkit.diffusers import DiffusionFeaturePipeline
from graftkit.diffusers.small_models import small_pipeline
from graftkit.methods.diffusion_feature.data import shape_scenes
from graftkit.methods.rcpmod.data import make_multiview_outliers
from graftkit.sklearn import DPCML, RCPMOD, make_multi_interest

FEATURE = "up-level1-repeat0-res-out"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=["threading", "loky", "dask"])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scheduler", help="address of a running Dask scheduler")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    options = parser.parse_args(argv)

    rows = make_multiview_outliers(10_000, dims=(8, 8), missing=0.2, random_state=0)
    detector = RCPMOD(n_epochs=1, hidden_layer_sizes=(16,), latent_dim=8, random_state=0)
    detector.fit([view[:500] for view in rows.views], view_mask=rows.mask[:500])
    train = make_multi_interest(random_state=0).train
    recommender = DPCML(n_components=16, n_vectors=3, max_iter=3, random_state=0).fit(train)
    pipe = small_pipeline(("disc", "square"))
    pictures = torch.from_numpy(shape_scenes(8, random_state=0)[0])
    shards = [range(start, start + 2) for start in range(0, len(pictures), 2)]

    with ExitStack() as stack:
        if options.backend == "dask":
            from dask.distributed import Client

            local = {"n_workers": options.jobs, "threads_per_worker": 1, "dashboard_address": None}
            stack.enter_context(Client(options.scheduler) if options.scheduler else Client(**local))
        if options.backend is not None:
            jobs = -1 if options.backend == "dask" else options.jobs
            stack.enter_context(joblib.parallel_config(options.backend, n_jobs=jobs))
        # What loads most comes first: loky replaces workers that grow by 300 MB later on.
        features = joblib.Parallel()(
            joblib.delayed(extract)(pipe, pictures[list(shard)], shard) for shard in shards
        )
        items, distances = recommender.recommend(np.arange(train.shape[0]), n=5, batch_size=32)
        scores = detector.score_samples(rows.views, view_mask=rows.mask)
    results = {"scores": scores, "items": items, "distances": distances, "features": np.concatenate(features)}
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / "scoring.npz", **results)
    where = options.backend or "one process"
    print(f"{len(scores)} rows, {len(items)} users, {len(pictures)} pictures: {where}")
    return results


def extract(pipe: DiffusionFeaturePipeline, pictures: torch.Tensor, numbers: range) -> np.ndarray:
    """Features of a shard; each picture's noise depends on its number alone."""
    noise = [torch.Generator().manual_seed(number) for number in numbers]
    found = copy.deepcopy(pipe)(pictures, "disc", FEATURE, timestep=50, generator=noise)
    return found.features[FEATURE].numpy()


if __name__ == "__main__":
    main()
