"""The wrapper of the audited callable: what it is given, what it may answer."""

import numpy as np
import pytest
import torch
from torch import nn

from graftkit.methods.qedg import QueryLedger, TargetError
from graftkit.methods.qedg.target import Target

X = torch.tensor([[0.0, 1.0], [0.25, 0.5], [1.0, 0.0]])


def ask(function, rows=X, budget=100, ledger=None, **kwargs):
    target = Target(function, (2,), 3, kwargs.pop("value_range", (0.0, 1.0)), **kwargs)
    return target.ask(rows, ledger or QueryLedger(budget), "attack")


def raising(error):
    def function(x):
        del x
        raise error

    return function


@pytest.mark.parametrize(
    "answer",
    [
        torch.tensor([2, 0, 1]), torch.tensor([2, 0, 1], dtype=torch.int8), np.array([2, 0, 1]), [2, 0, 1],
        torch.eye(3)[[2, 0, 1]], torch.eye(3, dtype=torch.bfloat16)[[2, 0, 1]], np.eye(3)[[2, 0, 1]],
        (5 * torch.eye(3)[[2, 0, 1]] - 7).requires_grad_(True), np.eye(3, dtype=np.uint8)[[2, 0, 1]].tolist(),
    ],
)  # fmt: skip
def test_labels_and_scores_in_any_form_become_labels(answer):
    labels = ask(lambda x: answer)  # noqa: ARG005
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 1]


def test_soft_answers_are_normalised_and_an_empty_row_says_nothing():
    answer = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.0, 0.0], [0.0, 0.0, 0.0]])
    shares = ask(lambda x: answer, label_mode="soft")  # noqa: ARG005
    assert torch.allclose(shares, torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))


def test_batches_are_detached_copies_in_the_value_range_without_gradient():
    seen = []

    def target(x):
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        seen.append(x.clone())
        x.fill_(9)
        return torch.zeros(len(x), dtype=torch.int64)

    rows = X.clone().requires_grad_(True)
    ask(target, rows, batch_size=2, value_range=(-1.0, 3.0))
    assert [len(batch) for batch in seen] == [2, 1]
    assert torch.equal(torch.cat(seen), -1 + 4 * X)
    assert torch.equal(rows.detach(), X)


def test_numpy_targets_get_numpy():
    def target(x):
        assert isinstance(x, np.ndarray)
        assert x.dtype == np.float32
        return (x[:, 0] > 0.5).astype(int)

    assert ask(target, inputs="numpy").tolist() == [0, 0, 1]


def test_a_module_is_asked_in_eval_mode_and_left_as_it_was():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ask(net)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()
    ask(net)
    assert not net.training


@pytest.mark.parametrize("whole", [False, True])
def test_each_part_of_a_module_is_asked_in_eval_mode_and_keeps_its_own_mode(whole):
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 3)).train(whole)
    net[0].train(not whole)
    before = net[0].running_mean.clone()
    modes = [part.training for part in net.modules()]
    ask(net)
    assert torch.equal(net[0].running_mean, before)
    assert [part.training for part in net.modules()] == modes
    with pytest.raises(TargetError, match="raised RuntimeError"):
        ask(net, torch.rand(4, 5))
    assert [part.training for part in net.modules()] == modes


def test_the_budget_cuts_the_last_batch():
    ledger = QueryLedger(5)
    rows = torch.rand(9, 2)
    labels = ask(lambda x: torch.zeros(len(x)).long(), rows, ledger=ledger, batch_size=3)
    assert len(labels) == 5
    assert (ledger.used, ledger.remaining) == (5, 0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(2).long(), r"expected 3 answers, .*got ndarray of shape \(2,\)"),
        (torch.zeros(4, 3), "expected 3 answers"),
        (torch.zeros(3, 2), r"expected scores of shape \(n, 3\)"),
        (torch.zeros(3, 3, 1), "expected 3 answers"),
        (torch.tensor(1), "expected 3 answers"),
        (torch.tensor([[0.0, float("nan"), 0]] * 3), "expected finite scores, got .*NaN"),
        (torch.tensor([[0.0, float("inf"), 0]] * 3), "expected finite scores"),
        (torch.tensor([0, 1, 3]), r"expected labels in \[0, 2\], got 3"),
        (torch.tensor([0, -1, 2]), r"expected labels in \[0, 2\], got -1"),
        (torch.tensor([0.0, 1.0, 1.5]), "expected integer labels, got ndarray .*float32"),
        (torch.tensor([True, False, True]), "expected numbers"),
        (["a", "b", "c"], "expected numbers"),
        ("abc", "expected numbers"),
        (None, "expected numbers"),
        ([[1], [1, 2], [1]], "expected numbers"),
        (torch.zeros(3, 3, dtype=torch.complex64), "expected numbers"),
    ],
)
def test_what_is_no_answer_is_counted_and_stopped(answer, words):
    ledger = QueryLedger(10)
    with pytest.raises(TargetError, match=words):
        ask(lambda x: answer, ledger=ledger)  # noqa: ARG005
    assert (ledger.used, ledger.failed, ledger.remaining) == (0, 3, 7)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(3).long(), "soft mode"),
        (torch.tensor([[-0.1, 1.0, 0.1]] * 3), "none below 0.*got -0.1"),
        (torch.tensor([[0.5, 3.0, 0.1]] * 3), "none above 1.*got 3.0"),
    ],
)
def test_soft_mode_wants_probabilities(answer, words):
    with pytest.raises(TargetError, match=words):
        ask(lambda x: answer, label_mode="soft")  # noqa: ARG005


def test_an_exception_is_counted_and_named():
    ledger = QueryLedger(10)
    with pytest.raises(
        TargetError, match=r"raised OSError on a batch of 3 rows \(gone\).*0 used, 3 failed of 10"
    ) as info:
        ask(raising(OSError("gone")), ledger=ledger)
    assert isinstance(info.value.__cause__, OSError)


def test_an_interrupt_is_counted_and_passed_on():
    ledger = QueryLedger(10)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        ask(raising(KeyboardInterrupt("stop")), ledger=ledger)
    assert ledger.failed == 3


def test_retries_are_within_the_budget_and_end():
    ledger, tries = QueryLedger(100), []

    def flaky(x):
        tries.append(len(x))
        if len(tries) in (1, 2, 5):
            raise OSError("try again")
        return torch.zeros(len(x)).long()

    assert len(ask(flaky, ledger=ledger, on_error="retry", batch_size=2)) == 3
    assert (ledger.used, ledger.failed) == (3, 4)
    ledger = QueryLedger(100)
    with pytest.raises(TargetError, match="raised OSError"):
        ask(raising(OSError("no")), ledger=ledger, on_error="retry", batch_size=2)
    assert ledger.failed == 8
    ledger = QueryLedger(3)
    assert len(ask(raising(OSError("no")), ledger=ledger, on_error="retry", batch_size=2)) == 0
    assert (ledger.failed, ledger.remaining) == (3, 0)


@pytest.mark.parametrize("target", ["https://example.invalid/model", 3, None, {"url": "x"}])
def test_only_a_callable_of_this_process(target):
    with pytest.raises(TypeError, match=r"a callable of this process.*no client for remote services"):
        Target(target, (2,), 3, (0.0, 1.0))


@pytest.mark.parametrize(("name", "value"), [("label_mode", "hrad"), ("inputs", "jax")])
def test_unknown_options(name, value):
    with pytest.raises(ValueError, match="expected one of"):
        Target(len, (2,), 3, (0.0, 1.0), **{name: value})
