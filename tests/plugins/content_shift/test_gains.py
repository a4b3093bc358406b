"""Gains, their test and the verdict in words; distances; the report."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm

from graftkit.methods.content_shift import (
    GainSummary,
    GateReport,
    image_distance,
    paired_gain,
    psnr,
    ssim,
    summarise,
    verdict,
)

A = torch.linspace(0, 1, 48, dtype=torch.float64).reshape(1, 3, 4, 4)
B = 0.9 * A + 0.05


def test_golden_image_distances():
    assert image_distance("mse", A, B).item() == pytest.approx(0.0008687943262411334, rel=1e-6)
    assert psnr(A, B).item() == pytest.approx(30.610830239548292, abs=1e-10)


def test_psnr_distance_is_the_root_mean_square_error():
    assert image_distance("psnr", A, B).item() == pytest.approx(0.0008687943262411334**0.5, rel=1e-6)


def test_ssim_by_hand_and_at_its_ends():
    """A window of 7 x 7 over constants 0.2 and 0.6: (2 * 0.12 + c1) / (0.04 + 0.36 + c1), c1 = 1e-4."""
    a, b = (torch.full((1, 1, 7, 7), value, dtype=torch.float64) for value in (0.2, 0.6))
    assert ssim(a, b).item() == pytest.approx((0.24 + 1e-4) / (0.4 + 1e-4), abs=1e-12)
    noise = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image_distance("ssim", noise, noise), torch.zeros(2, dtype=torch.float64))
    assert (ssim(noise, 1 - noise) < 0).all()


def test_ssim_variances_are_unbiased():
    """One window, means m, variances v over n - 1: the formula written out with NumPy."""
    rng = np.random.default_rng(0)
    a, b = rng.random(49), rng.random(49)
    cov = np.cov(a, b)
    c1, c2 = 1e-4, 9e-4
    top = (2 * a.mean() * b.mean() + c1) * (2 * cov[0, 1] + c2)
    bottom = (a.mean() ** 2 + b.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)
    found = ssim(torch.tensor(a).reshape(1, 1, 7, 7), torch.tensor(b).reshape(1, 1, 7, 7))
    assert found.item() == pytest.approx(top / bottom, abs=1e-10)


def test_edge_distance_by_hand():
    """A step of 1 between two columns: magnitude 1 at one of two columns of forward differences."""
    step = torch.zeros(1, 3, 3, 3)
    step[..., 2] = 1
    assert image_distance("edge", torch.zeros(1, 3, 3, 3), step).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("metric", "shape", "error", "words"),
    [
        ("vgg", (1, 3, 8, 8), ValueError, "metric"),
        ("ssim", (1, 3, 6, 8), ValueError, "7 x 7"),
        ("edge", (1, 3, 1, 8), ValueError, "2 x 2"),
        (lambda *_: torch.zeros(5), (1, 3, 8, 8), ValueError, "one an image"),
        (lambda *_: torch.full((1,), torch.nan), (1, 3, 8, 8), ValueError, "finite"),
        (lambda *_: 0.5, (1, 3, 8, 8), TypeError, "a tensor of shape"),
    ],
)
def test_bad_metrics(metric, shape, error, words):
    with pytest.raises(error, match=words):
        image_distance(metric, torch.rand(shape), torch.rand(shape))


def test_pictures_of_two_shapes():
    with pytest.raises(ValueError, match="one shape"):
        image_distance("mse", torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5))


def test_metrics_with_trailing_axes_are_taken():
    found = image_distance(lambda a, b: (a - b).abs().mean((1, 2, 3), keepdim=True), A, B)
    assert found.shape == (1,)


def test_gain_by_hand():
    gains = paired_gain([[2.0, 4.0], [0.0, 0.0]], [[1.0, 6.0], [0.0, 1.0]])
    assert gains.tolist() == [[0.5, -0.5], [0.0, -np.inf]]


@pytest.mark.parametrize(
    ("reference", "candidate", "words"),
    [
        ([1.0], [1.0, 2.0], "shape of d_reference"),
        ([-1.0], [1.0], "d_reference: expected finite distances"),
        ([1.0], [np.nan], "d_candidate: expected finite distances"),
    ],
)
def test_bad_distances(reference, candidate, words):
    with pytest.raises(ValueError, match=words):
        paired_gain(reference, candidate)


def test_summary_against_the_exact_wilcoxon_table():
    """Six gains, all positive, no ties: two-sided p = 2 / 2**6."""
    found = summarise([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert found.p_value == pytest.approx(2 / 64)
    assert (found.mean, found.improved_share, found.n) == (pytest.approx(0.35), 1.0, 6)
    assert found.sd == pytest.approx(0.18708286933869706)


def test_nothing_changed_has_p_of_1():
    found = summarise(np.zeros((3, 4)))
    assert (found.mean, found.improved_share, found.p_value) == (0.0, 0.0, 1.0)
    assert verdict(found) == "no evidence"


def test_pairs_without_a_change_count_on_both_sides():
    """Forty pairs without a change beside six gains: ranks of zeros are split between the two sides.

    Zeros share ranks 1 to 40, sum 820: 410 a side. The gains have 41 to 46, sum 261: 671 against 410.
    With n = 46 the mean is n (n + 1) / 4 = 540.5, the variance n (n + 1) (2 n + 1) / 24 = 8377.75 less
    (40^3 - 40) / 48 = 1332.5 for the tie of zeros. Thrown away, zeros would leave six gains and p = 2 / 64.
    """
    found = summarise(SIX + 40 * [0.0])
    z = (410 - 540.5) / (8377.75 - 1332.5) ** 0.5
    assert found.p_value == pytest.approx(2 * norm.cdf(z), rel=1e-6)
    assert summarise(SIX).p_value < 0.05 < found.p_value
    assert found.n == 46


SIX = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_gains_of_rounding_are_none():
    gains = paired_gain([1.0, 1.0, 1.0, 0.0], [1 - 1e-6, 1 + 1e-6, 0.99, 0.5], resolution=1e-5)
    assert gains.tolist() == [0.0, 0.0, pytest.approx(0.01), -np.inf]
    assert paired_gain([1.0], [1 - 1e-6]).item() == pytest.approx(1e-6, rel=1e-6)
    with pytest.raises(ValueError, match="resolution"):
        paired_gain([1.0], [1.0], resolution=-1.0)
    with pytest.raises(TypeError, match="resolution"):
        paired_gain([1.0], [1.0], resolution="small")


def test_infinite_losses_and_single_pairs_are_summarised():
    worst = summarise([-np.inf, -0.5, -0.1, -0.2, -0.3, -0.4])
    assert worst.mean == -np.inf
    assert worst.p_value == pytest.approx(2 / 64)  # the largest loss by rank, however large
    assert np.isnan(summarise([0.5]).sd)


@pytest.mark.parametrize("gains", [[], [np.nan, 1.0]])
def test_bad_gains(gains):
    with pytest.raises(ValueError, match="at least one gain, none NaN"):
        summarise(gains)


def summary(mean: float, p: float) -> GainSummary:
    return GainSummary(mean, 0.1, 0.5, p, 20)


@pytest.mark.parametrize(
    ("own", "controls", "words"),
    [
        ((0.2, 0.01), [], "helps"),
        ((0.2, 0.2), [], "no evidence"),
        ((-0.2, 0.01), [], "harms"),
        ((-0.2, 0.2), [], "no evidence"),
        ((0.2, 0.01), [(0.1, 0.2)], "helps"),
        ((0.2, 0.01), [(-0.1, 0.01)], "helps"),
        ((0.2, 0.01), [(0.1, 0.01)], "helps, but so does its control"),
        ((-0.2, 0.01), [(0.1, 0.01)], "harms"),
        ((0.2, 0.05), [], "no evidence"),
    ],
)
def test_verdicts(own, controls, words):
    assert verdict(summary(*own), [summary(*c) for c in controls]) == words


UP = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
DOWN = [[-0.1, -0.2, -0.3], [-0.4, -0.5, -0.6]]


def report(**options) -> GateReport:
    gains = {"prompt": {"mse": DOWN, "edge": UP}, "edges": {"mse": UP, "edge": UP}}
    return GateReport.from_gains(gains, ("mse", "edge"), {"edges": {"mse": UP, "edge": DOWN}}, **options)


def test_report_ranks_and_judges_by_the_first_metric():
    found = report()
    assert found.ranking == ["edges", "prompt"]
    assert found.verdict == {"prompt": "harms", "edges": "helps, but so does its control"}
    assert [row["control_gain"] for row in found.table] == [
        None,
        None,
        pytest.approx(0.35),
        pytest.approx(-0.35),
    ]
    assert "helps, but so does its control" in str(found)


def test_report_comes_back_from_json(tmp_path):
    found = report(settings={"strength": 0.8}, images={"basic": torch.zeros(1, 1, 3, 4, 4)})
    found.to_json(tmp_path / "gate.json")
    again = GateReport.from_json(tmp_path / "gate.json")
    assert again == found
    assert again.images is None
    assert [path.name for path in tmp_path.iterdir()] == ["gate.json"]


@pytest.mark.parametrize("field", ["table", "verdict", "ranking", "settings"])
def test_a_report_with_a_part_of_another_kind_is_none(tmp_path, field):
    report().to_json(tmp_path / "gate.json")
    stored = json.loads((tmp_path / "gate.json").read_text())
    other = [] if isinstance(stored[field], dict) else {}
    (tmp_path / "gate.json").write_text(json.dumps({**stored, field: other}))
    with pytest.raises(ValueError, match=f"written by to_json, got .*{field} is no"):
        GateReport.from_json(tmp_path / "gate.json")


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '{"table": 1}', '{"table": [1]}'])
def test_other_files_are_no_reports(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="a report written by to_json"):
        GateReport.from_json(tmp_path / "x.json")


def test_sheet_shows_input_reconstructions_and_shifts():
    pictures = {name: torch.rand(2, 2, 3, 8, 8) for name in ("basic", "prompt", "edges")}
    found = report(images=pictures, inputs=torch.rand(2, 3, 8, 8))
    figure = found.plot(image=1, seed=1)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:4] == ["input", "basic", "prompt\ngain in mse -35.0%", "edges\ngain in mse +35.0%"]
    assert len(figure.axes) == 8
    with pytest.raises(ValueError, match="image: expected an integer in"):
        found.plot(image=2)
    with pytest.raises(ValueError, match="keep_images=True"):
        report().plot()


def test_an_infinite_loss_is_kept_in_json_that_others_read_too(tmp_path):
    gains = {"bad": {"mse": [[-np.inf, -0.1, -0.2]]}}
    found = GateReport.from_gains(gains, ("mse",), {"bad": {"mse": [[-np.inf, 0.1, 0.2]]}})
    found.to_json(tmp_path / "gate.json")
    stored = json.loads((tmp_path / "gate.json").read_text(), parse_constant=pytest.fail)
    assert stored["table"][0]["gain_mean"] == "-inf"
    assert GateReport.from_json(tmp_path / "gate.json") == found
    assert found.table[0]["control_gain"] == -np.inf


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_holds_table_json_and_a_sheet_an_image(tmp_path, channels):
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    pictures = {name: torch.rand(2, 2, channels, 8, 8) for name in ("basic", "prompt", "edges")}
    found = report(images=pictures, inputs=torch.rand(2, channels, 8, 8))
    written = found.save(tmp_path / "new", seed=1)
    assert [path.name for path in written] == ["gate.json", "gate.txt", "sheet_000.png", "sheet_001.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(p.name for p in written)
    assert "helps, but so does its control" in written[1].read_text()
    assert GateReport.from_json(written[0]) == found
    assert plt.imread(written[2]).std() > 0
    assert plt.get_fignums() == before
    assert [path.name for path in report().save(tmp_path / "plain")] == ["gate.json", "gate.txt"]


@pytest.mark.parametrize(
    ("seed", "error"), [(2, ValueError), (-1, ValueError), (0.5, TypeError), (True, TypeError)]
)
def test_a_seed_that_is_not_there_writes_nothing(tmp_path, seed, error):
    pictures = {name: torch.rand(2, 1, 3, 8, 8) for name in ("basic", "prompt", "edges")}
    found = report(images=pictures, inputs=torch.rand(1, 3, 8, 8))
    with pytest.raises(error, match="seed: expected an integer"):
        found.save(tmp_path / "new", seed=seed)
    assert list(tmp_path.iterdir()) == []
