"""Both halves of a model in this process: no server, no ports, the same answers as through the services.

from visionsplit_local import VisionSplit

with VisionSplit("models/visionsplit-mini") as model:
    print(model.generate("photo.jpg", "What is this?").text)
"""

from visionsplit_local._many import Request
from visionsplit_local._vision_split import VisionSplit

__all__ = ["Request", "VisionSplit"]
