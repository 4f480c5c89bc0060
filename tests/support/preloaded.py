"""All that a stage imports while it runs: a process that is forked after this module is imported imports nothing more.

The packages alone are not enough: diffusers and the stages import what they need only when they need it.
"""

from __future__ import annotations

import importlib
import pkgutil

import faiss  # noqa: F401
from PIL import Image

import pipeline
import stages.common
import stages.main

for package in (pipeline, stages.common):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
importlib.import_module("ruamel.yaml")
Image.preinit()
