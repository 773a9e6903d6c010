"""Settings of Sphinx for the documentation site; docs/build.py lays out its sources and calls it with them."""

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]  # docstrings.py; and the library of this tree, whatever is installed

import psn_tutorial  # noqa: E402

for module in walk_packages(psn_tutorial.__path__, "psn_tutorial."):
    import_module(module.name)  # once, before Sphinx divides its work among processes, which would each import torch

project = "psn_tutorial"
author = "The psn_tutorial authors"
release = version = psn_tutorial.__version__
root_doc = "index"
extensions = [
    "docstrings",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

# Pages and notebooks
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # what a notebook shows is what `make notebooks` stored
nb_ipywidgets_js = {}  # sliders need a kernel; their scripts would come from the network
nb_merge_streams = True

# Docstrings
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}
napoleon_use_ivar = True
python_use_unqualified_type_names = True
add_module_names = False
viewcode_follow_imported_members = False

# The look; nothing on a page comes from the network
html_theme = "furo"
html_title = "psn_tutorial"
html_show_sphinx = False
html_domain_indices = False  # the reference lists the modules
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
mathjax_path = "mathjax/tex-chtml-full.js"  # docs/build.py copies it from a package
