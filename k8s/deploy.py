"""`make deploy`: AIStore for development in the current Kubernetes context, tvetl in it, one photograph through it.

Every command is shown before it runs, so that each step can be done by hand; k8s/README.md goes through them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from tvetl.cluster import Cluster
from tvetl.command.doctor import examine
from tvetl.errors import TvetlError
from tvetl.pod import DEFAULT_IMAGE, PodSpec
from tvetl.spec import parse

HERE = Path(__file__).parent
ROOT = HERE.parent
PIPELINE = ROOT / "examples" / "pipelines" / "blog.yaml"
NAMESPACE, MARK = "ais", "tvetl-dev"
OURS = ("kubectl", "-n", NAMESPACE)
ETL, BUCKET = "tvetl-demo", "tvetl-demo"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--overlay", default="minikube", help="a folder of k8s/overlays")
    parser.add_argument("--image", default="", help="the server's image, as the node knows it")
    parser.add_argument("--load", default="", help="a command that brings an image to the node; the image is appended")
    parser.add_argument("--down", action="store_true", help="take everything away again")
    options = parser.parse_args()
    try:
        undeploy() if options.down else deploy(HERE / "overlays" / options.overlay, options.image, options.load)
    except TvetlError as error:
        print(f"{error.message}\n  {error.hint}", file=sys.stderr)
        return 1
    return 0


def deploy(overlay: Path, image: str, load: str) -> None:
    say(f"Kubernetes context: {kubectl('config', 'current-context')}")
    refuse_others()
    image = bring(image, load)
    run("kubectl", "apply", "--server-side", "--kustomize", str(overlay.relative_to(ROOT)))
    for node in ("proxy", "target"):
        if not run(*OURS, "rollout", "status", f"statefulset/ais-{node}", "--timeout=300s", ok=False):
            run(*OURS, "get", "pods", "-o", "wide", ok=False)
            stop(f"AIStore's {node} did not become ready; `kubectl -n {NAMESPACE} describe pods` says why.")
    endpoint = reach()
    for finding in examine(endpoint):
        hint = f"\n      {finding.hint}" if finding.hint else ""
        say(f"{finding.level:4}  {finding.check}: {finding.message}{hint}")
        if finding.level == "fail":
            stop("That must be right before tvetl can be registered.")
    transform_one(Cluster(endpoint), image)
    say("\nGo on:")
    say(f"  export AIS_ENDPOINT={endpoint}")
    say(f"  .venv/bin/tvetl register my-etl examples/pipelines/train.yaml --image {image}")
    say(f"  .venv/bin/tvetl transform {BUCKET} my-bucket --etl {ETL}")
    say("  make undeploy")


def transform_one(cluster: Cluster, image: str) -> None:
    """Register the blog's pipeline, and read one photograph through it."""
    pod = PodSpec(ETL, parse(PIPELINE.read_text(encoding="utf-8")), image, start_timeout=120)
    etl = cluster.register(pod)
    say(f"{ETL} runs already" if etl.reused else f"{ETL} is ready after {etl.seconds:.1f} s ({etl.form})")
    photograph = a_photograph()
    cluster.create_bucket(BUCKET)
    cluster.put(BUCKET, photograph.name, photograph.read_bytes())
    began = time.monotonic()
    result = cluster.get(BUCKET, photograph.name, ETL)
    milliseconds = (time.monotonic() - began) * 1000
    out = ROOT / "build" / "deploy" / photograph.name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(result)
    sizes = f"{photograph.stat().st_size} bytes in, {len(result)} out"
    say(f"{BUCKET}/{photograph.name} through {ETL}: {sizes}, {milliseconds:.0f} ms, {out.relative_to(ROOT)}")


def undeploy() -> None:
    say(f"Kubernetes context: {kubectl('config', 'current-context')}")
    if not refuse_others():
        say(f"There is no namespace {NAMESPACE!r}.")
        return
    run("kubectl", "delete", "namespace", NAMESPACE, "--timeout=120s")
    say("The objects are still in /data/ais of the node: `minikube ssh -- sudo rm -rf /data/ais` removes them.")


# Steps


def refuse_others() -> bool:
    """Whether our AIStore is there; ends where the namespace is another's."""
    label = "{.metadata.labels.app\\.kubernetes\\.io/part-of}"
    marked = kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", f"jsonpath={{.metadata.name}} {label}")
    if marked.startswith(NAMESPACE) and MARK not in marked:
        stop(f"The namespace {NAMESPACE!r} is there already, and k8s/ did not make it. Nothing was changed.")
    return bool(marked)


def bring(image: str, load: str) -> str:
    """Bring the image to the node; returns its name there."""
    if load:
        image = image or DEFAULT_IMAGE
        run(*load.split(), image)
    elif kubectl("config", "current-context").startswith("minikube") and shutil.which("minikube"):
        image = image or DEFAULT_IMAGE
        if shutil.which("docker") and run("docker", "image", "inspect", "--format", "{{.Id}}", image, ok=False):
            run("minikube", "image", "load", image)
        else:  # podman's store, whose own images bear the host "localhost"
            image = image if "/" in image else f"localhost/{image}"
            archive = ROOT / "build" / "image.tar"
            archive.parent.mkdir(exist_ok=True)
            archive.unlink(missing_ok=True)
            run("podman", "save", "--output", str(archive.relative_to(ROOT)), image)
            run("minikube", "image", "load", str(archive.relative_to(ROOT)))
    elif not image:
        stop("This is no Minikube: say which image the nodes can pull (IMAGE=), or what loads one (LOAD=).")
    return image


def reach() -> str:
    """The endpoint for clients outside of Kubernetes: the proxy's port of its node."""
    address = kubectl("-n", NAMESPACE, "get", "pod", "ais-proxy-0", "-o", "jsonpath={.status.hostIP}")
    return f"http://[{address}]:8080" if ":" in address else f"http://{address}:8080"


def a_photograph() -> Path:
    package = find_spec("skimage")  # found, never imported
    if package is None or package.origin is None:
        stop("scikit-image's photographs are missing: `make setup` brings them.")
    return Path(package.origin).parent / "data" / "rocket.jpg"


# Commands


def run(*command: str, ok: bool = True) -> bool:
    """Show a command and run it; a failure ends the program where ``ok``."""
    say(f"$ {' '.join(command)}")
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if ok and status:
        stop(f"{command[0]} ended with status {status}.")
    return status == 0


def kubectl(*arguments: str) -> str:
    command = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
    if command.returncode:
        stop(f"kubectl {' '.join(arguments)}: {command.stderr.strip()}")
    return command.stdout.strip()


def say(text: str) -> None:
    print(text, flush=True)


def stop(why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)
    raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main())
