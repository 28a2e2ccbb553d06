"""The accuracy of a group of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from episodic.core.statistics import share_half_width, student_quantile


def pool_classes(classes: pd.DataFrame) -> tuple[float, float]:
    """Return the accuracy over the queries of several classes and the half-width of its interval.

    The 95 % interval is that of a ratio estimate with the classes as sampling units. For a single
    class it is the interval of that class.

    Args:
        classes: `queries`, `correct` and `ci95`, one row per class.
    """
    queries, correct = classes["queries"].to_numpy(float), classes["correct"].to_numpy(float)
    accuracy, n = correct.sum() / queries.sum(), len(classes)
    if n == 1:
        return float(accuracy), float(classes["ci95"].iloc[0])
    deviation = np.sqrt(n / (n - 1) * np.square(correct - queries * accuracy).sum())
    se = float(deviation / queries.sum())
    return float(accuracy), share_half_width(float(accuracy), se, student_quantile(n - 1), n)
