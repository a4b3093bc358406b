"""PyGOD's names over graphs."""

import pytest
import torch

from graftkit.pyg import EnergyGIN, GraphOutlierDetector, GraphSVDD
from tests.adapters.pyg.hgoe_cases import family, id_graphs

IN, TREES = id_graphs(10), family("tree", 12, label=-1)


def test_fit_predict_and_scores():
    template = EnergyGIN(1, 2, hidden=8)
    before = [p.clone() for p in template.parameters()]
    detector = GraphOutlierDetector(template, epochs=30, lr=0.01, batch_size=10)
    assert detector.fit(IN, TREES) is detector
    assert all(torch.equal(a, b) for a, b in zip(before, template.parameters(), strict=True))
    assert detector.decision_score_.shape == detector.label_.shape == (20,)
    assert detector.label_.sum() == 2  # a tenth
    assert torch.equal(detector.label_, detector.predict(IN))
    assert torch.equal(detector.decision_function(IN), detector.decision_score_)
    assert detector.predict(TREES).double().mean() > 0.7
    again = GraphOutlierDetector(template, epochs=30, lr=0.01, batch_size=10).fit(IN, TREES)
    assert torch.equal(again.decision_score_, detector.decision_score_)


def test_outliers_make_the_difference():
    def found(outliers):
        detector = GraphOutlierDetector(EnergyGIN(1, 2, hidden=8), epochs=30, lr=0.01, batch_size=10)
        return detector.fit(IN, outliers).predict(TREES).double().mean().item()

    assert found(TREES) > found(None) + 0.3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d: d.predict(IN), RuntimeError, r"GraphOutlierDetector: call fit\(graphs\) first"),
        (lambda d: d.fit([]), ValueError, "graphs: expected at least one graph"),
        (lambda d: d.fit(IN, []), ValueError, "outliers: expected at least one graph"),
        (
            lambda _: GraphOutlierDetector(EnergyGIN(1, 2, hidden=8), contamination=0.6),
            ValueError,
            r"contamination: expected .* in \(0, 0.5\]",
        ),
        (
            lambda _: GraphOutlierDetector(EnergyGIN(1, 2, hidden=8), lr=0),
            ValueError,
            "lr: expected a finite number > 0",
        ),
        (
            lambda _: GraphOutlierDetector(torch.nn.Linear(1, 1)).fit(IN),
            TypeError,
            "detector: expected a torch.nn.Module",
        ),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(GraphOutlierDetector(GraphSVDD(1)))


def test_a_failed_fit_leaves_the_fitted_state():
    detector = GraphOutlierDetector(GraphSVDD(1, hidden=4), epochs=1).fit(IN)
    score, threshold = detector.decision_score_, detector.threshold_
    with pytest.raises(ValueError, match="outliers"):
        detector.fit(IN[:4], [])
    assert detector.decision_score_ is score
    assert detector.threshold_ == threshold
