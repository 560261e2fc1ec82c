"""How sites may shorten what they send in global rounds. numpy alone; site and server use the same object.

>>> from fedpurel_app.compression import Sketch, TopK
>>> strategy = FedPuReL(Schedule(50, 50), codec=TopK(ratio=8))  # doctest: +SKIP
"""

from fedpurel_app.compression.base import Codec
from fedpurel_app.compression.registry import COMPRESSIONS, LEAST_VALUES, make_codec
from fedpurel_app.compression.sketch import Sketch
from fedpurel_app.compression.top_k import TopK

__all__ = ["COMPRESSIONS", "LEAST_VALUES", "Codec", "Sketch", "TopK", "make_codec"]
