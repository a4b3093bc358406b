"""The README's Python runs as it stands, and its links lead somewhere."""

import re
from typing import Any

import pytest
import torch
from torch_geometric import seed_everything

from tests.benchmarks.readme import fill, measured
from tests.house.surface import ROOT
from tests.house.versions import matrix

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def snippet(mark: str) -> str:
    """The one snippet that contains a text."""
    (found,) = (text for text in SNIPPETS if mark in text)
    return found


def run(text: str, **names: Any) -> dict[str, Any]:
    """Execute a snippet as it stands, and return its names."""
    exec(compile(text, "README.md", "exec"), names)  # noqa: S102  (our own README)
    return names


def test_measured_column_is_what_the_results_say():
    cells = measured(ROOT / "tests" / "benchmarks" / "results")
    assert fill(README, cells) == README, "run `make report`"
    assert fill(README, {**cells, "rcpmod": "something else"}) != README


def test_versions_are_those_of_pyproject_and_constraints():
    assert matrix() in README, "paste what `python tests/house/versions.py matrix` prints"


def test_first_snippet_is_the_unmodified_loop_and_trains():
    namespace = run(SNIPPETS[0])
    optimizer = namespace["optimizer"]
    assert optimizer.completed_steps == 40
    assert optimizer.stage == 2
    assert float(namespace["loss"].detach()) < 2.3


def test_second_snippet_labels_every_row_and_gives_reasons():
    namespace = run(snippet("graftkit.sklearn import RCPMOD"))
    labels = namespace["labels"]
    assert set(labels) == {1, -1}
    assert len(labels) == len(namespace["pixels"])
    assert len(namespace["reasons"].score) == len(labels)


def test_third_snippet_recommends_and_explains():
    namespace = run(snippet("DPCML("))
    assert namespace["ids"].shape == (3, 5)
    assert namespace["interest"].vector in (0, 1)


def test_multilabel_snippet_finds_what_carries_no_known_label():
    torch.manual_seed(0)  # the snippet's data and weights
    text = snippet("EDGELoss")
    namespace = run(text)
    assert namespace["unknown"].shape == (8,)
    assert namespace["unknown"].float().mean() > 0.5
    assert 0 < float(namespace["share"]) <= 1
    assert namespace["criterion"].epoch == 4


def test_tree_snippet_trains_and_predicts_at_both_levels():
    text = snippet("wrap_timm")
    loop = text[text.index("model = ") : text.index("metrics.update")].split("\n\n")[0].splitlines()
    assert len(loop) <= 20
    seed_everything(0)  # timm's layers and the loader draw from the global generator
    namespace = run(text)
    tree, y = namespace["tree"], namespace["y"]
    coarse = namespace["animal_or_vehicle"]
    assert tree.names() == ("bus", "car", "cat", "dog")
    assert float((coarse == tree.ancestors[0][y]).float().mean()) > 0.6
    # Not the loss of a batch: one picture in the wrong class makes it large. Chance is 0.25.
    found = namespace["model"](namespace["x"]).scores.argmax(1)
    assert float((found == y).float().mean()) > 0.5


def test_audit_snippet_spends_its_budget_and_reports(capsys):
    text = snippet("QEDGAuditor")
    namespace = run(text)
    result = namespace["result"]
    assert result.ledger["attack_queries"] == 200
    assert "Extraction audit of digits, logistic regression" in capsys.readouterr().out


def test_diffusion_snippet_runs_on_a_tiny_model(monkeypatch, tmp_path):
    """Word for word; only the download is replaced, by a tiny Stable Diffusion built by code."""
    import diffusers

    from tests.adapters.diffusers import tiny

    text = snippet("FeatureAggregator")
    source = tiny.sd_pipe(tmp_path)
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline, "from_pretrained", lambda name: source if name else None
    )
    small = text.replace("512", "64")
    for pipe in (source, tiny.sdxl_pipe(tmp_path)):
        source = pipe
        namespace = run(small, images=tiny.image(1, 64, 64))
        assert namespace["stack"].shape[-2:] == (64, 64)
        assert namespace["stack"].shape[1] == sum(m.shape[1] for m in namespace["out"].features.values())
        assert {name[-7:] for name in namespace["queries"]} == {"cross-q"}


def test_content_shift_snippet_judges_and_blends(monkeypatch, tmp_path):
    """Word for word; the downloads are replaced by tiny models built by code."""
    import diffusers

    from tests.adapters.diffusers import tiny
    from tests.adapters.diffusers.content_shift_pipes import controlnet

    text = snippet(".gate(")
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline, "from_pretrained", lambda _: tiny.sd_pipe(tmp_path / "t")
    )
    monkeypatch.setattr(diffusers.ControlNetModel, "from_pretrained", lambda _: controlnet())
    monkeypatch.chdir(tmp_path)
    namespace = run(text, images=tiny.image(2, 32, 32))
    assert set(namespace["report"].verdict) == {"prompt", "edges"}
    assert all(row["control_gain"] is not None for row in namespace["report"].table)
    assert (tmp_path / "gate" / "sheet_001.png").stat().st_size > 1000
    assert "edges" in (tmp_path / "gate" / "gate.txt").read_text()
    assert namespace["fused"].shape[0] == 2
    assert namespace["penalty"] == 0


def test_pyod_snippet_marks_the_share_asked_for():
    namespace = run(snippet("graftkit.pyod"))
    assert len(namespace["outliers"]) == 25


def test_art_snippet_steals_within_its_budget():
    namespace = run(snippet("graftkit.art"))
    assert namespace["attack"].report.ledger["attack_queries"] == 200
    assert namespace["agreement"] > 0.3
    assert isinstance(namespace["copy"], type(namespace["thief"]))


@pytest.mark.filterwarnings("ignore")  # the host's own
def test_mmseg_snippet_is_a_config_that_trains(tmp_path):
    """Word for word, over the shipped base config; the data are generated scenes with its tail classes."""
    from tests.adapters.mmseg.aucseg_cases import CONFIGS, hook_of, scene_config, trained, write_scenes

    text = snippet("AUCSegLoss").replace('"base.py"', repr(str(CONFIGS / "base.py")))
    (tmp_path / "mine.py").write_text(text)
    scenes = write_scenes(tmp_path / "scenes", n=4)
    runner = trained(scene_config(scenes, tmp_path / "work", tmp_path / "mine.py", iterations=2))
    out = hook_of(runner, "Spy").outputs[-1]
    assert {"decode.loss_ce", "decode.loss_auc"} <= out.keys()
    assert hook_of(runner, "TMemoryBankHook").bank is not None


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", text)
    assert [target for target, _ in links if not (ROOT / target).exists()] == []
    broken = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor and anchor not in anchors((ROOT / (target or name)).read_text(encoding="utf-8"))
    ]
    assert broken == []


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to headings: lower case, no punctuation, a hyphen for each space."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_anchor_check_can_fail():
    text = "## GATE: what it *costs*, in `s`\n```\n# no heading\n```\n"
    assert anchors(text) == {"gate-what-it-costs-in-s"}


def test_readme_is_the_long_description_and_shows_both_commands():
    assert {"make demo", "make test"} <= set(re.findall(r"^(make \w+)", README, re.MULTILINE))
