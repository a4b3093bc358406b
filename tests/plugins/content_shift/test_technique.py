"""Techniques as data, recipes, control images."""

import numpy as np
import pytest
import torch

from graftkit.methods.content_shift import RECIPES, Technique, check_techniques, edge_image


def test_json_round_trip():
    technique = Technique(
        "all", prompt=["a", "b"], controlnet_image=("input-canny", "input-sobel"),
        controlnet_conditioning_scale=[1.0, 0.5], adapters="x", adapter_weights=0.3, denoise_from=60,
        guidance_scale=2.0, negative_prompt="bad", ip_adapter_scale=0.4,
    )  # fmt: skip
    stored = technique.to_dict()
    assert Technique.from_dict(stored) == technique
    assert stored["prompt"] == ["a", "b"]
    assert Technique("plain").to_dict() == {"name": "plain"}


def test_a_description_holds_what_json_cannot():
    found = Technique(
        "t", controlnet_image=(torch.zeros(1, 3, 2, 2), "input-canny", len), adapters="x", fuse=True,
        ip_adapter_image_embeds=torch.zeros(1, 2, 3), apply=print,
    ).describe()  # fmt: skip
    assert found == {
        "name": "t", "controlnet_image": ["tensor of shape (1, 3, 2, 2)", "input-canny", "callable len"],
        "adapters": ["x"], "fuse": True, "ip_adapter_image_embeds": ["tensor of shape (1, 2, 3)"],
        "apply": "callable print",
    }  # fmt: skip
    assert Technique("x", adapters="x", fuse=True).to_dict() == {"name": "x", "adapters": ["x"], "fuse": True}


@pytest.mark.parametrize("field", ["controlnet_image", "ip_adapter_image_embeds"])
def test_tensors_and_callables_cannot_become_json(field):
    with pytest.raises(ValueError, match=f"technique 't': {field}: expected text and numbers"):
        Technique("t", **{field: torch.zeros(1, 3, 2)}).to_dict()
    with pytest.raises(ValueError, match="technique 't': apply"):
        Technique("t", apply=print).to_dict()


@pytest.mark.parametrize(
    ("stored", "error", "words"),
    [
        ({"name": "t", "strength": 1}, ValueError, "unknown entries"),
        ({"prompt": "t"}, ValueError, "an entry 'name'"),
        ({"name": "t", "apply": "os.system"}, ValueError, "unknown entries"),
        (["t"], TypeError, "a mapping"),
    ],
)
def test_stored_techniques_are_checked(stored, error, words):
    with pytest.raises(error, match=words):
        Technique.from_dict(stored)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": ""}, TypeError, "name: expected a non-empty string"),
        ({"prompt": 3}, TypeError, "technique 't': prompt"),
        ({"prompt": []}, ValueError, "technique 't': prompt: expected at least one text"),
        ({"negative_prompt": ["a"]}, TypeError, "negative_prompt"),
        ({"guidance_scale": -1}, ValueError, "guidance_scale"),
        ({"controlnet_image": "canny"}, ValueError, "controlnet_image"),
        ({"controlnet_image": 3}, TypeError, "controlnet_image"),
        ({"controlnet_image": []}, ValueError, "one control a ControlNet"),
        (
            {"controlnet_image": "input-canny", "controlnet_conditioning_scale": [1, 2]},
            ValueError,
            "1 numbers",
        ),
        ({"controlnet_conditioning_scale": float("inf")}, ValueError, "controlnet_conditioning_scale"),
        ({"adapters": [1]}, TypeError, "adapters"),
        ({"adapters": "a", "adapter_weights": [1, 2]}, ValueError, "1 weights, one an adapter"),
        ({"ip_adapter_image_embeds": "input"}, TypeError, "ip_adapter_image_embeds"),
        ({"ip_adapter_image_embeds": torch.zeros(3, 4)}, TypeError, "ip_adapter_image_embeds"),
        ({"ip_adapter_scale": -0.1}, ValueError, "ip_adapter_scale"),
        ({"denoise_from": 0}, ValueError, "denoise_from"),
        ({"denoise_from": 1.5}, TypeError, "denoise_from"),
        ({"apply": "x"}, TypeError, "apply"),
        ({"fuse": True}, ValueError, "technique 't': fuse: expected False without adapters"),
        ({"fuse": 1, "adapters": "a"}, TypeError, "technique 't': fuse"),
        ({"adapters": ["a", "a"]}, ValueError, "technique 't': adapters: expected each name once"),
        ({"adapters": 3}, TypeError, "technique 't': adapters"),
    ],
)
def test_bad_techniques(options, error, words):
    with pytest.raises(error, match=words):
        Technique(**{"name": "t", **options})


@pytest.mark.parametrize(
    ("techniques", "error", "words"),
    [
        ([], ValueError, "at least one technique"),
        ([Technique("a"), Technique("b"), Technique("a")], ValueError, r"duplicate name\(s\) \['a'\]"),
        (["a"], TypeError, "class Technique"),
        ("a", TypeError, "a sequence of Technique"),
        (None, TypeError, "a sequence of Technique"),
    ],
)
def test_bad_collections(techniques, error, words):
    with pytest.raises(error, match=words):
        check_techniques(techniques)


def test_one_technique_is_a_collection():
    assert check_techniques(Technique("a")) == (Technique("a"),)


def test_recipes_hold_what_the_paper_blends():
    counts = {name: len(recipe.variants) * recipe.seeds for name, recipe in RECIPES.items()}
    assert counts == {"spair": 6, "horse21": 4, "bedroom28": 3, "ade20k": 3, "cityscapes": 3}
    assert RECIPES["ade20k"].attention is None
    assert RECIPES["cityscapes"].attention is None
    assert RECIPES["spair"].attention.denoise_from == 60
    for recipe in RECIPES.values():
        assert recipe.timestep == 50
        for technique in check_techniques(recipe.variants):
            assert Technique.from_dict(technique.to_dict()) == technique


def step() -> torch.Tensor:
    picture = torch.zeros(2, 3, 16, 16)
    picture[0, ..., 8:] = 1
    return picture


@pytest.mark.parametrize("method", ["canny", "sobel"])
def test_edges_lie_on_the_step_and_nowhere_else(method):
    if method == "canny":
        pytest.importorskip("cv2", reason="Canny needs OpenCV")
    edges = edge_image(step(), method)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    columns = edges[0, 0].sum(0).nonzero().flatten().tolist()
    assert columns
    assert set(columns) <= {7, 8}
    assert edges[1].sum() == 0
    assert torch.equal(edges[:, 0], edges[:, 2])


def test_weak_edges_count_only_beside_strong_ones():
    """Gradients of 4 * 30 = 120 alone are dropped; joined to one of 4 * 100 = 400 they stay."""
    weak = torch.zeros(1, 3, 9, 9)
    weak[..., 5:] = 30 / 255
    assert edge_image(weak, "sobel").sum() == 0
    weak[:, :, :3, 5:] = 100 / 255
    assert edge_image(weak, "sobel")[0, 0, -1].sum() > 0


def test_the_type_of_the_pictures_is_kept():
    assert edge_image(step().double(), "sobel").dtype == torch.float64
    assert edge_image(step()[:0], "sobel").shape == (0, 3, 16, 16)


def test_canny_without_opencv_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="opencv"):
        edge_image(step())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": np.zeros((1, 3, 4, 4))}, TypeError, "images"),
        ({"images": torch.zeros(1, 1, 4, 4)}, ValueError, r"shape \(N, 3, H, W\)"),
        ({"images": torch.full((1, 3, 4, 4), torch.nan)}, ValueError, "finite"),
        ({"method": "hed"}, ValueError, "method"),
        ({"low": -1}, ValueError, "low"),
        ({"low": 50, "high": 20}, ValueError, "high"),
    ],
)
def test_bad_edge_arguments(change, error, words):
    with pytest.raises(error, match=words):
        edge_image(**{"images": step(), "method": "sobel", **change})
