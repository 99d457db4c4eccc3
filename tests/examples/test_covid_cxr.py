"""Tests of the COVID manifest: the labels, the two layouts, and the rows that are left out."""

import doctest

import covid_cxr
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

COLUMNS = (
    "patientid", "sex", "age", "finding", "view", "modality", "folder", "filename", "license",
    "url", "clinical_notes", "other_notes",
)  # fmt: skip


def row(filename, **changes):
    usual = {
        "patientid": "2", "sex": "M", "age": "65", "finding": "Pneumonia/Viral/COVID-19",
        "view": "PA", "modality": "X-ray", "folder": "images", "filename": filename, "license": "",
        "url": "https://example.org", "clinical_notes": "Fever for 3 days.", "other_notes": "",
    }  # fmt: skip
    return usual | changes


@pytest.fixture
def published(tmp_path):
    """The published layout, with one row for each reason to be left out and three selected rows."""
    rows = [
        row("a.jpg"),
        row(
            "b.png",
            patientid="3",
            finding="Pneumonia/Bacterial/Klebsiella",
            view="AP Supine",
            clinical_notes="",
        ),
        row(
            "c.jpg",
            patientid="3b",
            finding="Pneumonia",
            clinical_notes="Known Klebsiella pneumonia, 45 y.",
        ),
        row("d.jpg", finding="No Finding"),
        row("e.jpg", finding="Tuberculosis"),
        row("f.jpg", finding="todo"),
        row("g.jpg", view="L"),
        row("h.nii.gz", modality="CT", folder="volumes", view="Axial"),
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(tmp_path / "metadata.csv", index=False)
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        (tmp_path / "images" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("COVID-19", "covid"),
        ("COVID-19, ARDS", "covid"),
        ("Pneumonia/Viral/COVID-19", "covid"),
        ("Pneumonia/Viral/SARS", "other"),
        ("Pneumonia/Bacterial/E.Coli", "other"),
        ("Mycoplasma Bacterial Pneumonia", "other"),
        ("ARDS", "other"),
        ("Tuberculosis", None),
        ("No Finding", None),
        ("Unknown", None),
        ("todo", None),
        ("", None),
    ],
)
def test_findings_of_both_generations(finding, label):
    assert covid_cxr.label_of(finding) == label


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(covid_cxr).failed == 0


class TestPublishedLayout:
    def test_is_read(self, published):
        found = covid_cxr.read(published)
        assert found.rows["label"].tolist() == ["covid", "other", "other"]
        assert found.rows["group"].tolist() == ["2", "3", "3b"]
        assert found.rows["text"].isna().tolist() == [False, True, False]
        assert found.rows["names_diagnosis"].tolist() == [False, False, True]
        assert [name.rsplit("/", 2)[1:] for name in found.rows["image"]] == [
            ["images", "a.jpg"], ["images", "b.png"], ["images", "c.jpg"],
        ]  # fmt: skip

    def test_what_is_left_out_is_counted_with_the_reason(self, published):
        assert dict(covid_cxr.read(published).left_out) == {
            "finding No Finding": 1,
            "finding Tuberculosis": 1,
            "finding todo": 1,
            "view L": 1,
            "modality CT": 1,
        }

    def test_a_missing_image_is_named(self, published):
        (published / "images" / "b.png").unlink()
        with pytest.raises(ValueError, match=r"1 that are not: images/b\.png"):
            covid_cxr.read(published)

    def test_a_row_without_patient_is_refused(self, published):
        table = pd.read_csv(published / "metadata.csv", dtype=str)
        table.loc[1, "patientid"] = None
        table.to_csv(published / "metadata.csv", index=False)
        with pytest.raises(ValueError, match="none in row 3"):
            covid_cxr.read(published)

    def test_a_missing_column_is_refused(self, published):
        table = pd.read_csv(published / "metadata.csv").drop(columns="view")
        table.to_csv(published / "metadata.csv", index=False)
        with pytest.raises(ValueError, match=r"got none of \['view'\]"):
            covid_cxr.read(published)

    def test_foreign_and_useless_folders_are_refused(self, published, tmp_path):
        with pytest.raises(ValueError, match=r"labels\.csv or metadata\.csv"):
            covid_cxr.read(tmp_path / "images")
        pd.read_csv(published / "metadata.csv").tail(4).to_csv(
            published / "metadata.csv", index=False
        )
        with pytest.raises(ValueError, match="got none in"):
            covid_cxr.read(published)


class TestRealSet:
    def test_labels_agree_with_the_copy_s_own(self, real_data):
        found = covid_cxr.read(real_data / "covid_cxr")
        own = pd.read_csv(real_data / "covid_cxr" / "labels.csv", dtype=str)
        own = own[own["label"].isin(["COVID-19", "Other pneumonia/ARDS"])]
        assert len(found.rows) == len(own) == 270
        expected = own["label"].map({"COVID-19": "covid", "Other pneumonia/ARDS": "other"}).tolist()
        assert found.rows["label"].tolist() == expected
        assert found.rows["group"].tolist() == own["patient"].tolist()
        assert found.rows["text"].isna().tolist() == own["notes"].isna().tolist()
        assert dict(found.left_out) == {"finding todo": 28, "finding No Finding": 12}

    def test_every_x_ray_without_a_note_shows_covid(self, real_data):
        rows = covid_cxr.read(real_data / "covid_cxr").rows
        assert set(rows.loc[rows["text"].isna(), "label"]) == {"covid"}


def test_the_command_counts_and_writes(published):
    app = typer.Typer()
    app.command()(covid_cxr.main)
    result = CliRunner().invoke(app, [str(published), "--output", str(published / "m.jsonl")])
    assert result.exit_code == 0, result.output
    assert "1  left out: modality CT" in result.output
    assert "2  X-rays of class other, 1 of them without a note" in result.output
    table = pd.read_json(published / "m.jsonl", lines=True)
    assert table["image"].tolist() == ["images/a.jpg", "images/b.png", "images/c.jpg"]
    assert CliRunner().invoke(app, [str(published / "images")]).exit_code == 2
