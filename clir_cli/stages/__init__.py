"""The story of an experiment: read, translate, index, retrieve, fuse, rerank. Building the steps runs nothing."""

from clir_cli.stages.common import pair_label, tie_break
from clir_cli.stages.second import Stages

__all__ = ["Stages", "pair_label", "tie_break"]
