"""The cache of features: values, keys, what a failed write leaves, a data set of its own."""

import pickle
from pathlib import Path

import diffusers
import pytest
import torch
from torch.utils.data import DataLoader

from graftkit.diffusers import (
    DiffusionFeaturePipeline,
    FeatureCache,
    extract_features,
)
from graftkit.diffusers.cache import content_key, fingerprint
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.extraction_cases import ARGUMENTS, NAMES, make_pipe, pictures


@pytest.fixture
def pipe():
    return make_pipe()


def test_cache_keeps_values_types_and_order(tmp_path):
    cache = FeatureCache(tmp_path / "c")
    maps = {"z": torch.ones(2, 3, 3, dtype=torch.float16), "a": torch.arange(4.0).reshape(1, 2, 2)}
    cache.put("abcd", maps)
    found = FeatureCache(tmp_path / "c").get("abcd")
    assert list(found) == ["z", "a"]
    assert all(torch.equal(found[n], maps[n]) and found[n].dtype == maps[n].dtype for n in maps)
    assert "abcd" in cache
    assert cache.get("ffff") is None
    assert list(cache.keys()) == ["abcd"]
    assert cache.nbytes == (tmp_path / "c" / "ab" / "abcd.safetensors").stat().st_size > 52
    assert repr(cache).endswith("1 items, 0.0 MiB)")
    with pytest.raises(ValueError, match="features: expected at least one map"):
        cache.put("abcd", {})
    with pytest.raises(ValueError, match="key: expected letters and digits"):
        cache.put("../../x", maps)
    with pytest.raises(TypeError, match="folder: expected a path"):
        FeatureCache(3)
    with pytest.raises(IndexError, match="index: expected an item of 0, got 0"):
        cache[0]
    with pytest.raises(TypeError, match="index: expected an integer"):
        cache["abcd"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    from graftkit.diffusers import cache as module

    cache = FeatureCache(tmp_path)
    cache.put("abcd", {"a": torch.ones(1)})
    monkeypatch.setattr(module, "save", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        cache.put("abcd", {"a": torch.zeros(1)})
    assert cache.get("abcd")["a"].item() == 1
    assert [path.name for path in (tmp_path / "ab").iterdir()] == ["abcd.safetensors"]


def test_keys_change_with_picture_settings_and_weights(pipe):
    pixels, model = torch.zeros(3, 4, 4), fingerprint(pipe)
    key = content_key(pixels, {"a": 1}, model)
    assert key == content_key(pixels.clone(), {"a": 1}, fingerprint(make_pipe()))
    changed = pixels.clone()
    changed[0, 0, 0] = 1e-3
    assert key != content_key(changed, {"a": 1}, model)
    assert key != content_key(pixels.reshape(3, 2, 8), {"a": 1}, model)
    assert key != content_key(pixels, {"a": 2}, model)
    pipe.scheduler.register_to_config(num_train_timesteps=999)  # nothing but a configuration
    assert fingerprint(pipe) != model
    pipe.scheduler.register_to_config(num_train_timesteps=1000)
    assert fingerprint(pipe) == model
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] += 1e-4
    assert key != content_key(pixels, {"a": 1}, fingerprint(pipe))


def test_keys_change_with_a_loras_scale_and_with_freeu():
    """Neither is among the weights or in a configuration; a stale entry would be silent."""
    peft = pytest.importorskip("peft")
    pipe = DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=diffusers.DDIMScheduler(**tiny.SCHEDULE))
    seen = [fingerprint(pipe)]
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    seen.append(fingerprint(pipe))
    pipe.unet.disable_freeu()
    assert fingerprint(pipe) == seen[0]
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "mine")
    seen.append(fingerprint(pipe))
    pipe.unet.set_adapters("mine", 0.5)
    seen.append(fingerprint(pipe))
    pipe.unet.disable_lora()
    seen.append(fingerprint(pipe))
    assert len(set(seen)) == 5


def test_a_cache_is_a_data_set(pipe, tmp_path, monkeypatch):
    cache = extract_features(pipe, pictures(), tmp_path, **ARGUMENTS)
    reads = []
    own = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **k: reads.append(self.name) or own(self, **k))
    assert len(list(cache)) == 5  # a loop ends
    batch = next(iter(DataLoader(cache, batch_size=5)))
    assert torch.equal(batch[NAMES[0]][4], cache[0][NAMES[0]])
    assert reads.count("manifest.json") <= 1  # not once an item
    cache.order.clear()
    assert len(cache) == 5
    again = pickle.loads(pickle.dumps(cache))
    extract_features(pipe, pictures()[:2], tmp_path, **ARGUMENTS)
    assert len(again) == len(cache) == 2
