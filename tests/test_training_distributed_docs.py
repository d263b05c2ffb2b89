"""The clusters of docs/distributed.md are files that accelerate reads."""

import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig


TEXT = (Path(__file__).parent.parent / "docs" / "distributed.md").read_text()
BLOCKS = re.findall(r"\*\*(.*?)\*\*[^`]*?(?:`[^`]+`[^`]*?)*```yaml\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_block_is_found():
    assert len(BLOCKS) == TEXT.count("```yaml") == 4


@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_a_cluster_has_known_keys_and_the_processes_its_title_says(title, block, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(block)
    cluster = ClusterConfig.from_yaml_file(path)  # refuses unknown keys
    machines, processes = {"One CPU": (1, 1), "One GPU": (1, 1), "Eight GPUs of one machine": (1, 8)}.get(
        title, (2, 16)
    )
    assert (cluster.num_machines, cluster.num_processes) == (machines, processes)
    assert cluster.use_cpu == ("CPU" in title)
    assert cluster.distributed_type == ("MULTI_GPU" if processes > 1 else "NO")
    # YAML 1.1 reads a bare no as False
    assert all(not isinstance(yaml.safe_load(block)[key], bool) for key in ("distributed_type", "mixed_precision"))
