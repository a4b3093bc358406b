"""Closure, explicit form and unmodified loop mean one thing, and it is the published schedule's result."""

import copy

import pytest
import torch
from torch import nn

from graftkit.torch import SSESAM
from tests.benchmarks.published_sse_sam import PublishedSSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.loops import by_closure, by_explicit, by_loop, counted, mixed_batches, weights

OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "tail_classes": [3], "switch_step": 3}
FORMS = ["closure", "subset", "known", "explicit", "loop", "loop_full"]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))


def group_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))


MODELS = {"mlp": mlp, "layer_norm": layer_norm, "group_norm_cnn": group_norm_cnn, "batch_norm": batch_norm}


def fresh(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[name]().double()


def data(name: str, **kwargs):
    return mixed_batches(shape=(2, 6, 6) if name == "group_norm_cnn" else (5,), **kwargs)


def trained(name: str, form: str, batches=None, **kwargs) -> nn.Module:
    model = fresh(name)
    each = nn.CrossEntropyLoss(reduction="none")
    batches = data(name) if batches is None else batches
    tail_pass = {"closure": "full", "explicit": "full", "loop_full": "full", "loop": "auto"}.get(
        form, "subset"
    )
    optimizer = SSESAM(model.parameters(), **{**OPTIONS, "tail_pass": tail_pass, "model": model, **kwargs})
    if form in ("closure", "subset", "known"):
        by_closure(optimizer, model, each, batches, targets=form == "known")
    elif form == "explicit":
        by_explicit(optimizer, model, each, batches)
    else:
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion)
        by_loop(optimizer, model, criterion, batches)
    assert optimizer.completed_steps == len(batches)
    return model


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


@pytest.mark.parametrize("form", ["closure", "subset", "loop", "loop_full"])
def test_micro_batches_of_one_step_equal_the_whole_batch(form):
    whole = data("mlp", n=4, size=12)
    expected = trained("mlp", "closure", [(torch.cat([x, x2]), torch.cat([y, y2]))
                                          for (x, y), (x2, y2) in zip(whole[::2], whole[1::2], strict=True)],
                       switch_step=1)  # fmt: skip
    model = fresh("mlp")
    each, mean = nn.CrossEntropyLoss(reduction="none"), nn.CrossEntropyLoss()
    tail_pass = "subset" if form in ("subset", "loop") else "full"
    optimizer = SSESAM(model.parameters(), **{**OPTIONS, "switch_step": 1, "tail_pass": tail_pass})
    if form.startswith("loop"):
        optimizer.watch(model, mean)
    for k in (0, 2):
        pair = whole[k : k + 2]
        if form.startswith("loop"):
            optimizer.zero_grad()
            for x, y in pair:
                (mean(model(x), y) / 2).backward()
            optimizer.step()
        else:
            optimizer.step([
                lambda i=slice(None), x=x, y=y: (each(model(x[i]), y[i]), y[i])
                for x, y in pair
            ])  # fmt: skip
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


def test_accumulate_perturbs_each_micro_batch_on_its_own():
    (x, y), (x2, y2) = data("mlp", n=5)[3:5]
    each = nn.CrossEntropyLoss(reduction="none")
    model, expected = fresh("mlp"), fresh("mlp")
    optimizer = SSESAM(model.parameters(), lr=1.0, tail_classes=[3], switch_step=9)
    for a, b in ((x, y), (x2, y2)):
        loss = optimizer.accumulate(lambda a=a, b=b: (each(model(a), b), b), weight=0.5)
        assert loss.item() == pytest.approx(each(model(a), b).mean().item())
    assert optimizer.completed_steps == 0
    optimizer.step()
    assert optimizer.completed_steps == 1
    params = list(expected.parameters())
    total = [torch.zeros_like(p) for p in params]
    for a, b in ((x, y), (x2, y2)):
        for t, g in zip(total, ref.sharpened(
            params, lambda a=a, b=b: ref.part_losses(expected, a, b, [3])[0],
            lambda a=a, b=b: ref.part_losses(expected, a, b, [3])[1], rho_head=0.05, rho_tail=0.1),
            strict=True,
        ):  # fmt: skip
            t += g / 2
    for p, t in zip(params, total, strict=True):
        p.data -= t
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


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


def test_fractional_membership_splits_the_loss_by_share():
    x, _ = data("mlp")[3]
    share = torch.linspace(0, 1, len(x), dtype=torch.float64)
    model, expected = fresh("mlp"), fresh("mlp")
    target = torch.zeros(len(x), dtype=torch.long)
    optimizer = SSESAM(model.parameters(), lr=1.0, tail_classes=[3], switch_step=9)
    optimizer.step(lambda: (nn.functional.cross_entropy(model(x), target, reduction="none"), share))
    params = list(expected.parameters())

    def loss(part: torch.Tensor) -> torch.Tensor:
        return (nn.functional.cross_entropy(expected(x), target, reduction="none") * part).mean()

    grads = ref.sharpened(params, lambda: loss(1 - share), lambda: loss(share), rho_head=0.05, rho_tail=0.1)
    for p, g in zip(params, grads, strict=True):
        p.data -= g
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


def test_ignored_labels_count_in_neither_part_nor_in_the_batch():
    x, y = data("mlp")[3]
    marked = y.clone()
    marked[2:5] = -100
    kept = torch.tensor([i for i in range(len(y)) if not 2 <= i < 5])
    each = nn.CrossEntropyLoss(reduction="none")
    both = []
    for a, b, options in ((x, marked, {"ignore_index": -100}), (x[kept], y[kept], {})):
        model = fresh("mlp")
        optimizer = SSESAM(model.parameters(), lr=1.0, tail_classes=[3], switch_step=9, **options)
        optimizer.step(lambda a=a, b=b, model=model: (each(model(a), b), b))
        both.append(weights(model))
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-13)


# -- the work of a step --------------------------------------------------------------------------------


def units(form: str, stage: int, *, tail: int, size: int = 20, name: str = "mlp") -> float:
    """Forward+backward units of one step, `tail` of `size` samples in the tail."""
    model = fresh(name)
    (x, y) = data(name, n=1, size=size)[0]
    y = torch.where(torch.arange(size) < tail, 3, y.clamp(max=2))
    each, mean = nn.CrossEntropyLoss(reduction="none"), nn.CrossEntropyLoss()
    tail_pass = {"known": "subset", "index": "auto", "loop": "auto", "frozen": "frozen_stats"}.get(
        form, "full"
    )
    options = {**OPTIONS, "switch_step": 0 if stage == 2 else 9, "tail_pass": tail_pass, "model": model}
    optimizer = SSESAM(model.parameters(), **options)
    with counted(model[0], size) as work:
        if form.startswith("loop") or form == "frozen":
            optimizer.watch(model, mean, verify=False)
            by_loop(optimizer, model, mean, [(x, y)])
        elif form == "explicit":
            by_explicit(optimizer, model, each, [(x, y)])
        else:
            by_closure(optimizer, model, each, [(x, y)], targets=form == "known")
    return work.units


@pytest.mark.parametrize("tail", [0, 2, 6])
def test_work_of_a_step_is_that_of_the_table(tail):
    t = tail / 20
    table = {
        ("known", 1): 2.0, ("known", 2): 1 + t,
        ("index", 1): 2 + t, ("index", 2): 1 + 2 * t,
        ("loop", 1): 2 + t, ("loop", 2): 1 + 2 * t,
        ("full", 1): 11 / 3, ("full", 2): 8 / 3, ("explicit", 1): 11 / 3, ("explicit", 2): 8 / 3,
        ("loop_full", 1): 4.0, ("loop_full", 2): 3.0,
    }  # fmt: skip
    for (form, stage), expected in table.items():
        if tail == 0:
            expected = 2.0 if stage == 1 else 1.0
        assert units(form, stage, tail=tail) == pytest.approx(expected), (form, stage)


def test_work_with_batch_norm_is_that_of_full_passes_and_of_subsets_with_frozen_statistics():
    assert units("loop", 1, tail=4, name="batch_norm") == pytest.approx(4.0)
    assert units("loop", 2, tail=4, name="batch_norm") == pytest.approx(3.0)
    assert units("frozen", 2, tail=4, name="batch_norm") == pytest.approx(1.4)


def test_verification_costs_one_pass_once():
    model = fresh("mlp")
    mean = nn.CrossEntropyLoss()
    optimizer = SSESAM(model.parameters(), **{**OPTIONS, "switch_step": 9})
    optimizer.watch(model, mean)
    work = []
    for batch in data("mlp")[3:5]:
        with counted(model[0], 12) as one:
            by_loop(optimizer, model, mean, [batch])
        work.append(one.units - 2 - (batch[1] == 3).sum().item() / 12)
    assert work == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("tail_pass", ["full", "subset"])
def test_uneven_micro_batches_weigh_by_their_samples(tail_pass):
    x, y = data("mlp")[3]
    each = nn.CrossEntropyLoss(reduction="none")
    model = fresh("mlp")
    # Stage 2: the head's gradient at the weights is a term itself, so its scale shows.
    optimizer = SSESAM(model.parameters(), **{**OPTIONS, "switch_step": 0}, tail_pass=tail_pass)
    pieces = [(x[:3], y[:3]), (x[3:], y[3:])]
    optimizer.step([lambda i=slice(None), x=x, y=y: (each(model(x[i]), y[i]), y[i]) for x, y in pieces])
    torch.testing.assert_close(
        weights(model), weights(trained("mlp", "closure", [(x, y)], switch_step=0)), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("form", ["closure", "subset", "known", "explicit"])
@pytest.mark.parametrize("stage", [1, 2])
def test_ignored_entries_count_in_neither_part_nor_in_the_batch(form, stage):
    x, y = data("mlp")[3]
    marked = y.clone()
    marked[[2, 5]] = -1
    kept = marked >= 0

    def each(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # The ignored entries' losses are not 0: leaving them out is the optimizer's part.
        return nn.functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")

    results = []
    for batch in ((x, marked), (x[kept], y[kept])):
        model = fresh("mlp")
        tail_pass = "subset" if form in ("subset", "known") else "full"
        options = {"switch_step": 9 if stage == 1 else 0, "ignore_index": -1, "tail_pass": tail_pass}
        optimizer = SSESAM(model.parameters(), **{**OPTIONS, **options})
        if form == "explicit":
            by_explicit(optimizer, model, each, [batch])
        else:
            by_closure(optimizer, model, each, [batch], targets=form == "known")
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match=r"ignored entries only"):
        by_closure(optimizer, model, each, [(x, torch.full_like(y, -1))])


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
