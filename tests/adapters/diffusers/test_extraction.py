"""Extraction of a data set: batches, resuming, two processes."""

import json
import os
import signal
import sys
import time

import numpy as np
import PIL.Image
import pytest
import torch
import torch.multiprocessing as mp

from graftkit.diffusers import (
    FeatureCache,
    extract_features,
    extraction,
)
from tests.adapters.diffusers import tiny, workers
from tests.adapters.diffusers.extraction_cases import ARGUMENTS, NAMES, make_pipe, pictures


@pytest.fixture
def pipe():
    return make_pipe()


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
