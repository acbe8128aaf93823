"""A Kubernetes API server in memory, for tests: pods, their resize, a kubelet that acts when it is told to, Leases,
and scales.

What it answers is what a real one of version 1.35 does, as far as an actuator can tell: Status objects, versions of
objects, generations, conditions. It is not a real one.
"""

import contextlib
import copy
import json
import re
import threading
from collections.abc import Callable, Iterable
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMESPACE = "serving"
TOKEN = "let-me-in"
_OBJECT = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+)/(?P<name>[^/]+)"
    r"(?:/(?P<subresource>\w+))?"
)
# As kubectl writes them.
_POD, _RESIZE, _LEASE = "pods", "pods/resize", "leases.coordination.k8s.io"
_SCALES = {f"{kind}.apps/scale": kind for kind in ("deployments", "statefulsets")}
_VERBS = {"GET": "get", "PATCH": "patch", "PUT": "update", "DELETE": "delete", "POST": "create"}
_STRATEGIC = "application/strategic-merge-patch+json"
_RFC3339_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_SUFFIXES = {"": 0, "k": 3, "M": 6, "G": 9}  # of powers of ten, as canonical quantities have them

Json = dict[str, Any]


class Refused(Exception):
    """An answer that is a Status: its code, reason, message and details."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details or {},
            "code": code,
        }


def amount(quantity: str) -> Decimal:
    """What a quantity is: `500m` is half. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi|)", quantity)
    if match is None:
        raise ValueError("quantities must match the regular expression")
    number, suffix = Decimal(match[1]), match[2]
    if suffix == "m":
        return number / 1000
    if suffix.endswith("i"):
        return number * 1024 ** (1 + "KMG".index(suffix[0]))
    return number * 10 ** _SUFFIXES[suffix]


def canonical(quantity: str) -> str:
    """The same quantity as an API server gives it back: 2000m is 2, and 5000 is 5k."""
    if quantity.endswith("i"):
        return quantity
    thousandths = int(amount(quantity) * 1000)
    for suffix, power in reversed(_SUFFIXES.items()):
        if thousandths % 10 ** (power + 3) == 0:
            return f"{thousandths // 10 ** (power + 3)}{suffix}"
    return f"{thousandths}m"


def merged(value: Any, patch: Any) -> Any:
    """A strategic merge, as far as pods go: objects by key, lists of what has a name by that."""
    if isinstance(value, dict) and isinstance(patch, dict):
        result = value | {key: merged(value.get(key), new) for key, new in patch.items()}
        return {key: new for key, new in result.items() if new is not None}
    if isinstance(value, list) and all("name" in one for one in (*value, *patch)):
        by_name = {one["name"]: one for one in value}
        for one in patch:
            by_name[one["name"]] = merged(by_name.get(one["name"], {}), one)
        return list(by_name.values())
    return patch


def qos_class(spec: Json) -> str:
    """The QoS class of a pod, by the resources of its containers."""
    resources = [container.get("resources", {}) for container in spec["containers"]]
    if not any(resources):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= r.get("limits", {}).keys() and r["limits"] == r.get("requests")
        for r in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"


def resized(pod: Json, patch: Json) -> Json:
    """The pod after a patch of its resize subresource, which changes CPU and memory of containers and drops the rest.

    Raises Refused for what may not be resized.
    """
    result, name = copy.deepcopy(pod), pod["metadata"]["name"]

    def invalid(field: str, message: str) -> Refused:
        text = f'Pod "{name}" is invalid: {field}: {message}'
        return Refused(422, "Invalid", text, {"name": name, "kind": "Pod"})

    wanted = {c["name"]: c for c in merged(pod["spec"], patch.get("spec", {}))["containers"]}
    for index, container in enumerate(result["spec"]["containers"]):
        field = f"spec.containers[{index}].resources"
        before, after = container.get("resources", {}), wanted[container["name"]].get("resources", {})
        for kind in ("requests", "limits"):
            for resource in before.get(kind, {}).keys() | after.get(kind, {}).keys():
                old, new = before.get(kind, {}).get(resource), after.get(kind, {}).get(resource)
                if old == new:
                    continue
                if resource not in ("cpu", "memory"):
                    raise invalid("spec", "Forbidden: only cpu and memory resources are mutable")
                if new is None:
                    raise invalid(f"{field}.{kind}", "Forbidden: resource limits cannot be removed")
                try:
                    after[kind][resource] = canonical(new)
                except ValueError as error:
                    raise Refused(400, "BadRequest", str(error)) from error
        for resource, request in after.get("requests", {}).items():
            limit = after.get("limits", {}).get(resource)
            if limit is not None and amount(request) > amount(limit):
                raise invalid(
                    f"{field}.requests", f"Invalid value: must be less than or equal to {resource} limit"
                )
        container["resources"] = after
    if qos_class(result["spec"]) != pod["status"]["qosClass"]:
        raise invalid("spec", "Invalid value: Pod QOS Class may not change as a result of resizing")
    return result


class KubeApi:
    """Serves until `stop`; `allowed` are the (verb, resource, name) that its one client's Role grants, "" for any name.

    `seen` is what of that was used, `refused` what else was tried, `patches` all of pods that were accepted. While
    `prompt` the kubelet acts right after each patch, else when `kubelet` is called. `actuating` None has it act at
    once, a text leaves PodResizeInProgress with that reason. `before_patch` holds what somebody else does to an object
    just before the next patches. `answer` replaces every answer, and while `open` is not set none is given.
    """

    def __init__(self, allowed: Iterable[tuple[str, str, str]]) -> None:
        self.allowed = set(allowed)
        self.seen: set[tuple[str, str, str]] = set()
        self.refused: list[tuple[str, str, str]] = []
        self.pods: dict[str, Json] = {}
        self.leases: dict[str, Json] = {}
        self.scales: dict[tuple[str, str], Json] = {}  # by kind and name
        self.patches: list[Json] = []
        self.node = "node-1"
        self.capacity_millicores = 8000
        self.taken_millicores = 0  # by pods that are not ours
        self.prompt = True
        self.actuating: str | None = None
        self.has_resize = True
        self.before_patch: list[Callable[[Json], None]] = []
        self.answer: tuple[int, bytes] | None = None
        self.open = threading.Event()
        self.open.set()
        self.port = 0
        self._lock = threading.Lock()
        self._version = 100
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def kubeconfig(self, path: Path, token: str = TOKEN) -> Path:
        """Write a file at `path` that leads here."""
        here = {"server": f"http://127.0.0.1:{self.port}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "control"}}],
            "clusters": [{"name": "here", "cluster": here}],
            "users": [{"name": "control", "user": {"token": token}}],
        }
        path.write_text(json.dumps(config))
        return path

    def add(self, name: str, resources: Json | None = None, **labels: str) -> Json:
        """A running pod with a container `worker` and one beside it; `resources` are those of the first."""
        guaranteed = {"cpu": "1", "memory": "1Gi"}
        beside = {"cpu": "100m", "memory": "64Mi"}
        if resources is None:
            resources = {"requests": guaranteed, "limits": guaranteed}
        spec = {
            "nodeName": self.node,
            "containers": [
                {"name": "worker", "image": "sponge-worker", "resources": copy.deepcopy(resources)},
                {
                    "name": "beside",
                    "image": "other",
                    "resources": {"requests": beside, "limits": dict(beside)},
                },
            ],
        }
        pod = self.pods[name] = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"uid-of-{name}",
                "labels": labels or {"sponge.worker": "true"},
                "generation": 1,
            },
            "spec": spec,
            "status": {"phase": "Running", "qosClass": qos_class(spec), "conditions": []},
        }
        self._put_in_force(pod)
        return pod

    def add_lease(self, name: str) -> Json:
        """A Lease as it is applied: nobody's."""
        lease = self.leases[name] = {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {},
        }
        self._changed(lease)
        return lease

    def add_scale(self, kind: str, name: str, replicas: int) -> Json:
        """The scale of what is of a kind, "deployments" or "statefulsets"."""
        scale = self.scales[kind, name] = {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "selector": f"app={name}"},
        }
        self._changed(scale)
        return scale

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """What somebody else does."""
        scale = self.scales[kind, name]
        scale["spec"]["replicas"] = replicas
        self._changed(scale)

    def limits(self, name: str) -> tuple[Json, Json]:
        """What the container `worker` is asked to have, and what it has."""
        pod = self.pods[name]
        return (
            pod["spec"]["containers"][0]["resources"]["limits"],
            pod["status"]["containerStatuses"][0]["resources"]["limits"],
        )

    def kubelet(self) -> None:
        """Let the kubelet look at every pod once."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        for pod in self.pods.values():
            desired = pod["spec"]["containers"][0]["resources"]
            if desired == pod["status"]["containerStatuses"][0]["resources"]:
                self._put_in_force(pod)
                continue
            millicores = int(amount(desired["limits"]["cpu"]) * 1000)
            used = self.taken_millicores + sum(self._actual(p) for p in self.pods.values() if p is not pod)
            told = f"requested: {millicores}, used: {used}, capacity: {self.capacity_millicores}"
            if millicores > self.capacity_millicores:
                message = f"Node didn't have enough capacity: cpu, {told}"
                self._tell(pod, "PodResizePending", "Infeasible", message)
            elif used + millicores > self.capacity_millicores:
                self._tell(
                    pod, "PodResizePending", "Deferred", f"Node didn't have enough resource: cpu, {told}"
                )
            elif self.actuating is not None:
                self._tell(pod, "PodResizeInProgress", self.actuating, "")
            else:
                self._put_in_force(pod)

    @staticmethod
    def _actual(pod: Json) -> int:
        return int(amount(pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"]) * 1000)

    def _put_in_force(self, pod: Json) -> None:
        containers = copy.deepcopy(pod["spec"]["containers"])
        pod["status"]["containerStatuses"] = [
            {
                "name": c["name"],
                "image": c["image"],
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "resources": c["resources"],
                "allocatedResources": c["resources"].get("requests"),
            }
            for c in containers
        ]
        pod["status"]["conditions"] = []
        self._changed(pod, observed=True)

    def _tell(self, pod: Json, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "observedGeneration": pod["metadata"]["generation"]}
        if reason:
            condition |= {"reason": reason}
        if message:
            condition |= {"message": message}
        pod["status"]["conditions"] = [condition]
        self._changed(pod, observed=True)

    def _changed(self, pod: Json, *, observed: bool = False) -> None:
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        if observed:
            pod["status"]["observedGeneration"] = pod["metadata"]["generation"]

    def respond(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        """The answer to one call: its code and JSON."""
        self.open.wait()
        with self._lock:
            if self.answer is not None:
                return self.answer
            try:
                answer = json.dumps(self._call(method, path, headers, body)).encode()
                if method == "PATCH" and self.prompt:
                    self._look()  # after the answer was made: a kubelet is never that fast
            except Refused as refused:
                return refused.code, json.dumps(refused.status).encode()
            return 200, answer

    def _call(self, method: str, path: str, headers: Any, body: bytes) -> Json:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        match = _OBJECT.fullmatch(path)
        unknown = Refused(404, "NotFound", "the server could not find the requested resource")
        if match is None:
            raise unknown
        kind, group, name = match["kind"], match["group"] or "", match["name"]
        resource = f"{kind}.{group}" if group else kind
        plain = kind  # as the authorizer names it
        if match["subresource"]:
            resource, plain = f"{resource}/{match['subresource']}", f"{kind}/{match['subresource']}"
        if resource not in (_POD, _RESIZE, _LEASE, *_SCALES):
            raise unknown
        verb = _VERBS[method]
        granted = {(verb, resource, name), (verb, resource, "")} & self.allowed
        if not granted or match["namespace"] != NAMESPACE:
            self.refused.append((verb, resource, name))
            raise Refused(
                403,
                "Forbidden",
                f'{kind} "{name}" is forbidden: User "system:serviceaccount:{NAMESPACE}:sponge-control" cannot {verb} '
                f'resource "{plain}" in API group "{group}" in the namespace "{match["namespace"]}"',
                {"name": name, "kind": kind},
            )
        if resource == _RESIZE and not self.has_resize:
            raise unknown
        self.seen |= granted
        found = self._object(resource, name)
        if found is None:
            raise Refused(404, "NotFound", f'{kind} "{name}" not found', {"name": name, "kind": kind})
        if verb == "get" and resource != _RESIZE:
            return found
        if verb != "patch" or resource == _POD:
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method")
        if headers.get("Content-Type") != _STRATEGIC:
            raise Refused(415, "UnsupportedMediaType", f"the body of the request was not {_STRATEGIC}")
        patch = json.loads(body)
        self._check_version(kind, found, patch)
        return self._resize(found, patch) if resource == _RESIZE else self._patched(kind, found, patch)

    def _object(self, resource: str, name: str) -> Json | None:
        if resource in _SCALES:
            return self.scales.get((_SCALES[resource], name))
        return (self.leases if resource == _LEASE else self.pods).get(name)

    def _check_version(self, kind: str, found: Json, patch: Json) -> None:
        name = found["metadata"]["name"]
        if self.before_patch:
            self.before_patch.pop(0)(found)
            self._changed(found)
        expected = patch.get("metadata", {}).get("resourceVersion", found["metadata"]["resourceVersion"])
        if expected != found["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {kind} "{name}": the object has been modified; '
                "please apply your changes to the latest version and try again",
                {"name": name, "kind": kind},
            )

    def _patched(self, kind: str, found: Json, patch: Json) -> Json:
        """A Lease or a scale after a patch, in its place."""
        spec = merged(found["spec"], patch["spec"])
        if spec.get("leaseDurationSeconds", 1) < 1 or spec.get("replicas", 0) < 0:
            raise Refused(422, "Invalid", "must be greater than 0")
        if not _RFC3339_MICRO.fullmatch(spec.get("renewTime", "2026-01-01T00:00:00.000000Z")):
            raise Refused(400, "BadRequest", f'parsing time "{spec["renewTime"]}" as RFC3339Micro')
        found["spec"] = spec
        self._changed(found)
        return found

    def _resize(self, pod: Json, patch: Json) -> Json:
        name = pod["metadata"]["name"]
        after = resized(pod, patch)
        if after["spec"] != pod["spec"]:
            after["metadata"]["generation"] += 1
        self._changed(after)
        self.pods[name] = after
        self.patches.append(patch)
        return after

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            """One call of the API server; HTTP/1.0, so that no connection outlives it."""

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                code, answer = api.respond(self.command, self.path.partition("?")[0], self.headers, body)
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # of who has given up
                    self.wfile.write(answer)

            do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = respond  # noqa: N815

            def log_message(self, *told: object) -> None:
                """Say nothing."""

        return Handler
