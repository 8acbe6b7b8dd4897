"""An order of classes that brings confused ones side by side."""

from __future__ import annotations

import numpy as np


def clustered(counts: np.ndarray) -> list[int]:
    """Leaves of an average-linkage tree of the classes (UPGMA; Sokal & Michener, 1958), from left to right.

    Two classes are the closer the larger the share of their videos that is taken for the other. When two groups meet,
    the right one is turned so that the classes which touch are the closer of the two possibilities.

    Args:
        counts: int (C, C), videos of the class of the row that were taken for the class of the column.

    Returns:
        The class numbers, each once; classes that meet nobody keep their order.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    likeness = share + share.T
    np.fill_diagonal(likeness, -1.0)
    between = likeness.copy()  # of groups, at the row and column of each group's lowest class; -1 where there is none
    # Of each row the first of its closest groups, so that a step need not look at the whole matrix.
    nearest, closeness = between.argmax(axis=1), between.max(axis=1)
    groups = {i: [i] for i in range(len(counts))}
    while len(groups) > 1:
        a = int(closeness.argmax())
        a, b = sorted((a, int(nearest[a])))
        if between[a, b] <= 0:
            break
        left, right = groups[a], groups.pop(b)
        groups[a] = _joined(left, right, likeness)
        mean = (len(left) * between[a] + len(right) * between[b]) / (len(left) + len(right))
        mean[(between[a] < 0) | (between[b] < 0)] = -1.0
        between[a], between[:, a] = mean, mean
        between[b], between[:, b] = -1.0, -1.0
        # No mean is above both of its values, so that only rows whose closest group was a or b have another one.
        changed = np.union1d(np.flatnonzero((nearest == a) | (nearest == b)), [a, b])
        nearest[changed], closeness[changed] = between[changed].argmax(axis=1), between[changed].max(axis=1)
    return [i for group in groups.values() for i in group]


def _joined(left: list[int], right: list[int], likeness: np.ndarray) -> list[int]:
    choices = [(x, y) for x in (left, left[::-1]) for y in (right, right[::-1])]
    best = max(choices, key=lambda pair: likeness[pair[0][-1], pair[1][0]])
    return [*best[0], *best[1]]
