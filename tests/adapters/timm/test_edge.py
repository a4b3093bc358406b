"""EDGE in timm: its multi-label task, its losses as classification term, its evaluator, any backbone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

pytest.importorskip("timm", reason="needs the timm extra")
pytest.importorskip("timm.task", reason="needs timm 1.0.29 or newer, with its training tasks")

import timm
from timm.data.loader import MultiEpochsDataLoader
from timm.loss import AsymmetricLossMultiLabel, DistributionBalancedLoss
from timm.task import MultiLabelClassificationTask

from graftkit.timm import (
    EDGELoss,
    JointEnergy,
    OEDatasetSelector,
    OutlierExposureBatcher,
    multilabel_map,
    ood_metrics,
    pooled_features,
    tail_sweep,
)

LABELS = 4


def model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=LABELS, in_chans=1)


def pictures(n, labels, seed):
    """A bright quarter a label; an outlier is bright in the middle, which no label is."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 16, 16, generator=generator) * 0.3
    y = torch.zeros(n, LABELS)
    for row in range(n):
        for label in torch.randperm(LABELS, generator=generator)[: 1 + row % 2].tolist() if labels else ():
            y[row, label] = 1
            x[row, 0, 8 * (label // 2) : 8 * (label // 2) + 8, 8 * (label % 2) : 8 * (label % 2) + 8] += 2
        if not labels:
            x[row, 0, 4:12, 4:12] += 2
    return x, y


def loaders(n=48, seed=0):
    x, y = pictures(n, True, seed)
    u, _ = pictures(n, False, seed + 1)
    draw = torch.Generator().manual_seed(seed)
    return (
        DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=draw),
        DataLoader(TensorDataset(u), 16, shuffle=True, generator=draw),
    )


def train(criterion, epochs=10):
    """timm's own multi-label entry; what changes is the criterion and the loader."""
    net = model()
    task = MultiLabelClassificationTask(net, criterion=criterion, verbose=False)
    optimizer = timm.optim.create_optimizer_v2(net, opt="adamw", lr=3e-3)
    loader = OutlierExposureBatcher(*loaders(), criterion=criterion)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        task.train()
        for inputs, target in loader:
            optimizer.zero_grad()
            result = task(inputs, target)
            result["loss"].backward()
            optimizer.step()
    net.eval()
    return net, task


@pytest.fixture(scope="module")
def trained():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return train(EDGELoss(k=8, margin=2.0, warmup_epochs=2))


@torch.no_grad()
def test_known_pictures_end_up_above_outliers(trained):
    net, _ = trained
    x, y = pictures(64, True, 5)
    u, _ = pictures(64, False, 6)
    detector = JointEnergy(net).fit([x])
    figures = ood_metrics(detector.predict(x), detector.predict(u), positive="ood")
    assert figures["AUROC"] > 0.95
    assert float(detector.detect(u).float().mean()) > 0.7
    assert multilabel_map(net(x), y).value > 0.9
    (whole, _) = tail_sweep(-detector.predict(x), y, -detector.predict(u), heads=[0, 2])
    assert whole.figures["AUROC"] == pytest.approx(figures["AUROC"])


class Files(Dataset):
    """What timm's loaders want of a data set: pictures, and a transform that they set."""

    def __init__(self, outliers):
        self.outliers, self.transform = outliers, None

    def __len__(self):
        return 10

    def __getitem__(self, index):
        image = self.transform(Image.new("RGB", (32, 32), (20 * index, 0, 255 * self.outliers)))
        return image, torch.zeros(()) if self.outliers else torch.tensor([1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("workers", [0, 1])
def test_timms_own_loaders_and_task_with_another_criterion(workers):
    """Augmentation, workers that stay alive and `use_multi_epochs_loader` are timm's; nothing is changed."""
    options = {"use_prefetcher": False, "num_workers": workers, "is_training": True}
    options |= {"persistent_workers": workers > 0, "use_multi_epochs_loader": workers > 0}
    both = (timm.data.create_loader(Files(outliers), (3, 32, 32), 4, **options) for outliers in (False, True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("test_resnet", num_classes=LABELS)
        criterion = EDGELoss(k=2, margin=1.0, warmup_epochs=1)
        task = MultiLabelClassificationTask(net, criterion=criterion, verbose=False)
        loader = OutlierExposureBatcher(*both, criterion=criterion)
        for epoch in range(2):
            loader.set_epoch(epoch)
            sizes = []
            for inputs, target in loader:
                task(inputs, target)["loss"].backward()
                sizes.append((criterion.last.n_id, criterion.last.n_oe))
            assert sizes == [(4, 4), (4, 4)]  # timm drops the ragged batch in training
            assert criterion.last.beta.item() == pytest.approx(0.1 * epoch)


def test_samplers_behind_timms_multi_epochs_loader_are_told():
    data = TensorDataset(torch.arange(12.0)[:, None], torch.ones(12, 2))
    loaders = []
    for _ in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=0)
        loaders.append(MultiEpochsDataLoader(data, batch_size=3, sampler=sampler))
    batcher = OutlierExposureBatcher(*loaders)
    batcher.set_epoch(3)
    assert [loader.sampler.epoch for loader in loaders] == [3, 3]
    seen = []
    for epoch in (3, 4):
        batcher.set_epoch(epoch)
        seen.append([inputs[:, 0].tolist() for inputs, _ in batcher])
    assert seen[0] != seen[1]


def test_timms_checkpoint_holds_no_epoch_so_the_loop_names_it():
    criterion = EDGELoss(k=2, margin=9.0, warmup_epochs=3)
    criterion.set_epoch(5)
    task = MultiLabelClassificationTask(model(), criterion=criterion, verbose=False)
    state = task.get_checkpoint_state()
    assert set(state) == {"state_dict"}
    assert not [name for name in state["state_dict"] if "epoch" in name]
    resumed = EDGELoss(k=2, margin=9.0, warmup_epochs=3)
    batch = torch.zeros(4, LABELS), torch.cat([torch.eye(LABELS)[:2], -torch.ones(2, LABELS)])
    assert resumed(*batch).item() < criterion(*batch).item()
    resumed.set_epoch(5)
    assert resumed(*batch).item() == criterion(*batch).item()


@torch.no_grad()
def test_timms_evaluator_is_fed_known_rows_only():
    net = model(3).eval()
    task = MultiLabelClassificationTask(net, criterion=EDGELoss(), verbose=False)
    x, y = pictures(40, True, 7)
    logits = net(x)
    evaluator = task.create_evaluator()
    evaluator.update(logits, y)
    ours = multilabel_map(logits, y, empty_class="zero").value
    assert evaluator.compute()["map"] == pytest.approx(100 * ours, rel=1e-9)
    # With outliers' rows in it timm rounds -1 to "no label" and goes on: another figure, no error.
    mixed = task.create_evaluator()
    u, _ = pictures(40, False, 8)
    mixed.update(torch.cat([logits, net(u)]), torch.cat([y, -torch.ones(40, LABELS)]))
    assert mixed.compute()["map"] != pytest.approx(100 * ours, rel=1e-9)
    with pytest.raises(ValueError, match="Leave outliers' rows out"):
        multilabel_map(logits, -torch.ones(40, LABELS))


@torch.no_grad()
def test_map_equals_timms_also_with_a_label_without_positives():
    task = MultiLabelClassificationTask(nn.Identity(), verbose=False)
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    y = (logits + torch.randn(50, 5, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    y[:, 3] = 0
    evaluator = task.create_evaluator()
    evaluator.update(logits, y)
    assert multilabel_map(logits, y, empty_class="zero").value == pytest.approx(
        evaluator.compute()["map"] / 100
    )
    assert multilabel_map(logits, y).empty == (3,)


@pytest.mark.parametrize("name", ["asymmetric", "distribution-balanced"])
def test_timms_losses_as_classification_term(name):
    x, y = pictures(12, True, 2)
    u, _ = pictures(12, False, 3)
    if name == "asymmetric":
        id_loss = AsymmetricLossMultiLabel()
    else:
        id_loss = DistributionBalancedLoss(y.sum(0), num_samples=12)
    criterion = EDGELoss(k=4, margin=1.0, id_loss=id_loss)
    task = MultiLabelClassificationTask(model(), criterion=criterion, verbose=False).eval()
    result = task(torch.cat([x, u]), torch.cat([y, -torch.ones(12, LABELS)]))
    result["loss"].backward()
    logits = result["output"].detach()
    assert criterion.last.id.item() == pytest.approx(id_loss(logits[:12], y).item(), rel=1e-6)
    plain = EDGELoss(k=4, margin=1.0)
    plain(logits, torch.cat([y, -torch.ones(12, LABELS)]))
    assert criterion.last.gap.item() == pytest.approx(plain.last.gap.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_features_of_any_backbone_in_eval_mode(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=3)
    size = net.default_cfg["input_size"]
    images = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    net.train()
    features = pooled_features(net, [images[:3], (images[3:], torch.zeros(1))])
    assert net.training
    net.eval()
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert not features.requires_grad
    assert features.shape == (4, net.head_hidden_size)


def test_selector_on_features_prefers_what_looks_alike():
    net = model()
    sets = {"alike": pictures(32, True, 11)[0], "noise": torch.rand(32, 1, 16, 16) * 9}
    selector = OEDatasetSelector(k=8, batch_size=16).fit(pooled_features(net, [pictures(32, True, 10)[0]]))
    for name, images in sets.items():
        selector.add(name, pooled_features(net, [images]))
    assert selector.select(1, prefer="smallest") == ["alike"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: pooled_features(nn.Linear(2, 2), []),
            TypeError,
            "model: expected a timm model.*got 'Linear'",
        ),
        (lambda: pooled_features(model(), []), ValueError, "loader: expected at least one batch"),
        (lambda: pooled_features(model(), [], verbose=True), TypeError, "verbose: expected an integer"),
    ],
)
def test_features_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_numpy_and_tensors_give_the_same_figures():
    scores = np.random.default_rng(0).normal(size=20)
    assert ood_metrics(scores, scores - 1) == ood_metrics(
        torch.from_numpy(scores), torch.from_numpy(scores - 1)
    )
