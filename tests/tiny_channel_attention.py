"""Tiny Restormer and MST with both attentions in each."""

from __future__ import annotations

from typing import Any

from exported import Exported, ExportStore
from keygraph.models.mst import MSTConfig
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig

#: A Restormer with CSA, whose statistics over the whole image make tiles differ from it.
CSA = RestormerConfig(channels=8, blocks=(1,) * 4, refinement_blocks=1, heads=(1, 2, 2, 4), norm="BiasFree")

#: An MST++ with GLMHA.
GLMHA = MSTPlusPlusConfig(channels=6, out_channels=6, stages=1, blocks=(1, 1), attention="glmha")

#: Both attentions in one network: a level whose reduction is 0 has CSA instead of GLMHA.
NETWORKS: dict[str, Any] = {
    "restormer": RestormerConfig(
        in_channels=6,
        channels=8,
        blocks=(1,) * 4,
        refinement_blocks=1,
        heads=(1, 2, 2, 2),
        norm="BiasFree",
        dual_pixel=True,
        attention="glmha",
        reduction=(0.0, 0.5, 0.0, 0.25, 0.0),
    ),
    "mst": MSTConfig(bands=4, channels=4, blocks=(1, 1), attention="glmha", reduction=(0.5, 0.0)),
}


def exported(name: str, exports: ExportStore) -> Exported:
    """Return a network of `NETWORKS` and its file in fp16."""
    return exports.get(NETWORKS[name], name, precision="fp16")
