"""Figures: golden values, loops over pairs, orientation, tails, labels without positives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.methods.edge import multilabel_map, ood_metrics, tail_sweep
from tests.plugins.edge import reference


def test_golden_values():
    figures = ood_metrics(range(1, 21), [0, 1.5, 2.5, 25])
    assert list(figures) == ["FPR95_ID+", "FPR95_OOD+", "AUROC", "AP_IN", "AP_OUT"]
    assert figures["AUROC"] == pytest.approx(0.7125, abs=1e-12)
    assert figures["AP_IN"] == pytest.approx(0.861329373250476, abs=1e-12)
    assert figures["AP_OUT"] == pytest.approx(0.608333333333333, abs=1e-12)
    # 19 of 20 known rows lie at 2 or above, as do 2 of 4; to catch all 4 one rejects every known row.
    assert figures["FPR95_ID+"] == 0.5
    assert figures["FPR95_OOD+"] == 1.0


# Few values, so that ties are common.
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=25)


@given(known=SCORES, ood=SCORES, tpr=st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_equals_the_loops(known, ood, tpr):
    figures = ood_metrics(known, ood, tpr=tpr)
    minus_known, minus_ood = [-s for s in known], [-s for s in ood]
    name = f"FPR{100 * tpr:g}"
    assert figures["AUROC"] == pytest.approx(reference.auroc(known, ood), abs=1e-12)
    assert figures["AP_IN"] == pytest.approx(reference.average_precision(known, ood), abs=1e-12)
    assert figures["AP_OUT"] == pytest.approx(reference.average_precision(minus_ood, minus_known), abs=1e-12)
    assert figures[f"{name}_ID+"] == reference.false_positive_rate(known, ood, tpr)
    assert figures[f"{name}_OOD+"] == reference.false_positive_rate(minus_ood, minus_known, tpr)


def test_outlier_scores_give_the_same_figures():
    known, ood = torch.randn(30) + 1, torch.randn(20)
    assert ood_metrics(-known, -ood, positive="ood") == ood_metrics(known, ood)
    assert ood_metrics(-known, -ood)["AUROC"] == pytest.approx(1 - ood_metrics(known, ood)["AUROC"])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"id_scores": []}, ValueError, "id_scores: expected a vector with at least one ID score"),
        ({"id_scores": None}, TypeError, "id_scores: expected an array of real numbers, got None"),
        ({"id_scores": ["1", "2"]}, TypeError, "id_scores: expected an array of real numbers"),
        ({"id_scores": [10**400]}, TypeError, "id_scores: expected an array of real numbers"),
        ({"id_scores": [[1.0], [1.0, 2.0]]}, TypeError, "id_scores: expected an array of real numbers"),
        ({"ood_scores": np.ones(2) * 1j}, TypeError, "ood_scores: expected an array of real numbers"),
        ({"ood_scores": torch.ones(2) * 1j}, TypeError, "ood_scores: expected an array of real numbers"),
        ({"ood_scores": []}, ValueError, "ood_scores: expected a vector with at least one OOD score"),
        (
            {"ood_scores": [1.0, math.nan]},
            ValueError,
            "ood_scores: expected finite OOD scores, at position 1",
        ),
        ({"id_scores": [math.inf]}, ValueError, "id_scores: expected finite ID scores, at position 0"),
        ({"id_scores": [[1.0]]}, ValueError, "id_scores: expected a vector"),
        ({"id_scores": ["a"]}, TypeError, "id_scores: expected an array of real numbers"),
        ({"positive": "in"}, ValueError, "positive: expected one of 'id', 'ood'"),
        ({"tpr": 0}, ValueError, "tpr: expected a finite number"),
        ({"tpr": 1.1}, ValueError, "tpr: expected a finite number"),
    ],
)
def test_bad_input(change, error, words):
    with pytest.raises(error, match=words):
        ood_metrics(**{"id_scores": [1.0], "ood_scores": [0.0], **change})


# Four labels, the first most frequent: rows {0}, {0, 1}, {1}, {2}, {} with scores 5 to 1.
TARGETS = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
KNOWN = [5.0, 4.0, 3.0, 2.0, 1.0]


def test_sweep_leaves_out_rows_with_frequent_labels():
    swept = tail_sweep(KNOWN, TARGETS, [2.5, 0.0], heads=[0, 1, 2, 4])
    assert [(step.heads, step.n_id) for step in swept] == [(0, 5), (1, 3), (2, 2), (4, 1)]
    assert swept[0].figures == ood_metrics(KNOWN, [2.5, 0.0])
    assert swept[1].figures == ood_metrics([3.0, 2.0, 1.0], [2.5, 0.0])
    assert swept[2].figures == ood_metrics([2.0, 1.0], [2.5, 0.0])


def test_sweep_by_given_counts():
    # In training label 2 was the most frequent, then 1.
    swept = tail_sweep(KNOWN, torch.from_numpy(TARGETS), [2.5], heads=[1, 2], label_counts=[1, 5, 9, 0])
    assert [step.n_id for step in swept] == [4, 2]
    assert swept[1].figures == ood_metrics([5.0, 1.0], [2.5])


def test_sweep_to_nothing_is_nan():
    (step,) = tail_sweep(KNOWN[:4], TARGETS[:4], [2.5], heads=[3])
    assert step.n_id == 0
    assert list(step.figures) == list(ood_metrics(KNOWN, [2.5]))
    assert all(math.isnan(value) for value in step.figures.values())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"heads": [5]}, ValueError, r"heads: expected an integer in \[0, 4\], got 5"),
        ({"heads": [0.5]}, TypeError, "heads: expected an integer"),
        ({"heads": 1}, TypeError, "heads: expected several integers"),
        ({"id_targets": TARGETS[:3]}, ValueError, "id_targets: expected one row a score, 5"),
        (
            {"id_targets": -TARGETS},
            ValueError,
            r"id_targets: expected 0 or 1, in row 0, got -1.*outliers' rows",
        ),
        (
            {"id_targets": TARGETS[:, 0]},
            ValueError,
            r"id_targets: expected multi-hot targets of shape \(n, C\)",
        ),
        ({"label_counts": [1, 2]}, ValueError, "label_counts: expected 4 counts"),
        ({"label_counts": "abcd"}, TypeError, "label_counts: expected an array of real numbers, got 'abcd'"),
        ({"label_counts": [1, 2, -1, 0]}, ValueError, "label_counts: expected 4 counts, none negative"),
        ({"ood_scores": []}, ValueError, "ood_scores"),
    ],
)
def test_sweep_refuses(change, error, words):
    with pytest.raises(error, match=words):
        tail_sweep(**{"id_scores": KNOWN, "id_targets": TARGETS, "ood_scores": [0.0], "heads": [0], **change})


def test_map_leaves_empty_labels_out_and_names_them():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    result = multilabel_map(torch.from_numpy(logits), TARGETS)
    assert result.empty == (3,)
    by_label = [
        reference.average_precision(logits[TARGETS[:, c] == 1, c], logits[TARGETS[:, c] == 0, c])
        for c in range(3)
    ]
    np.testing.assert_allclose(result.per_label[:3], by_label, rtol=1e-12)
    assert math.isnan(result.per_label[3])
    assert result.value == pytest.approx(np.mean(by_label))
    as_zero = multilabel_map(logits, TARGETS, empty_class="zero")
    assert as_zero.value == pytest.approx(np.sum(by_label) / 4)
    assert as_zero.per_label[3] == 0.0


def test_map_without_any_positive_is_nan():
    result = multilabel_map(np.zeros((2, 3)), np.zeros((2, 3)))
    assert math.isnan(result.value)
    assert result.empty == (0, 1, 2)


@pytest.mark.parametrize(
    ("logits", "targets", "words"),
    [
        (np.zeros((5, 3)), TARGETS, r"logits: expected the targets' shape \(5, 4\)"),
        (np.full((5, 4), np.nan), TARGETS, "logits: expected finite values"),
        (
            np.zeros((5, 4)),
            TARGETS - 1,
            "targets: expected 0 or 1, in row 0, got -1.0. Leave outliers' rows out",
        ),
        (np.zeros((5, 4)), TARGETS * 0.5, "targets: expected 0 or 1, in row 0, got 0.5"),
        (np.zeros((0, 4)), TARGETS[:0], "targets: expected multi-hot targets"),
    ],
)
def test_map_refuses(logits, targets, words):
    with pytest.raises(ValueError, match=words):
        multilabel_map(logits, targets)
    with pytest.raises(ValueError, match="empty_class: expected one of 'exclude', 'zero'"):
        multilabel_map(logits, targets, empty_class="skip")
