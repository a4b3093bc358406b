"""Ranking, cache and extraction of a data set: planted answers, keys, resuming, two processes."""

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
import torch.multiprocessing as mp
from sklearn.tree import DecisionTreeClassifier
from torch.utils.data import DataLoader

from graftkit.diffusers import (
    DiffusionFeaturePipeline,
    FeatureCache,
    extract_features,
    extraction,
    rank_activations,
)
from graftkit.diffusers.cache import content_key, fingerprint
from graftkit.diffusers.taps import denoiser_taps
from tests.adapters.diffusers import tiny, workers

NAMES = ["up-level1-repeat0-res-out", "mid-repeat0-res-out"]
ARGUMENTS = {"features": NAMES, "batch_size": 2, "seed": 3}


def make_pipe():
    """Pixel space, no text: nothing but a U-Net and a schedule."""
    unet = tiny.seeded(lambda: diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1))  # fmt: skip
    return DiffusionFeaturePipeline(unet=unet, scheduler=diffusers.DDPMScheduler(**tiny.SCHEDULE))


def pictures():
    """Five, the last equal to the first."""
    images = list(tiny.image(4, 16, 16))
    return [*images, images[0]]


@pytest.fixture
def pipe():
    return make_pipe()


# Cache.


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


# Extraction.


def test_features_are_the_pipelines_with_a_stream_an_image(pipe, tmp_path):
    cache = extract_features(pipe, pictures(), tmp_path, **ARGUMENTS)
    assert len(cache) == 5
    assert len(set(cache.order)) == 4  # an image that occurs twice is stored once
    for index, picture in enumerate(pictures()):
        generator = torch.Generator().manual_seed(int(cache.order[index][:15], 16))
        expected = pipe(picture, features=NAMES, generator=[generator])
        assert list(cache[index]) == NAMES
        for name in NAMES:
            assert torch.allclose(cache[index][name], expected.features[name][0], atol=1e-5)
    assert torch.equal(cache[-1][NAMES[0]], cache[0][NAMES[0]])


def test_batch_size_does_not_change_a_feature(pipe, tmp_path):
    one = extract_features(pipe, pictures(), tmp_path / "1", **{**ARGUMENTS, "batch_size": 1})
    five = extract_features(pipe, pictures(), tmp_path / "5", **{**ARGUMENTS, "batch_size": 5})
    assert one.order == five.order
    assert all(torch.allclose(one[i][n], five[i][n], atol=1e-5) for i in range(5) for n in NAMES)


def test_a_killed_run_goes_on_and_a_finished_one_computes_nothing(pipe, tmp_path):
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))

    class Killed(list):
        def __getitem__(self, index):
            if index == 3:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):  # noqa: PT011
        extract_features(pipe, Killed(pictures()), tmp_path, **ARGUMENTS)
    assert len(list(FeatureCache(tmp_path).keys())) == 2
    assert FeatureCache(tmp_path).order == []
    calls.clear()
    extract_features(pipe, pictures(), tmp_path, **ARGUMENTS)
    assert sum(calls) == 2
    calls.clear()
    extract_features(pipe, pictures(), tmp_path, **ARGUMENTS)
    assert calls == []
    extract_features(pipe, pictures(), tmp_path, **{**ARGUMENTS, "seed": 4})
    assert sum(calls) == 4
    handle.remove()


class Rank:
    """What accelerate says to one of several processes, without starting any."""

    def __init__(self, index, count):
        self.process_index, self.num_processes, self.is_main_process = index, count, index == 0

    def wait_for_everyone(self):
        pass


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_whole_batches_so_no_bit_differs(pipe, tmp_path, monkeypatch, count):
    arguments = {**ARGUMENTS, "batch_size": 3}
    images = [*tiny.image(7, 16, 16), tiny.image(1, 16, 16, seed=5)[0][:, :, :8]]
    alone = extract_features(pipe, images, tmp_path / "alone", **arguments)
    sizes = []
    pipe.unet.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[::3])))
    for rank in reversed(range(count)):  # the first one puts the parts together
        monkeypatch.setattr(extraction, "PartialState", lambda rank=rank: Rank(rank, count))
        before = len(sizes)
        together = extract_features(pipe, images, tmp_path / "all", **arguments)
        # Three batches, the last of two sizes: every process takes its own and no other's.
        assert len(sizes) - before == sum([1, 1, 2][rank::count])
    assert sorted(sizes) == [(1, 8), (1, 16), (3, 16), (3, 16)]  # each image once
    assert together.order == alone.order
    for index in range(len(images)):
        assert all(torch.equal(together[index][n], alone[index][n]) for n in NAMES)


def test_a_kill_between_two_files_of_a_batch_changes_no_bit(pipe, tmp_path):
    arguments = {**ARGUMENTS, "batch_size": 4}
    whole = extract_features(pipe, pictures(), tmp_path / "whole", **arguments)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "part-7.json").write_text("{}")  # of a killed run with more processes
    cut = extract_features(pipe, pictures(), tmp_path / "cut", **arguments)
    for key in cut.order[:2]:
        next(cut.folder.glob(f"??/{key}.safetensors")).unlink()
    kept = next(cut.folder.glob(f"??/{cut.order[2]}.safetensors"))
    stamp = kept.stat().st_ino
    extract_features(pipe, pictures(), cut.folder, **arguments)
    assert all(torch.equal(cut[i][n], whole[i][n]) for i in range(5) for n in NAMES)
    assert kept.stat().st_ino == stamp
    assert not list(cut.folder.glob("part-*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_process_that_is_killed_leaves_whole_files_and_goes_on(pipe, tmp_path):
    process = mp.get_context("spawn").Process(target=workers.slowly, args=(str(tmp_path / "c"),))
    process.start()
    cache, deadline = FeatureCache(tmp_path / "c"), time.monotonic() + 120
    while not len(list(cache.keys())) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done = set(cache.keys())
    assert 0 < len(done) < 4
    assert all(set(cache.get(key)) == set(NAMES) for key in done)
    calls = []
    pipe.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    resumed = extract_features(pipe, pictures(), tmp_path / "c", **{**ARGUMENTS, "batch_size": 1})
    assert sum(calls) == 4 - len(done)
    alone = extract_features(pipe, pictures(), tmp_path / "alone", **{**ARGUMENTS, "batch_size": 1})
    assert resumed.order == alone.order
    assert all(torch.equal(resumed[i][n], alone[i][n]) for i in range(5) for n in NAMES)


def test_integers_of_numpy_count_as_integers(pipe, tmp_path):
    plain = extract_features(pipe, pictures()[:1], tmp_path, **ARGUMENTS, timestep=7)
    wide = {"features": NAMES, "batch_size": np.int64(2), "seed": np.int64(3), "timestep": np.int32(7)}
    assert plain.order == extract_features(pipe, pictures()[:1], tmp_path, **wide).order


@pytest.mark.slow
def test_two_processes_give_what_one_gives(pipe, tmp_path):
    mp.spawn(workers.run, args=(str(tmp_path),), nprocs=2)
    both = FeatureCache(tmp_path / "cache")
    alone = extract_features(pipe, pictures(), tmp_path / "alone", **ARGUMENTS)
    assert both.order == alone.order
    assert [(tmp_path / f"count-{rank}").read_text() for rank in (0, 1)] == ["5", "5"]
    assert set(both.keys()) == set(alone.keys())
    for index in range(5):
        for name in NAMES:
            assert torch.equal(both[index][name], alone[index][name])
    assert not list((tmp_path / "cache").glob("part-*"))


def test_folders_mappings_and_tuples_are_data_sets(pipe, tmp_path):
    arrays = [(p.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for p in pictures()[:2]]
    (tmp_path / "photos" / "b").mkdir(parents=True)
    for place, array in zip(("b/0.png", "a.PNG"), arrays, strict=True):
        PIL.Image.fromarray(array).save(tmp_path / "photos" / place, format="png")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    arguments = {**ARGUMENTS, "output_dtype": torch.float16}
    folder = extract_features(pipe, tmp_path / "photos", tmp_path / "f", **arguments)
    files = [{"picture": tmp_path / "photos" / place} for place in ("a.PNG", "b/0.png")]
    by_path = extract_features(pipe, files, tmp_path / "p", **arguments, image_key="picture")
    assert folder.order == by_path.order
    # A camera's note to turn the picture is heeded, as diffusers and datasets do.
    turned, exif = PIL.Image.fromarray(np.rot90(arrays[1], 1)), PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = extract_features(pipe, [tmp_path / "turned.png"], tmp_path / "u", **arguments)
    assert upright.order == folder.order[:1]
    as_mapping = [{"image": PIL.Image.fromarray(a), "label": 0} for a in arrays[::-1]]
    as_tuple = [(a, 0) for a in arrays[::-1]]
    assert folder.order == extract_features(pipe, as_mapping, tmp_path / "m", **arguments).order
    assert folder.order == extract_features(pipe, as_tuple, tmp_path / "t", **arguments).order
    assert folder[0][NAMES[0]].dtype == torch.float16


def test_progress_is_shown_only_where_asked(pipe, tmp_path, capsys):
    extract_features(pipe, pictures(), tmp_path / "1", **ARGUMENTS)
    assert capsys.readouterr() == ("", "")
    extract_features(pipe, pictures(), tmp_path / "2", **ARGUMENTS, verbose=1)
    assert "features" in capsys.readouterr().err


def test_pictures_of_several_sizes_go_apart_or_are_resized(pipe, tmp_path):
    mixed = [*tiny.image(2, 16, 16), *tiny.image(2, 32, 16), *tiny.image(1, 16, 16, seed=1)]
    cache = extract_features(pipe, mixed, tmp_path / "a", **{**ARGUMENTS, "batch_size": 4})
    assert [tuple(cache[i][NAMES[0]].shape[-2:]) for i in range(5)] == [(16, 16)] * 2 + [(32, 16)] * 2 + [
        (16, 16)
    ]
    resized = extract_features(pipe, mixed, tmp_path / "b", **ARGUMENTS, height=16, width=16)
    assert all(resized[i][NAMES[0]].shape[-2:] == (16, 16) for i in range(5))


@pytest.mark.parametrize(
    ("dataset", "change", "error", "words"),
    [
        ("nowhere", {}, ValueError, "dataset: expected a folder that exists"),
        ([], {}, ValueError, "dataset: expected at least one item"),
        (3, {}, TypeError, "dataset: expected a folder or a sequence"),
        ([{"picture": 0}], {}, ValueError, "image_key: expected one of"),
        ([(0, 1)], {"image_key": 2}, ValueError, "image_key: expected a position among 2 entries, got 2"),
        (
            [tiny.image(1, 16, 16)],
            {"timestep": 1000},
            ValueError,
            r"timestep: expected an integer in \[0, 999\]",
        ),
        ([tiny.image(1, 16, 16)], {"timestep": [50]}, TypeError, "timestep: expected an integer"),
        ([tiny.image(2, 16, 16)], {}, ValueError, r"dataset\[0\]: expected one picture an item"),
        ([tiny.image(1, 16, 16)], {"prompt": ["a"]}, TypeError, "one string for all images"),
        ([tiny.image(1, 16, 16)], {"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1"),
        ([tiny.image(1, 16, 16)], {"features": "mid-repeat9-res-out"}, ValueError, "unknown activation"),
    ],
)
def test_extraction_arguments_are_checked(pipe, tmp_path, dataset, change, error, words):
    with pytest.raises(error, match=words):
        extract_features(pipe, dataset, tmp_path, **{**ARGUMENTS, **change})


def test_an_empty_folder_and_a_lost_entry_say_so(pipe, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder with pictures"):
        extract_features(pipe, tmp_path / "empty", tmp_path / "c", **ARGUMENTS)
    cache = extract_features(pipe, pictures(), tmp_path / "c", **ARGUMENTS)
    next(cache.folder.glob(f"??/{cache.order[1]}.safetensors")).unlink()
    with pytest.raises(KeyError, match="is gone"):
        cache[1]
    assert json.loads((cache.folder / "manifest.json").read_text())["keys"] == cache.order


# Ranking.


def scenes(n=6, seed=0):
    """Left and right halves in random colours of two kinds; the label is the kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, (n, 2))
    labels = np.repeat(kinds[:, None, :], 16, 1).repeat(8, 2)
    images = np.where(labels[:, None] == 1, 0.8, 0.2) + 0.05 * rng.normal(size=(n, 3, 16, 16))
    return torch.tensor(images, dtype=torch.float32).clamp(0, 1), list(labels)


def test_ranking_finds_the_planted_activation(pipe):
    images, masks = scenes()
    blind = pipe.unet.mid_block.resnets[0]
    for parameter in blind.conv2.parameters():
        torch.nn.init.zeros_(parameter)  # its branch is zero everywhere and knows nothing
    masks[0][:3] = 255
    names = ["mid-repeat0-res-increment", "unet-after-conv-in", "up-level1-repeat1-res-out"]
    rows = rank_activations(pipe, images, masks, names, timesteps=[0, 900], cv=2, batch_size=4)
    assert len(rows) == 6
    assert rows == sorted(rows, key=lambda row: -row["miou"])
    best, worst = rows[0], rows[-1]
    assert best["timestep"] == 0
    assert best["miou"] > 0.8
    assert worst["miou"] < 0.55
    by_name = {(row["name"], row["timestep"]): row["miou"] for row in rows}
    assert by_name[names[0], 0] == by_name[names[0], 900]
    assert by_name[names[1], 0] > by_name[names[0], 0] + 0.3
    assert best["scores"] == pytest.approx(
        [best["miou"] - best["sd"] / 2**0.5, best["miou"] + best["sd"] / 2**0.5]
    ) or (
        best["scores"][::-1]
        == pytest.approx([best["miou"] - best["sd"] / 2**0.5, best["miou"] + best["sd"] / 2**0.5])
    )
    assert {(row["channels"], row["size"]) for row in rows} == {(8, (8, 8)), (8, (16, 16))}


def test_ranking_is_repeatable_and_takes_any_probe(pipe):
    images, masks = scenes()
    arguments = {"names": "unet-after-conv-in", "batch_size": 6, "pixels_per_image": 20}
    first = rank_activations(pipe, images, masks, **arguments)
    assert first == rank_activations(pipe, images, masks, **{**arguments, "batch_size": 6})
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    for probe in ("logistic", tree):
        (row,) = rank_activations(pipe, images, masks, **arguments, probe=probe, cv=[([0, 1, 2], [3, 4, 5])])
        assert row["miou"] > 0.6
        assert row["sd"] is None
    assert not hasattr(tree, "tree_")


def test_ranking_of_the_generic_pool_by_default(pipe):
    images, masks = scenes(4)
    rows = rank_activations(pipe, images, masks, cv=2)
    assert {row["name"] for row in rows} == set(pipe.candidate_pool("generic"))
    assert {tap.name for tap in denoiser_taps(pipe.unet)} > {row["name"] for row in rows}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"masks": [np.zeros((4, 4), int)]}, ValueError, "one mask for each of 4 images"),
        ({"masks": [np.zeros((4, 4, 1), int)] * 4}, ValueError, "integer label maps"),
        ({"masks": [np.zeros((4, 4))] * 4}, ValueError, "integer label maps"),
        ({"masks": [np.full((4, 4), 255)] * 4}, ValueError, "no labelled pixel"),
        ({"probe": "svm"}, ValueError, "'ridge', 'logistic' or an estimator"),
        ({"probe": 3}, TypeError, "'ridge', 'logistic' or an estimator"),
        ({"cv": 1}, ValueError, "cv: expected an integer >= 2"),
        ({"cv": 5}, ValueError, "at most 4 folds for 4 images, got 5"),
        ({"cv": [([0, 1], [1])]}, ValueError, "without overlap"),
        ({"cv": [([0], [4])]}, ValueError, r"splits of images 0\.\.3"),
        ({"cv": []}, ValueError, "at least one split"),
        ({"generator": 3}, ValueError, "this one is set here"),
        ({"random_state": -1}, ValueError, "random_state: expected"),
    ],
)
def test_ranking_arguments_are_checked(pipe, change, error, words):
    images, masks = scenes(4)
    with pytest.raises(error, match=words):
        rank_activations(pipe, images, **{"masks": masks, "names": "unet-after-conv-in", **change})
