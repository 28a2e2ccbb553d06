"""The points of a sweep file, their names and errors."""

from __future__ import annotations

import pytest

from flows.experiments.points import apply_changes, read_points
from flows.experiments.worktree import write_params
from tasks import params
from tasks.runtime.stage import StageError


@pytest.fixture
def points(tmp_path):
    """Read the text of a sweep file."""

    def read(text: str, name: str = "sweep", **options):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        return read_points(file, params.default_params(), **options)

    return read


def names(points) -> list[str]:
    return [point.name for point in points]


def test_a_grid_is_every_combination_for_every_seed(points):
    expanded = points(
        "base: {train.iterations: 7}\n"
        "grid: {algorithm.name: [maml, protonet], episodes.shots: [1, 5]}\n"
        "seeds: [0, 3]"
    )
    assert names(expanded) == [
        f"sweep-{method}-shots{shots}-s{seed}"
        for method in ("maml", "protonet")
        for shots in (1, 5)
        for seed in (0, 3)
    ]
    assert expanded[3].changes == {
        "train.iterations": 7,
        "algorithm.name": "maml",
        "episodes.shots": 5,
        "train.seed": 3,
    }


def test_a_list_of_grids_is_concatenated(points):
    expanded = points(
        "grid: [{}, {train.classes: [10, 100]},"
        " {episodes.shots: [2], train.meta_lr: [0.1, 0.2]}]\n"
        "seeds: [0]"
    )
    assert names(expanded) == [
        "sweep-s0",
        "sweep-classes10-s0",
        "sweep-classes100-s0",
        "sweep-shots2-meta_lr0.1-s0",
        "sweep-shots2-meta_lr0.2-s0",
    ]
    assert expanded[0].changes == {"train.seed": 0}
    assert expanded[1].changes == {"train.classes": 10, "train.seed": 0}
    assert names(points("grid: [{train.iterations: [5]}]")) == ["sweep-iterations5"]


def test_single_points_are_combined_with_a_grid(points):
    text = "points: [{algorithm.name: protonet, train.ways: 20}, {algorithm.name: maml}]\n"
    assert names(points(text)) == ["sweep-protonet-ways20", "sweep-maml"]
    assert names(points(text + "grid: {train.meta_lr: [0.001, 0.01]}")) == [
        "sweep-meta_lr0.001-protonet-ways20",
        "sweep-meta_lr0.01-protonet-ways20",
        "sweep-meta_lr0.001-maml",
        "sweep-meta_lr0.01-maml",
    ]
    assert [point.changes for point in points("seeds: [4]")] == [{"train.seed": 4}]


def test_names_are_refs_and_differ(points):
    expanded = points(
        "grid: {model.mlp.hidden: [[4], [4, 5]], report.title: [a/b..c~ d, a/b..c~  d]}",
        name="my sweep!",
    )
    assert names(expanded) == [
        "my-sweep-hidden4-titlea-b.c-d-1",
        "my-sweep-hidden4-titlea-b.c-d-2",
        "my-sweep-hidden4-5-titlea-b.c-d-3",
        "my-sweep-hidden4-5-titlea-b.c-d-4",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it must contain some of base, grid, points, seeds"),
        ("gird: {}", "unknown key gird - did you mean grid?"),
        ("grid: {algorithm.name: maml}", "grid.algorithm.name is 'maml'; it must be a list"),
        (
            "grid: [{train.iterations: 5}]",
            "grid.train.iterations is 5; it must be a list of values",
        ),
        ("grid: [3]", "grid is 3; it must be a section of settings by dotted key"),
        (
            "grid: [{train.iterations: [5]}, {train.iterations: [5]}]",
            "two points are equal, sweep-iterations5",
        ),
        ("grid: []", "there is nothing to vary"),
        ("grid: [{}]", "there is nothing to vary"),
        ("base: [1]", "base is [1]; it must be a section of settings by dotted key"),
        ("points: 3", "points is 3; it must be a list of sections"),
        ("points: [{train.seed: 1}, 2]", "points is [{'train.seed': 1}, 2]; it must be a list"),
        ("seeds: 3", "seeds is 3; it must be a list of integers"),
        ("seeds: [true]", "seeds is [True]; it must be a list of integers"),
        ("grid: {algorithm.nam: [maml]}", "unknown key algorithm.nam - did you mean name?"),
        (
            "grid: {train.iterations: [10, 0]}",
            "sweep-iterations0: train.iterations is 0; it must be at least 1",
        ),
        ("seeds: [0", "is not valid YAML"),
        ("grid: {}", "there is nothing to vary; add a grid, points or seeds"),
        ("points: [{}]", "there is nothing to vary"),
        ("grid: {train.iterations: [5, 5]}", "two points are equal, sweep-iterations5"),
        ("seeds: [0, 0]", "two points are equal, sweep-s0"),
        ("grid: {train.seed: [0, 1]}\nseeds: [5]", "both train.seed and seeds are given"),
        (
            "base: {train: {iterations: 5}}\nseeds: [1]",
            "train is a section; set one of its keys, such as train.iterations",
        ),
    ],
)
def test_an_error_is_one_line(points, text, message):
    with pytest.raises(StageError) as caught:
        points(text)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_no_experiment_has_the_name_of_the_workspace(points):
    with pytest.raises(
        StageError, match="an experiment would be called workspace, a name that is reserved"
    ):
        points("points: [{}, {train.iterations: 6}]", "workspace")


def test_names_keep_the_sign_of_exponents(points):
    expanded = points("grid: {train.meta_lr: [1e+30, 1e-30]}", check=False)
    assert names(expanded) == ["sweep-meta_lr1e+30", "sweep-meta_lr1e-30"]


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(
        StageError,
        match=r"nosuch\.yaml does not exist; specify a sweep file, such as "
        r"conf/sweeps/methods\.yaml$",
    ):
        read_points(tmp_path / "nosuch.yaml", params.default_params())


def test_a_folder_is_not_a_sweep_file(tmp_path):
    with pytest.raises(StageError, match="is a folder; specify a sweep file"):
        read_points(tmp_path, params.default_params())


def test_all_errors_are_listed_at_once(points):
    with pytest.raises(StageError) as caught:
        points("grid: {train.iterations: [0, -1]}\nseeds: [0]")
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(StageError) as caught:
        points(
            "gird: {}\nbase: {train: {seed: 5}}\nseeds: [0, x]\n"
            "grid: {algorithm.name: [maml, mmal], train.iterations: 0, train.meta_lr: [0, -1]}"
        )
    message = str(caught.value)
    for error in (
        "unknown key gird",
        "train is a section",
        "grid.train.iterations is 0",
        "seeds is [0, 'x']",
        "is 'mmal'",
        "meta_lr is -1",
    ):
        assert message.count(error) == 1, message


def test_changes_are_applied_to_a_copy():
    raw = {"a": {"b": 1, "c": {"d": 2}}}
    assert apply_changes(raw, {"a.c.d": 3, "a.e.f": 4, "g": 5}) == {
        "a": {"b": 1, "c": {"d": 3}, "e": {"f": 4}},
        "g": 5,
    }
    assert raw == {"a": {"b": 1, "c": {"d": 2}}}


def test_old_keys_are_renamed(points, tmp_path, capsys):
    expanded = points("base: {dataset.ratings.least: 7}\ngrid: {train.hard: [0, 0.5]}")
    assert [point.changes for point in expanded] == [
        {"dataset.ratings.min_ratings": 7, "train.hard_episode_fraction": 0},
        {"dataset.ratings.min_ratings": 7, "train.hard_episode_fraction": 0.5},
    ]
    assert "sweep.yaml: train.hard has been renamed to train.hard_episode_fraction" in (
        capsys.readouterr().err
    )
    both = "grid: [{train.hard: [0], train.hard_episode_fraction: [0, 1]}, {}]"
    with pytest.raises(StageError, match=r"grid: train\.hard has .* both are present"):
        points(both)

    earlier = {"train": {"hard": 0.5, "seed": 0}}
    changes = {"train.hard_episode_fraction": 0.25}
    assert apply_changes(earlier, changes) == {"train": {"hard_episode_fraction": 0.25, "seed": 0}}
    (tmp_path / "params.yaml").write_text("train:\n  hard: 0.5  # a fraction\n  seed: 0\n")
    write_params(tmp_path / "params.yaml", tmp_path / "written.yaml", changes)
    assert (tmp_path / "written.yaml").read_text() == (
        "train:\n  hard_episode_fraction: 0.25 # a fraction\n  seed: 0\n"
    )
