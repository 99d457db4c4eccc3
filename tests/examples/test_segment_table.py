"""Tests of the segmenters' table: it shows what the JSON files hold, and nothing else."""

import segment_table

DICE = {
    "count": 566,
    "mean": 0.9561,
    "low": 0.954,
    "high": 0.958,
    "worst_tenth": 0.8842,
    "least": 0.8196,
}


def test_every_model_and_collection_has_its_line():
    run = {
        "recipe": {"width": 16, "epochs": 10, "augmentation": 0.3},
        "versions": {"backend": "torch"},
        "models": {},
    }
    run["models"]["model 1 (shenzhen + covid)"] = {
        "folds": 5,
        "cross_validated_dice": {"shenzhen": DICE, "covid": DICE},
    }
    run["another_hospital"] = {
        "trained_on": "shenzhen",
        "measured_on": "covid",
        "dice": DICE | {"count": 205},
    }
    lines = segment_table.render([run]).splitlines()
    assert len(lines) == 5 and all(line.count("|") == 9 for line in lines)
    figures = (
        "566 | 0.9561 (0.9540 to 0.9580) | 0.884 | 0.820 | "
        "width 16, 10 epochs, augmentation 0.3, torch |"
    )
    assert lines[2] == f"| model 1 (shenzhen + covid) | shenzhen | 5 folds | {figures}"
    assert lines[4].startswith("| model 2 (shenzhen) | covid | all of shenzhen to train | 205 |")
