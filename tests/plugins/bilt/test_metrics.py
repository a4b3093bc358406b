"""HierarchicalMetrics against brute force; chunks, processes, edges, the figure."""

import copy
import math
import pickle

import matplotlib.pyplot as plt
import pytest
import torch
import torch.multiprocessing as mp

from graftkit.methods.bilt import HierarchicalMetrics, HierarchicalOutput, LabelTree, decode
from graftkit.methods.bilt.metric_display import places
from tests.plugins.bilt import reference, workers
from tests.plugins.bilt.cases import SMALL, batch, even_tree, head_of


def compare(values, expected):
    for name, value in expected.items():
        got = float(values[name])
        assert got == pytest.approx(value, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("tree", [SMALL, even_tree(0), even_tree(3)], ids=repr)
@pytest.mark.parametrize("source", ["risk", "prob", "crm"])
def test_against_brute_force(tree, source):
    out = head_of(tree).eval()(batch(80, tree.num_classes)[0])
    y = batch(80, tree.num_classes, seed=9)[1]
    ks = (1, 2, 5)
    metrics = HierarchicalMetrics(tree, ks, source=source)
    metrics.update(out, y)
    values = {"risk": out.scores, "prob": out.level_logits[-1],
              "crm": -(out.level_logits[-1].softmax(1) @ tree.distance().double().T)}[source]  # fmt: skip
    ranking = [sorted(range(tree.num_classes), key=lambda c, row=row: -row[c]) for row in values.tolist()]
    numbers = decode(out, tree, level="all", source=source).tolist()
    levels = [[tree.names(h + 1)[k] for h, k in enumerate(row)] for row in numbers]
    expected = reference.metrics(ranking, levels, tree.distance().tolist(), y.tolist(), tree.paths(), ks)
    got = metrics.compute()
    compare(got, expected)
    assert sum(float(got[f"mistakes@{d}"]) for d in range(1, tree.num_levels + 1)) == pytest.approx(1)
    assert float(got["fpa"]) <= min(float(got[f"level{h + 1}"]) for h in range(tree.num_levels))
    accuracy = metrics.node_accuracy()
    for h, row in enumerate(tree.ancestors):
        for node in range(tree.sizes[h]):
            samples = [i for i in range(80) if row[y[i]] == node]
            right = sum(int(row[ranking[i][0]]) == node for i in samples)
            share = right / len(samples) if samples else math.nan
            assert float(accuracy[h][node]) == pytest.approx(share, nan_ok=True)


def test_a_case_by_hand():
    # Truth cat, cat, car; predicted cat, wolf (2 up), cat (3 up): severity (2 + 3) / 2, HD@1 5 / 3.
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 5, 4, 3], [5, 1, 2, 3, 4]])
    metrics = HierarchicalMetrics(SMALL, (1, 2))
    metrics.update(scores, torch.tensor([0, 0, 3]))
    got = metrics.compute()
    compare(got, {"top1": 1 / 3, "mistake_severity": 2.5, "hd@1": 5 / 3, "mistakes": 2, "samples": 3,
                  # second best: dog (1), car (3), bus (1)
                  "hd@2": (0 + 1 + 2 + 3 + 3 + 1) / 6, "hd@2_bound": 0.5,
                  # every class has a sibling but wolf, which is not asked for
                  "level1": 2 / 3, "level2": 1 / 3, "level3": 1 / 3, "fpa": 1 / 3, "tice": 0,
                  "mistakes@1": 0, "mistakes@2": 0.5, "mistakes@3": 0.5, "hf": (3 + 1 + 0) / 9})  # fmt: skip


def test_a_perfect_predictor_has_no_severity():
    metrics = HierarchicalMetrics(SMALL)
    metrics.update(torch.eye(5), torch.arange(5))
    got = metrics.compute()
    compare(got, {"mistake_severity": math.nan, "mistakes": 0, "hd@1": 0, "top1": 1, "hp@1": 1, "fpa": 1})


def test_the_ideal_ranking_reaches_the_bound():
    tree = even_tree(1)
    ideal = -tree.distance() + 0.5 * torch.eye(tree.num_classes)
    metrics = HierarchicalMetrics(tree, range(1, tree.num_classes + 1))
    metrics.update(ideal, torch.arange(tree.num_classes))
    got = metrics.compute()
    for k in range(1, tree.num_classes + 1):
        assert float(got[f"hd@{k}"]) == pytest.approx(float(got[f"hd@{k}_bound"]))
        assert float(got[f"hp@{k}"]) == pytest.approx(1)


def test_chunks_equal_the_whole_and_forward_returns_the_batch():
    out = head_of(SMALL).eval()(batch(30, 5)[0])
    y = batch(30, 5, seed=4)[1]

    def part(rows):
        return HierarchicalOutput(out.scores[rows], tuple(z[rows] for z in out.level_logits),
                                  tuple(s[rows] for s in out.level_scores), ()), y[rows]  # fmt: skip

    whole, chunked = HierarchicalMetrics(SMALL), HierarchicalMetrics(SMALL)
    whole.update(out, y)
    chunked.update(*part(slice(0, 11)))
    alone = HierarchicalMetrics(SMALL)
    alone.update(*part(slice(11, 30)))
    returned = chunked(*part(slice(11, 30)))
    compare(returned, {k: float(v) for k, v in alone.compute().items()})
    compare(chunked.compute(), {k: float(v) for k, v in whole.compute().items()})
    chunked.reset()
    with pytest.raises(ValueError, match=r"compute: expected at least one sample, got none"):
        chunked.compute()


def test_rolled_up_predictions_always_form_paths():
    out = head_of(SMALL, levels="finest").eval()(batch(30, 5)[0])
    metrics = HierarchicalMetrics(SMALL)
    metrics.update(out, batch(30, 5, seed=4)[1])
    assert float(metrics.compute()["tice"]) == 0
    assert float(metrics.compute()["level1"]) == float(metrics.compute()["level1_rollup"])


def test_default_ks_fit_the_tree():
    assert HierarchicalMetrics(SMALL).ks == (1, 5)
    assert HierarchicalMetrics(LabelTree.from_paths([(str(k),) for k in range(30)])).ks == (1, 5, 20)


def test_ties_go_to_the_lower_number():
    metrics = HierarchicalMetrics(SMALL, (1, 3))
    metrics.update(torch.zeros(2, 5), torch.tensor([0, 2]))
    compare(metrics.compute(), {"top1": 0.5, "top3": 1.0})


def test_copies_pickles_and_low_precision():
    metrics = HierarchicalMetrics(SMALL)
    metrics.update(torch.eye(5).bfloat16(), torch.tensor([0, 1, 2, 3, 3]))
    for twin in (copy.deepcopy(metrics), pickle.loads(pickle.dumps(metrics))):
        compare(twin.compute(), {k: float(v) for k, v in metrics.compute().items()})
    assert metrics.state_dict() == {}
    assert "ks=(1, 5), source='risk'" in repr(metrics)


@pytest.mark.parametrize(
    ("output", "target", "error", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2).long(), ValueError, r"output: expected scores of shape \(B, 5\)"),
        (torch.zeros(2, 5), torch.tensor([0, 5]), ValueError, r"labels 0 to 4, got 5"),
        (torch.zeros(2, 5), torch.zeros(3).long(), ValueError, r"target: expected 2 finest labels"),
        (torch.zeros(2, 5), torch.zeros(2, 3).long(), ValueError, r"target: expected 2 finest labels"),
        (torch.full((2, 5), float("nan")), torch.zeros(2).long(), ValueError, r"scores without NaN"),
        ([[0.0] * 5], torch.zeros(1).long(), TypeError, r"a HierarchicalOutput or scores"),
        (torch.zeros(2, 5), [0, 0], TypeError, r"target: expected a tensor"),
    ],
)
def test_a_refused_update_adds_nothing(output, target, error, message):
    metrics = HierarchicalMetrics(SMALL)
    with pytest.raises(error, match=message):
        metrics.update(output, target)
    assert all(not bool(value.any()) for value in metrics.counts().values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ks": (6,)}, ValueError, r"ks: expected an integer in \[1, 5\], got 6"),
        ({"ks": (0,)}, ValueError, r"ks"),
        ({"ks": (1, 1)}, ValueError, r"ks: expected different numbers"),
        ({"ks": ()}, ValueError, r"ks: expected different numbers, at least one"),
        ({"ks": (1.5,)}, TypeError, r"ks"),
        ({"source": "scores"}, ValueError, r"source"),
        ({"sync_on_compute": 1}, TypeError, r"sync_on_compute"),
        ({"tree": None}, TypeError, r"tree"),
    ],
)
def test_arguments(change, error, message):
    with pytest.raises(error, match=message):
        HierarchicalMetrics(**{"tree": SMALL, **change})


def test_two_processes_equal_one(tmp_path):
    mp.spawn(workers.measure, args=(str(tmp_path),), nprocs=2)
    whole = HierarchicalMetrics(SMALL, (1, 2))
    for rank in (0, 1):
        whole.update(*workers.share(rank))
    expected = {k: float(v) for k, v in whole.compute().items()}
    for rank in (0, 1):
        stored = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        compare(stored["synced"], expected)
        compare(stored["again"], expected)  # computing does not change what was counted
        own = HierarchicalMetrics(SMALL, (1, 2))
        own.update(*workers.share(rank))
        compare(stored["local"], {k: float(v) for k, v in own.compute().items()})


def test_the_figure_shows_shares_and_accuracies():
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 5, 4, 3], [5, 1, 2, 3, 4]])
    metrics = HierarchicalMetrics(SMALL, (1, 2))
    metrics.update(scores, torch.tensor([0, 0, 3]))
    display = metrics.plot()
    assert [bar.get_height() for bar in display.axes_[0].patches] == [0, 0.5, 0.5]
    assert display.axes_[0].get_title() == "2 mistakes of 3"
    dots = display.axes_[1].collections
    shown = next(c.get_array().tolist() for c in dots if len(c.get_offsets()) == 2)
    assert shown == [1.0, 0.0]  # both cats called animals; the car called a cat
    _, axes = plt.subplots(1, 2)
    assert metrics.plot(ax=axes).figure_ is axes[0].figure
    with pytest.raises(ValueError, match=r"ax: expected two axes"):
        metrics.plot(ax=axes[:1])
    plt.close("all")


def test_no_branch_of_the_drawn_tree_crosses_another():
    tree = SMALL.align(["bus", "cat", "wolf", "car", "dog"])
    x = places(tree)
    assert sorted(x[-1].tolist()) == [0, 1, 2, 3, 4]
    for row in tree.ancestors[:-1]:
        for node in row.unique():
            own = sorted(x[-1][(row == node).numpy()])
            assert own[-1] - own[0] == len(own) - 1  # side by side


def test_what_cannot_be_ranked_is_refused_at_every_level_and_adds_nothing():
    head = head_of(SMALL)
    x, y = batch(4, 5)
    out = head(x)
    metrics = HierarchicalMetrics(SMALL)
    nan = torch.full_like(out.level_logits[0], torch.nan)
    short = out.level_scores[0][:2]
    for bad, error in (
        (out._replace(level_logits=(nan, *out.level_logits[1:])), ValueError),
        (out._replace(level_scores=(nan, *out.level_scores[1:])), ValueError),
        (torch.ones(4, 5, dtype=torch.int64), TypeError),
        (torch.ones(4, 5, dtype=torch.complex64), TypeError),
        (out._replace(level_scores=(short, *out.level_scores[1:])), RuntimeError),
    ):
        with pytest.raises(error):
            metrics.update(bad, y)
        assert not any(int(value.sum()) for value in metrics.counts().values())


def test_below_a_level_of_one_class_precision_is_a_share_of_the_largest_distance():
    tree = LabelTree.from_paths([("all", *path) for path in SMALL.paths()])
    scores, y = batch(40, 5, in_features=5)
    metrics = HierarchicalMetrics(tree, (1, 3))
    metrics.update(scores, y)
    ranking = scores.argsort(descending=True).tolist()
    levels = [tree.paths()[order[0]] for order in ranking]
    expected = reference.metrics(ranking, levels, tree.distance().tolist(), y.tolist(), tree.paths(), (1, 3))
    compare(metrics.compute(), expected)
    shorter = HierarchicalMetrics(SMALL, (1, 3))
    shorter.update(scores, y)
    assert float(shorter.compute()["hp@3"]) == pytest.approx(expected["hp@3"])


def test_half_of_a_model_halves_no_sums():
    model = torch.nn.ModuleList([HierarchicalMetrics(SMALL), HierarchicalMetrics(SMALL)])
    model[1].half()
    scores, y = batch(3000, 5)
    for metrics in model:
        metrics.update(scores, y)
    model[1].bfloat16()
    compare(model[1].compute(), {k: float(v) for k, v in model[0].compute().items()})


def test_measures_do_not_hang_on_torchs_default_type(default_dtype):
    tree = LabelTree.from_paths([(f"a{k // 40}", f"b{k}") for k in range(400)])
    scores, y = batch(20, 400, in_features=400)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        with default_dtype(dtype):
            metrics = HierarchicalMetrics(tree, (1, 300))
            metrics.update(scores, y)
            found.append({k: float(v) for k, v in metrics.compute().items()})
    compare(found[1], found[0])
