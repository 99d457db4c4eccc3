"""Tests of the phantom: the pictures follow from report and seed, and show their findings."""

import doctest
import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pooch", reason="needs the extra study")

import openi
import phantom
import phantom_anatomy
import phantom_findings
import typer
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

SIZE = 96


def report(uid, *headings):
    return openi.Report(uid, "Clear.", None, "Cough.", None, headings, (f"{uid}_IM-0001-1001",))


def lung_area(uid, *headings):
    return phantom.draw(report(uid, *headings), size=SIZE).mask.mean()


def change(kind, side, *, zone=None, uid=0):
    """The absolute change of attenuation by a finding [H, W], and the canvas it was painted on."""
    rng = np.random.default_rng(uid)
    canvas = phantom_anatomy.Canvas(phantom_anatomy.sample_anatomy(rng), SIZE, rng)
    before = canvas.attenuation.copy()
    phantom_findings.paint(canvas, phantom_findings.Finding(kind, side, zone))
    return np.abs(canvas.attenuation - before), canvas


@pytest.mark.parametrize("module", [phantom, phantom_anatomy, phantom_findings])
def test_the_examples_in_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


class TestDraw:
    def test_the_same_report_and_seed_draw_the_same(self):
        first, again = (
            phantom.draw(report("CXR1", "Lung/hypoinflation"), size=SIZE, seed=5) for _ in range(2)
        )
        assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)

    def test_seed_and_uid_change_the_picture(self):
        one = phantom.draw(report("CXR1", "normal"), size=SIZE).image
        assert not np.array_equal(
            one, phantom.draw(report("CXR1", "normal"), size=SIZE, seed=1).image
        )
        assert not np.array_equal(one, phantom.draw(report("CXR2", "normal"), size=SIZE).image)

    def test_text_and_label_do_not_reach_the_picture(self):
        bare = openi.Report("CXR1", None, None, None, None, (), ())
        drawn = phantom.draw(report("CXR1", "normal"), size=SIZE)
        assert np.array_equal(drawn.image, phantom.draw(bare, size=SIZE).image)

    @pytest.mark.parametrize("uid", [f"CXR{number}" for number in range(12)])
    def test_looks_like_a_frontal_radiograph(self, uid):
        drawn = phantom.draw(report(uid, "normal"))
        image, mask = drawn.image.astype(float), drawn.mask
        assert (image.shape, image.min(), mask.shape) == ((224, 224), 0, (224, 224))
        parts, count = ndimage.label(mask)
        areas = sorted(ndimage.sum_labels(mask, parts, range(1, count + 1)))[-2:]
        assert count >= 2 and sum(areas) > 0.97 * mask.sum()
        left_half = mask[:, :112].mean(), mask[:, 112:].mean()
        assert 0.10 < mask.mean() < 0.45
        assert left_half[0] > left_half[1], "the heart takes more of the patient's left"
        middle = image[100:150, 104:120].mean()
        assert image[mask].mean() < 0.75 * middle, "lungs are dark, the spine is bright"

    def test_hypoinflation_shrinks_and_hyperdistention_enlarges_the_lungs(self):
        uids = [f"CXR{number}" for number in range(24)]
        low, usual, high = (
            np.mean([lung_area(uid, heading) for uid in uids])
            for heading in ("Lung/hypoinflation", "normal", "Lung/hyperdistention")
        )
        assert low < 0.92 * usual and high > 1.08 * usual

    def test_some_findings_are_hidden_and_some_normals_mimic_one(self):
        uids = [f"CXR{number}" for number in range(80)]
        same = sum(
            lung_area(uid, "Lung/hypoinflation/severe") == lung_area(uid, "normal") for uid in uids
        )
        assert 2 <= same <= 24
        assert 2 <= sum(bool(phantom._mimicked(uid, 0)) for uid in uids) <= 40

    def test_a_size_too_small_is_refused(self):
        with pytest.raises(ValueError, match="size must be at least 64, got 32"):
            phantom.draw(report("CXR1"), size=32)


class TestFindings:
    @pytest.mark.parametrize(
        ("heading", "kind", "side", "zone"),
        [
            ("Lung/hypoinflation", "hypoinflation", "unknown", None),
            ("Lung/base/right/hypoinflation/mild", "hypoinflation", "right", "base"),
            ("Pulmonary Atelectasis/upper lobe/right", "streak", "right", "upper lobe"),
            ("Opacity/lung/lingula", "patch", "left", "lingula"),
            ("Opacity/lung/middle lobe", "patch", "right", "middle lobe"),
            ("Opacity/lung/bilateral/interstitial", "patch", "both", None),
            ("Pleural Effusion/left/small", "effusion", "left", None),
            ("Calcified Granuloma/lung/upper lobe/left", "granuloma", "left", "upper lobe"),
            ("Lung, Hyperlucent/apex/bilateral", "lucency", "both", "apex"),
        ],
    )
    def test_headings_are_read(self, heading, kind, side, zone):
        found = phantom_findings.read_heading(heading)
        assert (found.kind, found.side, found.zone) == (kind, side, zone)

    @pytest.mark.parametrize("heading", ["normal", "No Indexing", "Lung", "Spine/degenerative", ""])
    def test_headings_without_trace(self, heading):
        assert phantom_findings.read_heading(heading) is None

    def test_most_lung_reports_leave_a_trace(self, reports):
        chosen = [one for one in openi.cohort(reports).reports if one.label == "lung"]
        drawn = [any(map(phantom_findings.read_heading, one.mesh_major)) for one in chosen]
        assert np.mean(drawn) > 0.98

    # Kinds with a side of their own, such as a device and a fissure, are not tested here.
    @pytest.mark.parametrize(
        "kind", sorted(set(phantom_findings._PAINTERS) - {"device", "clips", "fissure", "catheter"})
    )
    def test_the_side_is_kept(self, kind):
        added, canvas = change(kind, "right")
        assert added.sum() > 0
        assert added[canvas.x < 0].sum() > 0.9 * added.sum(), (
            "the patient's right is the picture's left"
        )
        added, canvas = change(kind, "left")
        assert added[canvas.x > 0].sum() > 0.9 * added.sum()

    def test_the_zone_is_kept(self):
        heights = []
        for zone in ("apex", "upper lobe", "lower lobe", "base"):
            added, canvas = change("nodule", "right", zone=zone)
            heights.append((canvas.y * added).sum() / added.sum())
        assert heights == sorted(heights) and heights[-1] - heights[0] > 0.4

    @pytest.mark.parametrize("kind", sorted(phantom_findings._PAINTERS))
    def test_nothing_of_strength_zero_is_painted(self, kind):
        rng = np.random.default_rng(0)
        canvas = phantom_anatomy.Canvas(phantom_anatomy.sample_anatomy(rng), SIZE, rng)
        before = canvas.attenuation.copy()
        phantom_findings.paint(canvas, phantom_findings.Finding(kind, "both", None, 0.0))
        assert np.array_equal(before, canvas.attenuation)

    def test_every_kind_that_is_named_is_painted_or_changes_the_anatomy(self):
        usual = phantom_anatomy.sample_anatomy(np.random.default_rng(0))
        named = {
            *phantom_findings._KINDS.values(),
            *phantom_findings._LUNG_KINDS.values(),
            *phantom._MIMICS,
        }
        for kind in named - set(phantom_findings._PAINTERS):
            assert phantom_findings.adjust(usual, [phantom_findings.Finding(kind)]) != usual, kind


class TestRender:
    @pytest.fixture
    def few(self):
        return [
            report("CXR1", "normal"),
            report("CXR2", "Lung/hypoinflation"),
            report("CXR3", "Lung/hyperdistention"),
        ]

    def test_writes_pictures_masks_and_manifest(self, few, tmp_path):
        table = pd.read_csv(
            phantom.render(few, tmp_path, size=SIZE, protocol="leak-free", progress=False)
        )
        assert table["label"].tolist() == ["normal", "lung", "lung"]
        assert table["text"].tolist() == ["Cough."] * 3
        assert table["synthetic"].all() and table["group"].is_unique
        for image, mask, one in zip(table["image"], table["mask"], few, strict=True):
            drawn = phantom.draw(one, size=SIZE)
            with Image.open(tmp_path / image) as picture, Image.open(tmp_path / mask) as lungs:
                assert "synthetic" in picture.info["synthetic"]
                assert "synthetic" in lungs.info["synthetic"]
                assert np.array_equal(np.asarray(picture), drawn.image)
                assert np.array_equal(np.asarray(lungs) > 0, drawn.mask)

    def test_goes_on_and_draws_anew_what_other_settings_made(self, few, tmp_path):
        phantom.render(few, tmp_path, size=SIZE, progress=False)
        kept, redrawn = tmp_path / "images" / "CXR1.png", tmp_path / "images" / "CXR2.png"
        times = kept.stat().st_mtime_ns, redrawn.stat().st_mtime_ns
        redrawn.unlink()
        phantom.render(few, tmp_path, size=SIZE, progress=False)
        assert kept.stat().st_mtime_ns == times[0] and redrawn.stat().st_mtime_ns > times[1]
        phantom.render(few, tmp_path, size=SIZE, seed=1, progress=False)
        assert kept.stat().st_mtime_ns > times[0]

    def test_a_report_of_neither_class_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="got 'CXR9'"):
            phantom.render([report("CXR9", "Cardiomegaly")], tmp_path)

    def test_the_command_says_that_the_pictures_are_synthetic(self, few, tmp_path, monkeypatch):
        monkeypatch.setattr(phantom, "read_reports", lambda: few)
        app = typer.Typer()
        app.command()(phantom.main)
        result = CliRunner().invoke(app, ["--output", str(tmp_path), "--size", str(SIZE)])
        assert result.exit_code == 0, result.output
        assert re.search(r"2  synthetic X-rays, rows written", result.output)
