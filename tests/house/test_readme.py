"""The README's Python runs as it stands, and its links lead somewhere."""

import re

import pytest
import torch
from torch_geometric import seed_everything

from tests.house.surface import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_first_snippet_is_the_unmodified_loop_and_trains():
    namespace: dict[str, object] = {}
    exec(compile(SNIPPETS[0], "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    optimizer = namespace["optimizer"]
    assert optimizer.completed_steps == 40
    assert optimizer.stage == 2
    assert float(namespace["loss"].detach()) < 2.3


def test_second_snippet_labels_every_row_and_gives_reasons():
    namespace: dict[str, object] = {}
    exec(compile(SNIPPETS[1], "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    labels = namespace["labels"]
    assert set(labels) == {1, -1}
    assert len(labels) == len(namespace["pixels"])
    assert len(namespace["reasons"].score) == len(labels)


def test_third_snippet_recommends_and_explains():
    namespace: dict[str, object] = {}
    exec(compile(SNIPPETS[2], "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    assert namespace["ids"].shape == (3, 5)
    assert namespace["interest"].vector in (0, 1)


def test_graph_snippet_pushes_outliers_out():
    seed_everything(0)  # PyG's fake graphs and its layers draw from the global generators
    (snippet,) = (text for text in SNIPPETS if "graftkit.pyg" in text)
    loop = snippet[snippet.index("outliers = ") :].splitlines()
    assert len(loop) == 10
    namespace: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    model, loader = namespace["model"], namespace["loader"]
    sides = [[], []]
    for pair in loader:
        for side, batch in zip(sides, pair, strict=True):
            side.append(-model(batch).logsumexp(dim=1).mean().item())
    assert sum(sides[1]) > sum(sides[0])


def test_multilabel_snippet_finds_what_carries_no_known_label():
    torch.manual_seed(0)  # the snippet's data and weights
    (snippet,) = (text for text in SNIPPETS if "EDGELoss" in text)
    namespace: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    assert namespace["unknown"].shape == (8,)
    assert namespace["unknown"].float().mean() > 0.5
    assert 0 < float(namespace["share"]) <= 1
    assert namespace["criterion"].epoch == 4


def test_tree_snippet_trains_and_predicts_at_both_levels():
    (snippet,) = (text for text in SNIPPETS if "wrap_timm" in text)
    loop = snippet[snippet.index("model = ") : snippet.index("metrics.update")].split("\n\n")[0].splitlines()
    assert len(loop) <= 20
    namespace: dict[str, object] = {}
    seed_everything(0)  # timm's layers and the loader draw from the global generator
    exec(compile(snippet, "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    tree, y = namespace["tree"], namespace["y"]
    coarse = namespace["animal_or_vehicle"]
    assert tree.names() == ("bus", "car", "cat", "dog")
    assert float((coarse == tree.ancestors[0][y]).float().mean()) > 0.6
    assert float(namespace["loss"].detach()) < 3.0


def test_audit_snippet_spends_its_budget_and_reports(capsys):
    (snippet,) = (text for text in SNIPPETS if "QEDGAuditor" in text)
    namespace: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    result = namespace["result"]
    assert result.ledger["attack_queries"] == 200
    assert "Extraction audit of digits, logistic regression" in capsys.readouterr().out


def test_diffusion_snippet_runs_on_a_tiny_model(monkeypatch, tmp_path):
    """Word for word; only the download is replaced, by a tiny Stable Diffusion built by code."""
    import diffusers

    from tests.adapters.diffusers import tiny

    (snippet,) = (text for text in SNIPPETS if "FeatureAggregator" in text)
    source = tiny.sd_pipe(tmp_path)
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline, "from_pretrained", lambda name: source if name else None
    )
    small = snippet.replace("512", "64")
    for pipe in (source, tiny.sdxl_pipe(tmp_path)):
        source = pipe
        namespace: dict[str, object] = {"images": tiny.image(1, 64, 64)}
        exec(compile(small, "README.md", "exec"), namespace)  # noqa: S102  (our own README)
        assert namespace["stack"].shape[-2:] == (64, 64)
        assert namespace["stack"].shape[1] == sum(m.shape[1] for m in namespace["out"].features.values())
        assert {name[-7:] for name in namespace["queries"]} == {"cross-q"}


def test_content_shift_snippet_judges_and_blends(monkeypatch, tmp_path):
    """Word for word; the downloads are replaced by tiny models built by code."""
    import diffusers

    from tests.adapters.diffusers import tiny
    from tests.adapters.diffusers.content_shift_pipes import controlnet

    (snippet,) = (text for text in SNIPPETS if ".gate(" in text)
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline, "from_pretrained", lambda _: tiny.sd_pipe(tmp_path / "t")
    )
    monkeypatch.setattr(diffusers.ControlNetModel, "from_pretrained", lambda _: controlnet())
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"images": tiny.image(2, 32, 32)}
    exec(compile(snippet, "README.md", "exec"), namespace)  # noqa: S102  (our own README)
    assert set(namespace["report"].verdict) == {"prompt", "edges"}
    assert all(row["control_gain"] is not None for row in namespace["report"].table)
    assert (tmp_path / "gate" / "sheet_001.png").stat().st_size > 1000
    assert "edges" in (tmp_path / "gate" / "gate.txt").read_text()
    assert namespace["fused"].shape[0] == 2
    assert namespace["penalty"] == 0


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_readme_is_the_long_description_and_shows_both_commands():
    assert {"make demo", "make test"} <= set(re.findall(r"^(make \w+)", README, re.MULTILINE))
