"""The configuration of the data; its fields are the flags under `--data`."""

import logging
from dataclasses import dataclass
from typing import Literal, get_args

from rst_tf.data import class_lists, sources
from rst_tf.data.dividing import divide
from rst_tf.data.splits import Splits

Order = Literal["stratified", "first", "last"]
Augment = Literal["none", "flip", "crop_flip", "crop_flip_rotate", "resized_crop_flip"]
PADDED = ("crop_flip", "crop_flip_rotate")


@dataclass(frozen=True)
class Data:
    """Which images to use and how to split and augment them.

    An official test part is always kept as the test split. Where a source has none (`sample`,
    a folder of class folders), 10 % of it are drawn, stratified. No trial seed enters: all trials
    share one split.

    Args:
        source: `sample` (5,000 real MNIST digits, no download: 4,000/500/500), `npz:PATH`
            (arrays x_train, y_train, x_test, y_test), `folder:PATH` (PATH/train/CLASS/*.png and
            PATH/test/CLASS/*.png, or `val` or `validation` for `test`; or only PATH/CLASS/*.png;
            or Tiny-ImageNet as it is unpacked), or a TensorFlow Datasets name such as `mnist`,
            `cifar10`, `cifar100`, `svhn_cropped` or `imagenet2012`. Those above 2 GiB of pixels
            are written once as files beside the prepared set and read in batches.
        validation: Part of the training images that is held out to choose by: a fraction in
            (0, 1) or a count. Where the test part is drawn too, a fraction of both together.
        validation_from: `stratified` draws it, class by class; `first` and `last` take that end
            in the order of the source (TensorFlow Datasets store an order of their own).
        split_seed: Seed of everything drawn here, and of nothing else.
        augment: `none`, `flip` (left-right, one half of the time), `crop_flip` (a random window
            of the zero-padded image as well), `crop_flip_rotate` (then turned by up to 15 degrees
            either way about its centre, to the nearest pixel, zeros where nothing was) or
            `resized_crop_flip` (flip, and a window of 8 to 100 % of the whole image and of aspect
            3/4 to 4/3, scaled to the image's size), for training only.
        pad: Pixels of zero padding on each side for `crop_flip` and `crop_flip_rotate`.
        image_size: Height and width in pixels; images are scaled to cover the square, then
            cropped to its centre. Needed where a folder or dataset has images of several sizes.
        center_fraction: With `image_size`: side of the central square that is scaled, as a
            fraction of the shorter side, in (0, 1]. .875 with `image_size` 224 is the usual scaling
            of ImageNet's test images to 256 and crop of 224.
        train_limit: Keep only so many training examples, drawn stratified; none keeps all.
        classes: Of a folder, read only some classes, whose labels follow the order of their names:
            `first:100` the first so many, `file:PATH` those that a text file names, one a line;
            none takes all. Of ImageNet's folder, `first:100` is an ImageNet100; the list of Liu et
            al. (2022) could not be verified.
    """

    source: str = "sample"
    validation: float = 0.1
    validation_from: Order = "stratified"
    split_seed: int = 0
    augment: Augment = "none"
    pad: int = 4
    image_size: int | None = None
    center_fraction: float = 1.0
    train_limit: int | None = None
    classes: str | None = None

    def __post_init__(self):
        for name, known in (("validation_from", Order), ("augment", Augment)):
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}; received {value!r}")
        for name in ("pad", "image_size", "train_limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; received {name}={value}")
        if self.pad != Data.pad and self.augment not in PADDED:
            raise ValueError(
                f"pad has no effect with augment={self.augment!r}; received pad={self.pad}"
            )
        class_lists.check(self.classes)
        if not 0 < self.center_fraction <= 1:
            raise ValueError(
                "center_fraction must be in (0, 1]; received "
                f"center_fraction={self.center_fraction!r}"
            )
        if self.center_fraction != 1 and self.image_size is None:
            raise ValueError(
                "center_fraction has no effect without image_size; received "
                f"center_fraction={self.center_fraction!r}"
            )

    def load(self) -> Splits:
        """Reads the source and divides it.

        Raises:
            ValueError: The source is unknown, missing or broken, or cannot be divided as asked.
        """
        splits = divide(
            sources.read(
                self.source,
                self.image_size,
                self.center_fraction,
                whole=self.augment == "resized_crop_flip",
                classes=self.classes,
            ),
            validation=self.validation,
            validation_from=self.validation_from,
            split_seed=self.split_seed,
            train_limit=self.train_limit,
        )
        if self.source != "sample":
            for note in splits.notes:
                logging.getLogger(__name__).warning("%s: %s", self.source, note)
        return splits
