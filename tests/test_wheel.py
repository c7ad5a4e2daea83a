"""The wheel alone: configs and the demo collection are inside, and `clir run` works where nothing else of the project is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_runs_the_main_job_in_an_empty_environment(tmp_path: Path) -> None:
    """The environment is new and sees the dependencies of this one, but not the project."""
    pytest.importorskip("hatchling", reason="needs hatchling to build the wheel without a network")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("clir-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "clir_cli/configs/config.yaml",
        "clir_cli/datasets/demo/docs.sw.jsonl",
        "clir_cli/configs/retriever/bm25_dt.yaml",
    } <= names
    assert not [n for n in names if n.startswith(("tests/", "runs/", "scripts/"))]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    target = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, str(wheel)],
        check=True,
        capture_output=True,
    )
    dependencies = [p for p in sys.path if p.endswith("site-packages")]
    (Path(target) / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    work = tmp_path / "work"
    work.mkdir()
    where = subprocess.run(
        [str(python), "-c", "import clir_cli; print(clir_cli.__file__)"],
        cwd=work,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(target), "the installed wheel, not the source tree"
    done = subprocess.run(
        [str(python), "-m", "clir_cli", "run"], cwd=work, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nDCG@10" in done.stdout and (work / "runs").is_dir()
