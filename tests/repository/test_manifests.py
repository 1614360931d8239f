"""k8s/pods/ is what tvetl.pod writes, and k8s/ names the images that have ETL."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import yaml


def test_the_pods_in_the_repository_are_those_that_tvetl_writes(repository: Path) -> None:
    spec = spec_from_file_location("manifests", repository / "k8s" / "manifests.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.manifests()
    kept = {path.name: path.read_text(encoding="utf-8") for path in (repository / "k8s" / "pods").glob("*.yaml")}
    assert kept == made, "run `make manifests`"


def test_aistores_images_are_pinned_to_those_with_etl(repository: Path) -> None:
    base = yaml.safe_load((repository / "k8s" / "base" / "kustomization.yaml").read_text(encoding="utf-8"))
    assert {image["name"]: image["newTag"] for image in base["images"]} == {
        "aistorage/aisnode": "v5.0-etl",
        "aistorage/ais-init": "v5.0",
    }
