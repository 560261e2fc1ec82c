"""What stands around the code: citation, lock file, hosted checks and templates agree with the project."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedpurel_app

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_version_and_licence_are_the_same_everywhere():
    assert {PROJECT["version"], CITATION["version"], fedpurel_app.__version__} == {PROJECT["version"]}
    assert CITATION["license"] == "Apache-2.0"
    licence = (ROOT / PROJECT["license"]["file"]).read_text("utf-8")
    assert "Apache License" in licence and "Version 2.0" in licence
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_citation_has_what_its_format_requires():
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    for one in CITATION["references"]:
        assert {"type", "title", "authors"} <= one.keys()


def test_every_dependency_is_locked_at_a_version_that_it_allows():
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.partition(";")[0].strip().split("==")
            pins[canonicalize_name(name)] = version
    wished = [Requirement(one) for one in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
    for one in wished:
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_hosted_checks_call_the_same_script_with_every_python():
    content = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    newest, lowest = content["jobs"]["newest"], content["jobs"]["lowest"]
    assert newest["steps"][-1]["run"] == ".ci/run" and (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert newest["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11"
    script = lowest["steps"][-1]["run"].split()[-1]
    assert (ROOT / script).is_file()


def test_hooks_run_what_the_environment_has():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    for hook in local["hooks"]:
        assert hook["language"] == "system" and importlib.metadata.version(hook["entry"].split()[0])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_something_by_unique_names(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        return
    fields = [one for one in content["body"] if one["type"] != "markdown"]
    assert content["name"] and content["description"] and fields
    assert len({one["id"] for one in fields}) == len(fields)


def test_type_checkers_of_other_projects_may_read_the_packages():
    """PEP 561: without the marker they take everything for ``Any``."""
    for package in ("fedpurel_app", "fedpurel_demo"):
        assert (ROOT / package / "py.typed").is_file()
