"""Sentences of the comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from episodic.analysis.comparison import Estimate
from episodic.analysis.power_law import PowerLaw
from tasks.reports.comparison.protocols import (
    MAX_IN_MATRIX,
    SIGNIFICANCE,
    Configuration,
    Pair,
    Protocol,
    Repetition,
)
from tasks.reports.comparison.style import format_interval
from tasks.reports.kit import wording
from tasks.reports.kit.wording import (
    format_count,
    format_decimal,
    format_number,
    format_p_value,
    format_percent,
    format_points,
)

FEW_SEEDS = "With fewer than three seeds per configuration, this compares checkpoints, not {}."


# --- differences -------------------------------------------------------------------------------


def describe_difference(protocol: Protocol, estimate: Estimate, sign: int = 1) -> str:
    """Describe a difference, for accuracy in percentage points.

    Example: `1.3 percentage points (95 % CI 0.9 to 1.7), 5 seeds, paired over 60 episodes`.

    Args:
        protocol: The protocol.
        estimate: The difference.
        sign: -1 to reverse it.
    """
    mean, low, high = (sign * value for value in (estimate.mean, estimate.low, estimate.high))
    low, high = min(low, high), max(low, high)
    if protocol.is_accuracy:
        value, *ends = (format_decimal(100 * value, 1) for value in (mean, low, high))
        size = f"{value} percentage points (95 % CI {ends[0]} to {ends[1]})"
    else:
        size = f"{format_number(mean)} (95 % CI {format_number(low)} to {format_number(high)})"
    numbers = [str(n) for n in dict.fromkeys(estimate.seeds)]
    seeds = f"{' and '.join(numbers)} seeds, " if estimate.of_methods else ""
    return f"{size}, {seeds}paired over {format_count(estimate.episodes, 'episode')}"


def compare_pair(protocol: Protocol, pair: Pair) -> str:
    """Describe which of two configurations is better, as far as the number of seeds allows."""
    first, second, difference = pair.first, pair.second, pair.difference
    if difference.mean == 0:
        scores = [np.mean([e.scores for e in c.experiments], axis=0) for c in (first, second)]
        where = "on every episode" if np.array_equal(*scores) else "on average"
        return f"{first.name} and {second.name} score the same {where}."
    ahead = difference.mean * protocol.sign >= 0
    winner, loser = (first, second) if ahead else (second, first)
    size = describe_difference(protocol, difference, protocol.sign if ahead else -protocol.sign)
    if pair.p >= SIGNIFICANCE:
        return (
            f"No significant difference: {winner.name} is ahead of {loser.name} by {size} "
            f"(corrected p = {format_p_value(pair.p)})."
        )
    if difference.of_methods:
        return f"{winner.name} beats {loser.name} by {size}."
    subject, object_ = _checkpoints(winner, loser)
    return f"{subject} beats {object_} by {size}. {FEW_SEEDS.format('algorithms')}"


def _checkpoints(winner: Configuration, loser: Configuration) -> tuple[str, str]:
    """Return subject and object: `The checkpoint of maml` and `that of reptile`."""

    def describe(configuration: Configuration) -> str:
        seeds = len(configuration.experiments)
        if seeds > 1:
            return f"the mean of the {seeds} checkpoints of {configuration.name}"
        return f"the checkpoint of {configuration.name}"

    subject, object_ = describe(winner), describe(loser)
    if len(winner.experiments) == len(loser.experiments) == 1:
        object_ = f"that of {loser.name}"
    return subject[0].upper() + subject[1:], object_


def describe_best(protocol: Protocol) -> str:
    """Compare the best configuration with the second and, if they tie, with the next it beats."""
    if len(protocol.configurations) == 1:
        seeds = format_count(len(protocol.best.experiments), "seed")
        score = format_interval(protocol, protocol.best.score)
        return (
            f"Only one configuration, {protocol.best.name}, with {seeds}: {score}. "
            "There is nothing to compare it with."
        )
    best, second, *others = protocol.configurations
    pair = protocol.find_pair(best, second)
    if pair is None:
        return ""
    verdicts = [compare_pair(protocol, pair)]
    if pair.p >= SIGNIFICANCE:
        pairs = [protocol.find_pair(best, other) for other in others]
        beaten = [p for p in pairs if p is not None and p.p < SIGNIFICANCE]
        verdicts += [compare_pair(protocol, p) for p in beaten[:1]]
    return " ".join(verdicts)


def warn_about_protocols(number_of_protocols: int) -> str:
    """Warn about several protocols; '' for one."""
    if number_of_protocols == 1:
        return ""
    return (
        f"These experiments follow {wording.spell_out(number_of_protocols)} protocols, which "
        "differ in data, episodes, number of queries or batch-norm mode. Scores under different "
        "protocols are not comparable."
    )


# --- sections ----------------------------------------------------------------------------------


def list_ranking_notes(protocol: Protocol, drawn: int) -> list[str]:
    """Explain the ranking, and list repeated and edited experiments.

    Args:
        protocol: The protocol.
        drawn: Maximum number of configurations drawn.
    """
    note = (
        "Dots are means over seeds and test episodes. Lines are 95 % intervals over test episodes, "
        "with three or more seeds also over seeds."
    )
    if protocol.is_accuracy:
        note += (
            " All intervals are conditional on the test classes: other classes would shift all "
            "scores together."
        )
    notes = [note]
    transductive = [c.name for c in protocol.configurations if c.first.config.get("transductive")]
    if transductive:
        verb = "uses" if len(transductive) == 1 else "use"
        balance = protocol.best.first.meta.get("query_balance")
        balanced = "balanced" if balance is None else f"unbalanced (Dirichlet {balance:g})"
        notes.append(
            f"Transductive inference: {wording.join_words(transductive)} {verb} the whole query "
            f"set of an episode together. Query sets are {balanced}."
        )
    more = len(protocol.configurations) - drawn
    if more > 0:
        notes.append(f"The chart shows the best {drawn}; {more} more are in the table.")
    notes += [describe_repetition(repetition) for repetition in protocol.repetitions]
    if protocol.edited:
        notes.append(
            f"{wording.join_words(protocol.edited)}: params.yaml was edited after the run; the "
            "scores are those of the run."
        )
    return notes


def describe_repetition(repetition: Repetition) -> str:
    """Say that a seed was run twice, and which of the two experiments counts."""
    name, original, seed, is_exact = repetition
    if is_exact:
        return f"{name} repeats {original} (same params, seed and scores) and counts once."
    return (
        f"{name} runs train.seed {seed} of {original} again, with the same params but other "
        f"scores. Only {original} counts: a seed that is run twice is one seed."
    )


def describe_seeds(protocol: Protocol, configuration: Configuration) -> str:
    """List the score of each seed and their standard deviation; '' for one seed."""
    scores = [e.metrics[protocol.score] for e in configuration.experiments]
    if len(scores) == 1:
        return ""
    deviation = float(np.std(scores, ddof=1))
    size = (
        f"{100 * deviation:.2f} percentage points"
        if protocol.is_accuracy
        else format_number(deviation)
    )
    values = ", ".join(wording.choose_formatter(protocol.score)(score) for score in scores)
    return f"{values}; standard deviation over seeds {size}"


def describe_pairs(protocol: Protocol) -> str:
    """Count the significant pairwise differences."""
    significant = sum(pair.p < SIGNIFICANCE for pair in protocol.pairs)
    verb = "differs" if len(protocol.pairs) == 1 else "differ"
    return (
        f"{significant} of {format_count(len(protocol.pairs), 'pair')} {verb} significantly, "
        "corrected for the number of pairs."
    )


def explain_matrix(protocol: Protocol) -> str:
    """Explain the matrix of pairwise differences."""
    ratio = float(np.median([pair.difference.paired for pair in protocol.pairs]))
    unit = ", in percentage points" if protocol.is_accuracy else ""
    return (
        f"Row minus column{unit}. Pairing by episode makes the intervals "
        f"{100 * (1 - ratio):.0f} % narrower than those of independent samples (median over the "
        "pairs)."
    )


def describe_learning(
    protocol: Protocol, best: str, first: str, iteration: int, goal: float
) -> str:
    """Describe the learning curves.

    Args:
        protocol: The protocol.
        best: Name of the configuration with the best final validation score.
        first: Name of the configuration that reaches the goal first.
        iteration: The iteration at which it reaches the goal.
        goal: The goal, close to the best validation score.
    """
    near = "one point" if protocol.is_accuracy else "5 %"
    when = f"after {format_count(iteration, 'iteration')}" if iteration else "without any training"
    return (
        f"{best} has the best final validation score. {first} is the first to come within {near} "
        f"of the best one ({wording.choose_formatter(protocol.score)(goal)}), {when}."
    )


def describe_adaptation(protocol: Protocol, name: str, gain: float) -> str:
    """Describe which configuration gains most from the first inner step."""
    size = format_points(gain) if protocol.is_accuracy else format_number(gain)
    return f"The first inner step helps {name} the most: {size}."


def list_without_steps(names: Sequence[str]) -> str:
    """List the configurations that take no inner steps."""
    return f"{wording.join_words(names)} {'takes' if len(names) == 1 else 'take'} no inner steps."


def describe_cost(protocol: Protocol, names: Sequence[str]) -> str:
    """List the configurations on the Pareto front of score and training time."""
    verb = "is" if len(names) == 1 else "are"
    score = wording.name_score(protocol.score)
    return f"{wording.join_words(names)} {verb} on the Pareto front of {score} and training time."


COST_NOTE = (
    "Time and memory of training are from run.json: for time the mean over seeds, for memory the "
    "maximum. They depend on the machine and on its other load. The dashed line is the Pareto "
    "front."
)


def describe_group_differences(
    first: str, second: str, best: tuple[str, str], worst: tuple[str, str]
) -> str:
    """Describe on which groups of classes a configuration gains most and least.

    Args:
        first: Name of the configuration.
        second: Name of the configuration that it is compared with.
        best: Name and difference of the group with the largest gain.
        worst: Name and difference of the group with the smallest gain.
    """
    return (
        f"Compared with {second}, {first} gains most on {best[0]} ({best[1]} percentage points) "
        f"and least on {worst[0]} ({worst[1]})."
    )


GROUP_NOTE = (
    "First seed of each. Intervals are over the episodes that contain a class of the group, and "
    "are not corrected for the number of groups."
)


def describe_disagreements(first: str, second: str, gains: np.ndarray) -> str:
    """Count the episodes in which either of two configurations is better.

    Args:
        first: Name of one configuration.
        second: Name of the other one.
        gains: Accuracy of the first minus accuracy of the second by episode.
    """
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    ties = len(gains) - wins - losses
    tie = f" They tie in {format_count(ties, 'episode')}." if ties else ""
    return f"{first} is better in {format_count(wins, 'episode')}, {second} in {losses:,}.{tie}"


# --- scaling -----------------------------------------------------------------------------------


def describe_scaling(
    score: str, name: str, first: tuple[int, float], last: tuple[int, float]
) -> str:
    """Describe the error at both ends of a range.

    Args:
        score: `accuracy` or `mse`.
        name: The quantity that varies, in the plural.
        first: Its smallest number and the error there.
        last: Its largest number and the error there.
    """
    show = format_percent if score == "accuracy" else format_number
    return (
        f"With {first[0]:,} {name} the error is {show(first[1])}; with {last[0]:,} it is "
        f"{show(last[1])}."
    )


def describe_power_law(law: PowerLaw | None) -> str:
    """Describe a fitted power law."""
    if law is None:
        return "Too few points have a nonzero error to fit a power law."
    exponent = format_decimal(-law.b)
    interval = f"95 % CI {format_decimal(-law.b_high)} to {format_decimal(-law.b_low)}"
    if law.b_low <= 0 <= law.b_high:
        return f"There is no significant trend (exponent {exponent}, {interval})."
    verb = "falls" if law.b > 0 else "grows"
    return f"It {verb} as n to the power of {exponent} ({interval})."


def list_scaling_notes(law: PowerLaw | None, key: str, name: str, training: bool) -> list[str]:
    """Explain the chart and the limits of the power law.

    Args:
        law: The fitted law.
        key: The setting that varies.
        name: What it counts, in the plural.
        training: Whether the number in training varies along with that of the test episodes.
    """
    notes = [
        "Dots are means over seeds and test episodes with 95 % intervals. The line is the fitted "
        "power law error = a n^-b with its 95 % band. Both axes are logarithmic."
    ]
    if law is not None and law.p < SIGNIFICANCE:
        notes.append(
            "The points deviate from the law by more than chance (chi-square "
            f"{law.misfit:.1f} per degree of freedom, p {format_p_value(law.p)}). The exponent "
            "summarizes this range; do not extrapolate it. Its interval is that of Student's t "
            "with the scatter of the points."
        )
    if key == "train.classes":
        notes.append(
            "Which classes are left out differs by seed; with several seeds the interval covers "
            "this. All points share their test episodes, which the fit does not use."
        )
        return notes
    if training:
        setting = key.replace("episodes.", "train.")
        notes.append(
            f"The number of {name} in training varies along with that of the test episodes "
            f"({setting} is null)."
        )
    note = f"Each number of {name} has separate test episodes, so the points are not paired."
    if key == "episodes.ways":
        note += " More ways also make the task harder and lower the chance level (1 / ways)."
    return [*notes, note]


# --- transfer ----------------------------------------------------------------------------------


def describe_transfer(protocol: Protocol, names: dict[int, str]) -> str:
    """Describe which training groups are better, by the corrected p-values of their pairs.

    Args:
        protocol: The protocol.
        names: Training groups of each configuration by its `id`.
    """
    pairs = [p for p in protocol.pairs if id(p.first) in names and id(p.second) in names]
    if not pairs:
        return (
            f"Only the {MAX_IN_MATRIX} best configurations are compared pairwise, and fewer than "
            "two of these are among them."
        )
    significant = [p for p in pairs if p.p < SIGNIFICANCE]
    largest = max(significant or pairs, key=lambda p: abs(p.difference.mean))
    ahead = largest.difference.mean >= 0
    better, worse = (largest.first, largest.second) if ahead else (largest.second, largest.first)
    size = describe_difference(protocol, largest.difference, 1 if ahead else -1)
    if not significant:
        return (
            f"No training group is significantly better than another: {names[id(better)]} is "
            f"ahead of {names[id(worse)]} by {size} (corrected p = {format_p_value(largest.p)})."
        )
    verb = "differs" if len(pairs) == 1 else "differ"
    few = "" if largest.difference.of_methods else f" {FEW_SEEDS.format('groups')}"
    return (
        f"Over all test groups, training on {names[id(better)]} beats training on "
        f"{names[id(worse)]} by {size}. {len(significant)} of "
        f"{format_count(len(pairs), 'pair')} of training groups {verb} significantly.{few}"
    )


def list_transfer_notes(shared: Sequence[str]) -> list[str]:
    """Explain the transfer table.

    Args:
        shared: Groups with classes both in training and in test.
    """
    notes = [
        "Accuracy in percent, pooled over seeds. An episode may have classes of several groups; "
        "each class counts for its own group. Training groups also differ in their number of "
        "classes (see the table). Cells are not tested against each other: with this many, some "
        "differ by chance."
    ]
    if shared:
        verb = "has" if len(shared) == 1 else "have"
        notes.append(
            f"{wording.join_words(shared)} {verb} classes both in training and in test, but not "
            "the same ones."
        )
    return notes


# --- reliability -------------------------------------------------------------------------------

CALIBRATION_NOTE = (
    "ECE is the expected calibration error, and ECE before is that without calibration. NLL is the "
    "negative log-likelihood. NLL and Brier score also depend on the accuracy. Intervals are 95 % "
    "intervals over episodes. Differences are paired: both experiments have the same queries. Those"
    " of ECE are in percentage points. They compare checkpoints, and are not corrected for the "
    "number of comparisons."
)


def describe_calibrations(best: str | None, before: Sequence[float], after: Sequence[float]) -> str:
    """Describe the range of the calibration errors.

    Args:
        best: Name of the experiment with the largest likelihood; None if it is the only one.
        before: The errors without calibration.
        after: The errors of the experiments that are calibrated.
    """

    def list_ends(errors: Sequence[float]) -> str:
        return " to ".join(dict.fromkeys(map(format_percent, (min(errors), max(errors)))))

    text = f"The calibration error is {list_ends(before)} without calibration"
    if after:
        text += f", and {list_ends(after)} with it"
    return f"{text}. {best} has the lowest NLL." if best else f"{text}."


RELIABILITY_NOTE = (
    "AUROC and FPR at 95 % TPR measure the detection of queries of other test classes by the score "
    "that was chosen on validation episodes. Coverage and mean size are those of prediction sets "
    "with a promised coverage of 90 %. Intervals are 95 % intervals over episodes. Differences in "
    "AUROC are in percentage points and paired: both experiments have the same queries. They "
    "compare checkpoints, and are not corrected for the number of comparisons."
)


def describe_detection(
    name: str, auroc: float, difference: tuple[float, float] | None, baseline: str
) -> str:
    """Compare the experiment with the largest area under the ROC curve with the baseline.

    Args:
        name: Name of the experiment.
        auroc: Its area under the ROC curve.
        difference: The area minus that of the baseline, and the half-width of the 95 % interval of
            this difference; None if it is the baseline, or not paired with it.
        baseline: Name of the baseline.
    """
    best = f"{name} has the largest AUROC for unknown classes, {format_percent(auroc)}."
    if difference is None:
        return best
    gain, ci95 = difference
    ends = " to ".join(format_decimal(100 * end, 1) for end in (gain - ci95, gain + ci95))
    interval = f"{format_points(gain)} (95 % CI {ends})"
    if abs(gain) <= ci95:
        return f"{best} The difference from {baseline}, {interval}, is not significant."
    return f"{best} It is ahead of {baseline} by {interval}."


def describe_coverages(low: float, high: float) -> str:
    """Describe the range of the coverage of prediction sets."""
    ends = dict.fromkeys(format_percent(coverage) for coverage in (low, high))
    return f"Prediction sets with a promised coverage of 90 % cover {' to '.join(ends)}."
