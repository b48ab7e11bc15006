"""The systems that EAS is compared with, in the scripts under benchmarks/."""

import pytest
from meter_flops import config_of
from meter_systems import off_network, systems
from synthetic_meter import SHAPES


@pytest.mark.parametrize("task", SHAPES)
def test_formulas_of_meters_layers_are_the_networks(task):
    assert off_network(config_of(SHAPES[task], "published")) == 0


def test_structures_have_the_papers_numbers_of_parameters():
    """In millions, as the paper rounds them, and Scaled PA without its norms."""
    counts = {
        name: round(row["parameters"] / 1e6, 2) for name, row in systems(SHAPES["vqa"]).items() if row["parameters"]
    }
    assert counts == {"shallow prompt": 0.31, "deep prompt": 1.84, "LoRA": 0.29, "Adapter": 5.34, "Scaled PA": 3.56}
