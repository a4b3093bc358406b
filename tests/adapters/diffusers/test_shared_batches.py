"""Techniques that leave the network alike share batches; what comes out is what each gives alone."""

import pytest
import torch

from graftkit.diffusers import Technique
from graftkit.diffusers.technique_groups import chunks, grouped
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import EDGES, FAST, NAMES, controlnet, feature_pipe

MANY = [
    Technique("plain"),
    Technique("horse", prompt="a horse"),
    EDGES,
    Technique("words", prompt=["a street", "a photo", "of a horse"]),
    Technique("horse, edges", prompt="a horse", controlnet_image="input-sobel"),
    Technique("weak edges", controlnet_image="input-sobel", controlnet_conditioning_scale=0.5),
]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


def forwards(pipe, call):
    sizes = []
    handle = pipe.unet.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    try:
        return call(), sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("share_noise", [True, False])
def test_variants_are_what_each_technique_gives_alone(pipe, share_noise):
    pictures = tiny.image(3)
    options = {"seed": 3, "share_noise": share_noise}
    found, sizes = forwards(
        pipe, lambda: pipe.extract_variants(pictures, MANY, NAMES, batch_size=4, **options)
    )
    # Nine rows of plain, horse, words; six of two kinds of edges; three of weak ones.
    assert sizes == [4, 4, 1, 4, 2, 3]
    assert list(found) == [technique.name for technique in MANY]
    for position, technique in enumerate(MANY):
        seed = 3 if share_noise else 3 + position
        alone = pipe.extract_variants(pictures, technique, NAMES, seed=seed, batch_size=1)[technique.name]
        torch.testing.assert_close(found[technique.name].latents, alone.latents)
        for name in NAMES:
            feature = found[technique.name].features[name]
            assert len(feature) == 3
            torch.testing.assert_close(feature, alone.features[name], atol=1e-4, rtol=1e-4)


def test_the_guideline_is_what_each_technique_gets_alone(pipe):
    pictures = tiny.image(3)
    together, sizes = forwards(
        pipe, lambda: pipe.gate(pictures, MANY, batch_size=8, keep_images=True, **FAST)
    )
    # Three levels; plain, words and their control, edges and theirs: never more rows than asked for.
    assert max(sizes) == 8
    rows = {(row["technique"], row["metric"]): row for row in together.table}
    for technique in MANY:
        alone = pipe.gate(pictures, technique, batch_size=6, keep_images=True, **FAST)
        torch.testing.assert_close(
            together.images[technique.name], alone.images[technique.name], atol=1e-4, rtol=0
        )
        for row in alone.table:
            other = rows[technique.name, row["metric"]]
            assert other["gain_mean"] == pytest.approx(row["gain_mean"], abs=1e-4)
            assert (other["control_gain"] is None) == (row["control_gain"] is None)


def test_fewer_forwards_than_one_technique_at_a_time(pipe):
    """One image, one seed, five prompts and the basic one: a batch of six in place of six of one."""
    prompts = [Technique(word, prompt=word) for word in ("a", "photo", "of", "horse", "street")]
    _, sizes = forwards(
        pipe, lambda: pipe.gate(tiny.image(1), prompts, num_inference_steps=4, strength=0.5, seeds=(0,))
    )
    assert sizes == [6, 6]


def test_what_changes_the_network_stays_apart(pipe):
    techniques = [
        Technique("a"), Technique("b", prompt="x"), Technique("lora", adapters="z"),
        Technique("fused", adapters="z", fuse=True), Technique("half", adapters="z", adapter_weights=0.5),
        Technique("call", apply=lambda _: torch.no_grad()), Technique("cfg", guidance_scale=2.0),
        Technique("late", denoise_from=60), Technique("c"),
    ]  # fmt: skip
    memory: dict = {}
    pixels = tiny.image(1)
    given = [pipe._conditions(Technique("t"), pixels, "", None, memory) for _ in techniques]
    assert grouped(techniques, given) == [[0, 1, 8], [2], [3], [4], [5], [6], [7]]


def test_chunks_cover_every_row_once():
    seen = [pair for a, b in chunks(3, 5, 4) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert seen == [(member, row) for member in range(3) for row in range(5)]


def test_the_score_encodes_once_and_batches_change_nothing(pipe):
    counted = {"vae": 0, "text": 0}
    handles = [
        part.register_forward_hook(lambda *_, key=key: counted.update({key: counted[key] + 1}))
        for key, part in (("vae", pipe.vae.encoder), ("text", pipe.text_encoder))
    ]
    techniques = MANY[:4]
    try:
        whole = pipe.content_shift_score(tiny.image(3), techniques, NAMES)
    finally:
        for handle in handles:
            handle.remove()
    assert counted == {"vae": 1, "text": 3}  # "", "a horse", three at once
    parts = pipe.content_shift_score(tiny.image(3), techniques, NAMES, batch_size=2)
    for technique, by_name in whole.items():
        for name, scores in by_name.items():
            assert scores.shape == (3,)
            torch.testing.assert_close(parts[technique][name], scores, atol=1e-3, rtol=1e-3)


def test_edges_are_made_once_an_image(pipe, monkeypatch):
    """Three techniques on edges and their controls: the images' own, and the rolled ones."""
    from graftkit.diffusers import controls

    made = []
    real = controls.edge_image
    monkeypatch.setattr(controls, "edge_image", lambda *args: made.append(1) or real(*args))
    pipe.gate(tiny.image(3), [MANY[2], MANY[4], MANY[5]], **FAST)
    assert len(made) == 2


def test_texts_under_a_callable_are_its_own(pipe):
    """A callable may change the text encoder: what was encoded without it is not taken."""

    class Louder:
        def __init__(self, pipe):
            self.encoder = pipe.text_encoder

        def __enter__(self):
            self.handle = self.encoder.register_forward_hook(
                lambda _m, _a, out: type(out)(**{**out, "last_hidden_state": 3 * out.last_hidden_state})
            )

        def __exit__(self, *_):
            self.handle.remove()

    found = pipe.extract_variants(
        tiny.image(1),
        [Technique("a", prompt="a horse"), Technique("b", prompt="a horse", apply=Louder)],
        NAMES,
    )
    assert not torch.allclose(found["a"].features[NAMES[0]], found["b"].features[NAMES[0]], atol=1e-3)


def test_pictures_are_let_go_of_once_measured(pipe):
    """With and without keeping them, the same table; without, no pictures in the report."""
    kept = pipe.gate(tiny.image(3), EDGES, keep_images=True, **FAST)
    gone = pipe.gate(tiny.image(3), EDGES, **FAST)
    assert kept.table == gone.table
    assert gone.images is None
    assert gone.inputs is None
    assert kept.images["edges"].shape == (2, 3, 3, 32, 48)
