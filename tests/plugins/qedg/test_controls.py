"""Negative and positive controls: constant, permuted, random and linear targets; shapes; defences."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from graftkit.methods.qedg import QEDGAuditor, QEDGConfig, compare_defences
from tests.plugins.qedg.cases import CLASSES, SHAPE, TINY, Counting, auditor, evaluation, network, quadrants

X, Y = evaluation(200)
OWNER = {"owner_confirmation": True, "target_id": "control"}


def test_a_constant_target_has_agreement_one_and_no_kappa():
    result = auditor(lambda x: torch.full((len(x),), 2), 60, config=replace(TINY, tau=1.0, lr=0.1)).run(X)
    last = result.final()
    assert last["agreement"] == 1
    assert last["transfer_success"] == 0
    assert math.isnan(last["kappa"])
    assert result.as_dict()["curve"][-1]["kappa"] is None
    assert result.queries_to_kappa()["0.5"] is None
    assert "kappa -" in result.report()
    assert repr(result).endswith("v1': 60 queries, no kappa; arms qedg, noise, majority; see report())")
    assert result.plot().get_title() == "Copying quadrants v1"
    assert "NaN" not in result.to_json()


LEARNING = replace(
    QEDGConfig.preset("digits"), batch_size=64, g_steps=10, latent=16, width=8, final_rounds=30,
    tau=1.0, lr=0.1,
)  # fmt: skip


def learned(target, **kwargs):
    return auditor(target, 256, config=LEARNING, substitute=network(32)).run(X, **{"baselines": (), **kwargs})


def test_permuted_labels_are_copied_about_as_well():
    order = torch.tensor([2, 0, 3, 1])
    plain = learned(quadrants).final()["kappa"]
    permuted = learned(lambda x: order[quadrants(x).argmax(1)]).final()["kappa"]
    assert plain > 0.35
    assert permuted == pytest.approx(plain, abs=0.15)


def test_a_target_of_random_labels_is_not_copied():
    def hashed(x):
        return [hashlib.sha256(row.numpy().tobytes()).digest()[0] % CLASSES for row in x]

    result = learned(hashed, baselines=("noise",))
    assert abs(result.final()["kappa"]) < 0.2
    assert abs(result.final("noise")["kappa"]) < 0.2
    assert result.queries_to_kappa() == {"0.5": None, "0.7": None, "0.9": None}


def test_a_linear_target_in_the_plane_is_copied_with_few_queries():
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    config = replace(
        LEARNING,
        batch_size=32,
        tau=0.95,
        final_rounds=50,
        loop_transform="none",
        query_transform="none",
        g_steps=40,
        lr_g=0.05,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(2, 2)
    audit = QEDGAuditor(
        lambda z: (z @ torch.tensor([1.0, -1.0]) > 0.1).long(), (2,), 2, substitute=net, budget=200,
        config=config, **OWNER,
    )  # fmt: skip
    result = audit.run(x, baselines=())
    assert result.final()["kappa"] > 0.9
    assert result.ledger["attack_queries"] <= 200


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 10, 7), (2, 4, 9), (3,)])
@pytest.mark.parametrize("classes", [2, 12])
def test_shapes_and_class_counts(shape, classes):
    target = Counting(lambda x: x.flatten(1)[:, :1].mul(classes).long().clamp(max=classes - 1).flatten())
    audit = QEDGAuditor(
        target, shape, classes, substitute=network(shape=shape, classes=classes), budget=20, config=TINY2,
        **OWNER,
    )  # fmt: skip
    result = audit.run(torch.rand(10, *shape, generator=torch.Generator().manual_seed(0)), baselines=())
    assert result.queries.shape == (20, *shape)
    assert {tuple(batch.shape[1:]) for batch in target.batches} == {shape}


TINY2 = replace(TINY, tau=1.0, loop_transform="auto", query_transform="auto", transfer_rows=3)


@pytest.mark.parametrize(
    "transforms", [("digits", "digits"), ("photo_loop", "photo"), ("turns", "turns"), ("none", "none")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_transform_runs_an_audit(transforms, channels):
    config = replace(TINY2, loop_transform=transforms[0], query_transform=transforms[1])
    shape = (channels, 8, 8)
    audit = QEDGAuditor(
        quadrants, shape, 4, substitute=network(shape=shape), budget=20, config=config, **OWNER
    )
    result = audit.run(torch.rand(10, *shape, generator=torch.Generator().manual_seed(0)), baselines=())
    assert result.ledger["attack_queries"] == 20


def test_unquantised_queries_keep_their_values():
    result = auditor(budget=20, config=replace(TINY2, quantise=False)).run(X, baselines=("noise",))
    levels = result.queries * 255
    assert not torch.allclose(levels, levels.round(), atol=1e-3)


def test_the_default_works_from_eight_pixels_up():
    audit = QEDGAuditor(quadrants, SHAPE, CLASSES, substitute=network(), budget=30, **OWNER)
    assert (audit.config.loop_transform, audit.config.query_transform) == ("turns", "turns")
    small = replace(audit.config, g_steps=2, inner_epochs=1, final_rounds=1, width=8, latent=8)
    audit = QEDGAuditor(quadrants, SHAPE, CLASSES, substitute=network(), budget=30, config=small, **OWNER)
    assert audit.run(X, baselines=()).ledger["attack_queries"] == 30


# Defences.


def defended(**variants):
    return compare_defences(
        variants,
        SHAPE,
        CLASSES,
        substitute=network(),
        budget=30,
        config=TINY,
        eval_data=(X, Y),
        seed=1,
        **OWNER,
    )


def test_defences_that_keep_the_label_are_told_apart_from_those_that_do_not():
    table = defended(
        none=quadrants,
        rescored=lambda x: 2 * quadrants(x) + 1,
        shifted=lambda x: (quadrants(x).argmax(1) + 1) % 4,
        fewer=(quadrants, 10),
    )
    rows = {row["variant"]: row for row in table.rows}
    assert list(rows) == ["none", "rescored", "shifted", "fewer"]
    assert [rows[name]["same_answers"] for name in rows] == [True, True, False, True]
    assert [rows[name]["queries"] for name in rows] == [30, 30, 30, 10]
    assert rows["none"]["kappa"] == rows["rescored"]["kappa"]
    assert table.results["rescored"].settings["target_id"] == "control / rescored"
    text = table.report()
    assert "same label from rescored, fewer as from none" in text
    assert "does not slow an attacker" in text


def test_a_mistake_in_the_last_variant_comes_before_the_first_query():
    target = Counting()
    for bad, error, words in (
        (3, TypeError, "callable of this process"),
        ((target, 0), ValueError, "budget"),
    ):
        with pytest.raises(error, match=words):
            defended(first=target, second=bad)
    assert target.rows == 0


@pytest.mark.parametrize(
    ("variants", "change", "error", "words"),
    [
        ([quadrants], {}, TypeError, "variants: expected a mapping"),
        ({}, {}, ValueError, "variants: expected at least one"),
        ({"a": quadrants}, {"run_options": {"checkpoint": "x"}}, ValueError, "run_options"),
        ({"a": quadrants}, {"owner_confirmation": False}, ValueError, "owner_confirmation: expected True"),
        ({"a": quadrants}, {"target_id": ""}, ValueError, "target_id"),
    ],
)
def test_errors_of_compare_defences(variants, change, error, words):
    options = {"substitute": network(), "budget": 5, "config": TINY, "eval_data": X, **OWNER, **change}
    with pytest.raises(error, match=words):
        compare_defences(variants, SHAPE, CLASSES, **options)


@pytest.mark.data
def test_real_photographs_are_audited(data_root):
    """CIFAR-10-LT's test pictures measure a copy of a colour rule; the twin is the test above, on noise."""
    from graftkit.methods.sse_sam.data import load_cifar10_lt

    archive = data_root / "cifar10_lt" / "cifar10_lt100.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not there")
    _, (x, _) = load_cifar10_lt(archive, share=0.001, test_share=0.01)
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    x = (x - low) / (high - low)
    config = replace(
        QEDGConfig.preset("cifar10"),
        batch_size=16,
        latent=8,
        width=8,
        g_steps=2,
        inner_epochs=1,
        final_rounds=1,
    )
    audit = QEDGAuditor(
        lambda z: z.mean((2, 3)).argmax(1), (3, 32, 32), 3, substitute=network(shape=(3, 32, 32), classes=3),
        budget=40, config=config, **OWNER,
    )  # fmt: skip
    result = audit.run(x, eval_origin="CIFAR-10-LT, test", baselines=("noise", "majority"))
    assert result.ledger["attack_queries"] == 40
    assert np.isfinite(result.final()["agreement"])
