"""AutoVI (Carvalho et al., 2024; CC BY-NC-SA 4.0): six views of car assembly at Renault, from a production line.

Masks are folders of channels with a defects_config.json, as in MVTec LOCO AD; a channel is a picture in grey RGB.
"""

from __future__ import annotations

from typing import Literal

from anomaly_bench.datasets.mvtec_loco import ChannelMasks

Category = Literal["engine_wiring", "pipe_clip", "pipe_staple", "tank_screw", "underbody_pipes", "underbody_screw"]


class AutoVI(ChannelMasks):
    """`root`/<category>/{train/good, test/<kind>, ground_truth/<kind>/<id>/<n>.png, defects_config.json}."""

    name = "autovi"

    def __init__(self, category: Category, root: str | None) -> None:
        super().__init__(category, root)
