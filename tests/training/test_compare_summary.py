"""The figures of a comparison: choices, Shapley values, differences, verdicts."""

import numpy as np
import pytest
from scipy.special import softmax

from mmfusion import auroc
from mmfusion.training.compare_folds import Part, joined
from mmfusion.training.compare_report import markdown, table_cells, verdict
from mmfusion.training.compare_rows import ComparisonRow, rows_of
from mmfusion.training.compare_summary import Answers, choose, shapley, summarise

ROWS = rows_of(["majority", "image", "text", "concat"], ["image", "text"])
STRENGTH = {"majority class": 0.0, "image only": 1.0, "text only": 2.0, "concat": 4.0}
N = 120


def answers_of(strength=STRENGTH, seeds: int = 2, temperature: float = 1.0) -> Answers:
    """Returns made-up answers whose scores point to the label with a given strength."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, N)

    def scores(amount: float, rows) -> list[list[float]]:
        score = labels[rows] * amount + (generator.normal(size=len(rows)) if amount else 0)
        return np.stack([-score, score], axis=1).tolist()

    parts, outcomes = [], {name: [] for name in strength}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(N)
        tests = np.split(order, 3)
        parts.append(
            [Part(*np.split(np.setdiff1d(order, test), [60]), test) for test in map(np.sort, tests)]
        )
        for name, amount in strength.items():
            folds = []
            for part in parts[-1]:
                fused = name == "concat"
                folds.append(
                    {
                        "logits": scores(amount, part.test),
                        "held_out_rows": part.known.tolist(),
                        "held_out": scores(amount, part.known),
                        "withheld": {
                            one: scores(amount / 2, part.test)
                            for one in (("image", "text") if fused else ())
                        },
                        "temperature": temperature,
                        "seconds": 2.0,
                        "parameters": 7,
                        "curve": [],
                    }
                )
            outcomes[name].append(folds)
    return Answers(outcomes, parts, labels, [str(i) for i in range(N)], resamples=300)


def test_each_sample_has_the_answer_of_the_fold_in_which_it_was_tested():
    answers = answers_of()
    logits = answers.logits("image only")
    assert len(logits) == 2
    for seed, parts in enumerate(answers.parts):
        for number, part in enumerate(parts):
            outcome = answers.outcomes["image only"][seed][number]
            np.testing.assert_array_equal(logits[seed][part.test], outcome["logits"])


def test_the_choice_looks_at_held_out_answers_alone():
    answers = answers_of()
    # The test answers of the text are perfect, but the image is better on held-out rows.
    for seed in range(2):
        for number, part in enumerate(answers.parts[seed]):
            text = answers.outcomes["text only"][seed][number]
            image = answers.outcomes["image only"][seed][number]
            sure = np.eye(2)[answers.labels] * 9
            text["logits"] = sure[part.test].tolist()
            image["held_out"] = sure[part.known].tolist()
    choice = choose(answers, [ROWS[1], ROWS[2]])
    assert choice.names == [["image only"] * 3] * 2
    np.testing.assert_array_equal(choice.logits[1], answers.logits("image only")[1])


def test_rows_are_compared_on_the_rows_that_both_answered():
    answers = answers_of()
    for seed in range(2):
        for number, part in enumerate(answers.parts[seed]):
            text = answers.outcomes["text only"][seed][number]
            image = answers.outcomes["image only"][seed][number]
            sure = np.eye(2)[answers.labels] * 9
            # On the common rows, those of the validation part, the image errs less. Over all its
            # rows, the text errs less.
            often, seldom = sure.copy(), sure.copy()
            often[part.validation[::2]] = 9 - often[part.validation[::2]]
            seldom[part.validation[::4]] = 9 - seldom[part.validation[::4]]
            image["held_out_rows"] = part.validation.tolist()
            image["held_out"] = seldom[part.validation].tolist()
            text["held_out"] = often[part.known].tolist()
    assert choose(answers, [ROWS[1], ROWS[2]]).names == [["image only"] * 3] * 2


def test_a_tie_in_auroc_is_decided_by_cross_entropy():
    answers = answers_of()
    for seed in range(2):
        for number, part in enumerate(answers.parts[seed]):
            for name, factor in (("image only", 1), ("text only", 5)):
                sure = np.eye(2)[answers.labels] * factor
                answers.outcomes[name][seed][number]["held_out"] = sure[part.known].tolist()
    assert choose(answers, [ROWS[1], ROWS[2]]).names == [["text only"] * 3] * 2


def test_shapley_values_add_up_and_follow_the_definition():
    values = shapley(image=0.7, text=0.85, both=0.9)
    assert values["image"] + values["text"] == pytest.approx(0.9 - 0.5)
    # The mean over both orders in which the modalities can join.
    orders = {"image": [(0.7 - 0.5), (0.9 - 0.85)], "text": [(0.85 - 0.5), (0.9 - 0.7)]}
    for name, gains in orders.items():
        assert values[name] == pytest.approx(np.mean(gains))


def test_the_summary_has_paired_differences_and_shares():
    answers = answers_of(temperature=2.0)
    results = summarise(answers, ROWS)
    table = {row["name"]: row for row in results["rows"]}
    areas = {
        name: np.mean([auroc(one, answers.labels) for one in answers.logits(name)])
        for name in STRENGTH
    }
    for name, row in table.items():
        assert row["auroc"]["estimate"] == pytest.approx(areas[name])
        assert row["seconds"] == 2 and row["parameters"] == 7
    gap = table["concat"]["minus_single"]
    assert gap["estimate"] == pytest.approx(areas["concat"] - areas["text only"])
    assert gap["low"] > 0 and gap["p_holm"] == gap["p"]
    assert "p_holm" not in table["image only"]["minus_single"]
    assert results["choice"]["difference"]["estimate"] == pytest.approx(gap["estimate"])
    assert set(results["choice"]["fused_minus"]) == {"image only", "text only"}
    alone = np.mean([auroc(one, answers.labels) for one in answers.logits("concat", "text")])
    assert table["concat"]["shares"]["image_alone"] == pytest.approx(alone)
    # Before the temperature of 2, the probabilities were those of twice the logits.
    logits = answers.logits("text only")
    before = [softmax(2 * one, axis=1).max(1).mean() for one in logits]
    after = [softmax(one, axis=1).max(1).mean() for one in logits]
    assert np.mean(before) > np.mean(after)
    assert table["text only"]["ece_uncalibrated"] != table["text only"]["ece"]["estimate"]


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        (STRENGTH, "Fusing helped"),
        (STRENGTH | {"concat": 0.3}, "Fusing did harm"),
        (STRENGTH | {"concat": 2.0}, "Whether fusing helps is not certain"),
    ],
)
def test_the_verdict_follows_the_interval(strength, words):
    results = summarise(answers_of(strength), ROWS)
    results |= {"title": "t", "notes": ["n"], "versions": {}, "seconds": 1.0}
    results["settings"] = {
        "folds": 3, "seeds": 2, "encoders": {}, "template": None, "options": {},
    }  # fmt: skip
    results["verdict"] = verdict(results)
    assert results["verdict"].startswith(words)
    gap = results["choice"]["difference"]
    assert f"{gap['estimate']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})" in verdict(results)
    report = markdown(results, [("a.svg", "A plot.")])
    assert results["verdict"] in report and "![A plot.](a.svg)" in report
    header, *body = table_cells(results)
    assert len(body) == 4 and all(len(cells) == len(header) for cells in body)
    # No row has a published accuracy.
    assert "published accuracy" not in header


def test_a_better_baseline_of_words_is_told():
    rows = rows_of(["tfidf", "image", "text", "concat"], ["image", "text"])
    strength = {"TF-IDF + regression": 9.0} | {
        name: value for name, value in STRENGTH.items() if name != "majority class"
    }
    results = summarise(answers_of(strength), rows)
    assert "TF-IDF with logistic regression on the text alone has" in verdict(results)


def test_without_a_single_modality_nothing_is_said_about_fusing():
    rows = [ComparisonRow("concat")]
    results = summarise(answers_of({"concat": 2.0}), rows)
    assert results["choice"] is None and "minus_single" not in results["rows"][0]
    assert "nothing is said" in verdict(results)


def test_joined_reads_withheld_answers():
    answers = answers_of()
    outcomes, parts = answers.outcomes["concat"][0], answers.parts[0]
    withheld = joined(outcomes, parts, "image")
    np.testing.assert_array_equal(withheld[parts[0].test], outcomes[0]["withheld"]["image"])
