"""What is published: one version, a small wheel that the sdist builds, a README that works on an index page."""

import datetime
import re
import runpy
import tarfile
import zipfile
from email import message_from_bytes

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from trove_classifiers import classifiers

import lightning_uncertainty
from tests.docs.test_links import targets
from tests.workers.processes import ROOT

VERSION = lightning_uncertainty.__version__
with_addresses = runpy.run_path(str(ROOT / ".ci" / "readme.py"))["with_addresses"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that the sdist builds, as users without a wheel get it."""
    folder = tmp_path_factory.mktemp("dist")
    sdist = next(SdistBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / f"lightning_uncertainty-{VERSION}"
    return folder / next(WheelBuilder(str(unpacked)).build(directory=str(folder), versions=["standard"]))


@pytest.fixture(scope="module")
def metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    return message_from_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))))


def test_the_wheel_of_the_sdist_is_that_of_the_checkout_and_small(wheel, tmp_path):
    direct = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    one, other = zipfile.ZipFile(wheel), zipfile.ZipFile(direct)
    assert sorted(one.namelist()) == sorted(other.namelist())
    assert all(one.read(name) == other.read(name) for name in one.namelist())
    assert wheel.stat().st_size < 500_000


def test_the_metadata_say_who_what_and_where(metadata):
    assert metadata["Version"] == VERSION
    assert metadata["Author"] == "the lightning_uncertainty developers"
    assert {*metadata.get_all("Classifier")} <= classifiers
    assert {line.split(", ")[0] for line in metadata.get_all("Project-URL")} >= {"Homepage", "Documentation", "Issues"}
    assert len(metadata["Keywords"].split(",")) >= 5


def test_every_address_of_the_readme_on_an_index_page_is_whole_and_leads_to_a_file_of_the_tag(metadata):
    home = next(line.split(", ")[1] for line in metadata.get_all("Project-URL") if line.startswith("Homepage"))
    text = metadata.get_payload(decode=True).decode()
    found = targets(text)
    files = [re.fullmatch(rf"{home}/(?:blob|raw)/v{VERSION}/([^#]+)(#.*)?", target) for target in found]
    assert all(match or re.match("https:|#", target) for match, target in zip(files, found, strict=True))
    assert (
        len([match for match in files if match and (ROOT / match[1]).is_file()]) == len(list(filter(None, files))) > 15
    )
    before = (ROOT / "README.md").read_text()
    code = r"(?ms)^```.*?^```$|`[^`\n]+`"
    assert re.findall(code, text) == re.findall(code, before)


def test_headings_web_addresses_and_code_stay_as_they_are():
    same = '[a](#b) [c](https://d.org) `[e](f)` `src="g"`\n```\n[h](i)\n```\n'
    assert with_addresses(same, "https://x.org/y", "v1") == same
    assert with_addresses('<source srcset="a.svg">', "https://x.org/y", "v1").count("https://x.org/y/raw/v1/a.svg") == 1


def test_changelog_citation_and_package_have_one_version_and_one_date():
    version, date = re.search(r"^## \[([\d.]+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert VERSION == version == cited["version"]
    assert datetime.date.fromisoformat(date) == cited["date-released"]


def test_the_owner_is_left_open_in_one_place():
    pages = [
        *ROOT.glob("*.*"),
        *(ROOT / ".github").rglob("*.*"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / ".readthedocs.yaml",
    ]
    addresses = re.compile(r"github\.com/[\w-]+/lightning-uncertainty")
    assert [page.name for page in pages if page.is_file() and addresses.search(page.read_text())] == ["pyproject.toml"]


def test_the_address_of_the_site_is_left_open_and_no_release_goes_out_with_it():
    section = (ROOT / "pyproject.toml").read_text().partition("[project.urls]\n")[2].partition("\n\n")[0]
    urls = dict(re.findall('^(\\w+) = "(.*)"$', section, re.MULTILINE))
    assert len(urls) == 4
    assert urls["Documentation"] == "https://SITE.readthedocs.io"
    (pattern,) = re.findall('! grep -nE "(.*)" pyproject', (ROOT / ".github/workflows/release.yml").read_text())
    refused = {name for name, address in urls.items() if re.search(pattern, f'{name} = "{address}"')}
    assert refused == urls.keys()


def test_the_site_is_built_with_the_versions_that_were_tested_together_and_torch_for_cpus():
    jobs = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())["build"]["jobs"]["install"]
    assert all(line.startswith("pip install --constraint constraints.txt ") for line in jobs)
    assert jobs[0].endswith(" --extra-index-url https://download.pytorch.org/whl/cpu torch")


# ------------------------------------------------------------------------------------------------------- workflows


@pytest.fixture(params=sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def workflow(request):
    return yaml.safe_load(request.param.read_text())


def test_a_workflow_names_tests_and_targets_that_exist(workflow):
    lines = " ".join(step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step)
    made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"\bmake ([\w-]+)", lines)} <= {*made}
    assert all((ROOT / path).exists() for path in re.findall(r"\b(?:tests|\.ci)/[\w/.]+", lines))


def test_every_job_may_only_read_but_the_one_that_publishes(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert more in ({}, {"publish": {"id-token": "write"}})


def test_each_version_of_python_that_is_promised_is_tested(metadata):
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(metadata.get_all("Classifier")), re.MULTILINE)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    assert jobs["newest"]["strategy"]["matrix"]["python"] == promised
    assert {job["runs-on"] for job in jobs.values()} | {*jobs["other-systems"]["strategy"]["matrix"]["os"]} >= {
        "ubuntu-latest",
        "macos-latest",
        "windows-latest",
    }


def test_a_release_is_off_until_someone_turns_it_on_and_needs_no_password():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert release["jobs"]["build"]["if"] == "vars.RELEASES == 'on'"
    assert release["jobs"]["publish"]["needs"] == "build"  # is skipped with it
    assert "secrets." not in str(release)


def test_the_form_for_a_run_asks_for_the_history_file():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "1_run.yml").read_text())
    (history,) = [field for field in form["body"] if field.get("id") == "history"]
    assert "uncertainty_history.json" in history["attributes"]["description"]
    assert history["validations"]["required"]
