"""Sentences of the run report and of its tasks page."""

from __future__ import annotations

from typing import Any

import numpy as np

from episodic.core.episode_size import describe_sizes
from tasks.reports.kit import wording
from tasks.reports.kit.wording import (
    choose_formatter,
    format_count,
    format_decimal,
    format_estimate,
    format_percent,
    format_points,
)
from tasks.reports.run.facts import (
    AdaptationFacts,
    CalibrationFacts,
    Classes,
    ClassMap,
    ConfusedPair,
    Correlation,
    Difficulty,
    Distribution,
    EpisodeMap,
    Group,
    LearningFacts,
    ModeComparison,
    RatingError,
    ScoreComparison,
    SetFacts,
    SizeFacts,
    UnknownFacts,
)

PARAMETERS = {"mean": "mean rating", "spread": "standard deviation of the ratings"}
"""Names of the parameters of a task, unless the key itself is the name."""


# --- score -------------------------------------------------------------------------------------


def describe_baselines(facts: ScoreComparison) -> str:
    """Compare the model with the best baseline."""
    best, show = facts.baselines[0], choose_formatter(facts.score)
    name = wording.name_baseline(best.key)
    apart = abs(facts.value - best.value) > facts.ci95 + (best.ci95 or 0.0)
    intervals = f"The 95 % intervals {'do not overlap' if apart else 'overlap'}."
    if facts.score == "accuracy":
        if abs(facts.value - best.value) < 5e-4:
            return f"The model is as accurate as the best baseline ({name}, {show(best.value)})."
        side = "above" if facts.value >= best.value else "below"
        gap = format_points(facts.value - best.value)
        return (
            f"The model is {gap} {side} the best baseline ({name}, {show(best.value)}). {intervals}"
        )
    if 0 < facts.value < best.value:
        return (
            f"The error is {best.value / facts.value:.1f} times smaller than that of the best "
            f"baseline ({name}, {show(best.value)}). {intervals}"
        )
    return (
        f"The error is {show(facts.value)}; that of the best baseline ({name}) is "
        f"{show(best.value)}. {intervals}"
    )


def list_baseline_notes(facts: ScoreComparison) -> list[str]:
    """List the comparison with published results and remarks on the protocol."""
    notes = [describe_published_results(facts)]
    if facts.image_encoder is not None:
        notes.append(
            f"All baselines except chance use the features of {facts.image_encoder} too. "
            f"'{wording.name_baseline('random_init')}' trains the model on these features, and "
            "does not change the encoder."
        )
    if facts.query_statistics:
        notes.append(
            "Transductive batch norm: features are normalized by the statistics of the query set, "
            "which raises the accuracy. The score with inductive batch norm has a separate section."
        )
    if facts.transductive_inference:
        notes.append(describe_transductive_inference(facts.meta))
    notes += [
        f"The baseline '{wording.name_baseline(baseline.key)}' was measured on the first "
        f"{format_count(baseline.episodes, 'test episode')}."
        for baseline in facts.baselines
        if baseline.episodes is not None and baseline.episodes < facts.episodes
    ]
    return notes


def describe_transductive_inference(meta: dict[str, Any]) -> str:
    """State that queries are predicted together, and how balanced the query sets are.

    Args:
        meta: meta.json of data/prepared.
    """
    queries = "queries"
    if "varied" not in meta:
        queries = format_count(meta["ways"] * meta["queries"], "query", "queries")
    balance = meta.get("query_balance")
    balanced = (
        "All classes of a query set have equally many queries, which such algorithms may exploit."
        if balance is None
        else "Query sets are unbalanced: the shares of their classes are drawn from a Dirichlet "
        f"distribution (concentration {balance:g})."
    )
    return (
        f"Transductive inference: the algorithm sees the {queries} of an episode together, without "
        f"labels, so a prediction depends on the other queries. {balanced}"
    )


def describe_published_results(facts: ScoreComparison) -> str:
    """Compare the model with published results, or state that none are known."""
    same, others, meta = facts.same_protocol, facts.other_protocols, facts.meta
    if same.empty and len(others):
        number = format_count(len(others), "result")
        verb = "is" if len(others) == 1 else "are"
        return (
            "No published result under exactly this protocol is known. "
            f"{number} under other protocols {verb} listed below, but not drawn."
        )
    if same.empty:
        task = "sine waves" if facts.score == "mse" else meta["dataset"]
        if facts.score == "accuracy":
            task = f"{describe_sizes(meta)} {task}"
        elif "tasks" in meta:
            task = "this protocol"
        return f"No published result for {task} is known, so only baselines are shown."
    sentences = ["Under the same protocol:"]
    for row in same.to_dict("records"):
        gap = facts.value - row["value"]
        half = 0.0 if np.isnan(row["ci95_half"]) else row["ci95_half"]
        size = format_points(gap) if facts.score == "accuracy" else wording.format_number(abs(gap))
        within = ", within the intervals" if abs(gap) <= facts.ci95 + half else ""
        sentences.append(
            f"{row['method']} ({row['network']}, {row['source']}) reports {row['printed']}; "
            f"this model is {size} {'above' if gap > 0 else 'below'}{within}."
        )
    return " ".join(sentences)


def describe_distribution(facts: Distribution) -> str:
    """Describe the distribution over episodes."""
    show, q = choose_formatter(facts.score), facts.quantiles
    if facts.score == "accuracy":
        return (
            f"Half of the episodes lie between {show(q['q25'])} and {show(q['q75'])}. "
            f"One in twenty is below {show(q['q05'])}, and the worst reaches {show(facts.worst)}."
        )
    diverged = (
        f"{format_count(facts.diverged, 'episode')} of {facts.episodes:,} diverged."
        if facts.diverged
        else "No episode diverged."
    )
    return (
        f"Half of the episodes have an error below {show(q['q50'])}, one in twenty above "
        f"{show(q['q95'])}. {diverged}"
    )


def list_distribution_notes(facts: Distribution) -> list[str]:
    """Explain the chart and state the effect of label permutations."""
    notes = [
        "Dot: mean. Thick line: middle half. Thin line: 5th to 95th percentile. The 95 % interval "
        f"of the mean, {format_estimate(facts.score, *facts.headline)}, reflects the sampling "
        "of test episodes, but not the training seed."
    ]
    if facts.label_sd is not None:
        permutations = f"over {format_count(facts.permutations, 'label permutation')}"
        notes.append(
            f"The accuracy has a standard deviation of {format_points(facts.label_sd)} "
            f"{permutations}."
            if facts.label_sd > 5e-4
            else f"The accuracy does not change {permutations}."
        )
    return notes


def describe_fixed_classes(ways: int) -> str:
    """State that the interval says nothing about other classes."""
    return (
        f"All test episodes have the same {format_count(ways, 'class', 'classes')}, so the "
        "accuracy on other classes may lie outside the interval."
    )


# --- calibration -------------------------------------------------------------------------------


def describe_calibration(facts: CalibrationFacts) -> str:
    """Describe what calibration changes, and whether the model is too confident without it."""
    before = format_estimate("accuracy", *facts.before["ece"])
    if facts.after is None:
        effect = f"Probabilities are not calibrated: their expected calibration error is {before}."
        start = "The model"
    else:
        after = format_estimate("accuracy", *facts.after["ece"])
        effect = (
            f"Calibration lowers the expected calibration error from {before} to {after}."
            if facts.after["ece"][0] < facts.before["ece"][0]
            else "Calibration does not lower the expected calibration error: it is "
            f"{before} without it, and {after} with it."
        )
        start = "Without it, the model"
    gap = facts.confidence - facts.accuracy
    values = (
        f"mean confidence {format_percent(facts.confidence)}, "
        f"accuracy {format_percent(facts.accuracy)}"
    )
    if abs(gap) <= facts.before["ece"][1]:
        return f"{effect} {start} is as confident as it is accurate on average ({values})."
    return f"{effect} {start} is {'over' if gap > 0 else 'under'}confident ({values})."


def list_calibration_notes(facts: CalibrationFacts) -> list[str]:
    """Explain the temperature and the reliability diagram."""
    notes = []
    if facts.temperature is not None:
        effect = (
            ", and depends on the number of support examples of a class (vector scaling)"
            if facts.shots_matter
            else f", which makes the model {'less' if facts.temperature > 1 else 'more'} confident "
            "and does not change its predictions"
        )
        notes.append(
            "The calibration is fitted on the validation episodes. It divides the logits by a "
            f"temperature of {facts.temperature:.2f}{effect}."
        )
    notes.append(
        "Each point is a group of predictions with similar confidence; all groups have about the "
        "same size. Lines are 95 % intervals over episodes. Below the diagonal the model is "
        "overconfident, above it underconfident."
    )
    return notes


# --- training and adaptation -------------------------------------------------------------------


def describe_learning(facts: LearningFacts) -> str:
    """Describe the course of the validation score and whether more training may help."""
    show = choose_formatter(facts.score)
    name = "Validation accuracy" if facts.score == "accuracy" else "The validation error"
    if facts.measurements == 1:
        iteration = f"iteration {facts.best_iteration:,}"
        return f"{name} is {show(facts.best)} at its only measurement, {iteration}."
    end = (
        "The best checkpoint is the last one: longer training may help."
        if facts.best_is_last
        else f"The best checkpoint is that of iteration {facts.best_iteration:,} "
        f"of {facts.iterations:,}."
    )
    if show(facts.best) == show(facts.first):
        return f"{name} does not improve on its first measurement, {show(facts.best)}. {end}"
    verb = _verb(facts.first, facts.best)
    return f"{name} {verb} from {show(facts.first)} to {show(facts.best)}. {end}"


LEARNING_NOTE = (
    "Training values are smoothed; single measurements are faint. Validation uses fixed episodes, "
    "and its band is the 95 % interval over them. The reported checkpoint is the one with the "
    "best validation score."
)


def describe_missing_steps(transductive: bool) -> str:
    """State what an algorithm without inner steps predicts from."""
    sets = "the support set and the query set" if transductive else "the support set"
    return f"The algorithm takes no inner steps: it predicts from {sets} directly."


def describe_adaptation(facts: AdaptationFacts) -> str:
    """Describe the effect of the inner steps.

    Example: 'Accuracy rises by 41 percentage points in one step and is flat after three.'
    """
    if facts.after_first is None:
        return "Some episodes diverge from the first step on."
    diverges = ""
    if facts.diverges_after is not None:
        steps = wording.spell_out(facts.diverges_after)
        diverges = f"; with {steps} or more steps some episodes diverge"
    if facts.flat_after == 0:
        return f"Adaptation has no measurable effect{diverges}."
    verb, show = _verb(facts.start, facts.after_first), choose_formatter(facts.score)
    if facts.after_first == facts.start:
        subject = "Accuracy" if facts.score == "accuracy" else "The error"
        first = f"{subject} does not change in the first step"
    elif facts.score == "accuracy":
        first = f"Accuracy {verb} by {format_points(facts.after_first - facts.start)} in one step"
    else:
        first = (
            f"The error {verb} from {show(facts.start)} to {show(facts.after_first)} in one step"
        )
    if facts.flat_after < facts.last_step:
        flat = "that" if facts.flat_after == 1 else wording.spell_out(facts.flat_after)
        return f"{first} and is flat after {flat}{diverges}."
    if facts.last_step == 1:
        end = f", to {show(facts.last)}" if facts.score == "accuracy" else ""
        return f"{first}{end}{diverges}."
    end = f"{show(facts.last)} after {wording.spell_out(facts.last_step)}"
    return f"{first} and still changes up to the last step: {end}{diverges}."


def list_adaptation_notes(diverged: float | None) -> list[str]:
    """Explain the adaptation curve.

    Args:
        diverged: Number of episodes that diverged within ten steps.
    """
    notes = [
        "Each step is one gradient step on the support set. The curve is the score on the query "
        "set with its 95 % interval over test episodes."
    ]
    if diverged:
        notes.append(
            f"After ten steps {format_count(diverged, 'episode')} diverged. They dominate the "
            "mean, but not the median."
        )
    return notes


def describe_modes(facts: ModeComparison) -> str:
    """Compare the batch-norm modes."""
    (mode, value, _), (other, other_value, _) = facts.headline, facts.other
    side = "above" if value >= other_value else "below"
    gap = format_points(value - other_value)
    return f"{mode.capitalize()} batch norm scores {gap} {side} {other} batch norm."


def list_mode_notes(trained: str) -> list[str]:
    """Explain the batch-norm modes."""
    return [
        "Both scores are of the same weights and episodes. Transductive: batch norm uses the "
        "statistics of the whole query set, so a prediction depends on the other queries. "
        "Inductive: batch norm uses only the support set, as if queries arrived one by one. The "
        f"model was trained in {trained} mode."
    ]


SAME_IN_BOTH_MODES = "Both modes have the same scores: the model has no batch norm."


def describe_untrained_score(value: str) -> str:
    """State that there was nothing to train, and the validation score."""
    return f"{wording.NOTHING_TO_TRAIN} The validation score is {value}."


# --- unknown classes and prediction sets --------------------------------------------------------

HEADLINE_COVERAGE = 0.9
"""The promised coverage that sentences are about."""

SET_NOTES = [
    "The promise is marginal: it holds on average over the validation tasks, over new tasks of the "
    "same size that are drawn like them, and over their queries. A single task or a single class "
    "may be covered less. The promise fails for harder tasks, such as other kinds of images, and "
    "does not include queries of unknown classes.",
    "A set of one class is an answer, and a set of several classes is a choice for a person. An "
    "empty set means that no class is probable enough. Some sets are empty if the accuracy exceeds "
    "the promised coverage.",
]

SIZE_NOTE = (
    "The calibration, the sets and the detection were fitted for each size, on validation episodes "
    "of that size. A task of another size uses the closest one."
)

INDUCTIVE_NOTE = "Measured with inductive batch norm, as in use."


def describe_unknown(facts: UnknownFacts) -> str:
    """Describe what the threshold recognizes and what it rejects."""
    recognized, rejected = (
        format_estimate("accuracy", 1 - accepted, ci95)
        for accepted, ci95 in (
            facts.other_classes.accepted_unknown,
            facts.other_classes.accepted_known,
        )
    )
    return (
        f"The threshold recognizes {recognized} of the queries of other classes as unknown, and "
        f"rejects {rejected} of those of the episode's own classes."
    )


def compare_detection_scores(facts: UnknownFacts) -> str:
    """Compare the chosen score with the largest probability."""
    name = wording.name_detection_score(facts.score)
    auroc = f"AUROC {format_estimate('accuracy', *facts.other_classes.auroc)}"
    gain, ci95 = facts.other_classes.gain
    if facts.score == "max_softmax":
        return f"Unknown classes are detected by the {name} ({auroc}; chance: 50{wording.NBSP}%)."
    if abs(gain) <= ci95:
        return (
            f"The {name} does not detect unknown classes significantly better than the largest "
            f"probability ({auroc})."
        )
    return (
        f"The {name} detects unknown classes {'better' if gain > 0 else 'worse'} than the largest "
        f"probability ({auroc}, {format_points(gain)} {'higher' if gain > 0 else 'lower'})."
    )


def list_unknown_notes(facts: UnknownFacts) -> list[str]:
    """Explain the accuracy-coverage curve, and how the score was chosen."""
    notes = [
        compare_detection_scores(facts),
        "The chart shows the accuracy of the predictions with the highest scores. "
        f"{format_percent(1 - facts.known, 0)} of the queries are of test classes outside their "
        "episode, and no prediction for them is correct. A perfect detector would predict all "
        "others first, up to the dashed line. Bands are 95 % intervals over episodes.",
        "The score and its threshold were chosen on validation episodes, where the threshold has "
        "the largest difference between the shares of known and of unknown queries that it "
        "accepts (Youden's index). The false positive rate (FPR) is the share of unknown queries "
        "above the threshold that accepts 95 % of the known ones (true positive rate, TPR).",
    ]
    if facts.out_of_scope is not None:
        detected = facts.out_of_scope.accepted_unknown
        notes.append(
            f"{format_estimate('accuracy', 1 - detected[0], detected[1])} of the out-of-scope "
            "queries of the dataset are recognized as unknown. The chart does not include them."
        )
    return notes


def describe_sets(facts: list[SetFacts]) -> str:
    """Compare the coverage with the promise, and state the mean size."""
    by_coverage = {entry.promised: entry for entry in facts}
    entry = by_coverage.get(HEADLINE_COVERAGE, facts[0])
    promised = format_percent(entry.promised, 0)
    coverage, ci95 = entry.coverage
    classes = format_decimal(entry.size[0])
    verdict = (
        " This is less than promised: the test tasks are harder than the validation tasks, or the "
        "validation tasks are too few."
        if coverage + ci95 < entry.promised
        else ""
    )
    return (
        f"Sets with a promised coverage of {promised} contain the true class for "
        f"{format_estimate('accuracy', coverage, ci95)} of the queries.{verdict} They have "
        f"{classes} classes on average."
    )


def describe_reliability_by_size(facts: SizeFacts) -> str:
    """Describe the range of the calibration error and of the coverage over all sizes."""
    sizes = "both" if facts.sizes == 2 else f"all {wording.spell_out(facts.sizes)}"
    error = format_percent(facts.error)
    sentence = f"At {sizes} sizes, the expected calibration error is at most {error}."
    if facts.coverages is None:
        return sentence
    low, high = facts.coverages
    promised = format_percent(HEADLINE_COVERAGE, 0)
    ends = dict.fromkeys(format_percent(coverage) for coverage in (low, high))
    return f"{sentence} Sets with a promised coverage of {promised} cover {' to '.join(ends)}."


# --- ratings -----------------------------------------------------------------------------------


def describe_rating_errors(facts: list[RatingError]) -> str:
    """Compare the model with the best baseline for the fewest and for the most ratings."""
    sentences = []
    for error in facts:
        name = wording.name_baseline(error.baseline)
        comparison = "lower" if error.ahead >= 0 else "higher"
        significance = (
            "" if abs(error.ahead) > error.ahead_ci95 else "; the difference is not significant"
        )
        sentences.append(
            f"After {format_count(error.ratings, 'rating')} the mean absolute error is "
            f"{error.mae:.3f}: {abs(error.ahead):.3f} ± {error.ahead_ci95:.3f} {comparison} "
            f"than that of the best baseline ({name}){significance}."
        )
    return " ".join(sentences)


RATING_NOTE = (
    "The model adapts to a user's chronologically first ratings. The predicted ratings come later "
    "and are the same for every number of ratings. Intervals are over users with equal weights. "
    "nDCG@k ranks the user's rated items by the prediction; the gain of an item is its rating "
    "minus the lowest one. The exponential gain is 2 to the power of the rating, minus 1, as in "
    "MeLU. nDCG is 1 for a user whose ratings are all equal. The regularization of the baselines "
    "was tuned on validation users for each number of ratings."
)


# --- classes and groups ------------------------------------------------------------------------


def describe_classes(facts: Classes) -> str:
    """Describe the accuracy by class."""
    number = format_count(facts.number, "test class", "test classes")
    never = ""
    if facts.perfect:
        verb = "was" if facts.perfect == 1 else "were"
        never = f" {format_count(facts.perfect, 'class', 'classes')} {verb} never misclassified."
    return (
        f"The hardest of {number} has an accuracy of {format_percent(facts.lowest)}. "
        f"The median class has {format_percent(facts.median)}.{never}"
    )


CLASS_NOTE = (
    "The interval of a class is over the episodes that contain it; a class in a single episode has "
    "none. With many classes, the hardest are hard partly by chance."
)


def describe_groups(facts: list[Group]) -> str:
    """Describe the range of the accuracy over groups, the hardest first."""
    low, high = facts[0], facts[-1]
    return (
        f"Accuracy ranges from {format_percent(low.accuracy)} ({low.name}) to "
        f"{format_percent(high.accuracy)} ({high.name})."
    )


GROUP_NOTE = (
    "The accuracy of a group pools the queries of its classes. Its 95 % interval is over its "
    "classes."
)


# --- tasks -------------------------------------------------------------------------------------


def format_correlation(facts: Correlation) -> str:
    """Format a correlation with its interval: `−0.42, 95 % CI −0.49 to −0.35`."""
    if facts.value is None or facts.low is None or facts.high is None:
        return "undefined: no variation"
    interval = f"{format_decimal(facts.low)} to {format_decimal(facts.high)}"
    return f"{format_decimal(facts.value)}, 95 % CI {interval}"


def explain_bootstrap(score: str, episodes: int) -> str:
    """Explain the interval of a correlation."""
    method = (
        "Correlations are Spearman's rank correlations with a bootstrap interval over "
        f"{format_count(episodes, 'episode')}."
    )
    if score == "mse":
        return f"{method} Each episode is a separate task."
    return (
        f"{method} Episodes share classes, so the correlation on other test classes may differ by "
        "more than the interval suggests."
    )


def name_parameter(key: str) -> str:
    """Return the name of a parameter of a task."""
    return PARAMETERS.get(key, key)


def describe_difficulty(facts: Difficulty) -> str:
    """Describe how the score of an episode depends on its task."""
    first, last = (format_estimate(facts.score, *ends) for ends in (facts.first, facts.last))
    if facts.score == "mse":
        name = name_parameter(facts.property)
        return (
            f"The quintile of episodes with the smallest {name} has an error of {first}; the "
            f"quintile with the largest has {last}."
        )
    rank = f"(rank correlation {format_correlation(facts.correlation)})"
    if facts.correlation.significant and facts.correlation.value is not None:
        harder = "easier" if facts.correlation.value > 0 else "harder"
        effect = f"Episodes with more similar classes are {harder} {rank}."
    else:
        effect = f"The similarity of the classes does not measurably affect the accuracy {rank}."
    return (
        f"{effect} Accuracy is {first} in the least similar quintile and {last} in the most "
        "similar one."
    )


def describe_only_classes(ways: int) -> str:
    """State that the test episodes do not differ in their classes."""
    return (
        f"All test episodes have the same {format_count(ways, 'class', 'classes')}, so episodes "
        "cannot be compared by the similarity of their classes."
    )


def list_difficulty_notes(facts: Difficulty) -> list[str]:
    """Explain the chart and state the correlations with other measures of similarity."""
    notes = [
        "Grey: episodes. Blue: mean of each quintile with its 95 % interval. "
        + explain_bootstrap(facts.score, facts.episodes)
    ]
    if facts.score == "accuracy":
        notes.append(
            "Correlation with the similarity of the two most similar classes: "
            f"{format_correlation(facts.closest)}. Correlation with the similarity of the inputs, "
            f"which train.hard_episode_fraction uses: {format_correlation(facts.inputs)}."
        )
    return notes


def describe_confused_pair(facts: ConfusedPair, first: str, second: str) -> str:
    """Describe the most confused pair of classes."""
    queries = format_count(facts.queries, "query", "queries")
    episodes = format_count(facts.episodes, "episode")
    contain = "contains" if facts.episodes == 1 else "contain"
    return (
        f"{first} and {second} are confused most often, in {facts.confused:,} of {queries}. "
        f"These are from the {episodes} that {contain} both. "
        f"Their cosine similarity is {format_decimal(facts.similarity)}."
    )


NO_CONFUSION = "No class was ever confused with another."

PAIR_NOTE = (
    "Confusions count in both directions. The fewer queries a pair has, the more its place in the "
    "list is due to chance."
)


def describe_class_map(facts: ClassMap, first: str, second: str) -> str:
    """Describe the map of the test classes."""
    share = format_percent(sum(facts.variance), 0)
    number = format_count(facts.classes, "test class", "test classes")
    return (
        f"Two principal axes explain {share} of the variance between {number}. The most similar "
        f"are {first} and {second} (cosine {format_decimal(facts.similarity)})."
    )


CLASS_MAP_NOTE = (
    "A class is drawn at the mean of its examples' features before adaptation, on the two "
    "principal axes of all test classes. Neighbours on the map can be far apart on the axes that "
    "are not drawn. Similarity is the cosine of two class means after subtracting the mean of all."
)


def describe_episode_map(facts: EpisodeMap) -> str:
    """Describe the map of the test episodes."""
    return (
        f"Accuracy ranges from {format_percent(facts.low)} to {format_percent(facts.high)} over "
        f"{format_count(facts.episodes, 'test episode')}. The worst is episode {facts.worst}, "
        f"whose classes have a mean similarity of {format_decimal(facts.similarity)}."
    )


EPISODE_MAP_NOTE = (
    "An episode is drawn at the mean of its classes, on the axes of the map of the test classes. "
    "The position shows what its classes have in common, not how far apart they are."
)


def describe_parameter_map(facts: list[tuple[str, Correlation]]) -> str:
    """Describe which parameters of a task the error correlates with.

    Args:
        facts: Key and correlation of both parameters.
    """

    def describe(key: str, value: Correlation) -> str:
        return f"the {name_parameter(key)} (rank correlation {format_correlation(value)})"

    correlated = [describe(key, value) for key, value in facts if value.significant]
    others = [describe(key, value) for key, value in facts if not value.significant]
    if not correlated:
        return f"No correlation of the error was found with {' or '.join(others)}."
    without = "".join(f", but not measurably with {other}" for other in others)
    return f"The error correlates with {' and with '.join(correlated)}{without}."


def _verb(before: float, after: float) -> str:
    return "rises" if after > before else "falls"
