"""The work of a step: forward and backward passes by form, stage and share of the tail."""

import pytest
import torch
from torch import nn

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.forms_cases import OPTIONS, data, fresh
from tests.plugins.sse_sam.loops import by_closure, by_explicit, by_loop, counted


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
