"""A pytest plugin for a run of the conformance suite in a scratch copy: it keeps a few rows of every formula, and
writes how each ended. SELECTED is JSON: the tests to run on each backend, and the file to write."""

import json
import os
from pathlib import Path

SELECTED = json.loads(os.environ["SELECTED"])
SHAPES = {"7x13", "7x13x5", "7x5"}
ended = []


def row(item):
    """The formula that a row is about, and how: "activate silu", "loss cross_entropy index"."""
    parameters = item.callspec.params
    formula = str(parameters.get("case", parameters.get("kernel")))
    form = [parameters["form"]] if "form" in parameters else []
    return " ".join([item.originalname.removeprefix("test_"), formula, *form])


def wanted(item):
    if not hasattr(item, "callspec"):
        return False
    parameters = item.callspec.params
    shape = "x".join(map(str, parameters.get("shape", ())))
    return (
        item.originalname in SELECTED["tests"].get(parameters.get("backend"), ())
        and parameters.get("dtype") == "float32"
        and shape in SHAPES
        and parameters.get("with_bias", True)
        and parameters.get("reduction", "mean") == "mean"
        and not parameters.get("weighted", False)
    )


def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


def pytest_runtest_makereport(item, call):
    if call.when == "call":
        error = "" if call.excinfo is None else call.excinfo.exconly()
        ended.append([item.callspec.params["backend"], row(item), error])


def pytest_sessionfinish():
    Path(SELECTED["report"]).write_text(json.dumps(ended))
