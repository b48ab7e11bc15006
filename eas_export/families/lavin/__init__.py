"""LaVIN-EAS: load.py reads its files, prompt.py makes its prompts."""

from pathlib import Path

from ...checkpoint.state_dict import holds
from ...core.registry import deferred
from ..contract import Family
from .keys import ADAPTER_KEYS
from .load import ADAPTERS, load
from .prompt import PROMPTS


def detect(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob(ADAPTERS)) or (path / "weights").is_dir()
    return path.suffix == ".pth" and holds(path, ADAPTER_KEYS)


LAVIN = Family(
    name="lavin",
    layout="a folder with weights/, clip/ and checkpoint-*.pth, or the checkpoint-*.pth with --weights and --vision",
    detect=detect,
    load=load,
    takes=("weights", "vision", "tokenizer", "router_temperature", "adapter_scale"),
    prompts=PROMPTS,
    published_deviations=("published fold", "published dynamic decode"),
    witness=deferred(".families.witnesses.lavin:open_witness"),
)
