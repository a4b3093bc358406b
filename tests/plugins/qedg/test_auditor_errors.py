"""What an auditor refuses, before the first query, and in which words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from graftkit.methods.qedg import QEDGAuditor, QEDGConfig
from graftkit.methods.qedg.inputs import check_rows
from tests.plugins.qedg.cases import CLASSES, SHAPE, TINY, Counting, auditor, evaluation, network, quadrants

X, Y = evaluation()


def build(**change):
    options = {
        "target": quadrants, "input_shape": SHAPE, "num_classes": CLASSES, "substitute": network(),
        "budget": 10, "owner_confirmation": True, "target_id": "x", "config": TINY, **change,
    }  # fmt: skip
    return QEDGAuditor(**options)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"owner_confirmation": False},
            ValueError,
            "owner_confirmation: expected True, got False",
        ),
        ({"owner_confirmation": 1}, ValueError, "owner_confirmation: expected True, got 1"),
        ({"owner_confirmation": "yes"}, ValueError, "owner_confirmation"),
        ({"target_id": ""}, ValueError, "target_id: expected name and version"),
        ({"target_id": " "}, ValueError, "target_id"),
        ({"target_id": 3}, TypeError, "target_id: expected a string"),
        ({"target": "https://example.invalid"}, TypeError, "target: expected a callable of this process"),
        ({"budget": 0}, ValueError, "budget: expected an integer >= 1, got 0"),
        ({"budget": -3}, ValueError, "budget"),
        ({"budget": 10.0}, TypeError, "budget"),
        ({"budget": True}, TypeError, "budget"),
        ({"input_shape": (8, 8)}, ValueError, r"input_shape: expected \(channels, height, width\)"),
        ({"input_shape": (1, 3, 8)}, ValueError, "sides of 4 or more"),
        ({"input_shape": (1, 8, -8)}, ValueError, "input_shape"),
        ({"input_shape": 8}, TypeError, "input_shape"),
        ({"input_shape": "888"}, TypeError, "input_shape"),
        ({"input_shape": (1, 8, 8.0)}, TypeError, "input_shape"),
        ({"num_classes": 1}, ValueError, "num_classes: expected an integer >= 2"),
        ({"num_classes": "4"}, TypeError, "num_classes"),
        ({"value_range": (1.0, 0.0)}, ValueError, "value_range: expected low < high"),
        ({"value_range": (0.0, float("inf"))}, ValueError, "value_range"),
        ({"value_range": 1.0}, TypeError, "value_range: expected a pair"),
        ({"label_mode": "soft-label"}, ValueError, "label_mode: expected one of 'hard', 'soft'"),
        ({"target_input": "jax"}, ValueError, "target_input"),
        ({"config": {"tau": 1}}, TypeError, "config: expected a QEDGConfig"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": None}, TypeError, "seed"),
        ({"device": "cuda:99"}, ValueError, "device"),
        ({"substitute_pretrained": 0}, TypeError, "substitute_pretrained"),
        ({"value_range": (0, 1e40)}, ValueError, "value_range: expected low < high, apart by what float32"),
        ({"substitute": quadrants}, TypeError, "substitute: expected a torch.nn.Module"),
        ({"substitute": network(classes=5)}, ValueError, r"substitute: expected logits of shape \(n, 4\)"),
        (
            {"substitute": network(shape=(9,))},
            ValueError,
            "substitute: expected a module for float32 inputs",
        ),
        ({"substitute": nn.Flatten()}, ValueError, "substitute: expected a module with trainable"),
        ({"substitute": network().requires_grad_(False)}, ValueError, "trainable"),
        (
            {"config": replace(TINY, target_confidence=0.25)},
            ValueError,
            "target_confidence: .*1/C",
        ),
        (
            {"input_shape": (64,), "config": replace(TINY, query_transform="turns")},
            ValueError,
            'query_transform: expected "none" or a callable',
        ),
        (
            {"input_shape": (64,), "config": replace(TINY, query_transform="none", free_aug=("hflip",))},
            ValueError,
            "free_aug: expected callables",
        ),
    ],
)
def test_the_constructor_refuses(change, error, words):
    target = Counting()
    with pytest.raises(error, match=words):
        build(**{"target": target, **change})
    assert target.rows == 0


def test_confirmation_and_name_have_no_default():
    with pytest.raises(TypeError, match="owner_confirmation"):
        QEDGAuditor(quadrants, SHAPE, CLASSES, substitute=network(), budget=5, target_id="x")
    with pytest.raises(TypeError, match="target_id"):
        QEDGAuditor(quadrants, SHAPE, CLASSES, substitute=network(), budget=5, owner_confirmation=True)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (X[0], {}, ValueError, r"eval_data: expected shape \(n, 1, 8, 8\) with n >= 1"),
        (X[:0], {}, ValueError, "n >= 1"),
        (X * 2, {}, ValueError, r"eval_data: expected values in \(0.0, 1.0\), got 1.99996"),
        (X.clone().index_fill(0, torch.tensor([0]), float("nan")), {}, ValueError, "finite values"),
        (np.array(["a"]), {}, TypeError, "eval_data: expected an array of numbers"),
        ("abc", {}, TypeError, "eval_data"),
        (None, {}, TypeError, "eval_data"),
        ([[1], [1, 2]], {}, TypeError, "eval_data: expected an array of numbers"),
        (X.to_sparse(), {}, TypeError, "eval_data: expected an array of numbers"),
        (X.to("meta"), {}, TypeError, "eval_data: expected an array of numbers"),
        (X.to(torch.complex64), {}, TypeError, "eval_data: expected an array of numbers"),
        ((X, [[1], [1, 2]]), {}, TypeError, "eval_data labels: expected integers"),
        ((X, Y - 5), {}, ValueError, r"eval_data labels: expected labels in \[0, 3\], got -[2345]$"),
        ((X, Y[:3]), {}, ValueError, r"eval_data labels: expected shape \(40,\)"),
        ((X, Y + 4), {}, ValueError, r"eval_data labels: expected labels in \[0, 3\]"),
        ((X, Y.double()), {}, TypeError, "eval_data labels: expected integers"),
        (X, {"eval_every": "epoch"}, ValueError, 'eval_every: expected "round"'),
        (X, {"eval_every": 0}, ValueError, "eval_every"),
        (X, {"eval_every": 2.5}, TypeError, "eval_every"),
        (X, {"eval_every": [5, 0]}, ValueError, "eval_every"),
        (X, {"eval_budget": 39}, ValueError, "eval_budget: expected at least the 40 evaluation rows"),
        (X, {"eval_budget": 1.5}, TypeError, "eval_budget"),
        (X, {"baselines": "noise"}, TypeError, "baselines: expected a sequence"),
        (X, {"baselines": ("nosie",)}, ValueError, "Did you mean 'noise'"),
        (X, {"baselines": ("public",)}, ValueError, "public_data: expected rows"),
        (X, {"public_data": X[:, :, :5]}, ValueError, "public_data: expected shape"),
        (X, {"callback": 3}, TypeError, "callback"),
        (X, {"resume": True}, ValueError, "resume: expected False without a checkpoint folder"),
        (X, {"resume": 1, "checkpoint": "x"}, TypeError, "resume"),
        (X, {"finish_each": "yes"}, TypeError, "finish_each"),
        (X, {"verbose": "yes"}, TypeError, "verbose"),
        (X, {"verbose": -1}, ValueError, "verbose"),
        (X, {"checkpoint": 3}, TypeError, "checkpoint: expected a folder, got 3"),
        (X, {"checkpoint": __file__}, ValueError, "checkpoint: expected a folder, got "),
        (X, {"eval_origin": 3}, TypeError, "eval_origin"),
    ],
)
def test_a_run_refuses_before_the_first_query(data, options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = Counting()
    with pytest.raises(error, match=words):
        auditor(target).run(data, **options)
    assert target.rows == 0
    assert list(tmp_path.iterdir()) == []


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.double(), lambda x: x.tolist(), lambda x: (x > 0.5).to(torch.uint8),
        lambda x: x.bfloat16(), lambda x: x.half().numpy(), lambda x: read_only(x.numpy()),
        lambda x: x.numpy()[::-1][::-1], lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.numpy().astype(">f4"), lambda x: x.clone().requires_grad_(True),
    ],
)  # fmt: skip
def test_rows_in_other_forms_are_taken(form):
    given = form(X)
    rows = check_rows("eval_data", given, SHAPE, (0.0, 1.0))
    assert rows.dtype == torch.float32
    plain = given.detach().float().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    assert np.array_equal(rows.numpy(), plain.astype(np.float32))


def test_reversed_rows_and_read_only_labels_are_audited():
    x, y = X.numpy()[::-1], read_only(Y.numpy()[::-1])
    assert auditor(budget=3).run((x, y), baselines=()).ledger["attack_queries"] == 3


def test_the_users_substitute_and_target_stay_as_they_were():
    net, target = network().train(), network(seed=4).train()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (net, target)]
    result = auditor(target, 20, substitute=net).run((X, Y))
    for module, state in zip((net, target), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
        assert module.training
    assert not result.substitute.training
    assert all(p.grad is None for p in target.parameters())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"batch_size": 1}, ValueError, "batch_size: expected an integer >= 2"),
        ({"fit_batch_size": 1}, ValueError, "fit_batch_size"),
        ({"batch_size_query": 0}, ValueError, "batch_size_query"),
        ({"latent": 0}, ValueError, "latent"),
        ({"width": 2.0}, TypeError, "width"),
        ({"g_steps": 0}, ValueError, "g_steps"),
        ({"inner_epochs": 0}, ValueError, "inner_epochs"),
        ({"final_rounds": -1}, ValueError, "final_rounds"),
        ({"lr_g": 0}, ValueError, "lr_g"),
        ({"lr": float("nan")}, ValueError, "lr: "),
        ({"boundary_weight": -1}, ValueError, "boundary_weight"),
        ({"diversity_weight": "1"}, TypeError, "diversity_weight"),
        ({"error_weight": -0.1}, ValueError, "error_weight"),
        ({"target_confidence": 0}, ValueError, "target_confidence"),
        ({"tau": 1.1}, ValueError, "tau"),
        ({"diversity_space": "logits"}, ValueError, "diversity_space"),
        ({"diversity_normalised": 1}, TypeError, "diversity_normalised"),
        ({"quantise": "yes"}, TypeError, "quantise"),
        ({"deduplicate": None}, TypeError, "deduplicate"),
        ({"stall_policy": "wait"}, ValueError, "stall_policy"),
        ({"max_stall_rounds": 0}, ValueError, "max_stall_rounds"),
        ({"stall_rate": 2}, ValueError, "stall_rate"),
        ({"on_error": "ignore"}, ValueError, "on_error"),
        ({"query_transform": "digit"}, ValueError, "Did you mean 'digits'"),
        ({"loop_transform": "photo"}, ValueError, "loop_transform"),
        ({"free_aug": "hflip"}, TypeError, "free_aug: expected a tuple"),
        ({"free_aug": ("flip",)}, ValueError, "free_aug: .*'hflip'"),
        ({"free_aug_rate": -1}, ValueError, "free_aug_rate"),
        ({"transfer_rows": -1}, ValueError, "transfer_rows"),
        ({"transfer_eps": 2}, ValueError, "transfer_eps"),
    ],
)
def test_settings_are_checked(change, error, words):
    with pytest.raises(error, match=words):
        QEDGConfig(**change)


def test_unknown_presets_and_fields():
    with pytest.raises(ValueError, match=r"name: expected one of 'mnist'.*Did you mean 'cifar10'"):
        QEDGConfig.preset("cifar")
    with pytest.raises(TypeError, match="taus"):
        QEDGConfig.preset("mnist", taus=1)
