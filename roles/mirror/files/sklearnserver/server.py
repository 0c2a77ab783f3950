"""Stand-in for KServe's sklearn model server (kserve/sklearnserver), whose package is not on PyPI.

It serves a scikit-learn model with the kserve library itself, with the arguments of KServe's sklearn runtime:
the protocols, probes and metrics are the library's; only the model class is written here.
"""

import argparse
import pathlib

import joblib
import kserve
import numpy as np
from kserve.utils.utils import get_predict_response


class SklearnModel(kserve.Model):
    """The one model file in a directory."""

    def __init__(self, name: str, model_dir: str):
        """Remember where the model is."""
        super().__init__(name)
        self.model_dir = pathlib.Path(model_dir)

    def load(self) -> bool:
        """Load it."""
        files = [path for path in sorted(self.model_dir.rglob("*")) if path.suffix in {".joblib", ".pkl", ".pickle"}]
        if len(files) != 1:
            raise FileNotFoundError(f"{self.model_dir} has {len(files)} model files (.joblib, .pkl, .pickle); exactly one is needed")
        self.model = joblib.load(files[0])
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        """Answer a request of the v1 or of the v2 (open inference) protocol."""
        if isinstance(payload, dict):
            return {"predictions": self.model.predict(np.array(payload["instances"])).tolist()}
        result = self.model.predict(payload.inputs[0].as_numpy())
        return get_predict_response(payload, result, self.name)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser], conflict_handler="resolve")
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--model_name", default="model")
    arguments, _others = parser.parse_known_args()
    model = SklearnModel(arguments.model_name, arguments.model_dir)
    model.load()
    kserve.ModelServer(http_port=arguments.http_port, workers=1, enable_grpc=False).start([model])


if __name__ == "__main__":
    main()
