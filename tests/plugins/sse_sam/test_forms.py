"""Closure, explicit form and unmodified loop mean one thing, and it is the published schedule's result."""

import copy

import pytest
import torch
from torch import nn

from graftkit.torch import SSESAM
from tests.benchmarks.published_sse_sam import PublishedSSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.forms_cases import FORMS, OPTIONS, data, fresh, trained
from tests.plugins.sse_sam.loops import by_closure, by_explicit, by_loop, weights


def published(name: str) -> nn.Module:
    model = fresh(name)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    schedule = PublishedSSESAM(model, base, 0.05, 0.10)
    for k, (x, y) in enumerate(data(name)):
        schedule.step(
            lambda x=x, y=y: nn.functional.cross_entropy(model(x), y, reduction="none"),
            y == 3,
            stage=1 if k < 3 else 2,
        )
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["mlp", "layer_norm", "group_norm_cnn"])
def test_every_form_equals_the_published_schedule(name, form):
    torch.testing.assert_close(weights(trained(name, form)), weights(published(name)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", ["closure", "explicit", "loop", "loop_full"])
def test_batch_norm_equals_the_published_schedule_by_full_passes(form):
    torch.testing.assert_close(
        weights(trained("batch_norm", form)), weights(published("batch_norm")), rtol=0, atol=1e-11
    )


def test_subset_passes_on_batch_norm_differ_which_is_why_they_are_refused():
    exact = weights(trained("batch_norm", "closure"))
    # Without model= nobody can look for coupled modules.
    assert (weights(trained("batch_norm", "subset", model=None)) - exact).norm() > 1e-3
    with pytest.raises(ValueError, match=r"tail_pass.*'subset'.* 1\b"):
        trained("batch_norm", "subset")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage1", ["split", "sam"])
def test_reference_loops_agree_with_every_option(form, stage1):
    options = {"stage1": stage1, "tail_weight": 2.0, "adaptive": True, "rho": (0.3, 0.7), "switch_step": 1}
    model = trained("mlp", form, data("mlp")[3:5], **options)
    expected = fresh("mlp")
    params = list(expected.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2)
    for k, (x, y) in enumerate(data("mlp")[3:5]):
        head = lambda x=x, y=y: ref.part_losses(expected, x, y, [3])[0]  # noqa: E731
        tail = lambda x=x, y=y: ref.part_losses(expected, x, y, [3])[1]  # noqa: E731
        if k == 0 and stage1 == "sam":
            both = lambda head=head, tail=tail: head() + 2 * tail()  # noqa: E731
            grads = ref.sharpened(
                params, both, lambda: torch.zeros(()), rho_head=0.3, rho_tail=0.0, adaptive=True
            )
        else:
            rho_head = 0.3 if k == 0 else 0.0
            grads = ref.sharpened(
                params, head, tail, rho_head=rho_head, rho_tail=0.7, adaptive=True, tail_weight=2.0
            )
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-11)


def test_closure_returns_the_mean_loss_at_the_weights():
    model = fresh("mlp")
    x, y = data("mlp")[3]
    each = nn.CrossEntropyLoss(reduction="none")
    expected = each(model(x), y).mean().item()
    for kwargs in ({}, {"targets": y}):
        clone = copy.deepcopy(model)
        optimizer = SSESAM(clone.parameters(), lr=0.1, tail_classes=[3], switch_step=9, tail_pass="subset")
        loss = optimizer.step(
            lambda i=None, m=clone: (
                each(m(x if i is None else x[i]), y if i is None else y[i]),
                y if i is None else y[i],
            ),
            **kwargs,
        )
        assert not loss.requires_grad
        assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_limits_that_are_plain_sam_or_the_base(form):
    batch = data("mlp")[3:5]
    everything = trained("mlp", form, batch, tail_classes=[0, 1, 2, 3], rho=(0.5, 0.1), class_counts=None)
    nothing = trained("mlp", form, batch, tail_classes=[7], rho=(0.1, 0.5))
    plain = trained(
        "mlp", form, batch, tail_classes=None, switch_step=None, gamma=None, stage1="sam", rho=0.1
    )
    tolerance = {"rtol": 0, "atol": 0 if form in ("closure", "explicit") else 1e-13}
    torch.testing.assert_close(weights(everything), weights(plain), **tolerance)
    torch.testing.assert_close(weights(nothing), weights(plain), **tolerance)
    base = fresh("mlp")
    by_loop(
        torch.optim.SGD(base.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2),
        base,
        nn.CrossEntropyLoss(),
        batch,
    )
    still = trained("mlp", form, batch, rho=0.0)
    torch.testing.assert_close(weights(still), weights(base), rtol=0, atol=1e-15 if form != "loop" else 0)
    off = trained("mlp", form, batch, rho=(0.0, 0.1), switch_step=9)
    second = trained("mlp", form, batch, rho=(0.3, 0.1), switch_step=0)
    assert torch.equal(weights(off), weights(second))


@pytest.mark.parametrize("form", FORMS)
def test_invariances(form):
    x, y = data("mlp")[3]
    plain = weights(trained("mlp", form, [(x, y)]))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        weights(trained("mlp", form, [(x[order], y[order])])), plain, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        weights(trained("mlp", form, [(x, y)], foreach=False)), plain, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("form", ["closure", "known", "explicit", "loop"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_factor_on_the_loss_scales_the_gradient_and_new_names_of_classes_change_nothing(form, stage):
    x, y = data("mlp")[3]
    order = torch.tensor([2, 0, 3, 1])  # class c becomes order[c]

    def gradient(factor: float, names: torch.Tensor) -> torch.Tensor:
        model = fresh("mlp")
        with torch.no_grad():
            for p in model[2].parameters():
                p[names] = p.clone()
        tail_pass = "subset" if form == "known" else "auto"
        optimizer = SSESAM(
            model.parameters(), lr=0.1, tail_classes=[int(names[3])], switch_step=9 if stage == 1 else 0,
            tail_pass=tail_pass,
        )  # fmt: skip
        run = {"closure": by_closure, "known": by_closure, "explicit": by_explicit, "loop": by_loop}[form]

        def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            reduction = "mean" if form == "loop" else "none"
            return factor * nn.functional.cross_entropy(logits, labels, reduction=reduction)

        used = optimizer.watch(model, criterion) if form == "loop" else criterion
        run(optimizer, model, used, [(x, names[y])], **({"targets": True} if form == "known" else {}))
        return torch.cat([p.grad[names].flatten() if i > 1 else p.grad.flatten()
                          for i, p in enumerate(model.parameters())])  # fmt: skip

    plain = gradient(1.0, torch.arange(4))
    torch.testing.assert_close(gradient(3.0, torch.arange(4)), 3 * plain, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradient(1.0, order), plain, rtol=0, atol=1e-12)


def test_preserve_rng_draws_the_first_passs_masks_again():
    x, y = data("mlp")[3]
    each = nn.CrossEntropyLoss(reduction="none")
    masks = {}
    for preserve in (True, False):
        dropout = nn.Dropout(0.5)
        model = nn.Sequential(fresh("mlp"), dropout)
        seen = masks[preserve] = []
        dropout.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out == 0))
        optimizer = SSESAM(model.parameters(), **{**OPTIONS, "switch_step": 9}, preserve_rng=preserve)
        torch.manual_seed(0)
        by_closure(optimizer, model, each, [(x, y)])
        assert len(seen) == 3
    assert all(torch.equal(masks[True][0], mask) for mask in masks[True])
    assert not torch.equal(masks[False][0], masks[False][1])
