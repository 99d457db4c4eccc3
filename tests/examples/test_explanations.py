"""The samples and the tables of the script that measures explanations."""

import pytest


def test_what_decides_a_phantom_is_known(reports, tmp_path):
    import explanations_data
    import numpy as np
    from PIL import Image

    parts, known = explanations_data.phantom_rows(tmp_path, 10)
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [6, 2, 2]
    for rows in parts.values():
        for row in rows:
            label = explanations_data.CLASSES[row["label"]]
            place = known[row["image"].rpartition("/")[2]]
            assert (explanations_data.WORD in row["text"].split()) == ("hemoptysis" in label)
            assert (place.mass is not None) == label.startswith("mass")
            assert place.has_word == ("hemoptysis" in label)
            with Image.open(row["image"]) as picture:
                values = np.asarray(picture).astype(int)
            if place.mass is not None:
                # A mass is denser than the lung around it.
                assert values.shape == place.mass.shape and 0 < place.mass.mean() < 0.2
                rest = values[~place.mass].mean()
                assert values[place.mass].mean() > rest - 60


PIXELS = {
    "area": 0.25, "random_area": 0.5, "gain": 0.5, "heat_in_mass": 0.4, "mass_area": 0.02,
}  # fmt: skip
WORDS = {"area": 0.2, "random_area": 0.4, "gain": 0.5, "top_word": 1.0}
RESULTS = {
    "phantom": {
        "rows": {
            "late": {
                "accuracy": 0.9,
                "explained": 3,
                "image": {"grad_cam": PIXELS},
                "words": {"occlusion": WORDS},
            }
        }
    },
    "shenzhen": {
        "auroc": 0.9,
        "explained": 4,
        "methods": {"grad_cam": {"heat_in_lungs": 0.5, "lung_area": 0.25, "count": 4}},
    },
}


def test_the_tables_hold_what_was_measured():
    import explanations_table

    lines = explanations_table.render(RESULTS).splitlines()
    assert "| `late` | 0.90 | 3 | grad cam | 0.250 | 0.500 | 50% | 40% (2%) |" in lines
    assert "| `late` | 0.90 | 3 | occlusion | 0.200 | 0.400 | 50% | 100% |" in lines
    assert lines[-1] == "| grad cam | 4 | 50.0% | 25.0% |"
    alone = explanations_table.render({"phantom": RESULTS["phantom"]})
    assert len(alone.splitlines()) == 7


def test_means_and_gains_are_those_of_the_samples():
    import explanations

    ones = [{"area": 0.1, "random_area": 0.5}, {"area": 0.3, "random_area": 0.5}]
    assert explanations.mean_of(ones) == {"area": 0.2, "random_area": 0.5, "gain": 0.6}
    assert explanations.mean_of([{"heat": 1 / 3}]) == {"heat": pytest.approx(0.3333)}
