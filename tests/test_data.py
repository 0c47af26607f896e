"""Sources x laws: what every source of images must give, whatever it is."""

import dataclasses
import itertools
import logging
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rst_tf import registry
from rst_tf.data import (
    Data,
    batches,
    evaluation_batches,
    from_arrays,
    sources,
    splits,
    steps_per_epoch,
)
from rst_tf.data.channels import CHANNELS
from rst_tf.data.images import DRAWS, TRIALS, fitted, in_words, random_window, resized_crop
from rst_tf.data.pipeline import _order
from rst_tf.data.rotation import rotated
from rst_tf.evaluation import Evaluator


def pictures(n, shape, classes, seed=0):
    """Random images sorted by class, the classes of unequal size."""
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    y = np.sort(np.arange(n) % (2 * classes) % classes)
    return x, y


def write_npz(path, convert=lambda x: x, labels=lambda y: y, shape=(8, 6)):
    (x, y), (xt, yt) = pictures(203, shape, 3), pictures(41, shape, 3, seed=1)
    file = path / "data.npz"
    np.savez(file, x_train=convert(x), y_train=labels(y), x_test=convert(xt), y_test=labels(yt))
    return f"npz:{file}"


def write_folder(path, parts=("train", "test"), sizes=((8, 6),), suffixes=("png", "bmp", "gif")):
    for seed, part in enumerate(parts):
        names = zip(range(66), itertools.cycle(suffixes), itertools.cycle(sizes), strict=False)
        for k, suffix, size in names:
            folder = path / part / f"class_{k % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng((seed, k)).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k:03d}.{suffix}")
    return f"folder:{path}"


class FakeBuilder:
    """The part of a TFDS builder that is used, over arrays in memory."""

    def __init__(
        self,
        shape=(8, 6, 3),
        parts=("train", "test"),
        label=None,
        folder="some/folder",
        unlabelled=None,
    ):
        import tensorflow_datasets as tfds

        self.arrays = {p: pictures(103, [s or 9 for s in shape], 3, k) for k, p in enumerate(parts)}
        label = label or tfds.features.ClassLabel(names=["cat", "dog", "fox"])
        features = {"image": tfds.features.Image(shape=shape), "label": label}
        keys = ("image", "label")
        self.info = type("Info", (), {})()
        self.info.features, self.info.supervised_keys = features, keys
        counted = type("Split", (), {"num_examples": 103})
        self.info.splits = dict.fromkeys(parts, counted)
        self.info.download_size, self.info.dataset_size = "11.06 MiB", "9.6 MiB"
        self.data_dir, self.unlabelled = folder, unlabelled
        self.prepared = False

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self):
        self.prepared = True

    def as_dataset(self, *, split, as_supervised, shuffle_files, decoders=None):
        assert self.prepared and as_supervised and not shuffle_files
        x, y = self.arrays[split]
        y = -np.ones_like(y) if split == self.unlabelled else y
        examples = tf.data.Dataset.from_tensor_slices((x, y.astype(np.int64)))
        if decoders:
            assert list(decoders) == ["image"]
            return examples.map(lambda image, label: (tf.io.encode_png(image), label))
        return examples


def fake_tfds(monkeypatch, **options):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds, "builder", lambda name: FakeBuilder(**options))


def load_sample(path, seed):
    return Data("sample", split_seed=seed).load()


def load_npz_uint8(path, seed):
    return Data(write_npz(path), split_seed=seed).load()


def load_npz_float(path, seed):
    return Data(write_npz(path, lambda x: x[..., None] / 255), split_seed=seed).load()


def load_folder(path, seed):
    return Data(write_folder(path), split_seed=seed).load()


def load_bare_folder(path, seed):
    source = write_folder(path, parts=(".",), sizes=((8, 6), (9, 12), (30, 10)))
    return Data(source, image_size=8, split_seed=seed).load()


def load_arrays(path, seed):
    (x, y), (xt, yt) = pictures(203, (8, 6, 3), 3), pictures(41, (8, 6, 3), 3, seed=1)
    return from_arrays(x, np.eye(3)[y], xt, yt[:, None].astype(np.uint8), split_seed=seed)


def load_tfds(path, seed):
    with pytest.MonkeyPatch.context() as patch:
        fake_tfds(patch)
        return Data("pets", split_seed=seed).load()


def load_tfds_files(path, seed):
    with pytest.MonkeyPatch.context() as patch:
        fake_tfds(patch, folder=path / "1.0.0")
        patch.setattr(sources, "IN_MEMORY", 206 * 8 * 6 * 3 - 1)
        return Data("pets", split_seed=seed).load()


SOURCES = {
    "sample": load_sample,
    "npz_uint8": load_npz_uint8,
    "npz_float": load_npz_float,
    "folder": load_folder,
    "bare_folder": load_bare_folder,
    "arrays": load_arrays,
    "tfds": load_tfds,
    "tfds_files": load_tfds_files,
}
CLASSES = {"sample": 10}
DRAWN_TEST = ("sample", "bare_folder")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Each source read once for each split seed."""
    cache = {}

    def load(name, seed=0):
        if (name, seed) not in cache:
            cache[name, seed] = SOURCES[name](tmp_path_factory.mktemp(name), seed)
        return cache[name, seed]

    return load


def small(splits):
    return splits.train.limited(101) if len(splits.train) > 500 else splits.train


def parts(splits):
    return splits.train, splits.valid, splits.test


def by_identity(split):
    x, y = split.arrays()
    return {i: (x[k], y[k]) for k, i in enumerate(split.index)}


def numpy_list(dataset):
    return [(b["image"].numpy(), b["index"].numpy(), y.numpy()) for b, y in dataset]


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)
    )


every_source = pytest.mark.parametrize("name", SOURCES)
# one source for each way of holding images: grey bytes, floats, colour bytes, files, scaled files
every_kind = pytest.mark.parametrize(
    "name", ["sample", "npz_float", "arrays", "folder", "bare_folder"]
)


@every_source
def test_arrays_are_float32_in_the_unit_interval_and_labels_int32(name, loaded):
    splits = loaded(name)
    assert splits.classes == len(splits.class_names) == CLASSES.get(name, 3)
    for split in parts(splits):
        x, y = split.arrays()
        assert x.dtype == np.float32 and y.dtype == np.int32 and split.index.dtype == np.int64
        assert x.shape == (len(split), *splits.shape) and y.shape == (len(split),)
        assert x.min() >= 0 and 0.9 < x.max() <= 1 and len(np.unique(x)) > 100
        assert y.min() == 0 and y.max() == splits.classes - 1


@every_source
def test_splits_are_disjoint_and_cover_the_source(name, loaded):
    indices = np.concatenate([split.index for split in parts(loaded(name))])
    assert np.array_equal(np.sort(indices), np.arange(len(indices)))


@every_source
def test_an_identity_means_the_same_example_under_every_split_seed(name, loaded):
    maps = [{}, {}]
    for seed in (0, 1):
        for split in parts(loaded(name, seed)):
            maps[seed] |= by_identity(split)
    assert maps[0].keys() == maps[1].keys()
    assert all(np.array_equal(maps[0][i][0], maps[1][i][0]) for i in maps[0])
    assert all(maps[0][i][1] == maps[1][i][1] for i in maps[0])


@every_source
def test_drawn_parts_are_stratified(name, loaded):
    splits = loaded(name)
    pool = [splits.train, splits.valid] + [splits.test] * (name in DRAWN_TEST)
    whole = np.bincount(np.concatenate([split.labels for split in pool]))
    for split in [splits.valid] + [splits.test] * (name in DRAWN_TEST):
        assert len(split) == round(0.1 * whole.sum())
        expected = whole * len(split) / whole.sum()
        # the test part is drawn first, which moves the shares left for validation a little
        assert np.abs(np.bincount(split.labels) - expected).max() < 1.2


@every_source
def test_loading_is_a_function_of_the_split_seed(name, loaded, tmp_path):
    again = SOURCES[name](tmp_path, 0)
    assert again.fingerprint == loaded(name).fingerprint != loaded(name, 1).fingerprint
    assert not np.array_equal(loaded(name).valid.index, loaded(name, 1).valid.index)
    tests_agree = np.array_equal(loaded(name).test.index, loaded(name, 1).test.index)
    assert tests_agree == (name not in DRAWN_TEST)


@every_kind
def test_a_batch_holds_the_examples_its_indices_name(name, loaded):
    split = small(loaded(name))
    dataset = batches(split, 16, seed=0, steps=9)
    image, label = dataset.element_spec
    assert image["image"] == tf.TensorSpec((None, *split.shape), tf.float32)
    assert image["index"] == tf.TensorSpec((None,), tf.int64)
    assert label == tf.TensorSpec((None,), tf.int32)
    examples = by_identity(split)
    for x, index, y in numpy_list(dataset):
        assert all(np.array_equal(x[k], examples[i][0]) for k, i in enumerate(index))
        assert all(y[k] == examples[i][1] for k, i in enumerate(index))


@every_kind
@pytest.mark.parametrize("batch_size", [1, 16, 1000])
def test_an_epoch_is_a_permutation(name, batch_size, loaded):
    split = small(loaded(name))
    n, per_epoch = len(split), steps_per_epoch(len(split), batch_size)
    elements = numpy_list(batches(split, batch_size, seed=3, steps=2 * per_epoch))
    sizes = [len(y) for _, _, y in elements]
    last = n - (per_epoch - 1) * batch_size
    assert sizes == ([min(batch_size, n)] * (per_epoch - 1) + [last]) * 2
    first, second = np.split(np.concatenate([index for _, index, _ in elements]), 2)
    assert np.array_equal(np.sort(first), split.index)
    assert np.array_equal(np.sort(second), split.index)
    assert not np.array_equal(first, second) and not np.array_equal(first, split.index)


@every_kind
def test_starting_late_gives_the_tail(name, loaded):
    split = small(loaded(name))
    options = {"seed": 5, "augment": "crop_flip", "pad": 2}
    per_epoch = steps_per_epoch(len(split), 16)
    steps = 2 * per_epoch + 3
    whole = numpy_list(batches(split, 16, steps=steps, **options))
    for first_step in (1, per_epoch - 1, per_epoch, steps - 2):
        tail = batches(split, 16, first_step=first_step, steps=steps - first_step, **options)
        assert same(numpy_list(tail), whole[first_step:])


@every_kind
def test_the_seed_decides_order_and_augmentation(name, loaded):
    split = small(loaded(name))
    steps = steps_per_epoch(len(split), 16)
    runs = [
        numpy_list(batches(split, 16, seed=seed, augment="crop_flip", steps=steps))
        for seed in (0, 0, 1)
    ]
    assert same(runs[0], runs[1])
    orders = [np.concatenate([index for _, index, _ in run]) for run in runs]
    assert np.mean(orders[0] == orders[2]) < 0.2
    images = [
        np.concatenate([x for x, _, _ in run])[np.argsort(o)]
        for run, o in zip(runs, orders, strict=True)
    ]
    assert np.mean([np.array_equal(a, b) for a, b in zip(images[0], images[2], strict=True)]) < 0.2


@every_kind
@pytest.mark.parametrize("augment", ["flip", "crop_flip", "crop_flip_rotate", "resized_crop_flip"])
def test_augmentation_does_not_depend_on_the_batch(name, augment, loaded):
    split = small(loaded(name))
    seen = []
    for batch_size in (7, 32):
        steps = 2 * steps_per_epoch(len(split), batch_size)
        elements = numpy_list(batches(split, batch_size, seed=2, augment=augment, steps=steps))
        epoch = {}
        for count, (x, index, _) in enumerate(elements):
            half = count >= steps // 2
            epoch |= {(half, i): image for i, image in zip(index, x, strict=True)}
        seen.append(epoch)
    assert seen[0].keys() == seen[1].keys() and len(seen[0]) == 2 * len(split)
    assert all(np.array_equal(seen[0][key], seen[1][key]) for key in seen[0])
    changed = [not np.array_equal(seen[0][False, i], seen[0][True, i]) for i in split.index]
    assert np.mean(changed) > (0.3 if augment == "flip" else 0.8)


@every_source
def test_evaluation_batches_are_the_arrays_in_order(name, loaded):
    split = loaded(name).test
    x, index, y = (
        np.concatenate(a) for a in zip(*numpy_list(evaluation_batches(split, 16)), strict=True)
    )
    assert np.array_equal(x, split.arrays()[0]) and np.array_equal(y, split.labels)
    assert np.array_equal(index, split.index)
    assert evaluation_batches(split, 16).element_spec == batches(split, 16, seed=0).element_spec


@every_source
def test_a_limit_draws_class_by_class_and_always_the_same(name, loaded):
    split = loaded(name).train
    x, y = split.arrays(limit=40)
    assert np.array_equal(x, split.arrays(limit=40)[0]) and len(y) == 40
    assert np.abs(np.bincount(y) - np.bincount(split.labels) * 40 / len(split)).max() < 1


def test_the_sample_is_split_4000_500_500_with_every_class_alike(loaded):
    splits = loaded("sample")
    assert [len(split) for split in parts(splits)] == [4000, 500, 500]
    assert all(set(np.bincount(split.labels)) == {len(split) // 10} for split in parts(splits))


@pytest.mark.parametrize("change", ["pixel", "train label", "test label", "order"])
def test_the_fingerprint_changes_with_the_data(change):
    (x, y), (xt, yt) = pictures(60, (4, 4), 3), pictures(20, (4, 4), 3, seed=1)
    before = from_arrays(x, y, xt, yt).fingerprint
    if change == "pixel":
        x[7, 2, 1] ^= 1
    elif change == "order":
        x[[0, 1]] = x[[1, 0]]
    else:
        y[0], yt[0] = (1, 0) if change == "train label" else (0, 1)
    assert from_arrays(x, y, xt, yt).fingerprint != before


def test_the_fingerprint_of_a_folder_changes_with_a_file(tmp_path):
    data = Data(write_folder(tmp_path))
    before = data.load().fingerprint
    Image.new("RGB", (6, 8)).save(tmp_path / "train" / "class_1" / "001.bmp", "PNG")
    assert data.load().fingerprint != before


@pytest.mark.parametrize("augment,pad", [("flip", 4), ("crop_flip", 1), ("crop_flip", 3)])
def test_augmented_images_are_windows_of_the_zero_padded_image(augment, pad):
    x = np.random.default_rng(0).integers(1, 256, (400, 5, 7, 3), dtype=np.uint8)
    split = from_arrays(x, np.arange(400) % 2, x[:4], [0, 1, 0, 1]).train
    reach = pad if augment == "crop_flip" else 0
    originals, seen = by_identity(split), {}
    for images, index, _ in numpy_list(
        batches(split, 64, seed=1, augment=augment, pad=pad, steps=6)
    ):
        for image, i in zip(images, index, strict=True):
            padded = np.pad(originals[i][0], [(reach, reach), (reach, reach), (0, 0)])
            for down, right, flip in itertools.product(
                range(2 * reach + 1), range(2 * reach + 1), (1, -1)
            ):
                window = padded[down : down + 5, right : right + 7][:, ::flip]
                if np.array_equal(window, image):
                    seen[i] = (down, right, flip)
    assert len(seen) == len(split)
    drawn = np.array(list(seen.values()))
    for column, values in ((0, 2 * reach + 1), (1, 2 * reach + 1), (2, 2)):
        counts = np.unique(drawn[:, column], return_counts=True)[1]
        chi_squared = ((counts - len(drawn) / values) ** 2).sum() / (len(drawn) / values)
        assert len(counts) == values and chi_squared < 12 + 2 * values
    if augment == "crop_flip":
        assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.2


@pytest.mark.parametrize("shape", [(5, 7, 3), (8, 8, 1), (9, 6, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_are_turned_as_pillow_turns_them(shape, dtype):
    """Channel by channel, by angles that are spread evenly over (-15, 15) degrees."""
    images = np.random.default_rng(0).integers(1, 256, (200, *shape)).astype(dtype)
    draws = np.linspace(0, 2**32 - 1, 200).astype(np.uint32)
    found = rotated(tf.constant(images), tf.constant(draws)).numpy()
    assert found.dtype == dtype and found.shape == images.shape
    angles = 15 * (draws / 2.0**31 - 1)
    expected = [
        np.stack(
            [np.array(Image.fromarray(channel).rotate(angle)) for channel in np.moveaxis(x, 2, 0)],
            axis=-1,
        )
        for x, angle in zip(images, angles, strict=True)
    ]
    assert np.mean(found != np.array(expected)) < 2e-3  # pixels whose centre falls on an edge
    assert 0.01 < np.mean(found == 0) < 0.1


def test_turned_images_are_crops_turned_by_angles_of_their_own():
    x = np.random.default_rng(0).integers(1, 256, (60, 8, 8, 1), dtype=np.uint8)
    split = from_arrays(x, np.arange(60) % 2, x[:4], [0, 1, 0, 1]).train
    (turned, order, _), *_ = numpy_list(
        batches(split, 60, seed=1, augment="crop_flip_rotate", pad=2, steps=1)
    )
    (crops, same, _), *_ = numpy_list(
        batches(split, 60, seed=1, augment="crop_flip", pad=2, steps=1)
    )
    assert np.array_equal(order, same)
    levels = np.linspace(0, 2**32 - 1, 100).astype(np.uint32)
    nearest = []
    for image, crop in zip(turned, crops, strict=True):
        copies = rotated(tf.repeat(crop[None], len(levels), axis=0), tf.constant(levels)).numpy()
        alike = (copies == image).mean(axis=(1, 2, 3))
        assert alike.max() > 0.9
        nearest.append(np.flatnonzero(alike == alike.max()).mean())
    assert np.std(nearest) > 20 and abs(np.mean(nearest) - 49.5) < 12


@pytest.mark.parametrize("n", [1, 2, 17, 65536, 65537])
def test_an_order_is_a_permutation_for_awkward_numbers(n):
    order = _order(n, (1, 2), tf.constant(3, tf.int64)).numpy()
    assert np.array_equal(np.sort(order), np.arange(n))


def test_orders_mix_examples_that_are_sorted_by_class():
    n, batch = 50_000, 50
    ratios = []
    for epoch in range(10):
        order = _order(n, (1, 2), tf.constant(epoch, tf.int64)).numpy()
        classes = (order // 5000).reshape(-1, batch)
        counts = np.stack([np.bincount(row, minlength=10) for row in classes])
        ratios.append(counts.var() / (batch * 0.09 * (n - batch) / (n - 1)))
    assert abs(np.mean(ratios) - 1) < 0.02


def noise(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (n, TRIALS, DRAWS)).astype("float32")


@pytest.mark.parametrize("height,width", [(400, 500), (224, 224), (480, 380)])
def test_random_windows_are_as_pytorchs(height, width):
    draw = tf.function(lambda u: tf.map_fn(lambda v: random_window(height, width, v), u, DTYPES))
    top, left, tall, wide = (np.asarray(a) for a in draw(noise(2000)))
    assert top.min() >= 0 and left.min() >= 0
    assert (top + tall).max() <= height and (left + wide).max() <= width
    share, aspect = tall * wide / (height * width), wide / tall
    assert 0.078 < share.min() < 0.1 and 0.9 < share.max() <= 1
    assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    small = share[share < 0.5]  # every aspect fits there, so the area is uniform
    assert abs(small.mean() - 0.29) < 0.01 and abs(np.log(aspect[share < 0.5]).mean()) < 0.02
    if height == width:
        assert abs(share.mean() - 0.5) < 0.03  # a little below .54: large windows fit less often
    slack = (height - tall > 20) & (width - wide > 20)
    down, right = (top / (height - tall))[slack], (left / (width - wide))[slack]
    for place in (down, right):
        assert abs(place.mean() - 0.5) < 0.03 and place.min() < 0.02 and place.max() > 0.98
    assert np.abs(np.corrcoef([down, right, share[slack]]) - np.eye(3)).max() < 0.1


DTYPES = (tf.int32,) * 4


@pytest.mark.parametrize(
    "size,window",
    [((3, 300), (0, 148, 3, 4)), ((300, 3), (148, 0, 4, 3)), ((1, 1), (0, 0, 1, 1))],
)
def test_an_image_too_narrow_for_any_window_gives_its_centre(size, window):
    assert tuple(int(n) for n in random_window(*size, noise(1)[0])) == window


def test_a_window_of_the_whole_image_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    whole = np.full((TRIALS, DRAWS), 0.5, "float32")
    whole[:, 0] = 1
    for x in (image, image / np.float32(255)):
        np.testing.assert_array_equal(resized_crop(tf.constant(x), whole, (9, 9)), x)
    shrunk = resized_crop(tf.constant(image), whole, (3, 3))
    np.testing.assert_array_equal(shrunk, fitted(tf.constant(image), 3))


def test_windows_are_taken_of_the_file_before_it_is_scaled(tmp_path):
    """Two halves, 30 pixels each: a central square of side 10 would show both in every window."""
    for part, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / part / label).mkdir(parents=True)
        pixels = np.zeros((10, 60), np.uint8)
        pixels[:, 30:] = 200
        for k in range(20):
            Image.fromarray(pixels).save(tmp_path / part / label / f"{k}.png")
    split = Data(f"folder:{tmp_path}", image_size=4, augment="resized_crop_flip").load().train
    (x, _, _), *_ = numpy_list(batches(split, 36, seed=0, augment="resized_crop_flip", steps=1))
    sides = [set(np.unique(np.round(255 * image))) for image in x]
    assert sides.count({0.0}) > 5 and sides.count({200.0}) > 5
    unscaled = Data(f"folder:{tmp_path}", image_size=4).load().test.arrays()[0]
    assert all(len(np.unique(image)) > 1 for image in unscaled)


def test_a_part_of_the_centre_is_scaled(tmp_path):
    pixels = np.full((100, 80), 9, np.uint8)
    pixels[15:85, 5:75] = 200  # 70 is .875 of 80
    for label, k in itertools.product("ab", range(8)):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / label / f"{k}.png")
    data = Data(f"folder:{tmp_path}", image_size=10, center_fraction=0.875)
    inside, outside = data.load(), dataclasses.replace(data, center_fraction=1.0).load()
    assert np.all(inside.test.pixels() == 200)
    assert not np.all(outside.test.pixels() == 200)
    assert inside.fingerprint != outside.fingerprint


def test_a_split_too_large_for_memory_says_so(tmp_path, monkeypatch):
    split = Data(write_folder(tmp_path)).load().test
    monkeypatch.setattr(splits, "IN_MEMORY", len(split) * 8 * 6 * 3 - 1)
    with pytest.raises(ValueError, match=r"66 images of .*test.* GiB of memory, .* give a limit"):
        split.arrays()
    assert len(split.arrays(limit=65)[0]) == 65
    assert sum(len(y) for _, _, y in numpy_list(evaluation_batches(split, 16))) == 66


def write_tiny_imagenet(path):
    for k, wnid in enumerate(("n02", "n01", "n03")):
        folder = path / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4), (k, i, 0)).save(folder / f"{wnid}_{i}.JPEG")
        (folder.parent / f"{wnid}_boxes.txt").write_text("box")
    for part in ("val", "test"):
        (path / part / "images").mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (4, 4), (9, 9, i)).save(path / part / "images" / f"{part}_{i}.JPEG")
    lines = (f"val_{i}.JPEG\t{w}\t0\t0\t3\t3\n" for i, w in enumerate(["n03", "n01", "n02"] * 2))
    (path / "val" / "val_annotations.txt").write_text("".join(lines))
    return f"folder:{path}"


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path):
    loaded = Data(write_tiny_imagenet(tmp_path), validation=3).load()
    assert loaded.class_names == ("n01", "n02", "n03")
    assert [len(split) for split in parts(loaded)] == [12, 3, 6]
    found = dict(zip(loaded.test.names, loaded.test.labels, strict=True))
    assert found == {f"val/images/val_{i}.JPEG": (2, 0, 1)[i % 3] for i in range(6)}
    assert all(n.split("/")[1] == f"n0{y + 1}" for n, y in zip(*named(loaded.train), strict=True))


def named(split):
    return split.names, split.labels


@pytest.mark.parametrize("line", ["val_9.JPEG\tn01\t0", "val_1.JPEG\tn04\t0", "val_1.JPEG"])
def test_a_wrong_annotation_is_named(line, tmp_path):
    source = write_tiny_imagenet(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text(line)
    with pytest.raises(ValueError, match=r"must name files of images/ and classes.*received 'val_"):
        Data(source).load()


def test_channels_are_given_for_every_channel():
    for mean, std in CHANNELS.values():
        assert len(mean) == len(std) in (1, 3)
        assert all(0 < m < 1 and 0.1 < s <= 0.5 for m, s in zip(mean, std, strict=True))


def test_every_grey_level_is_its_255th_to_the_bit():
    x = np.arange(256, dtype=np.uint8).repeat(4).reshape(256, 2, 2)
    split = from_arrays(x, np.arange(256) % 2, x, np.arange(256) % 2).test
    ((images, _, _),) = numpy_list(evaluation_batches(split, 256))
    assert np.array_equal(images[:, 0, 0, 0], np.arange(256, dtype=np.float32) / np.float32(255))


@pytest.mark.parametrize("origin,rows", [("first", range(20)), ("last", range(83, 103))])
def test_validation_can_be_an_end_of_the_source(origin, rows, monkeypatch):
    x, _ = pictures(103, (4, 4), 3)
    y = np.arange(103) % 3
    splits = from_arrays(x, y, x, y, validation=20, validation_from=origin)
    assert np.array_equal(splits.valid.index, rows) and len(splits.train) == 83


def test_a_training_limit_leaves_validation_and_test_alone(tmp_path):
    source = write_npz(tmp_path)
    whole, few = Data(source).load(), Data(source, train_limit=30).load()
    assert np.array_equal(whole.valid.index, few.valid.index)
    assert np.array_equal(whole.test.index, few.test.index)
    assert len(few.train) == 30 and set(few.train.index) < set(whole.train.index)
    assert (
        np.abs(
            np.bincount(few.train.labels) - np.bincount(whole.train.labels) * 30 / len(whole.train)
        ).max()
        < 1
    )


def test_a_folder_of_classes_gives_its_test_part_and_says_so(tmp_path, caplog):
    splits = Data(write_folder(tmp_path, parts=(".",))).load()
    assert [len(split) for split in parts(splits)] == [52, 7, 7]
    assert "7 of its 66 examples were drawn" in splits.notes[0] and splits.notes[0] in caplog.text


@pytest.mark.parametrize(
    "folders,valid,test",
    [
        (("train", "val"), "train", "val"),
        (("train", "validation"), "train", "validation"),
        (("train", "test"), "train", "test"),
        (("train", "val", "test"), "val", "test"),
    ],
)
def test_folder_parts_go_where_their_names_say(folders, valid, test, tmp_path):
    splits = Data(write_folder(tmp_path, parts=folders)).load()
    assert all(name.startswith(f"{valid}/") for name in splits.valid.names)
    assert all(name.startswith(f"{test}/") for name in splits.test.names)
    assert splits.notes == ()


def test_a_part_given_for_validation_is_taken_as_it_is():
    x, y = pictures(60, (4, 4), 3)
    splits = from_arrays(x, y, x[:10], y[:10], x_valid=x[::2], y_valid=y[::2])
    assert len(splits.train) == 60 and np.array_equal(splits.valid.images[..., 0], x[::2])


@pytest.mark.parametrize(
    "mode,suffix,channels",
    [("1", "png", 1), ("L", "png", 1), ("LA", "png", 1), ("P", "png", 3), ("RGBA", "png", 3)]
    + [("L", "jpg", 1), ("CMYK", "jpeg", 3), ("L", "bmp", 1), ("RGB", "bmp", 3), ("1", "gif", 3)],
)
def test_files_of_every_kind_are_read_as_pillow_reads_them(mode, suffix, channels, tmp_path):
    write_folder(tmp_path)
    for path in list(tmp_path.rglob("*.*")):
        image = Image.open(path).convert("RGB").convert(mode)
        path.unlink()
        image.save(path.with_suffix(f".{suffix}"))
    split = Data(f"folder:{tmp_path}").load().train
    assert split.shape == (8, 6, channels)
    for name, image in zip(split.names, split.pixels(), strict=True):
        expected = Image.open(tmp_path / name).convert("L" if channels == 1 else "RGB")
        difference = np.abs(image.astype(int) - np.asarray(expected).reshape(image.shape))
        assert difference.max() <= (4 if suffix in ("jpg", "jpeg") else 0)


def test_grey_files_among_colour_files_are_repeated(tmp_path):
    write_folder(tmp_path)
    Image.new("L", (6, 8), 51).save(tmp_path / "train" / "class_0" / "new.png")
    split = Data(f"folder:{tmp_path}").load().train
    grey = [k for k, name in enumerate(split.names) if name.endswith("new.png")]
    assert split.shape == (8, 6, 3) and np.all(split.pixels()[grey] == 51)


def test_resizing_keeps_the_aspect_and_the_centre(tmp_path):
    for part, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / part / label).mkdir(parents=True)
        for k in range(4):
            pixels = np.zeros((10, 30), np.uint8)
            pixels[:, 10:20] = 200  # the central square
            Image.fromarray(pixels).save(tmp_path / part / label / f"{k}.png")
    x, _ = Data(f"folder:{tmp_path}", image_size=5).load().test.arrays()
    assert x.shape == (8, 5, 5, 1) and np.all(x == np.float32(200) / np.float32(255))


def test_resizing_averages_all_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert fitted(tf.constant(noise), 6).numpy().std() < 15  # four pixels' mean would give 37


def test_tfds_images_of_many_sizes_are_resized(monkeypatch):
    fake_tfds(monkeypatch, shape=(None, None, 3), parts=("train", "validation"))
    with pytest.raises(ValueError, match="image_size is needed"):
        Data("pets").load()
    splits = Data("pets", image_size=5).load()
    assert splits.shape == (5, 5, 3) and splits.class_names == ("cat", "dog", "fox")
    assert len(splits.test) == 103 and len(splits.train) + len(splits.valid) == 103


def test_tfds_validation_part_is_used_beside_a_test_part(monkeypatch):
    fake_tfds(monkeypatch, parts=("train", "test", "validation"))
    assert [len(split) for split in parts(Data("pets").load())] == [103, 103, 103]


def test_a_large_tfds_set_is_written_once_as_files_of_its_own_bytes(monkeypatch, tmp_path, caplog):
    options = {"shape": (None, None, 3), "parts": ("train", "validation"), "folder": tmp_path / "2"}
    fake_tfds(monkeypatch, **options)
    data = Data("pets", image_size=5, augment="resized_crop_flip")
    loaded = data.load()
    assert "pets: writing 206 images (9.6 MiB) as files to" in caplog.text
    assert loaded.class_names == ("cat", "dog", "fox") and loaded.train.size == (5, 5, 3)
    files = sorted((tmp_path / "2_files").rglob("*.png"))
    held = FakeBuilder(**options)
    for label, number in ((0, 3), (2, 101)):
        file = tmp_path / "2_files" / "test" / f"{label:05d}" / f"{number:08d}.png"
        assert held.arrays["validation"][1][number] == label
        assert np.array_equal(np.asarray(Image.open(file)), held.arrays["validation"][0][number])
    (tmp_path / "2_files" / "finished").unlink()  # as if it had been stopped
    files[7].unlink()
    times = {file: file.stat().st_mtime_ns for file in files if file != files[7]}
    assert data.load().fingerprint == loaded.fingerprint
    assert all(file.stat().st_mtime_ns == times[file] for file in times)
    monkeypatch.setattr(FakeBuilder, "as_dataset", None)  # what is finished is not asked for again
    assert data.load().fingerprint == loaded.fingerprint


@pytest.mark.parametrize("limit", [1, 2**31])
def test_a_test_part_without_labels_leaves_the_validation_part_to_be_it(
    limit, monkeypatch, tmp_path
):
    parts_there = ("train", "validation", "test")
    fake_tfds(monkeypatch, parts=parts_there, folder=tmp_path / "4", unlabelled="test")
    monkeypatch.setattr(sources, "IN_MEMORY", limit)
    loaded = Data("pets").load()
    assert [len(split) for split in parts(loaded)] == [93, 10, 103]
    expected = np.bincount(FakeBuilder(parts=parts_there).arrays["validation"][1])
    assert np.array_equal(np.bincount(loaded.test.labels), expected)


def test_the_sets_of_the_papers_are_known_by_name():
    import tensorflow_datasets as tfds

    assert set(CHANNELS) <= set(tfds.list_builders(with_community_datasets=False))


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "3_files").write_text("in the way")
    fake_tfds(monkeypatch, folder=tmp_path / "3")
    monkeypatch.setattr(sources, "IN_MEMORY", 1)
    with pytest.raises(ValueError, match=r"^source 'pets' cannot be written to .*3_files: "):
        Data("pets").load()


class Offline(FakeBuilder):
    def download_and_prepare(self):
        logging.getLogger("urllib3.connectionpool").warning("Retrying")
        raise ConnectionError("no route to the host\nand a page of advice " + "x" * 500)


def test_a_download_is_announced_and_its_failure_is_one_line(monkeypatch, caplog):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds, "builder", lambda name: Offline())
    with pytest.raises(ValueError, match="sample, npz:PATH or folder:PATH") as raised:
        Data("pets").load()
    message = str(raised.value)
    assert message.startswith("source 'pets' cannot be downloaded (ConnectionError: no route")
    assert "\n" not in message and len(message) < 300
    (note,) = [record.getMessage() for record in caplog.records]
    assert note.startswith("pets: downloading 11.06 MiB for some/folder; without a network")
    assert logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.WARNING)


def test_a_set_that_is_there_is_not_announced(monkeypatch, caplog):
    monkeypatch.setattr(FakeBuilder, "is_prepared", lambda self: True)
    fake_tfds(monkeypatch)
    Data("pets").load()
    assert caplog.text == ""


def damage(path):
    """Changes the pixels of a file that keeps its header and its end."""
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 0xFF
    path.write_bytes(bytes(contents))


@pytest.mark.parametrize("fit", [None, 8])
def test_a_damaged_image_is_named(fit, tmp_path):
    write_folder(tmp_path, suffixes=("png",))
    damage(tmp_path / "train" / "class_1" / "001.png")
    split = Data(f"folder:{tmp_path}", image_size=fit).load().train
    with pytest.raises(ValueError, match=r"^cannot read image file .*class_1/001.png: it is dam"):
        split.arrays()
    with pytest.raises(ValueError, match=r"class_1/001.png: it is damaged"):
        Evaluator(lambda x: x[:, 0, :3, 0])(split)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        numpy_list(evaluation_batches(split, 16))
    assert str(in_words(raised.value)).startswith(f"cannot read image file {tmp_path}")
    assert in_words(tf.errors.InvalidArgumentError(None, None, "shapes differ")) is None


def test_classes_without_a_training_example_are_noted(tmp_path, caplog):
    gap = np.where(Y == 1, 7, Y)
    splits = from_arrays(X, gap, X, Y)
    assert splits.notes == ("no training example of class '1', '3', '4', ...",)
    assert from_arrays(X, Y, X, Y).notes == ()
    named = from_arrays(X, Y, X, Y, class_names=("cat", "dog", "fox", "yak"))
    assert named.notes == ("no training example of class 'yak'",) and named.classes == 4
    hot = from_arrays(X, np.eye(5)[Y + 1], X, np.eye(5)[Y + 1])
    assert hot.classes == 5 and hot.notes == ("no training example of class '0', '4'",)
    Data(write_npz(tmp_path, labels=lambda y: 2 * y)).load()
    assert "data.npz: no training example of class '1', '3'" in caplog.text


def test_a_configuration_is_plain_values_and_cheap_to_import():
    assert registry.to_dict(Data())["source"] == "sample"
    assert dataclasses.fields(Data)[0].name == "source"
    code = (
        "import sys, rst_tf.data; rst_tf.data.Data();"
        "bad = {'tensorflow', 'keras', 'PIL', 'mlxtend', 'tensorflow_datasets'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DISTRIBUTED = """
import sys, numpy as np, tensorflow as tf
tf.config.experimental.enable_op_determinism()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from rst_tf.data import batches, from_arrays
x = np.random.default_rng(0).integers(0, 256, (101, 4, 4), dtype=np.uint8)
split = from_arrays(x, np.arange(101) % 3, x, np.arange(101) % 3).train
make = lambda: batches(split, 16, seed=0, augment="crop_flip", steps=9)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
pairs = zip(make(), strategy.experimental_distribute_dataset(make()), strict=True)
for (one, label), (many, labels) in pairs:
    both = [np.concatenate(strategy.experimental_local_results(v)) for v in many.values()]
    assert all(np.array_equal(a, b) for a, b in zip(one.values(), both, strict=True))
    assert np.array_equal(np.concatenate(strategy.experimental_local_results(labels)), label)
print("equal")
from rst_tf.data import Data
alive = iter(batches(Data("folder:" + sys.argv[1]).load().train, 16, seed=0))
next(alive)  # the interpreter must end although this one has not
"""


def test_every_worker_is_given_all_batches():
    policy = batches(from_arrays(X, Y, X, Y).train, 16, seed=0).options().experimental_distribute
    assert policy.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF


def test_replicas_share_the_same_batches_without_a_warning(tmp_path):
    write_folder(tmp_path)
    command = [sys.executable, "-c", DISTRIBUTED, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "equal", done.stderr
    assert "shard" not in done.stderr.lower()


X, Y = pictures(60, (4, 4), 3)
NAN = np.where(np.arange(16).reshape(4, 4) == 5, np.nan, X / 255)
ONE_HOT = np.eye(3)[Y]


def arrays(x=X, y=Y, xt=X, yt=Y, **options):
    return lambda path: from_arrays(x, y, xt, yt, **options)


def npz(**changes):
    def load(path):
        source = write_npz(path)
        held = {**np.load(source[4:]), **changes}
        np.savez(source[4:], **{key: value for key, value in held.items() if value is not None})
        return Data(source).load()

    return load


def broken_npz(contents):
    def load(path):
        (path / "data.npz").write_bytes(contents)
        return Data(f"npz:{path / 'data.npz'}").load()

    return load


def folder(change=lambda path: None, sizes=((8, 6),), **options):
    def load(path):
        source = write_folder(path, sizes=sizes)
        change(path)
        return Data(source, **options).load()

    return load


def broken_file(path):
    (path / "train" / "class_1" / "001.bmp").write_bytes(b"not an image")


def cut_file(path):
    file = path / "test" / "class_1" / "001.bmp"
    Image.new("RGB", (6, 8), "red").save(file, "JPEG")
    file.write_bytes(file.read_bytes()[:-2])


def palette_file(path):
    Image.new("P", (6, 8)).save(path / "train" / "class_1" / "001.bmp")


def deep_file(path):
    Image.new("I;16", (6, 8)).save(path / "train" / "class_1" / "deep.png")


def empty_class(path):
    for file in (path / "test" / "class_2").iterdir():
        file.unlink()


def lost_class(path):
    (path / "test" / "class_2").rename(path / "test" / "class_x")


def steps(**options):
    options = {"batch_size": 16, "seed": 0, **options}
    return lambda path: batches(from_arrays(X, Y, X, Y).train, **options)


ERRORS = {
    "images shape": (arrays(x=X.reshape(60, 16)), r"x_train must be \[N, H, W\].*\(60, 16\)"),
    "images empty": (arrays(xt=X[:0], yt=Y[:0]), r"x_test must be .* not empty; .*\(0, 4, 4, 1\)"),
    "images nan": (arrays(x=NAN), r"x_train must lie in \[0, 1\] as float; received \[nan, nan\]"),
    "images above": (arrays(x=X.astype(float)), r"x_train must lie in \[0, 1\].*\[0, 255\]"),
    "images below": (arrays(xt=X / 255 - 0.5), r"x_test must lie in \[0, 1\].*\[-0.5, 0.5\]"),
    "images int": (arrays(x=X.astype(int)), "x_train must be uint8 or float; received dtype int64"),
    "images differ": (arrays(xt=X[:, 1:]), r"x_test must hold images of shape \(4, 4, 1\).*\(3, 4"),
    "labels length": (arrays(y=Y[1:]), r"y_train must have one label .* 60 images; .*\(59,\)"),
    "labels float": (arrays(y=Y / 1), r"y_train must be integers \[N\].*received float64"),
    "labels text": (arrays(y=Y.astype(str)), r"y_train must be integers \[N\].*received <U"),
    "labels negative": (arrays(yt=Y - 1), "y_test must not be negative; received -1"),
    "labels beyond": (arrays(yt=Y + 1), r"y_test must be in 0..2; received 3"),
    "labels named": (arrays(class_names=("a", "b")), r"y_train must be in 0..1; received 2"),
    "labels huge": (arrays(y=Y + 2**40), r"y_train must be class numbers below 2\*\*31"),
    "labels sparse": (arrays(y=Y * 1000), "y_train must be class numbers from 0; received 2000"),
    "labels from 1": (
        arrays(y=Y + 1, yt=Y + 1),
        "y_train must be class numbers from 0; received 1 to 3, so that class 0 .*: subtract 1",
    ),
    "npz labels from 1": (
        npz(y_train=pictures(203, (8, 6), 3)[1] + 1),
        "data.npz: y_train must be class numbers from 0; received 1 to 3",
    ),
    "labels soft": (arrays(y=(ONE_HOT + 1) / 4), r"y_train of shape \(60, 3\) must be exactly"),
    "labels two-hot": (arrays(y=np.maximum(ONE_HOT, [1, 0, 0])), "must be exactly one-hot"),
    "validation large": (arrays(validation=60), "count below 60.*received validation=60"),
    "validation zero": (arrays(validation=0), r"validation must be in \(0, 1\) or a count below"),
    "validation negative": (arrays(validation=-5), "received validation=-5"),
    "validation mixed": (arrays(validation=1.5), "received validation=1.5"),
    "validation class": (
        arrays(validation=20, validation_from="last"),
        "class '2' has no training example left",
    ),
    "validation twice": (
        arrays(x_valid=X, y_valid=Y, validation=5),
        "has a validation part of its own.*received 5",
    ),
    "validation half": (arrays(x_valid=X), "x_valid and y_valid must be given together"),
    "limit": (arrays(train_limit=55), "train_limit must be at most 54; received train_limit=55"),
    "limit class": (arrays(train_limit=1), "has no training example left"),
    "npz key": (npz(y_test=None), "must hold x_train, y_train, x_test, y_test; received .*x_test"),
    "npz value": (npz(y_test=-np.ones(41, int)), "data.npz: y_test must not be negative"),
    "npz pickle": (npz(x_test=np.array([None])), "not a readable .npz file: Object arrays"),
    "npz junk": (broken_npz(b"junk"), "data.npz is not a readable .npz file"),
    "npz truncated": (broken_npz(b"PK\x03\x04junk"), "data.npz is not a readable .npz file"),
    "npz missing": (lambda p: Data("npz:no/file.npz").load(), "no/file.npz does not exist"),
    "npz size": (lambda p: Data("npz:x", image_size=8).load(), "image_size applies to folders"),
    "folder missing": (lambda p: Data("folder:no/where").load(), "folder no/where does not exist"),
    "folder flat": (lambda p: Data(f"folder:{p}").load(), r"for each of two classes.*\[\]"),
    "folder sizes": (
        folder(sizes=((8, 6), (6, 8))),
        r"image_size is needed .*\(8, 6\), .*\(6, 8\)",
    ),
    "folder broken": (folder(broken_file), r"cannot read image file .*class_1/001.bmp"),
    "folder cut": (folder(cut_file), r"cannot read image file .*001.bmp: it ends too early"),
    "folder palette": (folder(palette_file), r"001.bmp must have .* received BMP of mode '1'"),
    "folder depth": (
        folder(deep_file),
        r"deep.png must have 8 bits .* mode 'I;16'",
    ),
    "folder empty": (folder(empty_class), "class folder .*test/class_2 holds no image"),
    "folder classes": (folder(lost_class), "differ in class_2, class_x"),
    "source": (lambda p: Data("mnits").load(), "unknown source 'mnits'; did you mean 'mnist'"),
    "source sampl": (lambda p: Data("sampl").load(), "did you mean 'sample'"),
    "source config": (lambda p: Data("emnist/x").load(), "unknown source 'emnist/x'; .* 'emnist'"),
    "source path": (lambda p: Data("npz:").load(), "unknown source 'npz:'"),
    "augment": (lambda p: Data(augment="rotate"), "augment must be one of .*received 'rotate'"),
    "origin": (lambda p: Data(validation_from="end"), "validation_from must be one of .*'end'"),
    "pad": (lambda p: Data(augment="crop_flip", pad=0), "pad must be at least 1; received pad=0"),
    "pad with rotation": (
        lambda p: Data(augment="crop_flip_rotate", pad=0),
        "pad must be at least 1; received pad=0",
    ),
    "pad unused": (lambda p: Data(augment="flip", pad=2), "pad has no effect with augment='flip'"),
    "size": (lambda p: Data(image_size=0), "image_size must be at least 1"),
    "batch": (steps(batch_size=0), "batch_size must be at least 1; received batch_size=0"),
    "first step": (steps(first_step=-1), "first_step must be at least 0; received first_step=-1"),
    "steps": (steps(steps=0), "steps must be at least 1; received steps=0"),
    "batch augment": (steps(augment="crop"), "augment must be none, .* or .*augment='crop'"),
    "center": (
        lambda p: Data(image_size=8, center_fraction=0),
        r"center_fraction must be in \(0, 1\]; received center_fraction=0",
    ),
    "center unused": (
        lambda p: Data(center_fraction=0.5),
        "center_fraction has no effect without image_size; received center_fraction=0.5",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_named_in_one_line(case, tmp_path):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message) as raised:
        call(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("label,message", [("Text", "must map one image to one label")])
def test_tfds_without_class_labels_is_refused(label, message, monkeypatch):
    import tensorflow_datasets as tfds

    fake_tfds(monkeypatch, label=tfds.features.Text())
    with pytest.raises(ValueError, match=message):
        Data("pets").load()
