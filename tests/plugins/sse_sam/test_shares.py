"""Which share of a step's loss a micro-batch, a fractional member and an ignored label have."""

import pytest
import torch
from torch import nn

from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.forms_cases import OPTIONS, data, fresh, trained
from tests.plugins.sse_sam.loops import by_closure, by_explicit, weights


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
