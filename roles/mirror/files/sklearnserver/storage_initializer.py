"""Stand-in for KServe's storage initializer (kserve/storage-initializer): `storage_initializer.py SOURCE DESTINATION`.

The public model of KServe's first tutorial is in a bucket that a machine with package registries only does not reach: it is
trained here, from the data set that scikit-learn ships. Of other sources this one knows volumes (KServe mounts pvc:// at
/mnt/pvc and gives that path), file:// and http(s)://; buckets need the real image.
"""

import pathlib
import shutil
import sys
import urllib.parse
import urllib.request

IRIS = {"gs://kfserving-examples/models/sklearn/1.0/model", "gs://kfserving-samples/models/sklearn/iris"}


def initialize(source: str, destination: str) -> None:
    """Put a model where the server looks for it."""
    target = pathlib.Path(destination)
    target.mkdir(parents=True, exist_ok=True)
    url = urllib.parse.urlsplit(source)
    if source.rstrip("/") in IRIS:
        import train_iris  # scikit-learn takes a second to import: only where it is needed

        train_iris.train(str(target / "model.joblib"))
    elif url.scheme in ("", "file"):
        path = pathlib.Path(url.path)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)
    elif url.scheme in ("http", "https"):
        with urllib.request.urlopen(source, timeout=60) as answer, open(target / pathlib.PurePosixPath(url.path).name, "wb") as file:
            shutil.copyfileobj(answer, file)
    else:
        sys.exit(
            f"This stand-in for KServe's storage initializer cannot read {source}: it knows {', '.join(sorted(IRIS))}, volumes, file:// and http(s)://"
        )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} SOURCE DESTINATION")
    initialize(*sys.argv[1:])
