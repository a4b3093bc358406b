"""class_curvature against dense Hessians and the golden values of specification section 5.1."""

import copy
import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.methods.sse_sam.lanczos import lanczos, spectral_density
from graftkit.torch import class_curvature
from tests.plugins.sse_sam import reference as ref

EACH = nn.CrossEntropyLoss(reduction="none")
GROUPS = {"0": [0], "1": [1], "2": [2], "head": [0, 1], "all": None}
GOLDEN = {
    "0": (-0.920140793220, 0.893450293079, 1.041676058097),
    "1": (-0.965937520769, 1.037001318189, 1.206793895808),
    "2": (-1.559634313778, 1.703924163667, 2.297173072607),
    "head": (-0.478657366120, 0.514668171703, 1.107723193182),
    "all": (-0.367603865890, 0.459415973700, 1.305964839753),
}


def measured(**kwargs):
    return class_curvature(
        ref.golden_net(), EACH, [(ref.X, ref.Y)], GROUPS, **{"k": 21, "min_samples": 1, **kwargs}
    )


def dense_hessian(net, x, y):
    names = list(dict(net.named_parameters()))

    def loss(flat):
        sizes = [p.numel() for p in net.parameters()]
        pieces = [c.view_as(p) for c, p in zip(flat.split(sizes), net.parameters(), strict=True)]
        return F.cross_entropy(
            torch.func.functional_call(net, dict(zip(names, pieces, strict=True)), (x,)), y
        )

    return torch.autograd.functional.hessian(
        loss, torch.cat([p.detach().flatten() for p in net.parameters()])
    )


def test_golden_extremes_and_a_dense_hessian():
    rows = measured()
    for name, (low, high, trace) in GOLDEN.items():
        row = rows[name]
        assert (row["lambda_min"], row["lambda_max"]) == pytest.approx((low, high), abs=1e-10)
        assert row["saddle_ratio"] == pytest.approx(-low / high, abs=1e-9)
        assert row["residual_max"] < 1e-8
        classes = GROUPS[name]
        keep = torch.tensor([classes is None or int(c) in classes for c in ref.Y])
        values = torch.linalg.eigvalsh(dense_hessian(ref.golden_net(), ref.X[keep], ref.Y[keep]))
        assert values.sum().item() == pytest.approx(trace, abs=1e-9)
        assert (row["lambda_min"], row["lambda_max"]) == pytest.approx(
            (values[0].item(), values[-1].item()), abs=1e-10
        )
        assert row["n"] == int(keep.sum())


def test_trace_is_estimated_within_its_standard_error():
    rows = measured(n_probe=200, k=2)
    for name, (_, _, trace) in GOLDEN.items():
        assert abs(rows[name]["trace"] - trace) < 4 * rows[name]["trace_se"]
    assert math.isnan(measured()["all"]["trace_se"])


def test_loss_and_gradient_norm():
    net = ref.golden_net()
    keep = ref.Y == 1
    loss = F.cross_entropy(net(ref.X[keep]), ref.Y[keep])
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).norm()
    row = measured(k=1)["1"]
    assert (row["loss"], row["grad_norm"]) == pytest.approx((loss.item(), norm.item()))


def test_mini_batches_add_up_and_the_other_hvp_agrees():
    whole = measured()
    pieces = class_curvature(
        ref.golden_net(),
        EACH,
        iter([(ref.X[:2], ref.Y[:2]), (ref.X[2:], ref.Y[2:])]),
        GROUPS,
        k=21,
        min_samples=1,
    )
    difference, frugal = measured(hvp="finite_difference"), measured(reorthogonalize=False)
    for name in GROUPS:
        for key in ("lambda_min", "lambda_max"):
            assert pieces[name][key] == pytest.approx(whole[name][key], abs=1e-10)
            assert difference[name][key] == pytest.approx(whole[name][key], abs=1e-5)
            assert frugal[name][key] == pytest.approx(whole[name][key], abs=1e-6)


def test_lanczos_on_the_planted_spectrum():
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64))
    inner = torch.linspace(0, 1, 197, dtype=torch.float64)
    spectrum = torch.cat(
        [torch.tensor([-3.0, -0.5], dtype=torch.float64), inner, torch.tensor([8.0], dtype=torch.float64)]
    )
    matrix = q @ torch.diag(spectrum) @ q.T
    run = lanczos(lambda v: matrix @ v, torch.randn(200, generator=generator, dtype=torch.float64), 10)
    assert (run.ritz[0].item(), run.ritz[-1].item()) == pytest.approx((-3.0, 8.0), abs=1e-8)
    assert max(run.residuals[0].item(), run.residuals[-1].item()) < 1e-4
    # Power iteration would return 8 twice; and an invariant subspace ends the run early.
    start = q[:, 0] + q[:, 199]
    assert len(lanczos(lambda v: matrix @ v, start, 50).ritz) <= 3


def test_density_integrates_to_one_and_has_the_right_mean():
    rows = measured(density=True, n_probe=50)
    grid, values = (
        torch.tensor(rows["all"]["density"][key], dtype=torch.float64) for key in ("grid", "values")
    )
    assert torch.trapezoid(values, grid).item() == pytest.approx(1.0, abs=1e-3)
    mean = torch.trapezoid(values * grid, grid).item()
    assert mean == pytest.approx(rows["all"]["trace"] / 21, abs=1e-3)
    run = lanczos(lambda v: 2.0 * v, torch.ones(3, dtype=torch.float64), 3)
    assert torch.trapezoid(
        *(torch.tensor(t) for t in reversed(spectral_density([run])))
    ).item() == pytest.approx(1, abs=1e-3)


def test_nothing_is_disturbed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model[3].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    for mode in ("eval", "train"):
        for hvp in ("exact", "finite_difference"):
            class_curvature(model, EACH, [(ref.X, ref.Y)], {"all": None}, k=3, mode=mode, hvp=hvp)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))


def test_attention_has_a_second_derivative_here():
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))

    rows = class_curvature(Attention(), EACH, [(torch.randn(6, 5, 4), ref.Y)], {"all": None}, k=4)
    assert rows["all"]["lambda_max"] > 0


def test_rare_groups_give_a_row_of_nan_and_a_warning():
    with pytest.warns(UserWarning, match="group '2' has 1 samples"):
        rows = class_curvature(ref.golden_net(), EACH, [(ref.X, ref.Y)])
    assert list(rows) == ["0", "1", "2"]
    assert rows["2"]["n"] == 1
    assert math.isnan(rows["2"]["lambda_max"])


def test_plot_table_and_html():
    rows = measured(density=True)
    axes = rows.plot()
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:5] == pytest.approx([GOLDEN[name][1] for name in GROUPS])
    assert [t.get_text() for t in axes.get_xticklabels()] == list(GROUPS)
    own = plt.subplots()[1]
    assert rows.plot(ax=own) is own
    assert "lambda_max" in str(rows)
    assert rows._repr_html_().count("<tr>") == 6
    plt.close("all")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"k": 0}, "k"), ({"n_probe": 0}, "n_probe"), ({"mode": "test"}, "mode"), ({"hvp": "fd"}, "hvp")],
)
def test_bad_options(kwargs, words):
    with pytest.raises(ValueError, match=words):
        measured(**kwargs)


def test_bad_data():
    net = ref.golden_net()
    with pytest.raises(ValueError, match="batches"):
        class_curvature(net, EACH, [])
    with pytest.raises(ValueError, match=r"loss_fn.*reduction='none'"):
        class_curvature(net, nn.CrossEntropyLoss(), [(ref.X, ref.Y)], {"all": None})
    for p in net.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="model"):
        class_curvature(net, EACH, [(ref.X, ref.Y)], {"all": None})
