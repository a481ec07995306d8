"""Configures the documentation: `python -m sphinx -W docs docs/_build/html`."""

import os
import sys
from pathlib import Path

import gru_jax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# The pages run in kernels of their own, which must find `experiments`, and need no GPU.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop("MPLBACKEND", None)  # another backend than that of the kernels shows no figure
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm would like widgets
# Kernels warn that they talk to this process, on this machine, without encryption.
profile = Path(__file__).parent / "_build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text('c.IPKernelApp.log_level = "ERROR"\n', "utf-8")
os.environ["IPYTHONDIR"] = str(profile.parent)

project = "gru_jax"
author = "the gru_jax authors"
release = version = gru_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the formulas need no network
    "docstrings",
    "pictures",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("GRU_JAX_DOCS_EXECUTION", "cache")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # a page that prints a warning fails the build
nb_render_markdown_format = "myst"  # tables that a page computes

autodoc_typehints = "none"  # the text has the shapes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    (name, "params_style") for name in ("Attributes", "Data", "Optimisation", "Evaluation", "Checkpoints", "Devices")
]
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
highlight_language = "python"

html_theme = "sphinx_book_theme"
html_title = "gru_jax"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "navbar_persistent": [],  # the search field is in the side bar
}
