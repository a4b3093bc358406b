"""The guideline on real diffusers pipelines of tiny models: pairing, controls, counts."""

import diffusers
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline, GateReport, Technique
from graftkit.diffusers.controls import negative_control
from graftkit.diffusers.gate import _drawn
from graftkit.diffusers.reconstruction import levels_of
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import EDGES, FAST, controlnet, feature_pipe


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


def test_a_technique_that_changes_nothing_has_no_gain(plain):
    report = plain.gate(tiny.image(3), Technique("same"), **FAST)
    assert report.verdict == {"same": "no evidence"}
    assert all(row["gain_mean"] == 0 and row["p_value"] == 1 and row["n"] == 6 for row in report.table)


def test_the_reconstruction_is_diffusers_img2img(tmp_path):
    """DDIM from the same noise: the same picture as StableDiffusionImg2ImgPipeline's."""
    scheduler = diffusers.DDIMScheduler(
        **tiny.SCHEDULE, clip_sample=False, steps_offset=1, timestep_spacing="trailing"
    )
    source = tiny.sd_pipe(tmp_path, scheduler=scheduler)
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    picture = tiny.image(1)
    report = pipe.gate(
        picture,
        Technique("t", prompt="a horse"),
        seeds=(3,),
        strength=0.5,
        num_inference_steps=4,
        keep_images=True,
    )
    # StableDiffusionImg2ImgPipeline's steps, from the mode of the VAE's distribution and our noise.
    latents = source.vae.encode(2 * picture - 1).latent_dist.mode() * source.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    scheduler.set_timesteps(4)
    steps = scheduler.timesteps[2:]
    text = source.encode_prompt("a horse", "cpu", 1, False)[0]
    x = scheduler.add_noise(latents, noise, steps[:1])
    for t in steps:
        with torch.no_grad():
            x = scheduler.step(
                source.unet(x, t, encoder_hidden_states=text).sample, t, x, eta=0.0
            ).prev_sample
    expected = source.vae.decode(x / source.vae.config.scaling_factor).sample
    found = report.images["t"][0]
    torch.testing.assert_close(found, (expected.detach() / 2 + 0.5).clamp(0, 1), atol=2e-3, rtol=0)


def test_levels_are_the_last_share_of_the_schedule(plain):
    assert [level.time for level in levels_of(plain.scheduler, 0.5, 4)] == [499, 249]
    assert [level.time for level in levels_of(plain.scheduler, 1, 2)] == [999, 499]
    assert len(levels_of(plain.scheduler, 0.3, 10)) == 3
    assert len(levels_of(plain.scheduler, 0.29, 100)) == 29  # the product is 28.999999999999996


def test_a_denoiser_that_knows_the_image_gains_1(plain):
    """`apply` replaces the forward by the noise that was really added: the reconstruction is the latent's."""
    picture = tiny.image(2)
    latents = plain.vae.encode(2 * picture - 1).latent_dist.mode() * plain.vae.config.scaling_factor

    class Knowing:
        def __init__(self, pipe):
            self.pipe = pipe

        def __enter__(self):
            alphas = self.pipe.scheduler.alphas_cumprod

            def answer(_module, args, kwargs, _output):
                a = alphas[int(kwargs["timestep"][0])]
                return ((args[0] - a.sqrt() * latents) / (1 - a).sqrt(),)

            self.handle = self.pipe.unet.register_forward_hook(answer, with_kwargs=True)

        def __exit__(self, *_):
            self.handle.remove()

    def to_target(images, pictures):
        z = plain.vae.encode(2 * images - 1).latent_dist.mode()
        return (
            (pictures - (plain.vae.decode(z).sample.detach() / 2 + 0.5).clamp(0, 1)).square().mean((1, 2, 3))
        )

    report = plain.gate(
        picture, Technique("knows", apply=Knowing), metrics=to_target,
        seeds=(0, 1, 2), num_inference_steps=4, batch_size=2,
    )  # fmt: skip
    assert report.table[0]["gain_mean"] == pytest.approx(1, abs=1e-4)
    assert report.verdict["knows"] == "helps"


def test_a_technique_that_inverts_the_picture_harms(plain):
    picture = tiny.image(4)

    class Inverting:
        def __init__(self, pipe):
            self.decoder = pipe.vae.decoder

        def __enter__(self):
            self.handle = self.decoder.register_forward_hook(lambda *_: (1 - 2 * picture).repeat(2, 1, 1, 1))

        def __exit__(self, *_):
            self.handle.remove()

    report = plain.gate(picture, [Technique("worse", apply=Inverting)], **FAST)
    assert report.table[0]["gain_mean"] < 0
    assert report.verdict["worse"] == "harms"


def test_seeds_order_and_batches_change_nothing(controlled):
    techniques = [EDGES, Technique("words", prompt=["a horse", "a street", "photo"])]
    first = controlled.gate(tiny.image(3), techniques, **FAST)
    again = controlled.gate(tiny.image(3), techniques[::-1], batch_size=1, **FAST)
    assert first.ranking == again.ranking
    by_name = {(row["technique"], row["metric"]): row for row in again.table}
    for row in first.table:
        other = by_name[row["technique"], row["metric"]]
        assert row["gain_mean"] == pytest.approx(other["gain_mean"], abs=1e-5)
        assert row["control_gain"] == pytest.approx(other["control_gain"], abs=1e-5)


def test_controls_give_every_image_another_ones_inputs():
    words = Technique("w", prompt=["a", "b", "c"])
    assert negative_control(words, 3).prompt == ("b", "c", "a")
    assert negative_control(Technique("w", prompt="a"), 3) is None
    pixels = tiny.image(4)
    rolled = negative_control(EDGES, 4).controls[0](pixels)
    own = EDGES.controls[0]
    assert own == "input-sobel"
    from graftkit.methods.content_shift import edge_image

    assert torch.equal(rolled, edge_image(pixels, "sobel").roll(2, 0))
    given = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert negative_control(Technique("t", controlnet_image=given), 4).controls[0][:, 0, 0, 0].tolist() == [
        2,
        3,
        0,
        1,
    ]
    assert negative_control(Technique("t", controlnet_image=given[:1]), 4) is None


def test_controls_are_reported_and_can_be_left_out(controlled):
    report = controlled.gate(tiny.image(2), EDGES, metrics="mse", **FAST)
    assert report.table[0]["control_gain"] is not None
    assert report.table[0]["control_gain"] != report.table[0]["gain_mean"]
    report = controlled.gate(tiny.image(1), EDGES, negative_controls=False, metrics="mse", **FAST)
    assert report.table[0]["control_gain"] is None


def test_kept_images_make_a_sheet(controlled, tmp_path):
    report = controlled.gate(tiny.image(2), EDGES, keep_images=True, **FAST)
    assert report.images["edges"].shape == (2, 2, 3, 32, 48)
    assert set(report.images) == {"basic", "edges"}
    report.plot().savefig(tmp_path / "sheet.png")
    report.to_json(tmp_path / "gate.json")
    assert GateReport.from_json(tmp_path / "gate.json") == report


def test_guidance_mixes_two_forwards(plain):
    calls = []
    handle = plain.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain.gate(tiny.image(1), Technique("t", guidance_scale=1.0), negative_controls=False, **FAST)
        assert len(calls) == 3  # both techniques in one batch
        calls.clear()
        report = plain.gate(
            tiny.image(1),
            Technique("t", prompt="a horse", guidance_scale=3.0, negative_prompt="street"),
            **FAST,
        )
        assert len(calls) == 3 + 2 * 3
    finally:
        handle.remove()
    assert report.table[0]["gain_mean"] != 0


def test_gate_makes_the_forwards_that_it_reports(controlled):
    """Three levels; basic, technique and its control; two images and two seeds in one batch of four."""
    calls = []
    handle = controlled.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        report = controlled.gate(tiny.image(2), EDGES, batch_size=4, **FAST)
    finally:
        handle.remove()
    assert len(calls) == 3 * 3
    assert report.settings["forwards"] == 3


def test_encoders_run_once(controlled):
    counted = {"vae": 0, "text": 0}
    handles = [
        controlled.vae.encoder.register_forward_hook(
            lambda *_: counted.__setitem__("vae", counted["vae"] + 1)
        ),
        controlled.text_encoder.register_forward_hook(
            lambda *_: counted.__setitem__("text", counted["text"] + 1)
        ),
    ]
    try:
        controlled.gate(tiny.image(2), [EDGES, Technique("words", prompt="a horse")], **FAST)
    finally:
        for handle in handles:
            handle.remove()
    assert counted == {"vae": 1, "text": 2}


def test_each_reconstruction_is_of_its_own_image():
    """At the least noise pictures come back nearly as they were; three images and two seeds, four a batch."""
    from graftkit.diffusers.small_models import small_pipeline

    pictures = torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1, 1).expand(3, 3, 16, 16)
    report = small_pipeline(("a",), channels=(8, 16)).gate(
        pictures, Technique("t"), strength=0.001, num_inference_steps=1000, seeds=(0, 1), batch_size=4,
        keep_images=True,
    )  # fmt: skip
    for seed in range(2):
        assert (report.images["t"][seed] - pictures).abs().mean((1, 2, 3)).max() < 0.15


def test_a_generator_draws_the_seeds(plain):
    """As many as `seeds` has, all different, repeatable; the report says which."""
    technique = Technique("w", prompt="a horse")

    def run(**options):
        return plain.gate(tiny.image(2), technique, **{**FAST, **options})

    first = run(seeds=(0, 1), generator=torch.Generator().manual_seed(7))
    again = run(seeds=(5, 6), generator=torch.Generator().manual_seed(7))
    other = run(seeds=(0, 1), generator=torch.Generator().manual_seed(8))
    assert first.table == again.table != other.table
    drawn = first.settings["seeds"]
    assert len(set(drawn)) == 2
    assert run(seeds=drawn).table == first.table


def test_a_refused_call_draws_nothing(plain):
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    with pytest.raises(ValueError, match="metrics"):
        plain.gate(tiny.image(2), Technique("w"), metrics="vgg", generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_seed_drawn_twice_is_drawn_anew(monkeypatch):
    values = iter([4, 4, 9, 4, 7])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(next(values)))
    assert _drawn(3, torch.Generator()) == (4, 9, 7)
