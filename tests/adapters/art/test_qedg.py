"""QEDG as ART's extraction attack: its estimator checks, its parameters, its defences, its classifiers."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

art = pytest.importorskip("art", reason="needs the art extra")

from art.attacks.attack import Attack, ExtractionAttack  # noqa: E402
from art.defences.postprocessor import (  # noqa: E402
    ClassLabels,
    GaussianNoise,
    HighConfidence,
    ReverseSigmoid,
    Rounded,
)
from art.defences.preprocessor import FeatureSqueezing  # noqa: E402
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier  # noqa: E402
from art.exceptions import EstimatorError  # noqa: E402

from graftkit.art import QEDGExtraction  # noqa: E402
from graftkit.methods.qedg import QEDGConfig, TargetError  # noqa: E402
from tests.plugins.qedg.cases import TINY, evaluation, network, quadrants  # noqa: E402

X, Y = (part.numpy() for part in evaluation())
OWNER = {"owner_confirmation": True, "target_id": "quadrants v1", "config": TINY}


def classifier(net=None, cls=PyTorchClassifier, **kwargs):
    options = {"clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
    return cls(net or network(), nn.CrossEntropyLoss(), (1, 8, 8), 4, **options)


def black_box(function=None, **kwargs):
    predict = function or (lambda x: quadrants(torch.from_numpy(x)).softmax(1).numpy())
    return BlackBoxClassifier(predict, (1, 8, 8), 4, **{"clip_values": (0.0, 1.0), **kwargs})


class Scores(nn.Module):
    def forward(self, x):
        return (20 * quadrants(x)).softmax(1)


def victim(**kwargs):
    net = Scores()
    net.unused = nn.Parameter(torch.zeros(1))
    return classifier(net, **kwargs)


def extract(audited, thief=None, budget=40, x_eval=X, y_eval=Y, run=None, **kwargs):
    attack = QEDGExtraction(audited, nb_stolen=budget, **{**OWNER, **kwargs})
    stolen = attack.extract(
        thieved_classifier=thief or classifier(), x_eval=x_eval, y_eval=y_eval, **(run or {})
    )
    return attack, stolen


def test_it_is_what_art_expects_of_an_attack():
    attack = QEDGExtraction(black_box(), **OWNER)
    assert isinstance(attack, ExtractionAttack)
    assert Attack.is_estimator_valid(black_box(), QEDGExtraction._estimator_requirements)
    for name in QEDGExtraction.attack_params:
        assert hasattr(attack, name)
    assert "nb_stolen=5000" in repr(attack)
    assert "target_id=quadrants v1" in repr(attack)
    attack.set_params(nb_stolen=7, use_probability=True)
    assert (attack.nb_stolen, attack.use_probability) == (7, True)
    with pytest.raises(ValueError, match='The attribute "nb_steal" cannot be set'):
        attack.set_params(nb_steal=8)
    with pytest.raises(EstimatorError, match="QEDGExtraction requires an estimator"):
        QEDGExtraction(object(), **OWNER)


def test_arguments_and_attack_params_are_the_same_list():
    import inspect

    signature = list(inspect.signature(QEDGExtraction.__init__).parameters)
    assert signature[1] == "classifier"
    assert signature[2:] == QEDGExtraction.attack_params


@pytest.mark.parametrize("audited", [victim, black_box])
def test_both_kinds_of_victims_are_audited_within_the_budget(audited):
    seen, target = [], audited()
    original = target.predict

    def counting(x, **kwargs):
        seen.append(len(x))
        return original(x, **kwargs)

    target.predict = counting
    thief = classifier()
    attack, stolen = extract(target, thief, config=replace(TINY, transfer_rows=0), baselines=("noise",))
    assert stolen is thief
    assert sum(seen) == 2 * 40 + len(X)
    assert attack.report.ledger["attack_queries"] == 40
    assert attack.report.arms == ["qedg", "noise"]
    predicted = stolen.predict(X).argmax(1)
    assert np.mean(predicted == Y) == pytest.approx(attack.report.final()["accuracy"])
    assert "quadrants v1" in attack.report.report()


def test_a_tiny_victim_is_copied_better_than_chance():
    config = replace(QEDGConfig.preset("digits"), batch_size=64, final_rounds=30, tau=1.0)
    thief = classifier(network(16))
    _, stolen = extract(victim(), thief, budget=192, config=config)
    assert np.mean(stolen.predict(X).argmax(1) == Y) > 0.5


def test_victim_and_modes_are_left_as_they_were():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4))
    target, thief = classifier(net), classifier(network())
    net.train()
    thief.model.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract(target, thief)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert all(part.training for part in thief.model.modules())
    thief.model.eval()
    extract(target, thief)
    assert not thief.model.training


DEFENCES = [
    Rounded(decimals=3),
    ReverseSigmoid(beta=0.2, gamma=0.1),
    HighConfidence(cutoff=0.05),
]


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: type(d).__name__)
def test_defences_that_keep_the_label_change_nothing(defence):
    plain, _ = extract(victim())
    defended, _ = extract(victim(postprocessing_defences=defence))
    assert torch.equal(plain.report.queries, defended.report.queries)
    assert plain.report.curve == defended.report.curve


def test_class_labels_keep_the_label_one_row_at_a_time():
    """ART 1.20.1 writes every row's label into every row of a batch: a defect that hides the labels."""
    plain, _ = extract(victim(), batch_size_query=1)
    defended, _ = extract(victim(postprocessing_defences=ClassLabels()), batch_size_query=1)
    assert torch.equal(plain.report.answers, defended.report.answers)
    assert torch.equal(plain.report.queries, defended.report.queries)


def test_defences_are_applied():
    plain, _ = extract(victim(), use_probability=True)
    rounded, _ = extract(victim(postprocessing_defences=Rounded(decimals=1)), use_probability=True)
    assert not torch.equal(plain.report.answers, rounded.report.answers)
    sums = (10 * rounded.report.answers).round(decimals=4)
    assert sums.shape == (40, 4)
    np.random.seed(0)  # noqa: NPY002  (ART's own noise is global)
    logits = {"function": lambda x: quadrants(torch.from_numpy(x)).numpy()}
    noisy, _ = extract(black_box(**logits, postprocessing_defences=GaussianNoise(scale=5.0)))
    quiet, _ = extract(black_box(**logits))
    n = noisy.config.batch_size
    assert torch.equal(noisy.report.queries[:n], quiet.report.queries[:n])
    assert (noisy.report.answers[:n] == quiet.report.answers[:n]).double().mean() < 0.7
    squeezed, _ = extract(
        black_box(preprocessing_defences=FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=1))
    )
    assert squeezed.report.ledger["attack_queries"] == 40


def test_other_clip_values_and_the_thiefs_own_preprocessing():
    seen = []

    def predict(x):
        seen.append((x.min(), x.max()))
        return quadrants(torch.from_numpy(x)).numpy()

    low_high = {"clip_values": (-2.0, 6.0)}
    thief = classifier(preprocessing=(2.0, 4.0), **low_high)
    attack, stolen = extract(black_box(predict, **low_high), thief, x_eval=8 * X - 2)
    assert min(low for low, _ in seen) >= -2
    assert max(high for _, high in seen) <= 6
    assert max(high for _, high in seen) > 5
    labels = stolen.predict(8 * X - 2).argmax(1)
    assert np.mean(labels == Y) == pytest.approx(attack.report.final()["accuracy"])


def test_checkpoint_resume_callback_and_one_hot_labels(tmp_path):
    whole, _ = extract(black_box(), budget=40, y_eval=np.eye(4)[Y])
    rounds = []
    run = {"checkpoint": tmp_path, "callback": lambda progress: rounds.append(progress.round)}
    extract(black_box(), budget=20, run=run)
    again, stolen = extract(black_box(), budget=40, run={"checkpoint": tmp_path, "resume": True})
    assert rounds == [1, 2]  # the round that the budget cut, too
    assert torch.equal(whole.report.queries, again.report.queries)
    assert whole.report.curve == again.report.curve
    assert torch.equal(next(stolen.model.parameters()), next(again.report.substitute.core.parameters()))


def test_labels_come_in_any_of_arts_forms():
    accuracies = {
        extract(black_box(), budget=3, y_eval=y)[0].report.final()["accuracy"]
        for y in (Y, Y[:, None], np.eye(4)[Y], np.eye(4, dtype=np.float32)[Y].tolist())
    }
    assert len(accuracies) == 1


def test_a_scikit_learn_classifier_on_vectors_is_audited():
    from art.estimators.classification import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).random((200, 5))
    audited = SklearnClassifier(
        LogisticRegression().fit(x, (3 * x[:, 0]).astype(int)), clip_values=(0.0, 1.0)
    )
    thief = PyTorchClassifier(
        nn.Linear(5, 3), nn.CrossEntropyLoss(), (5,), 3, clip_values=(0.0, 1.0), device_type="cpu"
    )
    config = replace(TINY, query_transform="none")
    attack, stolen = extract(audited, thief, x_eval=x, y_eval=None, config=config)
    assert attack.report.ledger["attack_queries"] == 40
    agreement = np.mean(stolen.predict(x.astype(np.float32)).argmax(1) == audited.predict(x).argmax(1))
    assert agreement == pytest.approx(attack.report.final()["agreement"], abs=0.02)


def test_numbers_of_art_override_the_config():
    attack, _ = extract(black_box(), batch_size_fit=5, nb_epochs=3, batch_size_query=6)
    assert attack.report.settings["config"]["fit_batch_size"] == 5
    assert attack.report.settings["config"]["inner_epochs"] == 3
    assert attack.report.settings["config"]["batch_size_query"] == 6


def test_numpys_integers_are_integers():
    numbers = {"batch_size_query": np.int64(8), "batch_size_fit": np.int32(4), "nb_epochs": np.int64(1)}
    attack, _ = extract(black_box(), budget=np.int64(10), seed=np.int64(1), **numbers)
    assert attack.report.ledger["attack_queries"] == 10


def test_data_that_is_not_used_is_warned_about(caplog):
    attack = QEDGExtraction(black_box(), nb_stolen=5, **OWNER)
    with caplog.at_level(logging.WARNING):
        attack.extract(X, Y, thieved_classifier=classifier(), x_eval=X)
    assert "does not use the provided data x" in caplog.text
    assert "does not use the provided label y" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size_fit": 0}, "`batch_size_fit` has to be a positive integer or None"),
        ({"batch_size_fit": 2.0}, "batch_size_fit"),
        ({"batch_size_query": 0}, "`batch_size_query` has to be a positive integer"),
        ({"nb_epochs": -1}, "nb_epochs"),
        ({"nb_stolen": 0}, "`nb_stolen` has to be a positive integer"),
        ({"nb_stolen": True}, "nb_stolen"),
        ({"use_probability": 1}, "`use_probability` has to be of type bool"),
        ({"verbose": 1}, "verbose"),
        ({"seed": -1}, "seed"),
        ({"config": {"tau": 1}}, "`config` has to be a QEDGConfig or None"),
        ({"baselines": ("public",)}, "baselines"),
        ({"baselines": "noise"}, "baselines"),
        ({"owner_confirmation": False}, "`owner_confirmation` has to be True"),
        ({"owner_confirmation": 1}, "`owner_confirmation` has to be True"),
        ({"target_id": "  "}, "`target_id` has to name"),
        ({"target_id": None}, "`target_id` has to name"),
    ],
)
def test_parameters_that_are_refused_in_the_constructor_and_later(change, words):
    with pytest.raises(ValueError, match=words):
        QEDGExtraction(black_box(), **{**OWNER, **change})
    attack = QEDGExtraction(black_box(), **OWNER)
    before = repr(attack)
    with pytest.raises(ValueError, match=words):
        attack.set_params(**change)
    assert repr(attack) == before


@pytest.mark.parametrize(
    ("audited", "words"),
    [
        (lambda: black_box(clip_values=None), "needs `clip_values`"),
        (
            lambda: black_box(clip_values=(np.zeros((1, 8, 8)), np.linspace(1, 2, 64).reshape(1, 8, 8))),
            "one range",
        ),
        (lambda: victim(channels_first=False), "channels first"),
        (lambda: BlackBoxClassifier(len, (8, 8), 4, clip_values=(0, 1)), r"\(c, H, W\) or \(d,\)"),
    ],
)
def test_victims_that_are_refused(audited, words):
    with pytest.raises(ValueError, match=words):
        QEDGExtraction(audited(), **OWNER)


def test_arrays_of_equal_clip_values_will_do():
    bounds = (np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32))
    attack, _ = extract(black_box(clip_values=bounds), budget=5)
    assert attack.report.settings["value_range"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"thieved_classifier": None}, "has to be a PyTorchClassifier.*Got NoneType"),
        ({"thieved_classifier": black_box()}, "has to be a PyTorchClassifier.*Got BlackBoxClassifier"),
        ({"x_eval": None}, "`x_eval` is needed"),
        ({"x_evall": X}, r"unknown arguments \['x_evall'\]"),
        ({"x_eval": X[:, :, :4]}, r"eval_data: expected shape \(n, 1, 8, 8\)"),
        ({"x_eval": X + 1}, r"expected values in \(0.0, 1.0\)"),
        ({"x_eval": np.array(["a"])}, "eval_data: expected an array of numbers"),
        ({"y_eval": Y[:3]}, r"eval_data labels: expected shape \(40,\)"),
        ({"y_eval": Y + 0.5}, "eval_data labels: expected integers"),
        ({"y_eval": np.zeros((40, 3))}, r"eval_data labels: expected"),
        ({"y_eval": np.full((40, 4), 0.25)}, "`y_eval` has to hold indices of classes, or one-hot rows"),
        ({"y_eval": np.full((40, 4), np.nan)}, "one-hot rows"),
        ({"eval_every": "epoch"}, "eval_every"),
        ({"resume": True}, "resume: expected False without a checkpoint"),
    ],
)
def test_arguments_of_extract_that_are_refused_before_the_first_query(kwargs, words):
    asked = []

    def predict(x):
        asked.append(len(x))
        return quadrants(torch.from_numpy(x)).numpy()

    attack = QEDGExtraction(black_box(predict), **OWNER)
    thief = classifier()
    before = {name: value.clone() for name, value in thief.model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        attack.extract(**{"thieved_classifier": thief, "x_eval": X, **kwargs})
    assert asked == []
    assert attack.report is None
    assert all(torch.equal(value, before[name]) for name, value in thief.model.state_dict().items())


def test_a_thief_that_does_not_fit_is_refused():
    target = victim()
    attack = QEDGExtraction(target, **OWNER)
    with pytest.raises(ValueError, match="is the audited classifier itself"):
        attack.extract(thieved_classifier=target, x_eval=X)
    wrong = PyTorchClassifier(network(), nn.CrossEntropyLoss(), (1, 8, 8), 5, device_type="cpu")
    with pytest.raises(ValueError, match="expected nb_classes 4, got 5"):
        attack.extract(thieved_classifier=wrong, x_eval=X)
    squeezing = classifier(preprocessing_defences=FeatureSqueezing(clip_values=(0.0, 1.0)))
    with pytest.raises(ValueError, match="FeatureSqueezing has no gradient in PyTorch"):
        attack.extract(thieved_classifier=squeezing, x_eval=X)


def test_a_failing_victim_stops_the_attack_and_the_thief_is_as_it_was():
    calls = []

    def predict(x):
        calls.append(len(x))
        scores = quadrants(torch.from_numpy(x)).numpy()
        return scores if len(calls) < 3 else scores * np.nan

    thief = classifier()
    before = {name: value.clone() for name, value in thief.model.state_dict().items()}
    with pytest.raises(TargetError, match="expected finite scores"):
        extract(black_box(predict), thief)
    assert all(torch.equal(value, before[name]) for name, value in thief.model.state_dict().items())
