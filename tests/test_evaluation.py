"""What a ranking is worth: judgments, measures, which topics count, and trec_eval's own numbers."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import math
import platform
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from clir_cli import evaluation
from clir_cli.errors import ConfigError, DataError, RunError
from clir_cli.evaluation import counted, evaluate, parse_measures, read_qrels, summary
from clir_cli.runs import from_hits, read_trec, write_trec
from clir_cli.types import Qrel

SHARED = Path(__file__).parents[2] / "shared" / "data" / "trec-formats" / "qrels"


def published(name: str) -> Path:
    if not SHARED.exists():
        pytest.skip("the published judgments (shared/data/trec-formats) are not on this machine")
    return SHARED / name


def names(measures) -> list[str]:
    return [str(measure) for measure in measures]


def values(run, qrels, measure, topics="judged") -> dict[str, float]:
    scores = evaluate(run, qrels, parse_measures([measure]), topics)
    mine = scores[scores["measure"] == str(parse_measures([measure])[0])]
    return dict(zip(mine["query_id"], mine["value"], strict=True))


# Measures --------------------------------------------------------------------------------------------------------------


def test_measures_are_named_as_ir_measures_prints_them():
    assert names(parse_measures(["AP", "P(rel=2)@10", "RR"]))[:2] == ["AP", "P(rel=2)@10"]


def test_the_names_of_old_are_understood():
    assert names(parse_measures(["MAP", "MRR", "MRR@10", "NDCG@5"])) == [
        "AP",
        "RR",
        "RR@10",
        "Judged@10",
        "nDCG@5",
        "Judged@5",
    ]


def test_every_cut_off_brings_its_share_of_judged_documents_once():
    assert names(parse_measures(["nDCG@20", "R@100", "P@20"])) == [
        "nDCG@20",
        "Judged@20",
        "R@100",
        "Judged@100",
        "P@20",
    ]
    assert names(parse_measures(["nDCG@20", "AP", "Judged@20"])) == ["nDCG@20", "AP", "Judged@20"]
    assert names(parse_measures(["AP", "AP"])) == ["AP"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nDGC@20", "did you mean nDCG"),
        ("ndcg_cut_20", "did you mean nDCG@20?"),
        ("recip_rank", "did you mean RR?"),
        ("P", "it needs a cutoff"),
        ("nDCG(foo=1)@5", "foo"),
        ("nDCG@0", "at least 1"),
        ("nDCG@", "does not parse"),
        ("", "does not parse"),
        ("Gut", "spelled as ir_measures"),
        ("RBP(p=0.8)", "not installed"),
    ],
)
def test_a_measure_that_does_not_exist_is_refused_with_what_may_be_meant(name, hint):
    with pytest.raises(ConfigError) as error:
        parse_measures([name])
    assert hint in str(error.value)
    assert repr(name) in str(error.value)


def test_reading_names_of_measures_and_judgments_needs_no_pandas(tmp_path):
    (tmp_path / "q").write_text("1 0 d 1\n")
    code = f"""
import sys; from pathlib import Path
from clir_cli.evaluation import parse_measures, read_qrels
parse_measures(["nDCG@20", "AP"]), read_qrels(Path({str(tmp_path / "q")!r}))
assert "pandas" not in sys.modules and "scipy" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Which topics count ----------------------------------------------------------------------------------------------------

QRELS = [
    Qrel("1", "a", 1),
    Qrel("1", "b", 0),
    Qrel("2", "a", 0),  # no relevant document
    Qrel("3", "c", 2),  # no results
]
RUN = from_hits({"1": [("b", 2.0), ("a", 1.0)], "2": [("a", 1.0)], "unjudged": [("a", 1.0)]})


def test_every_judged_topic_counts_also_without_results_or_relevant_documents():
    assert values(RUN, QRELS, "AP") == {"1": 0.5, "2": 0.0, "3": 0.0}


def test_topics_without_relevant_documents_can_be_left_out():
    assert values(RUN, QRELS, "AP", topics="relevant") == {"1": 0.5, "3": 0.0}


def test_a_summary_says_the_other_policys_value_where_it_differs():
    scores = evaluate(RUN, QRELS, parse_measures(["AP"]))
    assert summary(scores, QRELS) == [("AP", 0.5 / 3, 3, 1, 0.25)]
    assert summary(scores, QRELS, "relevant") == [("AP", 0.25, 2, 1, 0.5 / 3)]
    relevant = [qrel for qrel in QRELS if qrel.query_id != "2"]
    assert summary(evaluate(RUN, relevant, parse_measures(["AP"])), relevant)[0].other is None


def test_the_mean_is_not_rounded():
    qrels = [Qrel(str(i), "a", 1) for i in range(3)]
    run = from_hits({"0": [("a", 1.0)]})
    assert summary(evaluate(run, qrels, parse_measures(["RR"])), qrels)[0].value == 1 / 3


def test_a_count_is_summed_as_its_measure_says():
    scores = evaluate(RUN, QRELS, parse_measures(["NumRet"]))
    assert summary(scores, QRELS)[0].value == 3


def test_no_results_at_all_score_zero():
    scores = evaluate(from_hits({}), QRELS, parse_measures(["AP", "nDCG@20", "RR@10"]))
    assert len(scores) == 3 * 5
    assert (scores["value"] == 0).all()


def test_unjudged_documents_are_not_relevant_unless_only_judged_ones_are_asked_for():
    run = from_hits({"1": [("new", 3.0), ("a", 2.0)]})
    assert values(run, QRELS[:2], "nDCG@10")["1"] == pytest.approx(1 / math.log2(3))
    assert values(run, QRELS[:2], "nDCG(judged_only=True)@10")["1"] == 1
    assert values(run, QRELS[:2], "Judged@10")["1"] == 0.5


def test_all_measures_see_the_runs_own_order_whatever_its_scores():
    run = from_hits({"q": [("a", 1.0), ("z", 1.0), ("b", 50.000001), ("y", 50.0)]})
    for best, measure in itertools.product("azby", ["RR", "RR@10", "P@1", "Judged@1"]):
        rank = "azby".index(best) + 1
        expected = 1 / rank if measure.startswith("RR") else float(rank == 1)
        assert values(run, [Qrel("q", best, 1)], measure) == {"q": expected}


def test_a_document_ranked_twice_is_refused():
    with pytest.raises(DataError, match="'a' is ranked twice for query 'q'"):
        evaluate(from_hits({"q": [("a", 2.0), ("a", 1.0)]}), QRELS, parse_measures(["AP"]))


def test_a_measure_is_the_same_alone_and_in_company():
    many = [
        "nDCG(gains={1:1,2:5})@3",
        "AP(rel=2)",
        "nDCG@3",
        "SetF(beta=2.0)",
        "SetF",
        "nDCG(judged_only=True)@3",
        "AP",
        "P(rel=2)@2",
    ]
    qrels = [Qrel("q", "a", 2), Qrel("q", "b", 1), Qrel("q", "c", 0), Qrel("p", "a", 1)]
    run = from_hits({"q": [("b", 3.0), ("new", 2.5), ("a", 2.0), ("c", 1.0)], "p": [("b", 1.0), ("a", 0.5)]})
    for order in (many, many[::-1], many[3:] + many[:3]):
        together = evaluate(run, qrels, parse_measures(order))
        for measure in map(str, parse_measures(order)):
            mine = together[together["measure"] == measure]
            assert dict(zip(mine["query_id"], mine["value"], strict=True)) == values(run, qrels, measure), measure


def test_our_own_measures_are_spelled_and_averaged_like_the_others(monkeypatch):
    monkeypatch.setitem(evaluation.OWN, "Found", lambda qrels, run: float(run["doc_id"].isin(qrels["doc_id"]).sum()))
    assert names(parse_measures(["Found@1", "Found"])) == ["Found@1", "Judged@1", "Found"]
    assert values(RUN, QRELS, "Found@1") == {"1": 1.0, "2": 1.0, "3": 0.0}
    assert values(RUN, QRELS, "Found") == {"1": 2.0, "2": 1.0, "3": 0.0}
    assert summary(evaluate(RUN, QRELS, parse_measures(["Found"])), QRELS)[0].value == 1.0


def test_the_program_behind_exponential_gains_says_what_it_needs():
    with pytest.raises(RunError, match="integer topic ids"):
        evaluate(from_hits({"q": [("a", 1.0)]}), [Qrel("q", "a", 1)], parse_measures(["ERR@20"]))


def test_half_a_million_rows_are_evaluated_in_seconds():
    qrels = [Qrel(str(q), f"d{i * 7}", i % 3) for q in range(300) for i in range(100)]
    run = from_hits({str(q): [(f"d{(i * 13) % 1000}", 0.0) for i in range(1000)] for q in range(300)})
    start = time.process_time()
    evaluate(run, qrels, parse_measures(["AP", "nDCG@20", "R@100", "RR@10"]))
    assert time.process_time() - start < 15


# The program trec_eval itself ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trec_eval(tmp_path_factory):
    """The program of the Anserini jar that pyserini carries: (qrels, run, options) -> {(measure, topic): printed value}."""
    found = importlib.util.find_spec("pyserini")
    if found is None or found.origin is None:
        pytest.skip("pyserini, whose jar carries the program trec_eval, is not installed")
    jar = next((Path(found.origin).parent / "resources" / "jars").glob("anserini-*-fatjar.jar"))
    machine = {"x86_64": "amd64", "AMD64": "amd64", "i386": "i386"}.get(platform.machine(), platform.machine())
    member = f"trec_eval/trec_eval-{sys.platform}-{machine}"
    with zipfile.ZipFile(jar) as archive:
        if member not in archive.namelist():
            pytest.skip(f"the Anserini jar has no {member}")
        program = tmp_path_factory.mktemp("trec_eval") / "trec_eval"
        program.write_bytes(archive.read(member))
    program.chmod(0o755)

    def judge(qrels: Path, run: Path, *options: str) -> dict[tuple[str, str], str]:
        out = subprocess.run([program, "-q", *options, qrels, run], check=True, capture_output=True, text=True)
        rows = (line.split() for line in out.stdout.splitlines())
        return {(measure, topic): value for measure, topic, value in rows}

    return judge


# ir_measures' name -> trec_eval's name and options
TREC_EVAL = {
    "AP": ("map", []),
    "AP@20": ("map_cut_20", ["-m", "map_cut.20"]),
    "nDCG": ("ndcg", []),
    "nDCG@20": ("ndcg_cut_20", ["-m", "ndcg_cut.20"]),
    "P@10": ("P_10", ["-m", "P.10"]),
    "R@100": ("recall_100", ["-m", "recall.100"]),
    "Success@5": ("success_5", ["-m", "success.5"]),
    "RR": ("recip_rank", []),
    "RR@10": ("recip_rank", ["-M", "10"]),  # another provider of ir_measures computes it
    "Rprec": ("Rprec", []),
    "Bpref": ("bpref", []),
    "AP(rel=2)": ("map", ["-l", "2"]),
    "R(rel=2)@100": ("recall_100", ["-m", "recall.100", "-l", "2"]),
    "nDCG(judged_only=True)@20": ("ndcg_cut_20", ["-m", "ndcg_cut.20", "-J"]),
    "AP(judged_only=True)": ("map", ["-J"]),
}


def assert_equal_to_trec_eval(trec_eval, qrels_path: Path, run_path: Path, run=None, policies=("judged", "relevant")):
    """Every measure of every topic and the mean, to the digits that trec_eval prints."""
    qrels, run = read_qrels(qrels_path), read_trec(run_path, order="any") if run is None else run
    scores = evaluate(run, qrels, parse_measures(list(TREC_EVAL)))
    for topics in policies:
        kept = {row.query_id for row in counted(scores, qrels, topics).itertuples()}
        judged = qrels_path.with_suffix(f".{topics}")
        judged.write_text("".join(f"{q} 0 {d} {r}\n" for q, d, r in qrels if q in kept), encoding="utf-8")
        means = {row.measure: row for row in summary(scores, qrels, topics)}
        for name, (theirs, options) in TREC_EVAL.items():
            options = options if "-m" in options else [*options, "-m", theirs]
            printed = trec_eval(judged, run_path, "-c", *options)
            assert means[name].topics == len(kept)
            assert f"{means[name].value:.4f}" == printed[theirs, "all"], (name, topics)
            mine = scores[scores["measure"] == name]
            for query_id, value in zip(mine["query_id"], mine["value"], strict=True):
                if query_id in kept:  # trec_eval prints no line for a topic without results
                    assert f"{value:.4f}" == printed.get((theirs, query_id), "0.0000"), (name, query_id)


@pytest.mark.parametrize("seed", range(6))
def test_any_run_scores_what_trec_eval_prints(trec_eval, tmp_path, seed):
    """Ties, float32 ties, ids of many scripts, graded and negative judgments, topics without relevant documents or results."""
    rng = random.Random(seed)
    ids = ["a", "b", "B", "ä", "z#1", "10", "9", "文", "new", *(f"d{i}" for i in range(30))]
    values = [-1.5, 0.0, 1.0, 2.0, 50.0, 50.000001, 1e9]
    qrels, run = tmp_path / "qrels", tmp_path / "run"
    topics = [str(i) for i in range(12)]
    grades = {topic: [-1, 0] if topic in {"3", "8"} else [-1, 0, 0, 0, 1, 2, 3] for topic in topics}
    judged = [f"{q} 0 {d} {rng.choice(grades[q])}\n" for q in topics for d in rng.sample(ids, 20)]
    ranked = [q for q in [*topics, "unjudged"] if q not in {"5", "8"}]
    scored = [f"{q} Q0 {d} 1 {rng.choice(values)!r} t\n" for q in ranked for d in rng.sample(ids, rng.randint(1, 30))]
    rng.shuffle(scored)
    qrels.write_text("".join(judged), encoding="utf-8")
    run.write_text("".join(scored), encoding="utf-8")
    assert_equal_to_trec_eval(trec_eval, qrels, run)


@pytest.mark.parametrize(
    "name",
    [
        "qrels.hc4-v1.0-fa.dev.txt",
        "qrels.hc4-v1.0-ru.dev.txt",
        "qrels.neuclir22-fa.txt.gz",
        "qrels.ciral-v1.0-sw-test-b.tsv",
    ],
)
def test_a_run_on_published_judgments_scores_what_trec_eval_prints(trec_eval, tmp_path, name):
    source = published(name)
    qrels = tmp_path / "qrels.txt"
    qrels.write_bytes(gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes())
    judgments, rng = read_qrels(qrels), random.Random(3)
    hits: dict[str, dict[str, float]] = {}
    for query_id, doc_id, relevance in judgments:
        if rng.random() < 0.7 and hash_of(query_id) % 5:  # a fifth of the topics without results
            hits.setdefault(query_id, {})[doc_id] = round(rng.gauss(relevance, 2), 1)  # many ties
            hits[query_id][f"unjudged#{rng.randrange(300)}"] = round(rng.gauss(0.5, 2), 1)
    tied = tmp_path / "tied.trec"
    lines = [f"{q}\tQ0\t{d} 0 {score} x\n" for q, docs in hits.items() for d, score in docs.items()]
    tied.write_text("".join(lines), encoding="utf-8")
    assert_equal_to_trec_eval(trec_eval, qrels, tied)
    written = tmp_path / "written.trec"
    best_first = {q: sorted(docs.items(), key=lambda hit: -hit[1]) for q, docs in hits.items()}  # ties in another order
    run = from_hits(best_first)
    write_trec(run, written)
    assert_equal_to_trec_eval(trec_eval, qrels, written, run, policies=("judged",))


def hash_of(text: str) -> int:
    return sum(text.encode())


# Judgments -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "judgments", "topics"),
    [
        ("qrels.ciral-v1.0-ha-dev.tsv", 165, 10),  # no final line break
        ("qrels.ciral-v1.0-sw-test-b.tsv", 2175, 114),  # one topic that no topics file has
        ("qrels.neuclir22-fa.txt.gz", 34174, 46),
        ("qrels.fire12en.176-225.txt.gz", 36499, 50),
        ("qrels.hc4-v1.0-zh.dev.txt", 466, 10),
    ],
)
def test_published_judgments_are_read_completely(name, judgments, topics):
    found = read_qrels(published(name))
    assert (len(found), len({qrel.query_id for qrel in found})) == (judgments, topics)


@pytest.mark.parametrize(
    "text",
    [
        b"01 0 T#13#0 1\n01 0 NA -2\n",
        b"01\t0\tT#13#0\t1\n01\tQ0\tNA\t-2",
        b"\xef\xbb\xbf01 0 T#13#0 +1 \r\n\r\n  01   0 NA\t-2\r\n",
        b"query-id\tcorpus-id\tscore\n01\tT#13#0\t1\n01\tNA\t-2\n",
    ],
)
def test_judgments_come_in_several_layouts(tmp_path, text):
    for path, data in ((tmp_path / "q.txt", text), (tmp_path / "q.txt.gz", gzip.compress(text))):
        path.write_bytes(data)
        assert read_qrels(path) == [Qrel("01", "T#13#0", 1), Qrel("01", "NA", -2)]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (b"1 0 a 1\n1 0 b\n", 2, "expected 4 fields (query_id 0 doc_id relevance, or"),
        (b"1 a 1\n", 1, "expected 4 fields"),
        (b"query-id corpus-id score\n1 a 1\n1 0 b 1\n", 3, "expected 3 fields"),
        (b"1 0 a 1\n\n1 0 b 0.5\n", 3, "expected an integer as relevance, got '0.5'"),
        (b"1 0 a 1_0\n", 1, "expected an integer"),
        (b"1 0 a 1\n1 0 a 2\n", 2, "judged 1 before, now 2"),
        (b"1 0 a 1\n1 0 \xe4 1\n", 2, "not UTF-8"),
    ],
)
def test_a_defect_in_judgments_is_named_with_its_line(tmp_path, text, line, said):
    path = tmp_path / "q.txt"
    path.write_bytes(text)
    with pytest.raises(DataError) as error:
        read_qrels(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert said in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"query-id corpus-id score\n"])
def test_judgments_without_judgments_are_refused(tmp_path, data):
    (tmp_path / "q").write_bytes(data)
    with pytest.raises(DataError, match="no judgments"):
        read_qrels(tmp_path / "q")


def test_judgments_that_are_not_there_or_half_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a file"):
        read_qrels(tmp_path / "none.txt")
    half = tmp_path / "half.gz"
    half.write_bytes(gzip.compress(b"1 0 a 1\n" * 999)[:-9])
    with pytest.raises(DataError, match="not a complete gzip file"):
        read_qrels(half)


def test_a_pair_judged_twice_alike_counts_once_and_is_said(tmp_path, capsys):
    path = tmp_path / "q.txt"
    path.write_text("1 0 a 1\n1 0 b 0\n1 0 a 1\n")
    assert read_qrels(path) == [Qrel("1", "a", 1), Qrel("1", "b", 0)]
    assert "1 judgment stands there twice" in capsys.readouterr().err


def test_two_hundred_thousand_judgments_are_read_in_a_moment(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("".join(f"{i % 500} 0 doc{i} {i % 3}\n" for i in range(200_000)))
    start = time.process_time()
    assert len(read_qrels(path)) == 200_000
    assert time.process_time() - start < 5
