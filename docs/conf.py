"""The configuration of Sphinx; `make docs` builds the pages."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

# The pages must build without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The scripts of the gallery segment lungs; keras imports tensorflow too, which prints lines.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "examples" / "lung_disease")]

import mmfusion  # noqa: E402 (transformers reads the environment variable at import)

# A script of the gallery shows what a user sees, who sees warnings alone.
logging.getLogger("mmfusion").setLevel(logging.WARNING)
# torch 2.14 warns of torchao at its import, which the docs have and a user may not have.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

project = "mmfusion"
author = "The mmfusion authors"
project_copyright = author
version = release = mmfusion.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "api_summary",
    "docstrings",
    "mathml",
    "other_libraries",
]
html_math_renderer = "mathml"
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    # A script that fails must fail the build, and so must one without a picture.
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "plot_gallery": "True",
    "write_computation_times": False,
}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# The files in api/ are included by other pages; they are no pages of their own.
exclude_patterns = ["_build", "api/_*", "gallery/*.ipynb", "gallery/*.py"]
suppress_warnings = ["config.cache"]

# A name in single backticks becomes code in a docstring, and a link where the name is documented.
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autosummary_generate = False
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape", "Source"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_title = f"mmfusion {version}"
html_show_sphinx = False
# With this size of the theme, lines of 98 columns fit beside the sidebar.
html_theme_options = {"light_css_variables": {"code-font-size": "var(--font-size--small--3)"}}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
# A command that ends in a backslash continues on the next line, which has no prompt.
copybutton_line_continuation_character = "\\"


def _write_results(app: Any) -> None:
    """Writes the tables of the example study from the JSON files of its runs."""
    # These modules lie in the example's folder, which is on the path only here.
    import architectures_table
    import choosing_table
    import explanations_table
    import messages
    import part_tables
    import results_table
    import segment_table
    import strategy_diagrams

    results = results_table.RESULTS
    architectures = [
        json.loads(path.read_text()) for path in sorted((results / "architectures").glob("*.json"))
    ]
    segmenters = [
        json.loads(path.read_text()) for path in sorted((results / "segmentation").glob("*.json"))
    ]
    explanations = json.loads((results / "explanations" / "small.json").read_text())
    pages = {
        "_results": results_table.render(results_table.read_results()),
        "_architectures": "\n\n".join(map(architectures_table.render, architectures)),
        "_segmenters": segment_table.render(segmenters),
        "_explanations": explanations_table.render(explanations),
        "_strategies": part_tables.directives(),
        "_recipes": part_tables.recipes(),
        "_imbalance": part_tables.imbalance(),
        "_choosing": choosing_table.strategies(),
        "_serving": choosing_table.serving(),
        "_messages": messages.messages(),
    }
    folder = HERE / "api"
    strategy_diagrams.write(folder / "strategies")
    for name, content in pages.items():
        path = folder / f"{name}.md"
        # An unchanged file keeps its time stamp, so Sphinx does not build its page again.
        if not path.exists() or path.read_text(encoding="utf-8") != content + "\n":
            path.write_text(content + "\n", encoding="utf-8")


def _check_names(app: Any, env: Any) -> None:
    """Warns of every public name that the pages do not document."""
    from sphinx.util import logging

    documented = env.get_domain("py").objects
    for name in mmfusion.__all__:
        if name != "__version__" and f"mmfusion.{name}" not in documented:
            logging.getLogger(__name__).warning(
                "mmfusion.%s is a public name without an entry in docs/api-*.md", name
            )


def setup(app: Any) -> None:
    """Connects the writing of the tables and the check of the names."""
    app.connect("builder-inited", _write_results)
    app.connect("env-check-consistency", _check_names)
