"""Successive halving against Algorithm 2 of its paper run slowly, against the synchronous rule, and by hand."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest

from summarizer.training.scheduler import SuccessiveHalving


def halving(
    trials: str | list[str], factor: int = 3, first: int = 1, *, lower: bool = True
) -> SuccessiveHalving:
    return SuccessiveHalving(list(trials), factor, first, lower_is_better=lower)


def test_rungs_are_at_powers_of_the_factor() -> None:
    rungs = halving("a", 3, 2)
    found = {evaluation: rungs.rung_at(evaluation) for evaluation in range(1, 60)}
    assert {evaluation: rung for evaluation, rung in found.items() if rung is not None} == {
        **{2: 0, 6: 1, 18: 2, 54: 3}
    }


def test_one_of_three_goes_on_by_hand() -> None:
    rungs = halving("abcdefg")
    rungs.report("a", 0, 3.0)
    rungs.report("b", 0, 2.0)
    assert rungs.promotable() == []
    rungs.report("c", 0, 4.0)
    assert rungs.promotable() == ["b"]
    rungs.promote("b")
    assert rungs.promotable() == []
    rungs.report("d", 0, 1.0)
    assert rungs.promotable() == ["d"], (
        "b, promoted when it was best, counts no longer among the best of four"
    )
    rungs.promote("d")
    rungs.report("e", 0, 2.5)
    rungs.report("f", 0, 5.0)
    assert rungs.promotable() == [], "the best two of six, d and b, are both promoted"
    rungs.report("b", 1, 1.9)
    rungs.report("d", 1, 1.5)
    assert rungs.promotable() == []
    rungs.report("g", 0, 0.5)
    assert rungs.promotable() == ["g"]
    rungs.promote("g")
    rungs.report("g", 1, 1.7)
    assert rungs.promotable() == ["d"], "the best one of three at the second rung"
    assert rungs.paused() == list("abcdefg")


def test_the_highest_rung_comes_first_and_there_the_best() -> None:
    rungs = halving("abcdefgh", 2)
    for trial, value in zip("abcdefgh", map(float, range(8)), strict=True):
        rungs.report(trial, 0, value)
    assert rungs.promotable() == list("abcd")
    for trial in "dc":
        rungs.promote(trial)
    rungs.report("d", 1, 0.0)
    rungs.report("c", 1, 0.1)
    assert rungs.promotable() == ["d", "a", "b"]


def test_where_higher_is_better_the_highest_goes_on() -> None:
    rungs = halving("abc", lower=False)
    for trial, value in zip("abc", (10.0, 30.0, 20.0), strict=True):
        rungs.report(trial, 0, value)
    assert (rungs.promotable(), rungs.best_paused()) == (["b"], None), "no last resort is called for"


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_worst_and_never_goes_on(broken: float, lower: bool) -> None:
    rungs = halving("abcd", 2, lower=lower)
    rungs.report("a", 0, broken)
    rungs.report("b", 0, broken)
    assert (rungs.promotable(), rungs.best_paused()) == ([], None)
    rungs.report("c", 0, 7.0)
    assert rungs.promotable() == ["c"], "one of three: both others count"
    rungs.report("d", 0, broken)
    assert rungs.promotable() == ["c"], "of the best two of four, one cannot go on"


def test_of_equal_values_the_earlier_trial_goes_on() -> None:
    for order in permutations("abcd"):
        rungs = halving("abcd", 2)
        for trial in order:
            rungs.report(trial, 0, 1.0)
        assert rungs.promotable() == ["a", "b"]


def test_a_failed_trial_counts_as_the_worst_of_its_next_rung() -> None:
    rungs = halving("abc")
    rungs.report("a", 0, 2.0)
    rungs.report("b", 0, 1.0)
    rungs.fail("c")
    assert rungs.promotable() == ["b"]
    rungs.promote("b")
    rungs.fail("b")
    assert (rungs.promotable(), rungs.best_paused(), rungs.paused()) == ([], "a", ["a"])


def test_a_finished_trial_is_not_promoted_but_others_are_measured_by_it() -> None:
    rungs = halving("abc")
    for trial, value in zip("abc", (1.0, 2.0, 3.0), strict=True):
        rungs.report(trial, 0, value)
    rungs.finish("a")
    assert (rungs.promotable(), rungs.best_paused(), rungs.paused()) == ([], None, ["b", "c"])


def test_the_best_paused_comes_only_when_nothing_else_can_finish() -> None:
    rungs = halving("ab")
    assert rungs.best_paused() is None, "both wait to start"
    rungs.report("a", 0, 2.0)
    assert rungs.best_paused() is None, "b has not come to the rung"
    rungs.report("b", 0, 1.0)
    assert (rungs.promotable(), rungs.best_paused()) == ([], "b")
    rungs.promote("b")
    assert rungs.best_paused() is None, "b trains on"
    rungs.report("b", 1, 5.0)
    assert rungs.best_paused() == "b", "of the highest rung, whatever the lower ones hold"
    rungs.promote("b")
    rungs.finish("b")
    assert (rungs.best_paused(), rungs.paused()) == (None, ["a"])


def test_who_was_told_to_stop_keeps_no_one_from_the_end() -> None:
    rungs = SuccessiveHalving(list("abcd"), 3, 1, lower_is_better=True)
    rungs.leave("d")  # which waited
    rungs.report("a", 0, 1.0)
    rungs.report("b", 0, 2.0)
    rungs.leave("a")
    assert rungs.best_paused() is None, "c waits to start"
    rungs.report("c", 0, 3.0)
    assert (rungs.promotable(), rungs.best_paused(), rungs.paused()) == ([], "b", ["b", "c"])
    rungs.promote("b")
    rungs.finish("b")
    assert rungs.best_paused() is None


def test_a_sweep_of_one_comes_to_its_end() -> None:
    rungs = halving("a")
    for rung in range(3):
        rungs.report("a", rung, 1.0)
        assert rungs.best_paused() == "a"
        rungs.promote("a")


def test_mistakes_of_the_caller_are_refused() -> None:
    for trials, factor, first in (("a", 1, 1), ("a", 3, 0), ("aa", 3, 1)):
        with pytest.raises(ValueError, match="no halving"):
            halving(trials, factor, first)
    rungs = halving("ab")
    with pytest.raises(ValueError, match="rung 1"):
        rungs.report("a", 1, 0.0)
    with pytest.raises(ValueError, match="not one of"):
        rungs.report("z", 0, 0.0)
    with pytest.raises(ValueError, match="not paused"):
        rungs.promote("a")
    rungs.finish("a")
    with pytest.raises(ValueError, match="rung 0"):
        rungs.report("a", 0, 0.0)


def test_a_repeated_evaluation_changes_nothing() -> None:
    """A run that is resumed from before its last evaluation makes it again."""
    rungs = halving("abc")
    for trial, value in zip("abc", (1.0, 2.0, 3.0), strict=True):
        rungs.report(trial, 0, value)
    rungs.promote("a")
    rungs.report("a", 0, 1.0)
    assert not rungs.is_paused("a")
    rungs.report("b", 0, 2.0)
    assert rungs.is_paused("b")
    assert rungs.promotable() == []


def value_of(trial: str, evaluation: int, seed: int) -> float:
    """A learning curve: any trial's value at any evaluation, coarse so that ties come up, sometimes broken."""
    draw = random.Random(f"{trial} {evaluation} {seed}")
    return math.nan if draw.random() < 0.05 else round(draw.random() * 8) / 4


def algorithm_2(trials: list[str], factor: int, places: int, seed: int, top: int) -> list[tuple[str, int]]:
    """Algorithm 2 of the paper with `places` workers of equal speed: the jobs (trial, rung) in order of start.

    All that a job is, a rung's result, is in plain lists, sorted anew each time. In a round each worker asks for a
    job; all jobs end with the round. Jobs from `top` on are not given out.
    """
    done: list[tuple[str, int, float]] = []
    started: list[tuple[str, int]] = []
    while True:
        jobs: list[tuple[str, int]] = []
        for _ in range(places):
            job = None
            for rung in range(top - 1, -1, -1):
                entries = [entry for entry in done if entry[1] == rung]
                entries.sort(
                    key=lambda e: (math.isnan(e[2]), 0 if math.isnan(e[2]) else e[2], trials.index(e[0]))
                )
                candidates = [name for name, _, value in entries[: len(entries) // factor] if value == value]
                promotable = [name for name in candidates if (name, rung + 1) not in started]
                if promotable:
                    job = (promotable[0], rung + 1)
                    break
            if job is None:
                fresh = [name for name in trials if (name, 0) not in started]
                job = (fresh[0], 0) if fresh else None
            if job is not None:
                jobs.append(job)
                started.append(job)
        if not jobs:
            return started
        done += [(name, rung, value_of(name, factor**rung, seed)) for name, rung in jobs]


def by_halving(trials: list[str], factor: int, places: int, seed: int, top: int) -> list[tuple[str, int]]:
    rungs = halving(trials, factor)
    waiting, started = list(trials), []
    while True:
        jobs: list[tuple[str, int]] = []
        for _ in range(places):
            promotable = [name for name in rungs.promotable() if heights(started)[name] < top]
            if promotable:
                rungs.promote(promotable[0])
                jobs.append((promotable[0], heights(started)[promotable[0]] + 1))
            elif waiting:
                jobs.append((waiting.pop(0), 0))
            else:
                break
            started.append(jobs[-1])
        if not jobs:
            return started
        for name, rung in jobs:
            rungs.report(name, rung, value_of(name, factor**rung, seed))


def heights(started: list[tuple[str, int]]) -> dict[str, int]:
    return dict(sorted(started, key=lambda job: job[1]))


def test_it_gives_out_the_jobs_that_algorithm_2_gives_out() -> None:
    compared = 0
    for seed in range(60):
        draw = random.Random(seed)
        trials = [f"t{k}" for k in range(draw.randint(1, 40))]
        factor, places, top = draw.choice([2, 3, 4]), draw.randint(1, 8), draw.randint(1, 4)
        expected = algorithm_2(trials, factor, places, seed, top)
        assert by_halving(trials, factor, places, seed, top) == expected
        compared += sum(rung > 0 for _, rung in expected)
    assert compared > 200, "promotions were compared at all"


@pytest.mark.parametrize("factor", [2, 3])
def test_where_all_report_at_once_it_is_synchronous_halving(factor: int) -> None:
    """Jamieson and Talwalkar 2016 (arXiv:1502.07943): of n the best n / factor go on, of those the best again."""
    trials = [f"t{k}" for k in range(factor**3)]
    rungs = halving(trials, factor)
    going = trials
    for rung in range(4):
        values = {trial: float((trials.index(trial) * 7 + rung * 3) % 101) for trial in going}
        for trial in reversed(going):
            rungs.report(trial, rung, values[trial])
        going = sorted(values, key=lambda trial: values[trial])[: len(going) // factor]
        assert rungs.promotable() == going
        for trial in going:
            rungs.promote(trial)
    assert len(rungs.paused()) == len(trials)


def test_killed_anywhere_it_goes_on_with_the_same_decisions() -> None:
    """Rebuilt from what the runs' records tell, in any order of the runs, it says what the living one says."""
    compared = 0
    for seed in range(30):
        draw = random.Random(seed)
        trials = [f"t{k}" for k in range(12)]
        living = halving(trials, 2)
        records: dict[str, list[float]] = {trial: [] for trial in trials}
        active = set(draw.sample(trials, 6))
        for _ in range(draw.randint(1, 40)):
            if not active:
                break
            trial = draw.choice(sorted(active))
            records[trial].append(value_of(trial, len(records[trial]) + 1, seed))
            rung = living.rung_at(len(records[trial]))
            if rung is not None:
                living.report(trial, rung, records[trial][-1])
                active.discard(trial)
            if draw.random() < 0.7:
                for name in living.promotable()[:1]:
                    living.promote(name)
                    active.add(name)
        rebuilt = halving(trials, 2)
        for trial in draw.sample(trials, len(trials)):
            rebuilt.replay(trial, records[trial], went_on=trial in active)
        assert rebuilt.promotable() == living.promotable()
        assert rebuilt.paused() == living.paused()
        assert rebuilt.best_paused() == living.best_paused()
        compared += len(living.paused())
    assert compared > 30
