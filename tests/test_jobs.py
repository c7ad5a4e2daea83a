"""Which steps go into which job, what a job asks for, and what the states of a cluster mean."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from clir_cli import compose, plan, provenance
from clir_cli.errors import ConfigError, RunError
from clir_cli.launchers import choice, frozen, queue
from clir_cli.launchers.campaign import Campaign
from clir_cli.launchers.jobs import Job, Packing, count, jobs, whole
from clir_cli.launchers.outcome import STATES, Outcome
from clir_cli.launchers.queue import Seen
from clir_cli.stages.common import needs
from clir_cli.store import Store

PAIRS = "dataset.pair=en-de,en-es,de-en"


def planned(folder: Path, *overrides: str) -> plan.Plan:
    return plan.planned(compose.cells(overrides, True), Store(folder, eager=False))


def stages(job: Job) -> list[str]:
    return [step.stage for step in job.steps]


def test_every_missing_step_is_in_one_job_and_after_all_that_it_needs(tmp_path: Path) -> None:
    asked = planned(tmp_path, PAIRS, "retriever=bm25,bm25_dt,labse", "reranker=none,rank_zephyr,bge_reranker")
    found = jobs(asked)
    of = {step: job for job in found for step in job.steps}
    assert len(of) == sum(len(job.steps) for job in found) == len(asked.steps)
    for job in found:
        for i, step in enumerate(job.steps):
            for before in step.before:
                assert before in job.steps[:i] or of[before] in job.after
        assert all(found.index(before) < found.index(job) for before in job.after)


def test_steps_that_share_a_model_are_one_job_up_to_the_limit(tmp_path: Path) -> None:
    views = "rerank.doc=original,query_lang"
    asked = planned(tmp_path, PAIRS, "retriever=bm25,bm25_dt,labse", "reranker=rank_zephyr", views)
    reranks = [job for job in jobs(asked) if "rerank" in stages(job)]
    loaded = {name for job in reranks for name in job.loads}
    assert [set(stages(job)) for job in reranks] == [{"rerank"}] * len(reranks) and len(loaded) == 1
    assert sum(len(job.steps) for job in reranks) == 18
    assert len(reranks) == 2, "what needs no translated index does not wait for one"
    limited = [job for job in jobs(asked, Packing(max_minutes=90)) if "rerank" in stages(job)]
    assert max(len(job.steps) for job in limited) == 3
    assert count(jobs(asked))["model_loads"] == 3 < count(jobs(asked, Packing(max_minutes=90)))["model_loads"]


def test_short_steps_ride_with_what_they_wait_for_and_no_gpu_waits_for_a_cpu(tmp_path: Path) -> None:
    found = jobs(planned(tmp_path, "retriever=bm25,labse"))
    assert ["index", "retrieve"] in [stages(job) for job in found]
    assert all(job.needs.gpus == 0 for job in found if not job.loads)
    dense = next(job for job in found if job.loads)
    assert stages(dense) == ["index", "retrieve"] and dense.needs.gpus == 1
    assert stages(next(job for job in found if "topics" in stages(job))) == ["topics"]


def test_what_a_step_needs_can_be_said_by_stage_and_by_component(tmp_path: Path) -> None:
    asked = planned(tmp_path, "retriever=bm25,bm25_dt", "reranker=rank_zephyr,bge_reranker")
    said = Packing(needs={"rerank": {"minutes": 600}, "rank_zephyr": {"gpus": 4, "memory_gb": 160}})
    found = {tuple(job.loads): job.needs for job in jobs(asked, said) if job.loads}
    zephyr, bge = (next(n for loads, n in found.items() if name in loads[0]) for name in ("zephyr", "bge"))
    assert (zephyr.gpus, zephyr.memory_gb, bge.gpus, bge.memory_gb) == (4, 160, 1, None)
    with pytest.raises(ValueError, match=r"needs\.rerank may say gpus, memory_gb, minutes, python"):
        Packing(needs={"rerank": {"gpu": 4}})


def test_a_model_on_the_cpu_needs_no_gpu_and_a_served_one_loads_nothing(tmp_path: Path) -> None:
    both = planned(tmp_path, "retriever=labse", "retriever.device=cpu,auto").cells
    assert [needs(c.experiment.cfg.retriever).gpus for c in both if c.experiment] == [0, 1]
    (served,) = planned(tmp_path, "reranker=rank_gpt").experiments
    assert needs(served.cfg.reranker).gpus == 0 and needs(served.cfg.reranker).loads == ""


def test_an_array_shares_the_shards_and_the_job_after_it_joins_them(tmp_path: Path) -> None:
    found = jobs(planned(tmp_path, "retriever=labse"), Packing(array=4))
    array = next(job for job in found if job.tasks > 1)
    joins = next(job for job in found if array in job.after)
    assert stages(array) == ["index"] and array.tasks == 4 and array.needs.gpus == 1
    assert joins.steps[0] is array.steps[0] and joins.needs.gpus == 0 and whole(joins, array)


def test_nothing_of_a_job_is_left_only_if_all_its_steps_hang_on_the_one_that_failed(tmp_path: Path) -> None:
    asked = planned(tmp_path, PAIRS, "retriever=bm25", "reranker=bge_reranker")
    found = jobs(asked)
    reranks = next(job for job in found if "rerank" in stages(job))
    assert not any(whole(reranks, before) for before in reranks.after if "index" in stages(before))
    index = next(job for job in found if "index" in stages(job))
    assert all(whole(index, before) for before in index.after if "docs" in stages(before))


@pytest.mark.parametrize(
    ("state", "means"),
    [
        ("PENDING", "pending"), ("CONFIGURING", "pending"), ("REQUEUED", "pending"), ("REQUEUE_HOLD", "pending"),
        ("RUNNING", "running"), ("COMPLETING", "running"), ("SUSPENDED", "running"), ("COMPLETED", "done"),
        ("FAILED", "failed"), ("NODE_FAIL", "failed"), ("BOOT_FAIL", "failed"), ("OUT_OF_MEMORY", "oom"),
        ("TIMEOUT", "timeout"), ("DEADLINE", "timeout"), ("CANCELLED", "cancelled"), ("PREEMPTED", "cancelled"),
        ("SOMETHING_NEW", "failed"),
    ],
)  # fmt: skip
def test_what_slurm_calls_a_job_and_what_that_means_for_a_cell(state: str, means: str) -> None:
    seen = Seen(state)
    assert seen.means == means and means in STATES
    assert seen.alive == (means in {"pending", "running"})


def test_an_array_is_as_far_as_its_slowest_task_and_as_bad_as_its_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "7|COMPLETED|a|None\n7|RUNNING|a|None\n8|COMPLETED|b|None\n8|OUT_OF_MEMORY|b|OutOfMemory\n9|PENDING|c|Priority"
    )
    monkeypatch.setattr(queue, "ask", lambda *_: lines)
    assert {job: seen.means for job, seen in queue.seen().items()} == {"7": "running", "8": "oom", "9": "pending"}


def test_a_command_that_ends_between_two_looks_leaves_what_it_noted(tmp_path: Path) -> None:
    asked = planned(tmp_path, "retriever=bm25")
    folder = tmp_path / "sweeps" / "x"
    with frozen.noted(folder, lambda _: None):
        with frozen.noted(folder, lambda _: None) as heard:
            frozen.freeze(asked, folder, "serial")
            found = Campaign(asked, folder, frozen.note(folder))
            heard(Outcome(asked.cells[0], "failed", error=RunError("there is no key")))
        found.look()
        assert [o.status for o in found.outcomes(write=False)] == ["pending"], "another command is still at work"
    found.look()
    (outcome,) = found.outcomes(write=False)
    assert (outcome.status, str(outcome.error)) == ("failed", "there is no key")


def test_two_commands_may_freeze_a_sweep_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = planned(tmp_path, "retriever=bm25")
    folder, opened = tmp_path / "sweeps" / "x", gzip.open

    def beside_another(*arguments: Any, **more: Any) -> Any:
        file = opened(*arguments, **more)
        monkeypatch.setattr(gzip, "open", opened)
        frozen.freeze(asked, folder, "serial")
        return file

    monkeypatch.setattr(provenance, "now", lambda: "2026-01-01T00:00:00.000+00:00")
    monkeypatch.setattr(gzip, "open", beside_another)
    frozen.freeze(asked, folder, "serial")
    assert len(frozen.Frozen(folder)) == 1 and not list(folder.glob(".*"))


def test_no_slurm_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    cells, launcher = choice.chosen(compose.cells(["launcher=slurm", "launcher.partition=gpu"], True))
    assert "launcher" not in cells[0].plain and not cells[0].overrides
    with pytest.raises(ConfigError, match="no sbatch and squeue here"):
        launcher.execute(plan.planned(cells, Store(tmp_path)), tmp_path / "sweeps" / "x")
    assert not (tmp_path / "sweeps").exists()
