"""Tests of the Shenzhen manifest: sex and age, the two layouts, and the refused reading."""

import doctest

import pandas as pd
import pytest
import shenzhen
import typer
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("male 45yrs\nnormal", "45-year-old male"),
        ("female, 28 yrs\r\nleft PTB", "28-year-old female"),
        ("Female24yr", "24-year-old female"),
        ("male 6 months", "6-month-old male"),
        ("MALE 3mos\nnormal", "3-month-old male"),
        ("femal 33yrs", "33-year-old female"),
        ("male ,  60 years", "60-year-old male"),
        ("Male, 19-year", "19-year-old male"),
        ("male 0.5 yrs", "0.5-year-old male"),
        ("male 10 days\nnormal", "10-day-old male"),
        ("M 45y", "45-year-old male"),
        ("52yrs F", "52-year-old female"),
        ("female 31\nPTB in the right upper field", "31-year-old female"),
        ("male\n45yrs\nnormal", "45-year-old male"),
        ("male", "male"),
        ("45 yrs", "45-year-old patient"),
        ("male 450yrs", "male"),
        ("", None),
        ("PTB in the right upper field, 1. STB", None),
    ],
)
def test_sex_and_age_are_read_however_they_were_typed(typed, sentence):
    assert shenzhen.parse_demographics(typed).sentence == sentence


def test_months_become_years():
    assert shenzhen.parse_demographics("male 18 months").years == 1.5


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(shenzhen).failed == 0


@pytest.fixture
def published(tmp_path):
    """The published layout: a complete X-ray, one without a mask, one with an empty reading."""
    for folder in ("CXR_png", "ClinicalReadings", "mask"):
        (tmp_path / folder).mkdir()
    readings = {
        "CHNCXR_0001_0": "male 45yrs\nnormal",
        "CHNCXR_0400_1": "Female24yr\nleft PTB",
        "CHNCXR_0401_1": "?",
    }
    for uid, reading in readings.items():
        (tmp_path / "CXR_png" / f"{uid}.png").touch()
        (tmp_path / "ClinicalReadings" / f"{uid}.txt").write_text(reading)
    (tmp_path / "mask" / "CHNCXR_0001_0_mask.png").touch()
    return tmp_path


class TestPublishedLayout:
    def test_is_read(self, published):
        found = shenzhen.read(published)
        table = shenzhen.manifest(found.cases)
        assert table["label"].tolist() == ["normal", "tuberculosis", "tuberculosis"]
        assert table["text"].tolist()[:2] == ["45-year-old male", "24-year-old female"]
        assert pd.isna(table["text"][2])
        assert table["mask"].notna().tolist() == [True, False, False]
        assert table["group"].is_unique
        assert found.unparsed == ("CHNCXR_0401_1",)

    def test_is_found_inside_the_archive_s_folder(self, published, tmp_path):
        (tmp_path / "ChinaSet_AllFiles").mkdir()
        for name in ("CXR_png", "ClinicalReadings", "mask"):
            (tmp_path / name).rename(tmp_path / "ChinaSet_AllFiles" / name)
        assert len(shenzhen.read(tmp_path).cases) == 3

    def test_masks_may_lie_elsewhere(self, published):
        (published / "mask").rename(published / "masks_of_kaggle")
        assert shenzhen.read(published).cases[0].mask is None
        assert (
            shenzhen.read(published, masks=published / "masks_of_kaggle").cases[0].mask is not None
        )

    def test_a_missing_reading_is_listed(self, published):
        (published / "ClinicalReadings" / "CHNCXR_0001_0.txt").unlink()
        assert shenzhen.read(published).unparsed == ("CHNCXR_0001_0", "CHNCXR_0401_1")

    def test_stray_bytes_hide_nothing(self, published):
        (published / "ClinicalReadings" / "CHNCXR_0001_0.txt").write_bytes(
            b"male 45yrs\xa3\xac\nnormal"
        )
        assert shenzhen.read(published).cases[0].patient.sentence == "45-year-old male"

    def test_a_name_without_label_is_refused(self, published):
        (published / "CXR_png" / "CHNCXR_0002_7.png").touch()
        with pytest.raises(ValueError, match="CHNCXR_0002_7"):
            shenzhen.read(published)

    def test_empty_and_foreign_folders_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"labels\.csv or with CXR_png/"):
            shenzhen.read(tmp_path)
        (tmp_path / "CXR_png").mkdir()
        with pytest.raises(ValueError, match="got none"):
            shenzhen.read(tmp_path)


class TestReadingIsNoText:
    def test_it_is_refused_with_the_reason(self, published):
        with pytest.raises(ValueError, match="reading is the diagnosis"):
            shenzhen.manifest(shenzhen.read(published).cases, text="reading")

    def test_it_is_nowhere_in_the_manifest(self, published):
        table = shenzhen.manifest(shenzhen.read(published).cases)
        assert "PTB" not in table.to_csv()

    def test_another_text_is_refused(self, published):
        with pytest.raises(ValueError, match="Did you mean 'sex-age'"):
            shenzhen.manifest(shenzhen.read(published).cases, text="age-sex")


class TestCopy:
    def write(self, folder, row):
        (folder / "images").mkdir()
        (folder / "images" / "CHNCXR_0001_0.png").touch()
        (folder / "labels.csv").write_text(f"image,mask,tuberculosis,sex,age,reading\n{row}\n")

    def test_a_label_that_contradicts_the_name_is_refused(self, tmp_path):
        self.write(tmp_path, "images/CHNCXR_0001_0.png,,1,male,45,normal")
        with pytest.raises(ValueError, match=r"'CHNCXR_0001_0' in row 2"):
            shenzhen.read(tmp_path)

    def test_a_missing_image_is_refused(self, tmp_path):
        self.write(tmp_path, "images/CHNCXR_0009_0.png,,0,male,45,normal")
        with pytest.raises(ValueError, match=r"CHNCXR_0009_0\.png' in row 2"):
            shenzhen.read(tmp_path)

    def test_a_missing_column_is_refused(self, tmp_path):
        (tmp_path / "labels.csv").write_text("image,mask,tuberculosis,sex\n")
        with pytest.raises(ValueError, match=r"got none of \['age'\]"):
            shenzhen.read(tmp_path)

    def test_the_real_set(self, real_data):
        found = shenzhen.read(real_data / "shenzhen")
        table = shenzhen.manifest(found.cases)
        own = pd.read_csv(real_data / "shenzhen" / "labels.csv")
        assert len(table) == 662
        assert table["label"].eq("tuberculosis").sum() == own["tuberculosis"].sum() == 336
        assert table["mask"].notna().sum() == 566
        assert table["text"].tolist() == [
            f"{a}-year-old {s}" for a, s in zip(own["age"], own["sex"], strict=True)
        ]
        assert found.unparsed == ()


def test_the_command_writes_the_manifest_and_lists_what_it_could_not_read(published):
    app = typer.Typer()
    app.command()(shenzhen.main)
    result = CliRunner().invoke(app, [str(published), "--output", str(published / "m.csv")])
    assert result.exit_code == 0, result.output
    assert "1  whose sex or age could not be read: CHNCXR_0401_1" in result.output
    assert pd.read_csv(published / "m.csv")["image"][0] == "CXR_png/CHNCXR_0001_0.png"
    assert CliRunner().invoke(app, [str(published), "--text", "reading"]).exit_code == 2
