"""Generated pictures for tests, and data sets of them in class folders."""

import numpy as np
from PIL import Image


def texture(seed, height=40, width=56):
    """A picture with coarse and fine structure: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return (np.asarray(coarse) * 0.8 + rng.integers(0, 51, (height, width, 3))).astype(np.uint8)


def write_folders(root, classes, per_class, splits=("train", "val"), size=(40, 56)):
    """``root/<split>/<class>/<i>.jpg``; pictures of a class share a colour, and no two have the same size."""
    for split in splits:
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                height, width = size[0] + 5 * i, size[1] - 3 * i
                pixels = texture(100 * len(split) + 10 * label + i, height, width).astype(int)
                pixels[..., label % 3] += 60 * (1 + label // 3)
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(root / split / name / f"{i}.jpg", quality=95)
