"""The page of an explanation: safe, complete, and on its own."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmfusion import explain
from mmfusion.inference.explain_html import page
from mmfusion.testing import tiny_classifier

ATTACK = (
    "</span></div><script>alert(1)</script> <img src=x onerror=alert(2)> \"' onmouseover='a()' "
    "</style><style>*{display:none}</style> &lt;b&gt; {{7*7}} javascript:alert(3)"
)


class Tags(HTMLParser):
    """All tags of a page with their attributes, and all of its text."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags must close in their order"

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def found(processor_of, sample):
    model = tiny_classifier("cross_attention", "linear", "cnn", "bert")
    return explain(model, processor_of(model), *sample)


def test_the_page_holds_everything(found, tmp_path):
    path = found.to_html(tmp_path / "page.html")
    parsed = Tags(path.read_text(encoding="utf-8"))
    text = " ".join(parsed.words)
    assert not parsed.open
    for word in found.words:
        assert word.text in text
    for name, probability in found.probabilities.items():
        assert name in text and f"{probability:.1%}" in text
    for name, share in found.shares.items():
        assert f"{share:.0%} ({found.contributions[name]:+.2f})" in text
        assert f"without {name}" in text
    assert "not for diagnosis" in text and "not prove" in text
    # The picture three times, its heat map, and the regions of each word.
    assert len([tag for tag, _ in parsed.tags if tag == "img"]) == 4 + len(found.words)
    assert "prefers-color-scheme: dark" in text and "max-width: 640px" in text


def test_the_page_needs_nothing_else_and_runs_nothing(found):
    content = page(found)
    parsed = Tags(content)
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe", "object")]
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith("data:image/png;base64,")
    assert "http" not in re.sub(r'<meta http-equiv="Content-Security-Policy"', "", content)
    (policy,) = [
        attributes["content"]
        for _, attributes in parsed.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_no_text_or_name_becomes_markup(processor_of, sample):
    model = tiny_classifier("cross_attention", "linear", "cnn", "bert", num_labels=2)
    model.config.id2label = {0: ATTACK, 1: "<b>fine</b>"}
    safe = explain(model, processor_of(model), sample[0], "no mass here", target=0)
    attacked = explain(model, processor_of(model), sample[0], ATTACK, target=0)
    attacked = dataclasses.replace(attacked, notes=(ATTACK,), shares={ATTACK: 1.0},
                                   contributions={ATTACK: 1.0}, word_method=ATTACK)  # fmt: skip
    parsed, plain = Tags(page(attacked)), Tags(page(safe))
    allowed = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in parsed.tags} <= allowed | {"ul", "li"}
    assert not [1 for _, attributes in parsed.tags for name in attributes if name[:2] == "on"]
    # The attack is there to be read, whole: in the heading and in the text.
    assert any(ATTACK in part for part in parsed.words)
    shown = "".join(parsed.words)
    assert ATTACK in shown[shown.index("Text") :]


def test_what_was_not_read_is_struck_through(processor_of, sample):
    model = tiny_classifier("concat", "linear", "cnn", "bert")
    found = explain(model, processor_of(model, max_length=6), *sample)
    content = page(found)
    (unread,) = re.findall(r'<span class="unread">(.*?)</span>', content)
    assert unread.split() == sample[1].split()[4:]
    assert "a part of it was cut" in content and 'class="region' not in content


def test_a_missing_modality_leaves_its_part_out(processor_of, sample):
    model = tiny_classifier("late", "linear", "cnn", "bert")
    words = page(explain(model, processor_of(model), None, sample[1]))
    assert "<h2>Picture</h2>" not in words and "The image is missing." in words
    picture = page(explain(model, processor_of(model), sample[0]))
    assert "<h2>Text</h2>" not in picture and "The text is missing." in picture


def test_a_large_picture_is_shown_smaller(found):
    (heat,) = found.heat
    large = dataclasses.replace(
        heat,
        picture=Image.new("RGB", (3000, 1000)),
        values=np.zeros((1000, 3000), np.float32),
    )
    assert len(page(dataclasses.replace(found, heat=(large,)))) < 200_000
