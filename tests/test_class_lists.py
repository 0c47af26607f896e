"""Some classes of a folder: what is read, in which order, what is said, what is refused."""

import logging

import pytest
from PIL import Image

from rst_tf.data import Data

NAMES = ("ant", "bee", "cat", "dog", "elk")


def write(root, parts=("train", "test"), names=NAMES):
    for part in parts:
        for label, name in enumerate(names):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(4):
                Image.new("RGB", (5, 4), (10 * label, k, len(part))).save(folder / f"{k}.png")
    return f"folder:{root}"


def write_list(root, lines):
    file = root / "list.txt"
    file.write_text("\n".join(lines) + "\n")
    return f"file:{file}"


CHOICES = {  # what is asked for, or lines of a file: what is read
    "first two": ("first:2", ("ant", "bee")),
    "all there are": ("first:5", NAMES),
    "a list": (("dog", "ant", "bee"), ("ant", "bee", "dog")),
    "a list with gaps": (("", "elk ", "", "cat"), ("cat", "elk")),
}


@pytest.fixture(params=CHOICES)
def choice(request, tmp_path):
    asked, names = CHOICES[request.param]
    return asked if isinstance(asked, str) else write_list(tmp_path, asked), names


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val"), (".",)], ids=str)
def test_only_chosen_classes_are_read_labelled_in_the_order_of_their_names(choice, parts, tmp_path):
    asked, names = choice
    source = write(tmp_path / "images", parts)
    splits = Data(source, validation=len(names), classes=asked).load()
    whole = Data(source, validation=5).load()
    assert splits.class_names == names
    for split in (splits.train, splits.valid, splits.test):
        images, labels = split.arrays()
        colours = (images[:, 0, 0, 0] * 25.5).round().astype(int)
        assert [whole.class_names[c] for c in colours] == [names[label] for label in labels]
    found = {name.split("/")[-2] for name in (*splits.train.names, *splits.test.names)}
    assert found <= set(names) and len(set(splits.train.labels)) == len(names)


def test_images_that_are_not_read_may_be_broken(tmp_path):
    source = write(tmp_path)
    (tmp_path / "train" / "elk" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match="elk"):
        Data(source).load()
    assert Data(source, validation=4, classes="first:4").load().classes == 4


def test_what_was_chosen_is_said(choice, tmp_path, caplog):
    asked, names = choice
    with caplog.at_level(logging.WARNING):
        splits = Data(write(tmp_path / "images"), validation=len(names), classes=asked).load()
    assert f"{len(names)} of its 5 classes" in splits.notes[0]
    assert splits.notes[0] in caplog.text
    if asked.startswith("first"):
        assert splits.notes[0].endswith(f"in the order of their names, {names[0]} to {names[-1]}")


def test_tiny_imagenet_s_table_may_name_other_classes(tmp_path):
    source = write(tmp_path, ("train",))
    images = tmp_path / "val" / "images"
    images.mkdir(parents=True)
    for k in range(len(NAMES)):
        Image.new("RGB", (5, 4), (10 * k, 0, 0)).save(images / f"v{k}.png")
    table = [f"v{k}.png\t{name}\t0\t0\t1\t1" for k, name in enumerate(NAMES)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(table))
    splits = Data(source, validation=3, classes="first:3").load()
    assert [name.split("/")[-1] for name in splits.test.names] == ["v0.png", "v1.png", "v2.png"]
    assert list(splits.test.labels) == [0, 1, 2]


REFUSED = {  # classes, or lines of a file: what is said
    "no number": ("first:many", "classes must be none, first:N .* received classes='first:many'"),
    "one class": ("first:1", "at least 2"),
    "a bare number": ("100", "received classes='100'"),
    "too many": ("first:6", "at most first:5"),
    "no file": ("file:nowhere.txt", "class list nowhere.txt does not exist"),
    "unknown names": (("ant", "cow", "fox"), r"does not have: cow, fox"),
    "many unknown names": (("ant", *"vwxyz"), r"does not have: v, w, x and 2 more"),
    "a name twice": (("ant", "bee", "ant"), "received 'ant' twice"),
    "one name": (("ant",), "two classes or more.* received 1"),
    "no folder": ("first:2", "classes applies to folders, not to source='sample'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    asked, message = REFUSED[name]
    source = "sample" if name == "no folder" else write(tmp_path / "images")
    with pytest.raises(ValueError, match=message):
        Data(
            source, classes=asked if isinstance(asked, str) else write_list(tmp_path, asked)
        ).load()
