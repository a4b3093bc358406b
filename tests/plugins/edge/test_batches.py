"""The batcher: every known row once an epoch, outliers begun again, samplers told, errors at the boundary."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, TensorDataset

from graftkit.methods.edge import EDGELoss, OutlierExposureBatcher


def known_set(n=10, C=3):
    return TensorDataset(
        torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 2), torch.eye(C)[torch.arange(n) % C]
    )


def oe_set(n=4):
    return TensorDataset(-1 - torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 2), torch.zeros(n))


def rows(batches):
    """First inputs of known rows, and of outliers, in the order in which they came."""
    known, outliers = [], []
    for x, y in batches:
        known += x[y[:, 0] >= 0, 0].tolist()
        outliers += x[(y == -1).all(1), 0].tolist()
    return known, outliers


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_known_loaders_and_outliers_begin_again(workers):
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    batcher = OutlierExposureBatcher(
        DataLoader(known_set(), 4, **options), DataLoader(oe_set(3), 2, shuffle=False, **options)
    )
    assert len(batcher) == 3
    for _ in range(2):
        batches = list(batcher)
        assert [len(x) for x, _ in batches] == [6, 5, 4]  # 4+2, 4+1 (ragged end of the OE set), 2+2
        known, outliers = rows(batches)
        assert known == list(range(10))
        assert outliers == [-1, -2, -3, -1, -2]
        for x, y in batches:
            assert x.dtype == y.dtype == torch.float32
            assert bool((y[x[:, 0] < 0] == -1).all())


def test_drop_last_gives_constant_batches():
    batcher = OutlierExposureBatcher(
        DataLoader(known_set(), 4, drop_last=True), DataLoader(oe_set(5), 2, drop_last=True, shuffle=True)
    )
    assert [len(x) for x, _ in batcher] == [6, 6]


def test_targets_become_floating_and_keep_their_values():
    known = DataLoader(TensorDataset(torch.zeros(2, 2), torch.tensor([[1, 0], [1, 1]])), 2)
    ((_, y),) = OutlierExposureBatcher(known, [torch.ones(1, 2)])
    assert y.tolist() == [[1, 0], [1, 1], [-1, -1]]
    assert y.dtype == torch.float32


@pytest.mark.parametrize("form", ["sampler", "batch_sampler"])
def test_samplers_of_every_process_are_told_the_epoch(form):
    """Two processes see each known row once; the order changes with the epoch; outliers too."""
    seen = {}
    for rank in range(2):
        loaders = []
        for data in (known_set(12), oe_set(12)):
            sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True)
            if form == "sampler":
                loaders.append(DataLoader(data, 3, sampler=sampler))
            else:
                loaders.append(DataLoader(data, batch_sampler=BatchSampler(sampler, 3, drop_last=False)))
        batcher = OutlierExposureBatcher(*loaders)
        for epoch in range(2):
            batcher.set_epoch(epoch)
            seen[rank, epoch] = rows(batcher)
    for epoch in range(2):
        for side in range(2):
            both = seen[0, epoch][side] + seen[1, epoch][side]
            assert len(set(both)) == len(both) == 12
    assert seen[0, 0][0] != seen[0, 1][0]
    assert seen[0, 0][1] != seen[0, 1][1]


def test_criterion_is_told_the_epoch():
    criterion = EDGELoss(warmup_epochs=2)
    batcher = OutlierExposureBatcher(DataLoader(known_set()), DataLoader(oe_set()), criterion=criterion)
    batcher.set_epoch(2)
    assert criterion.epoch.item() == 2


def test_an_unshuffled_long_outlier_set_is_reported():
    with pytest.warns(UserWarning, match="of its 4 batches only the first 2 would ever be seen"):
        OutlierExposureBatcher(DataLoader(known_set(2)), DataLoader(oe_set(4)))
    OutlierExposureBatcher(DataLoader(known_set(2)), DataLoader(oe_set(4), shuffle=True))
    for shuffle in (True, False):
        sampler = DistributedSampler(oe_set(8), num_replicas=2, rank=0, shuffle=shuffle)
        loaders = DataLoader(known_set(2)), DataLoader(oe_set(8), sampler=sampler)
        if shuffle:
            OutlierExposureBatcher(*loaders)
        else:
            with pytest.warns(UserWarning, match="of its 4 batches only the first 2"):
                OutlierExposureBatcher(*loaders)
    OutlierExposureBatcher(DataLoader(known_set(4)), DataLoader(oe_set(4)))


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"id_loader": 3}, TypeError, "id_loader: expected a loader that can be iterated every epoch"),
        ({"oe_loader": iter([torch.zeros(1, 2)])}, TypeError, "oe_loader: expected a loader"),
        ({"oe_loader": torch.zeros(4, 2)}, TypeError, "oe_loader: expected a loader"),
        ({"oe_loader": []}, ValueError, "oe_loader: expected at least one batch.*The set is empty"),
        (
            {"oe_loader": DataLoader(oe_set(2), 4, drop_last=True)},
            ValueError,
            "oe_loader: .*drop_last=True leaves nothing of a set smaller than a batch",
        ),
        (
            {"id_loader": DataLoader(known_set(2), 4, drop_last=True)},
            ValueError,
            "id_loader: .*drop_last=True",
        ),
        ({"criterion": torch.nn.BCELoss()}, TypeError, "criterion: expected an object with set_epoch"),
    ],
)
def test_loaders_that_cannot_work(change, error, words):
    with pytest.raises(error, match=words):
        OutlierExposureBatcher(
            **{"id_loader": DataLoader(known_set()), "oe_loader": DataLoader(oe_set()), **change}
        )


@pytest.mark.parametrize(
    ("known", "outliers", "error", "words"),
    [
        (
            [torch.zeros(2, 2)],
            [torch.zeros(2, 2)],
            TypeError,
            r"id_loader: expected batches \(inputs, targets\)",
        ),
        (
            [(torch.zeros(2, 2), torch.tensor([0, 1]))],
            [torch.zeros(2, 2)],
            ValueError,
            "ID targets: .*multi-hot",
        ),
        (
            [(torch.zeros(2, 2), torch.zeros(2, 1))],
            [torch.zeros(2, 3)],
            ValueError,
            r"OE inputs: .*\(2,\) of .*same",
        ),
        (
            [(torch.zeros(2, 2), torch.zeros(2, 1))],
            [torch.zeros(2, 2, dtype=torch.uint8)],
            ValueError,
            "OE inputs: expected rows like the known ones.*torch.float32.*uint8",
        ),
        ([(torch.zeros(2, 2), torch.zeros(2, 1))], [[[1.0]]], TypeError, "OE inputs: expected a tensor"),
        ([(torch.zeros(2, 2), torch.zeros(2, 1))], DataLoader(Nothing()), ValueError, "The OE set is empty"),
    ],
)
def test_batches_that_do_not_fit(known, outliers, error, words):
    with pytest.raises(error, match=words):
        list(OutlierExposureBatcher(known, outliers))


def test_epochs_are_checked_before_anything_is_told():
    criterion = EDGELoss()
    batcher = OutlierExposureBatcher(DataLoader(known_set()), DataLoader(oe_set()), criterion=criterion)
    with pytest.raises(ValueError, match="epoch: expected an integer >= 0"):
        batcher.set_epoch(-1)
    with pytest.raises(TypeError, match="epoch: expected an integer"):
        batcher.set_epoch(1.5)
