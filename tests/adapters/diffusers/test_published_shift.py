"""What the published code of content shift does otherwise (specification 1.7): a test each.

Beside: assigners that share a convolution, a diversity term of 0, weights by channel or variant
(``tests/plugins/content_shift/test_amalgamation.py``); controls made of the resized input, and one prompt for
U-Net and ControlNet (``test_controlnet.py``).
"""

import pytest
import torch

from graftkit.diffusers import FeatureAmalgamation, Technique, capture
from graftkit.methods.content_shift import edge_image, fit_amalgamation
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import FAST, NAMES, controlnet, feature_pipe


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


def test_weights_are_one_a_channel_by_default():
    """Defect 1: the paper has one a variant, the code that gave the numbers one a channel."""
    torch.manual_seed(0)
    blend = FeatureAmalgamation(4, 3).eval()
    weights = blend.assign(torch.randn(2, 3, 4, 5, 5))
    assert weights.shape == (2, 1, 3, 4)
    assert weights.std(dim=3).min() > 0


def test_sparsity_is_the_factor_that_was_given_and_stays_it():
    """Defect 3: there it walks at random from 0, driven by the loss, and is multiplied by loss / penalty."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 3, 4, 5, 5, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blend = FeatureAmalgamation(4, 3, sparsity=0.7, dropout=0.0)
    fit_amalgamation(
        blend, maps, torch.randint(0, 2, (6, 5, 5), generator=generator), steps=7, random_state=0
    )
    assert blend.sparsity == 0.7
    expected = -0.7 * torch.linalg.vector_norm(blend.assign(maps), dim=2).mean()
    torch.testing.assert_close(blend(maps)[1], expected)
    assert FeatureAmalgamation(4, 3).sparsity == FeatureAmalgamation(4, 3).diversity == 0


def test_untrained_assigners_are_not_sold_as_training_free():
    """Defect 5: the mode "nn" weighs by assigners that nobody trained; only the mean needs no training."""
    with pytest.raises(ValueError, match="kind"):
        FeatureAmalgamation(4, 3, kind="nn")
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, 5)
    assert not torch.allclose(FeatureAmalgamation(4, 3).eval()(maps)[0], maps.mean(1), atol=1e-3)
    assert "training-free" in FeatureAmalgamation.__doc__


def test_several_steps_run_with_guidance_asked_for(pipe):
    """Defect 7: there that branch refers to an undefined variable. Here guidance changes no feature."""
    late = {"controlnet_image": "input-sobel", "denoise_from": 53}
    with pytest.warns(UserWarning, match="guidance_scale mixes predictions"):
        found = pipe.extract_variants(
            tiny.image(1), [Technique("a", **late), Technique("b", guidance_scale=3.0, **late)], NAMES
        )
    torch.testing.assert_close(found["a"].features, found["b"].features)


def test_seed_0_is_a_seed(pipe):
    """Defect 8: there it counts as none, and no generator exists."""
    state = torch.get_rng_state()
    plain = Technique("t")
    runs = []
    for seed in (0, 0, 1):
        torch.rand(3)
        runs.append(pipe.extract_variants(tiny.image(1), plain, NAMES, seed=seed)["t"].features[NAMES[0]])
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2], atol=1e-3)
    words = Technique("w", prompt="a horse")
    options = {**FAST, "seeds": (0,)}
    rows = []
    for _ in range(2):
        torch.rand(3)
        rows.append(pipe.gate(tiny.image(2), words, **options).table)
    assert rows[0] == rows[1]
    assert rows[0] != pipe.gate(tiny.image(2), words, **{**FAST, "seeds": (1,)}).table
    torch.set_rng_state(state)


def test_only_the_last_of_several_steps_is_read(pipe, monkeypatch):
    """Defect 10: there features of every step are stored and overwritten. The last input, step by step."""
    taken = []
    real = capture.Capture._take
    monkeypatch.setattr(
        capture.Capture, "_take", lambda self, tap, value: taken.append(tap.name) or real(self, tap, value)
    )
    picture = tiny.image(1)
    late = Technique("late", controlnet_image="input-sobel", denoise_from=53)
    found = pipe.extract_variants(picture, late, NAMES, timestep=50)["late"]
    assert sorted(taken) == sorted(NAMES)
    # DDIM without noise from 53 to 50, with the ControlNet at each step.
    alphas = pipe.scheduler.alphas_cumprod
    text, edges = pipe.encode_text("").embeds, edge_image(picture, "sobel")
    noise = torch.randn(found.latents.shape, generator=torch.Generator().manual_seed(0))
    x = alphas[53].sqrt() * found.latents + (1 - alphas[53]).sqrt() * noise
    with torch.no_grad():
        for t in (53, 52, 51):
            down, mid = pipe.controlnet(x, t, text, controlnet_cond=edges, return_dict=False)
            eps = pipe.unet(
                x, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            clean = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
            x = alphas[t - 1].sqrt() * clean + (1 - alphas[t - 1]).sqrt() * eps
        down, mid = pipe.controlnet(x, 50, text, controlnet_cond=edges, return_dict=False)
        caught = []
        handle = pipe.unet.up_blocks[2].resnets[1].register_forward_hook(lambda *a: caught.append(a[2]))
        pipe.unet(x, 50, text, down_block_additional_residuals=down, mid_block_additional_residual=mid)
        handle.remove()
    torch.testing.assert_close(found.features[NAMES[1]], caught[0], atol=1e-4, rtol=1e-4)
