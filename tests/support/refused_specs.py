"""InferenceServices that must be refused, each with the sentence to expect, and some that must not. Data only."""

from typing import Any

from refused_autoscaling import ACCEPTED_AUTOSCALING, REFUSED_AUTOSCALING
from spec_case import DEMO, HUB
from spec_case import Case as Case


def _model(title: str, sentence: str, **model: Any) -> Case:
    return Case(title, sentence, {"model": model})


REFUSED = (
    Case("name too long", "at most 40 characters", name="a" * 41),
    Case("name starts with a digit", "start with a letter", name="8b"),
    Case("name with a dot", "start with a letter", name="chat.v1"),
    _model("unknown scheme", "must start with demo://, file://, pvc:// or hf://", uri="s3://bucket/model"),
    _model("no scheme", "must start with demo://", uri="Qwen/Qwen3-8B"),
    _model("demo with a path", "there is one demo model", uri="demo://tiny"),
    _model("file without a path", "absolute path", uri="file://models"),
    _model("file that climbs", "must not contain '..'", uri="file:///models/../etc"),
    _model("claim that climbs", "must not contain '..'", uri="pvc://models/.."),
    _model("no claim", "needs the name of a volume claim", uri="pvc://"),
    _model("claim in capitals", "needs the name of a volume claim", uri="pvc://Models/a"),
    _model("repository without owner", "needs ORG/NAME", uri="hf://gpt2"),
    _model("repository with a branch", "goes into revision", uri="hf://Qwen/Qwen3-8B/main"),
    _model("a space", "characters other than", uri="file:///models/my model"),
    _model("a flag smuggled in", "characters other than", uri="file:///models/a\n--port"),
    _model("a last newline", "characters other than", uri="file:///models/a\n"),
    _model("revision of a demo", "belongs to an hf:// model", revision="main", **DEMO),
    _model("cache for a demo", "nothing to cache", cacheClaim="cache", **DEMO),
    _model("token for a demo", "no token is used", tokenSecret={"name": "hub", "key": "token"}, **DEMO),
    _model("revision that climbs", "branch, tag or commit", revision="a/../b", **HUB),
    _model("cache claim in capitals", "name of a volume claim", cacheClaim="Cache", **HUB),
    _model("secret in capitals", "name of a Secret", tokenSecret={"name": "Hub", "key": "token"}, **HUB),
    _model("key with a slash", "key of the Secret", tokenSecret={"name": "hub", "key": "a/b"}, **HUB),
    _model("model name with a space", "start with a letter or digit", name="my model", **DEMO),
    Case("no rank", "greater than or equal to 1", {"parallelism": {"tensor": 0}}, schema=True),
    Case("too many ranks", "less than or equal to 16", {"parallelism": {"tensor": 17}}, schema=True),
    Case("no pod", "greater than or equal to 1", {"parallelism": {"nodes": 0}}, schema=True),
    Case("too many pods", "less than or equal to 16", {"parallelism": {"tensor": 16, "nodes": 17}}, schema=True),
    Case("ranks that do not divide", "must be a multiple of nodes", {"parallelism": {"tensor": 3, "nodes": 2}}),
    Case("more pods than ranks", "must be a multiple of nodes", {"parallelism": {"nodes": 2}}),
    Case("topology of one pod", "belongs to nodes above 1", {"parallelism": {"topologyKey": "rack"}}),
    Case(
        "no label for a topology",
        "key of a node's label",
        {"parallelism": {"tensor": 2, "nodes": 2, "topologyKey": "my rack"}},
    ),
    Case(
        "no time to place",
        "greater than or equal to 10",
        {"parallelism": {"tensor": 2, "nodes": 2, "placementTimeoutSeconds": 9}},
        schema=True,
    ),
    Case(
        "devices of all pods on each",
        "the ranks of one pod",
        {
            "accelerator": "nvidia.com/gpu",
            "parallelism": {"tensor": 4, "nodes": 2},
            "resources": {"limits": {"nvidia.com/gpu": 4}},
        },
    ),
    Case("a bare word for a device", "cpu or a device", {"accelerator": "gpu"}),
    Case(
        "another count of devices",
        "as many accelerators as parallelism.tensor",
        {"accelerator": "nvidia.com/gpu", "parallelism": {"tensor": 2}, "resources": {"limits": {"nvidia.com/gpu": 4}}},
    ),
    Case(
        "another count of devices as a string",
        "as many accelerators as parallelism.tensor",
        {"accelerator": "nvidia.com/gpu", "resources": {"requests": {"nvidia.com/gpu": "2"}}},
    ),
    Case("unknown resource", "names must be cpu, memory", {"resources": {"requests": {"ram": "1Gi"}}}),
    Case("no quantity", "must be quantities", {"resources": {"limits": {"memory": "16 GB"}}}),
    Case("negative quantity", "must be quantities", {"resources": {"requests": {"cpu": "-1"}}}),
    Case("negative integer", "must be quantities", {"resources": {"limits": {"cpu": -1}}}),
    Case(
        "request above its limit",
        "must not ask for more than the limit",
        {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "2000Mi"}}},
    ),
    Case("fewer tokens than requests", "at least maxNumSeqs", {"engine": {"maxBatchTokens": 64, "maxNumSeqs": 128}}),
    Case("cache of nothing", "quantity above 0", {"engine": {"kvCacheMemory": "0"}}),
    Case("cache of words", "quantity above 0", {"engine": {"kvCacheMemory": "much"}}),
    Case("unknown dtype", "float32", {"engine": {"dtype": "int4"}}, schema=True),
    Case("tiny context", "greater than or equal to 16", {"engine": {"maxModelLen": 1}}, schema=True),
    Case("negative replicas", "greater than or equal to 0", {"replicas": -1}, schema=True),
    Case("key set in capitals", "names of key sets", {"access": {"keySets": ["Team"]}}),
    Case("key set twice", "", {"access": {"keySets": ["a", "b", "a"]}}),
    Case("unknown policy", "PrefixAware", {"routing": {"policy": "Random"}}, schema=True),
    Case("a queue below nothing", "greater than or equal to 0", {"routing": {"maxQueuedRequests": -1}}, schema=True),
    Case("no time to wait", "greater than or equal to 1", {"routing": {"queueTimeoutSeconds": 0}}, schema=True),
    Case("an hour's wait", "less than or equal to 600", {"routing": {"queueTimeoutSeconds": 3600}}, schema=True),
    Case("no request", "greater than or equal to 1", {"access": {"requestsPerMinute": 0}}, schema=True),
    Case("no token", "greater than or equal to 1", {"access": {"tokensPerMinute": 0}}, schema=True),
    Case("none at a time", "greater than or equal to 1", {"access": {"maxConcurrentRequests": 0}}, schema=True),
    Case("a rollout that cannot start", "cannot both be 0", {"disruption": {"maxSurge": 0, "maxUnavailable": 0}}),
    Case("no drain", "greater than or equal to 1", {"disruption": {"drainSeconds": 0}}, schema=True),
    Case("drain of a day", "less than or equal to 3600", {"disruption": {"drainSeconds": 86400}}, schema=True),
    Case("image with a space", "must be an image", {"template": {"image": "my worker:1"}}),
    Case("image in capitals", "must be an image", {"template": {"image": "Team/worker"}}),
    Case("label of a node", "label keys and values", {"template": {"nodeSelector": {"a b": "c"}}}),
    Case("toleration of nothing", "needs a key", {"template": {"tolerations": [{"operator": "Equal"}]}}),
    Case(
        "toleration with a value too many",
        "takes no value",
        {"template": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}},
    ),
    Case(
        "seconds without NoExecute",
        "NoExecute only",
        {"template": {"tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}]}},
    ),
    *REFUSED_AUTOSCALING,
)

ACCEPTED = (
    Case("all defaults", ""),
    Case("longest name", "", name="a" * 40),
    _model("claim alone", "", uri="pvc://models"),
    _model("claim and path", "", uri="pvc://models/qwen3-8b/v1.2"),
    _model("path in the image", "", uri="file:///models/demo"),
    _model(
        "all of the hub",
        "",
        revision="refs/pr/1",
        name="team/qwen:8b",
        cacheClaim="cache",
        tokenSecret={"name": "hub", "key": "HF_TOKEN"},
        **HUB,
    ),
    Case("no replicas", "", {"replicas": 0}),
    Case("devices, their count left out", "", {"accelerator": "nvidia.com/gpu", "parallelism": {"tensor": 2}}),
    Case(
        "devices beside other limits", "", {"accelerator": "nvidia.com/gpu", "resources": {"limits": {"memory": "1Gi"}}}
    ),
    Case(
        "devices, counted right",
        "",
        {
            "accelerator": "nvidia.com/gpu",
            "parallelism": {"tensor": 2},
            "resources": {"requests": {"cpu": 4, "memory": "1.5Gi"}, "limits": {"nvidia.com/gpu": "2", "cpu": "4000m"}},
        },
    ),
    Case(
        "a group of pods",
        "",
        {
            "accelerator": "nvidia.com/gpu",
            "parallelism": {
                "tensor": 4,
                "nodes": 2,
                "topologyKey": "topology.kubernetes.io/zone",
                "placementTimeoutSeconds": 10,
            },
            "resources": {"limits": {"nvidia.com/gpu": 2}},
        },
    ),
    Case(
        "all of the engine",
        "",
        {
            "engine": {
                "maxModelLen": 4096,
                "maxNumSeqs": 64,
                "maxBatchTokens": 2048,
                "blockSize": 16,
                "kvCacheMemory": "8Gi",
                "dtype": "bfloat16",
                "prefixCaching": False,
            }
        },
    ),
    Case("two key sets", "", {"access": {"keySets": ["team-a", "team-b"]}}),
    Case(
        "all limits",
        "",
        {
            "access": {"requestsPerMinute": 600, "tokensPerMinute": 200_000, "maxConcurrentRequests": 16},
            "routing": {"policy": "PrefixAware", "maxQueuedRequests": 0, "queueTimeoutSeconds": 600},
        },
    ),
    Case("no surge", "", {"disruption": {"maxSurge": 0, "maxUnavailable": 1, "drainSeconds": 1}}),
    Case(
        "all of the template",
        "",
        {
            "template": {
                "image": "registry.example:5000/team/worker:1.2@sha256:" + "a" * 64,
                "imagePullPolicy": "Always",
                "nodeSelector": {"kubernetes.io/arch": "amd64", "pool": ""},
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                    {"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
                ],
            }
        },
    ),
    *ACCEPTED_AUTOSCALING,
)
