"""Every workflow that ships: one module per family of models, each ending in its list.

build_workflows.py makes the files.
"""

from __future__ import annotations

from collections.abc import Mapping

from node_schema import Schema
from workflow_graph import Graph

from . import (
    animatediff,
    causal,
    demo,
    flux,
    full_steps,
    hunyuan15,
    ltx2,
    measures,
    qwen,
    sd15,
    sdxl,
    wan21,
    wan22,
    z_image,
)

# In the order of docs/workflows.md.
FAMILIES = (
    sd15,
    sdxl,
    flux,
    qwen,
    z_image,
    wan21,
    wan22,
    causal,
    ltx2,
    hunyuan15,
    animatediff,
    full_steps,
    measures,
    demo,
)


def all_graphs(schema: Schema) -> Mapping[str, Graph]:
    """Every workflow by its slug. Raises ValueError where a title or slug is used twice."""
    graphs = [workflow.graph(schema) for family in FAMILIES for workflow in family.WORKFLOWS]
    for names in ([graph.slug for graph in graphs], [graph.title for graph in graphs]):
        if len(set(names)) != len(names):
            raise ValueError(f"a workflow name is used twice: {sorted(names)}")
    return {graph.slug: graph for graph in graphs}
