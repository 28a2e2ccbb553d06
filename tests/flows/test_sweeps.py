"""A sweep file's points, their names, and mistakes in them."""

from __future__ import annotations

import pytest

from flows.experiments.points import changed, read
from tasks import preset
from tasks.runtime.stage import StageError


@pytest.fixture
def points(tmp_path):
    def made(text: str, name: str = "sweep", **options):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        return read(file, preset.defaults(), **options)

    return made


def test_a_grid_is_every_combination_for_every_seed(points):
    found = points(
        "base: {train.iterations: 7}\ngrid: {algorithm.name: [maml, protonet], episodes.shots: [1, 5]}\nseeds: [0, 3]"
    )
    assert [p.name for p in found] == [
        f"sweep-{method}-shots{shots}-s{seed}"
        for method in ("maml", "protonet")
        for shots in (1, 5)
        for seed in (0, 3)
    ]
    assert found[3].changes == {
        "train.iterations": 7,
        "algorithm.name": "maml",
        "episodes.shots": 5,
        "train.seed": 3,
    }


def test_several_grids_are_one_after_the_other(points):
    found = points(
        "grid: [{}, {train.classes: [10, 100]}, {episodes.shots: [2], train.meta_lr: [0.1, 0.2]}]\nseeds: [0]"
    )
    assert [p.name for p in found] == [
        "sweep-s0",
        "sweep-classes10-s0",
        "sweep-classes100-s0",
        "sweep-shots2-meta_lr0.1-s0",
        "sweep-shots2-meta_lr0.2-s0",
    ]
    assert found[0].changes == {"train.seed": 0} and found[1].changes == {
        "train.classes": 10,
        "train.seed": 0,
    }
    assert [p.name for p in points("grid: [{train.iterations: [5]}]")] == ["sweep-iterations5"]


def test_points_one_by_one_and_with_a_grid(points):
    text = "points: [{algorithm.name: protonet, train.ways: 20}, {algorithm.name: maml}]\n"
    assert [p.name for p in points(text)] == ["sweep-protonet-ways20", "sweep-maml"]
    both = points(text + "grid: {train.meta_lr: [0.001, 0.01]}")
    assert [p.name for p in both] == [
        "sweep-meta_lr0.001-protonet-ways20",
        "sweep-meta_lr0.01-protonet-ways20",
        "sweep-meta_lr0.001-maml",
        "sweep-meta_lr0.01-maml",
    ]
    assert [p.changes for p in points("seeds: [4]")] == [{"train.seed": 4}]


def test_names_are_refs_and_differ(points):
    found = points(
        "grid: {model.mlp.hidden: [[4], [4, 5]], report.title: [a/b..c~ d, a/b..c~  d]}",
        name="my sweep!",
    )
    assert [p.name for p in found] == [
        "my-sweep-hidden4-titlea-b.c-d-1",
        "my-sweep-hidden4-titlea-b.c-d-2",
        "my-sweep-hidden4-5-titlea-b.c-d-3",
        "my-sweep-hidden4-5-titlea-b.c-d-4",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold some of base, grid, points, seeds"),
        ("gird: {}", "unknown key gird - did you mean grid?"),
        ("grid: {algorithm.name: maml}", "grid.algorithm.name is 'maml'; it must be a list of values"),
        ("grid: [{train.iterations: 5}]", "grid.train.iterations is 5; it must be a list of values"),
        ("grid: [3]", "grid is 3; it must be a section of params by dotted key"),
        (
            "grid: [{train.iterations: [5]}, {train.iterations: [5]}]",
            "two points are the same, sweep-iterations5",
        ),
        ("grid: []", "has nothing to vary"),
        ("grid: [{}]", "has nothing to vary"),
        ("base: [1]", "base is [1]; it must be a section of params by dotted key"),
        ("points: 3", "points is 3; it must be a list of sections"),
        ("seeds: 3", "seeds is 3; it must be a list of whole numbers"),
        ("seeds: [true]", "seeds is [True]; it must be a list of whole numbers"),
        ("grid: {algorithm.nam: [maml]}", "unknown key algorithm.nam - did you mean name?"),
        (
            "grid: {train.iterations: [10, 0]}",
            "sweep-iterations0: train.iterations is 0; it must be at least 1",
        ),
        ("seeds: [0", "is not YAML"),
        ("grid: {}", "has nothing to vary: give it a grid, points or seeds"),
        ("points: [{}]", "has nothing to vary"),
        ("grid: {train.iterations: [5, 5]}", "two points are the same, sweep-iterations5"),
        ("seeds: [0, 0]", "two points are the same, sweep-s0"),
        ("grid: {train.seed: [0, 1]}\nseeds: [5]", "train.seed is given beside seeds"),
        (
            "base: {train: {iterations: 5}}\nseeds: [1]",
            "train is a section: say which of its keys, as train.iterations",
        ),
    ],
)
def test_a_mistake_is_one_sentence(points, text, said):
    with pytest.raises(StageError) as caught:
        points(text)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_no_experiment_is_called_as_the_workspace(points):
    with pytest.raises(
        StageError,
        match="its experiment would be called workspace, which means the files that lie here",
    ):
        points("points: [{}, {train.iterations: 6}]", "workspace")


def test_large_and_small_numbers_have_names_of_their_own(points):
    found = points("grid: {train.meta_lr: [1e+30, 1e-30]}", check=False)
    assert [p.name for p in found] == ["sweep-meta_lr1e+30", "sweep-meta_lr1e-30"]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        StageError, match=r"there is no .*nosuch\.yaml: name a sweep file, as conf/sweeps/methods\.yaml$"
    ):
        read(tmp_path / "nosuch.yaml", preset.defaults())


def test_a_folder_is_no_sweep(tmp_path):
    with pytest.raises(StageError, match="is a folder: name a file"):
        read(tmp_path, preset.defaults())


def test_all_mistakes_are_listed_before_anything_runs(points):
    with pytest.raises(StageError) as caught:
        points("grid: {train.iterations: [0, -1]}\nseeds: [0]")
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(StageError) as caught:
        points(
            "gird: {}\nbase: {train: {seed: 5}}\nseeds: [0, x]\n"
            "grid: {algorithm.name: [maml, mmal], train.iterations: 0, train.meta_lr: [0, -1]}"
        )
    said = str(caught.value)
    for words in (
        "unknown key gird",
        "train is a section",
        "grid.train.iterations is 0",
        "seeds is [0, 'x']",
        "is 'mmal'",
        "meta_lr is -1",
    ):
        assert said.count(words) == 1, said


def test_params_are_changed_and_not_touched():
    raw = {"a": {"b": 1, "c": {"d": 2}}}
    assert changed(raw, {"a.c.d": 3, "a.e.f": 4, "g": 5}) == {
        "a": {"b": 1, "c": {"d": 3}, "e": {"f": 4}},
        "g": 5,
    }
    assert raw == {"a": {"b": 1, "c": {"d": 2}}}
