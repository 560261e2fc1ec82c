from fedpurel_app.api import Run as Run
from fedpurel_app.api import run as run
from fedpurel_app.inference.trained import load_trained as load_trained
from fedpurel_app.strategies import FedPuReL as FedPuReL

__version__: str
