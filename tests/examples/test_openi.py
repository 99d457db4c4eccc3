"""Tests of the Open-i collection: cohort, reports, X-rays, manifest and command."""

import doctest
import importlib.util
import re
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("pooch", reason="needs the extra study")

import manifests
import openi
import openi_download
import openi_images
from typer.testing import CliRunner


def report(uid, *, headings=("normal",), images=("1",), findings="Clear.", indication="Cough."):
    names = tuple(f"{uid}_IM-0001-{image}" for image in images)
    return openi.Report(uid, findings, "Impression.", indication, None, tuple(headings), names)


@pytest.mark.parametrize("module", [manifests, openi, openi_images, openi_download])
def test_the_examples_in_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


class TestCohort:
    def test_has_the_published_counts(self, reports):
        counts = [count for _, count in openi.cohort(reports).steps]
        assert counts[:7] == [3955, 3851, 7470, 1379, 558, 1937, 1116]

    def test_counts_agree_with_the_xml_read_by_regular_expressions(self, reports):
        lung = normal = empty = 0
        with tarfile.open(openi_images.package_file("NLMCXR_reports.tgz")) as files:
            for member in files:
                if not member.isfile():
                    continue
                text = files.extractfile(member).read().decode()
                if "<parentImage" not in text:
                    continue
                majors = re.findall("<major>(.*?)</major>", text)
                normal += majors[:1] == ["normal"]
                if any(major.startswith("Lung") for major in majors):
                    lung += 1
                    empty += re.search(r'Label="FINDINGS"\s*(/>|>\s*</)', text) is not None
        assert (normal, lung) == (1379, 558)
        chosen = openi.cohort(reports).reports
        assert (
            sum(report.findings is None for report in chosen if report.label == "lung") == empty > 0
        )

    def test_is_balanced_repeatable_and_depends_on_the_seed(self, reports):
        first, again, other = (openi.cohort(reports, seed=seed).reports for seed in (3, 3, 4))
        assert Counter(report.label for report in first) == {"normal": 558, "lung": 558}
        assert first == again
        assert {report.uid for report in first} != {report.uid for report in other}
        assert {r.uid for r in first if r.label == "lung"} == {
            r.uid for r in other if r.label == "lung"
        }

    def test_unbalanced_keeps_everyone(self, reports):
        assert len(openi.cohort(reports, balanced=False).reports) == 1937

    def test_counts_missing_texts_instead_of_inventing_them(self, reports):
        chosen = openi.cohort(reports)
        steps = dict(chosen.steps)
        missing = sum(report.text("published") is None for report in chosen.reports)
        assert (
            missing
            == next(count for what, count in steps.items() if "without findings" in what)
            > 0
        )
        assert all(report.text("published") != "" for report in chosen.reports)

    def test_anonymisation_marks_stay(self, reports):
        assert any("XXXX" in (report.findings or "") for report in reports)

    def test_texts_per_protocol(self):
        one = report("CXR1")
        assert (one.text("published"), one.text("leak-free")) == ("Clear.", "Cough.")
        with pytest.raises(ValueError, match=r"'leak-fre'\. Did you mean 'leak-free'"):
            one.text("leak-fre")

    def test_refuses_a_report_given_twice_and_an_absent_class(self):
        with pytest.raises(ValueError, match="CXR1 more than once"):
            openi.cohort([report("CXR1"), report("CXR1")])
        with pytest.raises(ValueError, match="no 'lung' with images"):
            openi.cohort(
                [report("CXR1"), report("CXR2", headings=["Lung/hypoinflation"], images=())]
            )

    def test_a_heading_that_only_mentions_the_lung_is_no_lung_report(self):
        assert report("CXR1", headings=["Opacity/lung/base"]).label is None
        assert report("CXR1", headings=["Cardiomegaly", "Lung, Hyperlucent"]).label == "lung"
        assert report("CXR1", headings=["normal", "Lung/hypoinflation"]).label == "normal"


class TestReading:
    def test_a_damaged_archive_is_named(self, tmp_path):
        path = tmp_path / "reports.tgz"
        whole = openi_images.package_file("NLMCXR_reports.tgz").read_bytes()
        path.write_bytes(whole[: len(whole) // 50])
        with pytest.raises(ValueError, match=r"archive must be a readable tar file.*reports\.tgz"):
            openi.read_reports(path)

    def test_an_archive_without_reports_is_refused(self, tmp_path):
        path = tmp_path / "other.tgz"
        with tarfile.open(path, "w:gz"):
            pass
        with pytest.raises(ValueError, match="got none in"):
            openi.read_reports(path)

    def test_xml_that_is_none_is_named(self):
        with pytest.raises(ValueError, match=r"well-formed XML, got '7\.xml'"):
            openi.parse_report(b"<eCitation>", "7.xml")
        with pytest.raises(ValueError, match=r"uId, got none in '7\.xml'"):
            openi.parse_report(b"<eCitation/>", "7.xml")

    def test_an_absent_package_names_the_extra(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r'pip install "mmfusion\[study\]"'):
            openi.read_reports()


class TestImages:
    def test_every_published_name_has_a_key_of_its_own(self, reports):
        keys = [openi_images.image_key(name) for report in reports for name in report.images]
        assert None not in keys
        assert len(set(keys)) == 7470

    def test_the_metadata_file_names_lead_to_the_same_keys(self, reports):
        path = openi_images.package_file("nlmcxr_dicom_metadata.csv.gz")
        table = pd.read_csv(path, usecols=["imageid", "filename"], dtype=str)
        assert all(
            map(
                lambda a, b: openi_images.image_key(a) == openi_images.image_key(b),
                *table.T.to_numpy(),
            )
        )

    @pytest.mark.parametrize(
        "file",
        [
            "CXR1_IM-0001-2.png", "1_IM-0001-2.dcm.png", "1_IM-0001-2.dcm", "CXR1_1_IM-0001-2.jpg",
            "a/b/1/1_IM-0001-2.dcm", "CXR1_IM-0001-2.PNG",
        ],
    )  # fmt: skip
    def test_any_published_naming_is_found(self, tmp_path, file):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        joined = openi_images.join_images([report("CXR1", images=("2",))], tmp_path, {})
        assert joined.images == {"CXR1": tmp_path / file}

    def test_the_frontal_view_is_chosen_then_the_unknown_then_the_first(self, tmp_path):
        views = {
            "CXR1_IM-0001-1": "lateral",
            "CXR1_IM-0001-3": "frontal",
            "CXR1_IM-0001-4": "frontal",
        }
        one = report("CXR1", images=("1", "2", "3", "4"))
        expected = ["3", "4", "2", "1"]
        for name in one.images:
            (tmp_path / f"{name}.png").touch()
        for image in expected:
            joined = openi_images.join_images([one], tmp_path, views)
            assert joined.images["CXR1"].name == f"CXR1_IM-0001-{image}.png"
            joined.images["CXR1"].unlink()

    @pytest.mark.parametrize(
        ("views", "expected"),
        [
            (("frontal", "lateral", "unknown"), "12"),
            (("unknown", "frontal", "lateral"), "23"),
            (("frontal", "unknown", "unknown"), "12"),
            (("frontal", "frontal", "unknown"), "13"),
            (("frontal", "frontal", "frontal"), "12"),
            (("unknown", "unknown", "lateral"), "13"),
        ],
    )
    def test_another_view_stands_beside_the_chosen_one(self, tmp_path, views, expected):
        one = report("CXR1", images=("1", "2", "3"))
        for name in one.images:
            (tmp_path / f"{name}.png").touch()
        known = dict(zip(one.images, views, strict=True))
        joined = openi_images.join_images([one], tmp_path, known)
        found = (joined.images["CXR1"], joined.seconds["CXR1"])
        assert "".join(path.name[-5] for path in found) == expected

    def test_most_studies_of_the_collection_have_two(self, reports, tmp_path):
        for name in (name for report in reports for name in report.images):
            (tmp_path / f"{name}.png").touch()
        pictured = [report for report in reports if report.images]
        joined = openi_images.join_images(pictured, tmp_path, openi_images.read_views())
        assert len(joined.images) == 3851
        expected = {one.uid for one in pictured if len(one.images) > 1}
        assert joined.seconds.keys() == expected and len(expected) == 3405
        assert all(joined.images[uid] != joined.seconds[uid] for uid in expected)

    def test_png_goes_before_dicom(self, tmp_path):
        for name in ("1_IM-0001-1.dcm", "z/CXR1_IM-0001-1.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert openi_images.find_images(tmp_path)[1, "IM-0001-1"].suffix == ".png"

    def test_missing_ones_are_listed_or_refused(self, tmp_path):
        many = [report(f"CXR{number}") for number in range(1, 41)]
        for one in many[:39]:
            (tmp_path / f"{one.images[0]}.png").touch()
        assert openi_images.join_images(many, tmp_path, {}).missing == ("CXR40",)
        (tmp_path / "CXR3_IM-0001-1.png").unlink()
        (tmp_path / "CXR4_IM-0001-1.png").unlink()
        with pytest.raises(
            ValueError, match=r"fit 37 of them\. Missing: CXR3_IM-0001-1, CXR4_IM-0001-1"
        ):
            openi_images.join_images(many, tmp_path, {})
        with pytest.raises(ValueError, match="existing folder, got '/no/folder'"):
            openi_images.join_images(many, "/no/folder", {})

    def test_views_follow_the_metadata(self, reports):
        views = openi_images.read_views()
        table = pd.read_csv(
            openi_images.package_file("nlmcxr_dicom_metadata.csv.gz"), dtype=str, low_memory=False
        )
        position = dict(zip(table["imageid"], table["View Position"], strict=True))
        assert sum(view == "frontal" for view in views.values()) == sum(
            p in ("PA", "AP") for p in position.values()
        )
        assert all(
            views[name] == "lateral" for name, p in position.items() if p in ("LL", "LATERAL", "RL")
        )
        assert Counter(views.values())["unknown"] > 1000


class TestManifest:
    def table(self, tmp_path, **options):
        pair = [report("CXR1", findings=None), report("CXR2", headings=["Lung/hypoinflation"])]
        for one in pair:
            (tmp_path / f"{one.images[0]}.png").touch()
        joined = openi_images.join_images(pair, tmp_path, {})
        return openi.manifest(pair, joined, **options)

    @pytest.mark.parametrize("ending", ["csv", "jsonl"])
    def test_round_trip(self, tmp_path, ending):
        path = manifests.write_manifest(self.table(tmp_path), tmp_path / f"m.{ending}")
        read = pd.read_csv(path) if ending == "csv" else pd.read_json(path, lines=True)
        assert read["image"].tolist() == ["CXR1_IM-0001-1.png", "CXR2_IM-0001-1.png"]
        assert read["label"].tolist() == ["normal", "lung"]
        assert read["group"].tolist() == ["CXR1", "CXR2"]
        assert pd.isna(read["text"][0]) and read["text"][1] == "Clear."

    def test_images_elsewhere_are_absolute(self, tmp_path):
        path = manifests.write_manifest(self.table(tmp_path), tmp_path / "below" / "m.csv")
        assert [Path(image).is_absolute() for image in pd.read_csv(path)["image"]] == [True, True]

    def test_protocol_chooses_the_text(self, tmp_path):
        assert self.table(tmp_path, protocol="leak-free")["text"].tolist() == ["Cough.", "Cough."]

    def test_refusals(self, tmp_path):
        table = self.table(tmp_path)
        with pytest.raises(ValueError, match=r"ending in \.csv or \.jsonl"):
            manifests.write_manifest(table, tmp_path / "m.txt")
        with pytest.raises(ValueError, match=r"got none of \['group'\]"):
            manifests.write_manifest(table.drop(columns="group"), tmp_path / "m.csv")
        with pytest.raises(ValueError, match="at least one sample"):
            manifests.write_manifest(table.head(0), tmp_path / "m.csv")


class TestCommand:
    def run(self, *options):
        import typer

        app = typer.Typer()
        app.command()(openi.main)
        return CliRunner().invoke(app, [str(option) for option in options])

    def test_prints_the_cohort_step_by_step(self, reports):
        result = self.run()
        assert result.exit_code == 0
        for number in ("3,955", "3,851", "7,470", "1,379", "558", "1,937", "1,116"):
            assert number in result.output

    def test_writes_a_manifest(self, reports, tmp_path):
        chosen = openi.cohort(reports).reports
        for one in chosen[1:]:
            (tmp_path / f"{one.images[0]}.png").touch()
        result = self.run(
            "--images", tmp_path, "--output", tmp_path / "m.csv", "--protocol", "leak-free"
        )
        assert result.exit_code == 0, result.output
        assert f"left out, no X-ray in the folder: {chosen[0].uid}" in result.output
        table = pd.read_csv(tmp_path / "m.csv")
        texts = {one.uid: one.indication for one in chosen}
        assert len(table) == 1115
        assert all(
            texts[uid] == text
            for uid, text in zip(table["uid"], table["text"], strict=True)
            if text == text
        )

    def test_a_wrong_folder_is_an_error_that_names_it(self, reports, tmp_path):
        result = self.run("--images", tmp_path / "absent")
        assert result.exit_code == 2
        assert "images must be an existing folder" in result.output

    def test_an_option_that_is_none_is_refused(self):
        assert "Did you mean 'published'" in self.run("--protocol", "publish").output


def test_a_report_cannot_be_changed():
    assert replace(report("CXR1"), findings=None).text("published") is None
    with pytest.raises(AttributeError):
        report("CXR1").findings = "other"
