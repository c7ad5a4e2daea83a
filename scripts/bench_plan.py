"""What planning a large sweep takes: CPU seconds and peak memory of composing, planning and printing it.

python scripts/bench_plan.py            # 10,200 cells over 1,020 combinations of group choices, on the demo collection
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from clir_cli import compose  # noqa: E402
from clir_cli.plan import planned  # noqa: E402
from clir_cli.store import Store  # noqa: E402
from clir_cli.verbs import planning  # noqa: E402

RETRIEVERS = (
    "arctic_embed_v2,bge_m3,bge_m3_multi,bge_m3_sparse,bm25,bm25_dt,bm25_icu,bm25_qt,bm25_rm3,bm25_rocchio,colbert_xm,distiluse,"
    "embeddinggemma,granite_311m,granite_97m,kalm_mini,labse,m_st5,mcontriever,me5_base,me5_large,me5_large_instruct,me5_small,"
    "mexma,mgte,mlateon,nv_embed_v2,qwen3_embedding_0_6b,qwen3_embedding_4b,qwen3_embedding_8b,repllama,sonar,udever,xmod"
)
RERANKERS = (
    "bge_reranker,bge_reranker_gemma,full_context,gte_reranker,jina_reranker,joint_rank,knock_out,listwise,mlateon,"
    "mminilm_reranker,mono_mt5,mono_t5,mono_xm,none,pairwise,pointwise,prp_aya101,prp_llama31,query_likelihood,"
    "qwen3_reranker_0_6b,qwen3_reranker_4b,qwen3_reranker_8b,rank_gpt,rank_vicuna,rank_zephyr,setwise,setwise_aya101,"
    "top_down,tour_rank,first_mistral"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, default=10, help="values of rerank.depth: 1,020 cells each")
    depths = parser.parse_args().depths
    axes = [f"retriever={RETRIEVERS}", f"reranker={RERANKERS}", f"rerank.depth=range(20,{20 + 10 * depths},10)"]
    begun = time.process_time()
    cells = compose.cells(axes, multirun=True)
    frozen = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(cells, Store(Path(folder), eager=False))
        built = time.process_time()
        print(planning.text(plan))
        told = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"{len(cells)} cells: {frozen - begun:.1f} s composed and frozen, {built - frozen:.1f} s planned, "
        f"{told - built:.1f} s printed; {told - begun:.1f} s of CPU and {memory:.2f} GB in all"
    )


if __name__ == "__main__":
    main()
