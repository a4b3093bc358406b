"""Golden values of specification section 5.1, which were computed apart from this code."""

import pytest
import torch
from torch import Tensor, nn

from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref

CLOSE = {"rtol": 0, "atol": 1e-10}
FORMS = ["closure", "index", "known", "explicit", "watch", "watch_full"]


def take_steps(form: str, model: nn.Module, optimizer: SSESAM, n: int = 1) -> None:
    criterion = nn.CrossEntropyLoss()
    if form.startswith("watch"):
        optimizer.watch(model, criterion)
    for _ in range(n):
        if form == "closure":
            optimizer.step(lambda: (ref.per_sample(model), ref.Y))
        elif form in ("index", "known"):

            def closure(index: Tensor | None = None) -> tuple[Tensor, Tensor]:
                rows = slice(None) if index is None else index
                return ref.per_sample(model, ref.X[rows], ref.Y[rows]), ref.Y[rows]

            optimizer.step(closure, targets=ref.Y if form == "known" else None)
        elif form == "explicit":
            optimizer.first_step(ref.per_sample(model), ref.Y)
            for part in optimizer.parts:
                with optimizer.perturbed(part):
                    optimizer.second_step(ref.per_sample(model), ref.Y)
            optimizer.step()
        else:
            optimizer.zero_grad()
            criterion(model(ref.X), ref.Y).backward()
            optimizer.step()


def built(form: str, **kwargs: object) -> tuple[nn.Module, SSESAM]:
    model = ref.golden_net()
    tail_pass = {"index": "subset", "known": "subset", "watch_full": "full"}.get(form, "auto")
    kwargs = {"tail_classes": ref.TAIL, "switch_step": 2, "lr": 0.1, "tail_pass": tail_pass, **kwargs}
    return model, SSESAM(model.parameters(), **kwargs)


def final_gradient(form: str, **kwargs: object) -> tuple[Tensor, list[Tensor]]:
    model, optimizer = built(form, **kwargs)
    take_steps(form, model, optimizer)
    grads = [p.grad for p in model.parameters()]
    return torch.cat([g.flatten() for g in grads]), grads


def test_the_reference_itself_has_the_golden_losses_and_norms():
    model = ref.golden_net()
    head, tail = ref.part_losses(model)
    params = list(model.parameters())
    assert head.item() == pytest.approx(0.8932636974217726, abs=1e-12)
    assert tail.item() == pytest.approx(0.16537275750358654, abs=1e-12)
    assert ref.norm(ref.gradient(ref.part_losses(model)[0], params)) == pytest.approx(0.37882770581881814)
    assert ref.norm(ref.gradient(ref.part_losses(model)[1], params)) == pytest.approx(0.17146462732941029)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kwargs", "norm", "total"),
    [
        ({}, 0.290508802628654, -0.165448670156562),
        ({"switch_step": 0}, 0.278975960336824, -0.163280987880895),
        ({"stage1": "sam"}, 0.293987645399985, -0.166802208857471),
        ({"stage1": "sam", "gamma": None, "switch_step": None, "tail_classes": None, "rho": 0.05},
         0.293987645399985, -0.166802208857471),
        ({"adaptive": True, "rho": (0.5, 1.0)}, 0.275732038387671, -0.132421151220410),
        ({"switch_step": 0, "tail_weight": 2.0}, 0.273368307724808, None),
    ],
    ids=["stage 1", "stage 2", "sam stage", "plain sam", "adaptive", "original imbsam"],
)  # fmt: skip
def test_norm_and_sum_of_the_gradient(form, kwargs, norm, total):
    flat, _ = final_gradient(form, **kwargs)
    assert float(flat.norm()) == pytest.approx(norm, abs=1e-10)
    if total is not None:
        assert float(flat.sum()) == pytest.approx(total, abs=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("stage", "b2"),
    [
        (1, [-0.182733733986755, 0.029574761319121, 0.153158972667634]),
        (2, [-0.173790002873651, 0.030570564261997, 0.143219438611655]),
    ],
)
def test_bias_part_of_the_gradient(form, stage, b2):
    _, grads = final_gradient(form, switch_step=0 if stage == 2 else 9)
    torch.testing.assert_close(grads[3], torch.tensor(b2, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_trajectory_over_the_switch(form):
    model, optimizer = built(form, momentum=0.9)
    expected = [
        (1.050539536405544, 0.883305695883503, 0.167233840522041, 0.999883839293534),
        (1.035905117408004, 0.865173327595461, 0.170731789812543, 1.009202916387836),
        (1.016943339261193, 0.841558955885805, 0.175384383375388, 1.027560807690251),
        (0.995609512392091, 0.814692801945105, 0.180916710446986, 1.058046714035473),
    ]
    stages = []
    for row in expected:
        stages.append(optimizer.stage)
        take_steps(form, model, optimizer)
        if form.startswith("watch"):
            optimizer.unwatch()
        head, tail = ref.part_losses(model)
        size = ref.norm([p.detach() for p in model.parameters()])
        assert ((head + tail).item(), head.item(), tail.item(), size) == pytest.approx(row, abs=1e-10)
    assert stages == [1, 1, 2, 2]
    w2 = [
        [0.171077141024, -0.077501444949, 0.357770712629],
        [-0.296462235700, 0.259608041258, 0.087269525604],
        [0.075385094676, 0.117893403690, -0.245040238233],
    ]
    torch.testing.assert_close(
        model[2].weight.detach(), torch.tensor(w2, dtype=torch.float64), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("form", FORMS)
def test_weight_decay_acts_at_the_weights(form):
    model, optimizer = built(form, momentum=0.9, weight_decay=1e-2, switch_step=1)
    for loss, size in ((1.050578236008411, 0.998888012162496), (1.036320657145815, 1.006438766341587)):
        take_steps(form, model, optimizer)
        if form.startswith("watch"):
            optimizer.unwatch()
        assert sum(ref.part_losses(model)).item() == pytest.approx(loss, abs=1e-10)
        assert ref.norm([p.detach() for p in model.parameters()]) == pytest.approx(size, abs=1e-10)


def test_golden_distance_between_the_split_and_sam():
    split, _ = final_gradient("closure")
    sam, _ = final_gradient("closure", stage1="sam")
    assert float((split - sam).norm()) == pytest.approx(0.011577806835004627, abs=1e-12)


def test_the_quadratic_attracts_sam_to_its_saddle():
    # Specification section 1.3: (x^2 - y^2)/2 from (0.1, 0.01), lr 0.1, 60 steps. No promise of escape.
    ends = {}
    for name, rho in (("gd", 0.0), ("sam", 0.05), ("large", 0.5)):
        w = nn.Parameter(torch.tensor([0.1, 0.01], dtype=torch.float64))
        optimizer = SSESAM([w], lr=0.1, rho=rho, stage1="sam", gamma=None)
        for _ in range(60):
            optimizer.step(
                lambda w=w: (((w[0] ** 2 - w[1] ** 2) / 2).reshape(1), torch.zeros(1, dtype=torch.long))
            )
        ends[name] = float(w.detach()[1])
    assert ends["gd"] == pytest.approx(3.04, abs=0.01)
    assert ends["sam"] == pytest.approx(-1.1e-7, rel=0.1)
    assert ends["large"] == pytest.approx(-1.9e-9, rel=0.1)
