"""Read a folder of images, one folder a class, and set some aside for validation."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from network import SIDE
from PIL import Image
from torch import Tensor
from tqdm import tqdm

VALIDATION_SHARE = 0.1  # this share of each class's training images


class Images(NamedTuple):
    """Images (n, 3, 32, 32), uint8, and the number of the class of each (n,)."""

    x: Tensor
    y: Tensor


def read_images(folder: Path) -> tuple[Images, list[str]]:
    """Read CLASS/*.jpg, class by class and in the order of the names; return the images and the classes.

    Raises:
        ValueError: there is no such image, or one cannot be read or has another size than 32 × 32.
    """
    paths = sorted(folder.glob("*/*.jpg"))
    if not paths:
        raise ValueError(f"no {folder}/CLASS/*.jpg; data/README.md says how to obtain CIFAR-10 as a folder of images")
    classes, arrays = sorted({path.parent.name for path in paths}), []
    for path in tqdm(paths, desc=f"read {folder.name}", unit="image", disable=None):
        try:
            with Image.open(path) as image:
                arrays.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise ValueError(f"{path}: not an image that can be read ({error}); replace or remove it") from None
        if arrays[-1].shape != (SIDE, SIDE, 3):
            height, width = arrays[-1].shape[:2]
            raise ValueError(f"{path}: {width} × {height} pixels, expected {SIDE} × {SIDE}; resize all images")
    y = torch.tensor([classes.index(path.parent.name) for path in paths])
    return Images(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), y), classes


def split(images: Images) -> list[Images]:
    """Set the last images of each class aside for validation; return the others and these."""
    held_out = torch.zeros(len(images.y), dtype=torch.bool)
    for label in images.y.unique():
        of_class = (images.y == label).nonzero().flatten()
        held_out[of_class[-max(1, round(VALIDATION_SHARE * len(of_class))) :]] = True
    return [Images(images.x[part], images.y[part]) for part in (~held_out, held_out)]


def as_input(x: Tensor) -> Tensor:
    """Turn pixels into numbers of about zero mean and unit variance."""
    return (x.float() - 128) / 64
