"""Grammar, globs, suggestions, pools, presets."""

import json

import pytest

from graftkit.methods.diffusion_feature import ENSEMBLES, PRESETS, load_selection
from graftkit.methods.diffusion_feature.layouts import SD15, SDXL, Layout, layout_names, recognize_layout
from graftkit.methods.diffusion_feature.names import (
    ActivationName,
    expand_names,
    is_extension,
    is_map,
    match_names,
    parse_name,
)
from graftkit.methods.diffusion_feature.pools import generic_pool, paper_pool

NAMES = layout_names(SD15)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unet-after-conv-in", (None, None, None, None, "unet-after-conv-in")),
        ("up-level1-repeat0-vit-block3-cross-q", ("up", 1, 0, 3, "cross-q")),
        ("up-level12-repeat3-res-out", ("up", 12, 3, None, "res-out")),
        ("mid-vit-block0-out", ("mid", None, None, 0, "block-out")),
        ("mid-vit-out", ("mid", None, None, None, "vit-out")),
        ("mid-repeat1-res-increment", ("mid", None, 1, None, "res-increment")),
        ("down-level0-downsampler-out", ("down", 0, None, None, "downsampler-out")),
        ("vit-block7-norm-out", (None, None, None, 7, "norm-out")),
        ("up-level0-repeat2-vit-increment", ("up", 0, 2, None, "vit-increment")),
    ],
)
def test_names_are_taken_apart(name, parts):
    assert parse_name(name) == ActivationName(*parts)


@pytest.mark.parametrize("name", ["", "UP-level1", "up_level1", 3])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="name: expected an activation name"):
        parse_name(name)


def test_the_order_is_the_requests_and_inside_a_glob_the_models():
    late, early = "up-level3-repeat0-vit-block0-self-k", "down-level0-repeat0-res-out"
    assert expand_names([late, early], NAMES) == [late, early]
    glob = expand_names("up-level1-*-cross-q", NAMES)
    assert glob == [f"up-level1-repeat{r}-vit-block0-cross-q" for r in range(3)]
    assert expand_names(["up-level1-repeat2-vit-block0-cross-q", "up-level1-*-cross-q"], NAMES) == [
        glob[2], glob[0], glob[1],
    ]  # fmt: skip
    assert expand_names({late: True, early: False}, NAMES) == [late]


def test_globs_leave_maps_out_unless_they_speak_of_them():
    assert not any(is_map(name) for name in match_names("*", NAMES))
    assert len(match_names("*-map", NAMES)) == 32
    assert len(match_names("*", NAMES)) == 197 - 32
    assert is_extension("mid-vit-block0-self-out")
    assert not is_extension("mid-vit-block0-out")


def test_layouts_are_recognised_by_their_up_stage():
    assert recognize_layout(NAMES) == "sd15"
    assert recognize_layout(layout_names(SDXL)) == "sdxl"
    assert recognize_layout([n for n in NAMES if not n.startswith("up-level3")]) is None
    deeper = Layout(SD15.down, 1, ((3, 0), (3, 1), (3, 1), (3, 2)))
    assert recognize_layout(layout_names(deeper)) is None
    longer = Layout(SD15.down, 1, (*SD15.up, (3, 1)))
    assert recognize_layout(layout_names(longer)) is None
    assert recognize_layout([]) is None


def test_the_paper_pools_are_the_tables():
    """Tables 4 to 6, written out: counts by kind and by level."""
    sd, xl = paper_pool("sd15"), paper_pool("sdxl")
    assert (len(sd), len(xl)) == (33, 63)
    assert set(sd) <= set(NAMES)
    assert set(xl) <= set(layout_names(SDXL))
    assert [sum(n.startswith(f"up-level{i}-") for n in sd) for i in range(4)] == [0, 12, 15, 6]
    assert [sum(n.startswith(f"up-level{i}-") for n in xl) for i in range(3)] == [43, 20, 0]
    assert {n for n in sd if "self-" in n} == {
        f"up-level{level}-repeat{r}-vit-block0-self-{kind}"
        for level, r in ((2, 2), (3, 0), (3, 1), (3, 2)) for kind in "qk"
    }  # fmt: skip
    assert {n for n in xl if "self-" in n} == {f"up-level1-repeat2-vit-block{b}-self-k" for b in range(2)}
    assert "up-level2-upsampler-out" in sd
    assert "up-level0-upsampler-out" in xl
    assert not any(n.endswith(("res-increment", "ffn-inner", "self-v")) for n in sd + xl)
    with pytest.raises(ValueError, match="layout: expected one of 'sd15', 'sdxl'"):
        paper_pool("sd3")


def test_presets_lie_in_their_models():
    for preset in PRESETS.values():
        names = NAMES if preset.layout == "sd15" else layout_names(SDXL)
        assert set(preset.names) - {"attn"} <= set(names)
        assert len(preset.names) == len(preset.widths)
    totals = {name: sum(PRESETS[part].channels for part in parts) for name, parts in ENSEMBLES.items()}
    assert totals == {"sdxl-t": 8154, "sdxl-t-complex": 4480 + 2560}
    # The pool holds what the paper recommends.
    assert set(PRESETS["sd15"].names) <= set(paper_pool("sd15"))
    assert set(PRESETS["sdxl"].names) <= set(paper_pool("sdxl"))


def test_the_generic_rules():
    pool = generic_pool(NAMES)
    # Half of 12 modules lie in levels 0 and 1; the rest keeps self-attention's q and k only.
    assert [n for n in NAMES if n in pool] == pool
    assert {n for n in pool if n.startswith("up-level0")} == {
        *(f"up-level0-repeat{r}-res-out" for r in range(3)), "up-level0-upsampler-out",
    }  # fmt: skip
    assert "up-level1-repeat0-vit-block0-out" in pool
    assert "up-level1-repeat0-vit-block0-self-q" not in pool
    assert {n.rsplit("-", 2)[-2] + n[-2:] for n in pool if n.startswith(("up-level2", "up-level3"))} == {
        "self-q",
        "self-k",
    }
    assert not any(n.startswith(("down", "mid", "unet")) for n in pool)
    assert "up-level3-repeat0-res-out" in generic_pool(NAMES, clean_fraction=1.0)
    assert "up-level1-repeat0-res-out" not in generic_pool(NAMES, clean_fraction=0.25)
    assert generic_pool(["vit-block0-self-q", "vit-block0-cross-q", "vit-block0-out"]) == [
        "vit-block0-cross-q", "vit-block0-out",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fraction", "error", "words"),
    [
        (0, ValueError, r"in \(0, 1\]"),
        (1.5, ValueError, r"in \(0, 1\]"),
        ("half", TypeError, "a finite number"),
    ],
)
def test_the_fraction_is_checked(fraction, error, words):
    with pytest.raises(error, match=words):
        generic_pool(NAMES, clean_fraction=fraction)


def test_a_model_without_candidates_is_refused():
    with pytest.raises(ValueError, match="a model with an up stage"):
        generic_pool(["unet-in", "unet-out"])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ('{"a": 1}', TypeError, r"source\['a'\]: expected True or False"),
        ("{broken", ValueError, "expected a JSON object"),
        ({}, ValueError, "at least one name that is true"),
        ({"a": False}, ValueError, "at least one name that is true"),
        ([1], TypeError, "a mapping of names to booleans"),
        ("nowhere.json", FileNotFoundError, "nowhere.json"),
    ],
)
def test_selections_are_checked(source, error, words):
    with pytest.raises(error, match=words):
        load_selection(source)


def test_a_list_in_a_file_is_no_selection(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["a"]))
    with pytest.raises(TypeError, match="a mapping of names to booleans"):
        load_selection(tmp_path / "a.json")


def test_the_clean_share_counts_modules_and_rounds_up():
    names = [f"up-level{level}-repeat{repeat}-res-out" for level in range(2) for repeat in range(2)]
    # Of 4 modules .5 are 2, all in level 0; .51 are 3 and .75 are 3, which reach into level 1.
    assert generic_pool(names, clean_fraction=0.5) == names[:2]
    for fraction in (0.51, 0.75, 1.0):
        assert generic_pool(names, clean_fraction=fraction) == names
