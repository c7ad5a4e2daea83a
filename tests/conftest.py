"""What the tests share: where the real data is, and clir as a user calls it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch, and for every subprocess: threads that wait sleep. By default they spin, and two test
# processes with two threads each on two cores then spend most of their time on waiting: the forward passes of a small
# model took thirty times the CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every subprocess compiles the project anew
# A shell's job in the background ignores Ctrl-C, and so would every subprocess.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared"
XQUAD = SHARED / "data" / "xquad-r"
STATIC = SHARED / "models" / "static-multi"
ALLOWED_SKIPS = ("GPU", "full JDK", "vLLM", "AVX-512 VNNI")  # what even .ci/run does not have


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Under .ci/run everything is installed: a test that is skipped for lack of something fails."""
    report = yield
    if report.skipped and os.environ.get("CLIR_TEST_ALL") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            report.outcome, report.longrepr = "failed", f"skipped although .ci/run installs everything: {reason}"
    return report


def needs_shared(path: Path = SHARED) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.exists(), reason=f"needs {path.relative_to(SHARED.parent)} beside the project")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models so small that a second thread costs more than it gives; the test processes share two cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Clir:
    """`clir` as a user calls it, in an empty folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.started: list[subprocess.Popen[str]] = []

    def __call__(
        self, *arguments: str, code: int = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env(env),
            capture_output=True,
            text=True,
            timeout=900,  # of the longest sweep on a machine that is busy
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        running = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(running)
        return running

    def end(self) -> None:
        """Kill what a test that failed has left running, and its workers."""
        for running in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            with running:  # closes its pipes and waits for it
                pass

    def experiment(self, *overrides: str, env: dict[str, str] | None = None) -> Path:
        """The folder that `clir run --quiet` prints."""
        return Path(self("run", "--quiet", *overrides, env=env).stdout.strip())

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "clir_cli", *arguments]

    @staticmethod
    def env(more: dict[str, str] | None) -> dict[str, str]:
        root = str(Path(__file__).parents[1])
        return {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", **(more or {})}


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where collections are downloaded to: nowhere near the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIR_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def clir(tmp_path: Path) -> Iterator[Clir]:
    found = Clir(tmp_path)
    yield found
    found.end()


@pytest.fixture(scope="session")
def shared_clir(tmp_path_factory: pytest.TempPathFactory) -> Clir:
    """One store for tests that only read what others made."""
    return Clir(tmp_path_factory.mktemp("clir"))


def xquad(query_lang: str, doc_lang: str, *more: str) -> list[str]:
    """The overrides that run xquad-r through `dataset=files`."""
    return [
        "dataset=files", "dataset.label=xquad-r", f"dataset.docs={XQUAD}/corpus.{{lang}}.jsonl",
        f"dataset.topics={XQUAD}/topics.{{lang}}.tsv", f"dataset.qrels={XQUAD}/qrels.{{doc_lang}}.txt",
        "dataset.aligned='[a-z]+-(.*)'", f"dataset.query_lang={query_lang}", f"dataset.doc_lang={doc_lang}",
        "dataset.measures=[RR@10,nDCG@10]", *more,
    ]  # fmt: skip
