"""Rankings: their order, their cuts and unions, and the TREC files they travel in."""

from __future__ import annotations

import gzip
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clir_cli.errors import ConfigError, DataError
from clir_cli.runs import (
    below,
    cut,
    from_hits,
    interleaved,
    interpolation,
    ranked,
    read_trec,
    reciprocal_rank_fusion,
    score_fusion,
    strictly_falling,
    with_tail,
    write_trec,
)


def rows(text: str) -> pd.DataFrame:
    """`q1 a 1.0, q1 b 0.5` as a table."""
    found = [line.split() for line in text.split(",")]
    return pd.DataFrame([(q, d, float(s)) for q, d, s in found], columns=["query_id", "doc_id", "score"])


def run(text: str):
    return ranked(rows(text))


def docs(ranking, query: str = "q") -> list[str]:
    return list(ranking[ranking["query_id"] == query]["doc_id"])


def scores(ranking, query: str = "q") -> dict[str, float]:
    mine = ranking[ranking["query_id"] == query]
    return dict(zip(mine["doc_id"], mine["score"], strict=True))


# ASCII white space separates the fields of a TREC file; everything else may stand in an id
ids = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" "), min_size=1, max_size=6)
finite = st.floats(-(2.0**127), 2.0**127, width=32)


@st.composite
def rankings(draw):
    topics = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    return {
        topic: [(doc, draw(finite)) for doc in draw(st.lists(ids, min_size=1, max_size=8, unique=True))]
        for topic in topics
    }


# Order -----------------------------------------------------------------------------------------------------------------


def test_ties_are_ordered_as_trec_eval_orders_them():
    assert docs(run("q a 1.0, q c 2.0, q b 1.0")) == ["c", "b", "a"]
    assert docs(run("q 9 1, q 10 1, q B 1, q a 1, q ä 1, q 文 1")) == ["文", "ä", "a", "B", "9", "10"]  # by UTF-8 bytes


def test_topics_stay_in_the_order_in_which_they_came():
    mixed = run("10 a 1, 9 a 1, 10 b 2, 9 b 2")
    assert list(zip(mixed["query_id"], mixed["doc_id"], mixed["rank"], strict=True)) == [
        ("10", "b", 1), ("10", "a", 2), ("9", "b", 1), ("9", "a", 2),
    ]  # fmt: skip


def test_an_engines_own_order_is_kept_whatever_its_scores():
    assert docs(from_hits({"q": [("a", 1.0), ("z", 1.0), ("m", 5.0)]})) == ["a", "z", "m"]


def test_hashed_ties_favour_no_language():
    tied = pd.DataFrame(
        [(f"q{q}", f"{lang}-{i}", 0.0) for q in range(40) for lang in ("ar", "de", "zh") for i in range(10)],
        columns=["query_id", "doc_id", "score"],
    )
    by_id, hashed = (
        cut(ranked(tied, tie_break), 10)["doc_id"].str[:2].value_counts() for tie_break in ("doc_id", "hash")
    )
    assert by_id.to_dict() == {"zh": 400}
    assert all(100 < hashed[lang] < 170 for lang in ("ar", "de", "zh"))  # 133 expected, standard deviation 9
    again = ranked(tied.sample(frac=1, random_state=1).sort_values("query_id", kind="stable"), "hash")
    assert docs(again, "q7") == docs(ranked(tied, "hash"), "q7")  # the order of the input decides nothing


def test_a_cut_and_what_it_leaves_are_the_whole():
    whole = run("q a 3, q b 2, q c 1, p a 1")
    assert docs(cut(whole, 2)) == ["a", "b"]
    assert docs(below(whole, 2)) == ["c"]
    assert docs(with_tail(cut(whole, 2), below(whole, 2))) == ["a", "b", "c"]


# What lies below the reranked ------------------------------------------------------------------------------------------


def test_the_tail_follows_the_reranked_in_first_stage_order_with_lower_scores():
    first = run("q a 9, q b 8, q c 7, q d 6, q e 5")
    reranked = from_hits({"q": [("c", 0.2), ("a", 0.1), ("b", -4.0)]})
    both = with_tail(reranked, below(first, 3))
    assert docs(both) == ["c", "a", "b", "d", "e"]
    assert list(both["rank"]) == [1, 2, 3, 4, 5]
    assert (np.diff(both["score"]) < 0).all()


def test_a_document_of_the_tail_that_was_reranked_stands_once():
    assert docs(with_tail(from_hits({"q": [("b", 1.0)]}), run("q a 3, q b 2, q c 1"))) == ["b", "a", "c"]


def test_topics_with_fewer_documents_than_the_rerank_depth_keep_their_place():
    first = run("q1 a 3, q2 a 2, q2 b 1, q2 c 0, q3 a 1, q3 b 0")
    both = with_tail(cut(first, 2), below(first, 2))
    assert list(zip(both["query_id"], both["doc_id"], strict=True)) == list(
        zip(first["query_id"], first["doc_id"], strict=True)
    )


def test_a_topic_that_was_not_reranked_keeps_its_first_stage():
    assert docs(with_tail(run("p x 1"), run("q a 3, q b 2")), "q") == ["a", "b"]


@settings(max_examples=40, deadline=None)
@given(rankings(), st.integers(0, 9))
def test_cutting_and_appending_changes_no_order(hits, depth):
    whole = from_hits(hits)
    both = with_tail(cut(whole, depth), below(whole, depth))
    assert {q: docs(both, q) for q in hits} == {q: docs(whole, q) for q in hits}


# Fusion ----------------------------------------------------------------------------------------------------------------


def test_reciprocal_rank_fusion_by_hand():
    bm25, dense = run("q a 9, q b 8, q c 7"), run("q c 0.9, q a 0.8, p x 1")
    fused = reciprocal_rank_fusion([bm25, dense])
    assert scores(fused) == pytest.approx({"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "b": 1 / 62})
    assert docs(fused) == ["a", "c", "b"]
    assert scores(fused, "p") == {"x": 1 / 61}


def test_weights_and_k_of_reciprocal_rank_fusion():
    fused = reciprocal_rank_fusion([run("q a 1"), run("q b 1")], k=1, weights=[0.3, 0.7])
    assert scores(fused) == pytest.approx({"b": 0.35, "a": 0.15})


def test_documents_that_change_places_between_three_runs_tie_exactly():
    fused = reciprocal_rank_fusion([run("q a 3, q b 2, q c 1"), run("q b 3, q c 2, q a 1"), run("q c 3, q a 2, q b 1")])
    assert docs(fused) == ["c", "b", "a"]
    assert len(set(scores(fused).values())) == 1


def test_ranks_1_2_and_7_are_worth_the_same_in_whichever_run_they_are():
    """(1/67 + 1/61) + 1/62 and (1/61 + 1/62) + 1/67 are one number, and float64 has two for it: a would precede b."""
    places = [{7: "a", 1: "b"}, {1: "a", 2: "b"}, {2: "a", 7: "b"}]
    fused = reciprocal_rank_fusion(
        [
            run(", ".join(f"q {at.get(rank, f'{n}-{rank}')} {-rank}" for rank in range(1, 8)))
            for n, at in enumerate(places)
        ]
    )
    assert scores(fused)["a"] == scores(fused)["b"]
    assert docs(fused)[:2] == ["b", "a"]


def test_min_max_fusion_by_hand():
    fused = score_fusion([run("q a 10, q b 5, q c 0"), run("q c 0.5, q a 0.25")], "minmax")
    assert scores(fused) == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert docs(fused) == ["c", "a", "b"]


def test_z_score_fusion_by_hand():
    # a 1.2247, b 0, c -1.2247; in the other run c 1, b -1, and a, which it lacks, gets its lowest: -1
    fused = score_fusion([run("q a 3, q b 2, q c 1"), run("q c 2, q b 0")], "zscore")
    assert scores(fused) == pytest.approx({"a": 1.5**0.5 - 1, "b": -1, "c": 1 - 1.5**0.5})


def test_interpolation_takes_scores_as_they_are_and_a_missing_document_gets_nothing():
    bm25, dense = run("q a 10, q b 4"), run("q b 60, q c 50, p a 1")
    fused = interpolation([bm25, dense], [0.5, 0.5])
    assert scores(fused) == {"b": 32.0, "c": 25.0, "a": 5.0}
    assert docs(fused) == ["b", "c", "a"]
    assert scores(fused, "p") == {"a": 0.5}
    assert docs(interpolation([run("q a 9"), run("q b -1")])) == ["a", "b"]


@pytest.mark.parametrize("alpha", [0.5, 0.1, 1.0])
def test_interpolation_is_pyserinis_on_the_same_files(tmp_path, alpha):
    from pyserini.fusion import interpolation as reference
    from pyserini.trectools import TrecRun

    random, files = np.random.default_rng(4), [tmp_path / "bm25.trec", tmp_path / "dense.trec"]
    for path, (low, high) in zip(files, [(2, 30), (-5, 70)], strict=True):  # mDPR's inner products may be negative
        found = {
            f"q{topic}": [(f"d{doc}", random.integers(low * 8, high * 8) / 8) for doc in random.permutation(90)[:60]]
            for topic in range(5)
        }
        write_trec(ranked(from_hits(found)), path)
    theirs = reference([TrecRun(str(path)) for path in files], alpha=alpha, depth=50, k=70)
    theirs.save_to_txt(str(tmp_path / "theirs.trec"))
    expected = read_trec(tmp_path / "theirs.trec", order="any")
    got = cut(interpolation([cut(read_trec(path), 50) for path in files], [alpha, 1 - alpha]), 70)
    for topic in expected["query_id"].unique():
        mine, reference_scores = scores(got, topic), scores(expected, topic)
        assert list(mine.values()) == pytest.approx(list(reference_scores.values()), rel=1e-6)
        last = min(reference_scores.values())  # each tool has a rule of its own for documents that tie at the cut
        assert {d for d, s in mine.items() if s > last + 1e-4} == {
            d for d, s in reference_scores.items() if s > last + 1e-4
        }


@pytest.mark.parametrize(("normalise", "value"), [("minmax", 1.0), ("zscore", 0.0)])
def test_a_topic_whose_scores_are_all_equal_can_be_fused(normalise, value):
    fused = score_fusion([run("q a 0.1, q b 0.1, q c 0.1"), run("p x 1")], normalise)
    assert scores(fused) == {"a": value, "b": value, "c": value}


def test_as_many_weights_as_runs():
    with pytest.raises(ConfigError, match="3 weights for 2 runs"):
        score_fusion([run("q a 1"), run("q a 1")], "minmax", weights=[1, 2, 3])


def test_languages_in_turn_or_by_score():
    german, finnish = run("q de1 3, q de2 2"), run("q fi1 30, q fi2 20")
    assert docs(interleaved([german, finnish], "round_robin")) == ["de1", "fi1", "de2", "fi2"]
    assert docs(interleaved([german, finnish], "score")) == ["fi1", "fi2", "de1", "de2"]


# Strictly falling scores -----------------------------------------------------------------------------------------------


@given(st.lists(finite, max_size=30))
@example([50.000001, 50.0])
@example([0.0, 0.0, -0.0, 0.0])
@example([1.0, 9.0, 1.0, 1.0])
def test_scores_fall_strictly_as_float32_and_none_is_raised(values):
    falling = strictly_falling(np.array(values))
    assert falling.dtype == np.float32
    assert (falling[1:] < falling[:-1]).all()
    assert (falling <= np.array(values, np.float32)).all()
    assert [float(np.float32(f"{value:.9g}")) for value in falling] == falling.tolist()  # as it is written


def test_scores_that_fall_are_left_alone():
    assert strictly_falling(np.array([3.0, 2.5, -1.0])).tolist() == [3.0, 2.5, -1.0]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_a_score_that_no_evaluator_orders_is_refused(tmp_path, score):
    with pytest.raises(DataError, match="NaN, infinite or beyond float32"):
        write_trec(from_hits({"q": [("a", score)]}), tmp_path / "run.trec")
    assert list(tmp_path.iterdir()) == []


# TREC files ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hits=rankings())
def test_a_run_survives_a_trec_file(tmp_path, hits):
    written = from_hits(hits)
    write_trec(written, tmp_path / "run.trec")
    read = read_trec(tmp_path / "run.trec")
    pd.testing.assert_frame_equal(read.drop(columns="score"), written.drop(columns="score"))
    for _, mine in read.groupby("query_id"):
        assert (np.diff(mine["score"]) < 0).all()
    write_trec(read, tmp_path / "again.trec")
    assert (tmp_path / "again.trec").read_bytes() == (tmp_path / "run.trec").read_bytes()


def test_a_trec_line(tmp_path):
    write_trec(from_hits({"q1": [("d3", 0.7), ("d1", 0.7)]}), tmp_path / "run.trec", "bm25")
    assert (tmp_path / "run.trec").read_text() == "q1 Q0 d3 1 0.699999988 bm25\nq1 Q0 d1 2 0.699999928 bm25\n"


@pytest.mark.parametrize(
    ("tag", "written"), [("bm25_dt[k1=1.2] x", "bm25_dt-k1-1.2-x"), ("a" * 30, "a" * 24), ("", "clir")]
)
def test_a_tag_is_one_short_word(tmp_path, tag, written):
    write_trec(run("q a 1"), tmp_path / "run.trec", tag)
    assert (tmp_path / "run.trec").read_text().split() == ["q", "Q0", "a", "1", "1", written]


def test_an_empty_ranking_is_an_empty_file(tmp_path):
    write_trec(from_hits({}), tmp_path / "run.trec")
    assert (tmp_path / "run.trec").read_bytes() == b""


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        ({"q": [("a", 2.0), ("a", 1.0)]}, "'a' is ranked twice for query 'q'"),
        ({"q": [("a b", 2.0)]}, "doc_id 'a b' is empty or holds white space"),
        ({"q\t1": [("a", 2.0)]}, "query_id 'q\\\\t1' is empty or holds white space"),
        ({"q": [("", 2.0)]}, "doc_id '' is empty"),
    ],
)
def test_what_a_trec_file_cannot_say_is_refused(tmp_path, hits, said):
    with pytest.raises(DataError, match=said):
        write_trec(from_hits(hits), tmp_path / "run.trec")
    assert list(tmp_path.iterdir()) == []


GOOD = b"01 Q0 NA 1 2.5 t\n01 Q0 null 2 1.5 t\nno Q0 a#b 1 9 t\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace(b" ", b"\t"),
        GOOD.replace(b" ", b"  \t"),
        GOOD.replace(b"\n", b" \r\n"),
        GOOD.removesuffix(b"\n"),
        b"\xef\xbb\xbf" + GOOD,
        b"\n" + GOOD.replace(b"\n", b"\n\n \n"),
        GOOD.replace(b"null 2", b"null 1").replace(b" 1 ", b" 0 ").replace(b"null 0", b"null 1"),  # ranks from 0
    ],
    ids=["blanks", "tabs", "both", "CRLF", "no final line break", "BOM", "blank lines", "ranks from 0"],
)
def test_runs_come_in_several_layouts(tmp_path, text):
    for path, data in ((tmp_path / "run.trec", text), (tmp_path / "run.trec.gz", gzip.compress(text))):
        path.write_bytes(data)
        found = read_trec(path)
        assert list(zip(*(found[c] for c in ["query_id", "doc_id", "rank", "score"]), strict=True)) == [
            ("01", "NA", 1, 2.5), ("01", "null", 2, 1.5), ("no", "a#b", 1, 9.0),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            b"q1 Q0 d2 1 0.9 t\nq1 Q0 d3 2 0.7\n",
            2,
            "expected 6 fields (query_id Q0 doc_id rank score tag), got 5: 'q1 Q0 d3 2 0.7'",
        ),
        (b"q1 Q0 d 3 1 0.7 t\n", 1, "got 7"),
        (b"\n\nq1 Q0 d 3 1 0.7 t x y\n", 3, "got 9"),
        (b"q1 Q0 d1 1 0.9 t\nq1 Q0 \xe4 2 0.7 t\n", 2, "not UTF-8"),
        (b"q1 Q0 d1 1 0.9 t\n\nq1 Q0 d2 2 high t\n", 3, "expected a finite number as score, got 'high'"),
        (b"q1 Q0 d1 1 nan t\n", 1, "expected a finite number as score, got 'nan'"),
        (b"q1 Q0 d1 1 inf t\n", 1, "got 'inf'"),
        (b"q1 Q0 d1 1 1e39 t\n", 1, "got '1e39'"),
        (b"q1 Q0 d1 one 0.9 t\n", 1, "expected an integer as rank, got 'one'"),
        (b"q1 Q0 d1 1.5 0.9 t\n", 1, "got '1.5'"),
        (b"q1 Q0 d1 1 0.9 t\n\nq1 Q0 d1 2 0.7 t\n", 3, "document 'd1' is listed twice for query 'q1'"),
        (
            b"q1 Q0 d1 2 0.9 t\nq1 Q0 d2 1 0.7 t\n",
            2,
            "the rank column disagrees with the scores (first at query 'q1', rank 1",
        ),
    ],
)
def test_a_defect_in_a_run_is_named_with_its_line(tmp_path, text, line, said):
    path = tmp_path / "run.trec"
    path.write_bytes(text)
    with pytest.raises(DataError) as error:
        read_trec(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert said in str(error.value)


def test_a_run_that_is_not_there_empty_or_half_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a file"):
        read_trec(tmp_path / "none.trec")
    (tmp_path / "empty.trec").write_bytes(b"\n")
    with pytest.raises(DataError, match="is empty"):
        read_trec(tmp_path / "empty.trec")
    (tmp_path / "half.gz").write_bytes(gzip.compress(GOOD * 99)[:-9])
    with pytest.raises(DataError, match="not a complete gzip file"):
        read_trec(tmp_path / "half.gz")


def test_a_run_is_ordered_by_score_as_trec_eval_orders_it_or_by_rank_as_told(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 b 1 50 t\nq Q0 a 2 50.000001 t\nq Q0 c 3 60 t\n")
    assert docs(read_trec(path, order="any")) == ["c", "b", "a"]  # 50 and 50.000001 are one float32: a tie
    assert docs(read_trec(path, order="rank")) == ["b", "a", "c"]


def test_ranks_that_break_ties_in_their_own_way_do_not_disagree_with_the_scores(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 a 1 50 t\nq Q0 b 2 50 t\n")
    assert docs(read_trec(path)) == ["b", "a"]
    assert docs(read_trec(path, order="rank")) == ["a", "b"]


def test_the_first_of_a_documents_lines_can_be_kept_and_the_others_are_counted(tmp_path, capsys):
    path = tmp_path / "run.trec"
    path.write_text("q Q0 a 1 3 t\nq Q0 b 2 2 t\nq Q0 a 3 1 t\n")
    assert docs(read_trec(path, duplicates="first")) == ["a", "b"]
    assert "1 line lists a document again" in capsys.readouterr().err


def test_three_hundred_thousand_rows_are_written_read_and_fused_in_seconds(tmp_path):
    big = from_hits(
        {str(q): [(f"doc{(i * 7919 + q) % 100_003}", 1000.0 - i // 3) for i in range(1000)] for q in range(300)}
    )
    start = time.process_time()
    write_trec(big, tmp_path / "run.trec")
    assert len(read_trec(tmp_path / "run.trec")) == 300_000
    assert len(reciprocal_rank_fusion([big, ranked(big, "hash")])) == 300_000
    assert time.process_time() - start < 20  # seconds of this process, however busy the machine
