"""The fields we use of kinds that Kubernetes' own schemas do not know. Anything else is refused.

After the CRDs of KEDA 2.20, JobSet 0.13, LeaderWorkerSet 0.10, cert-manager 1.21, Prometheus operator 0.93.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """Unknown fields are errors: the API server drops them in silence."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Part):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    namespace: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Target(Part):
    apiVersion: Literal["apps/v1", "leaderworkerset.x-k8s.io/v1"]
    kind: Literal["Deployment", "LeaderWorkerSet"]
    name: str


class Reference(Part):
    name: str


class Trigger(Part):
    type: Literal["external", "external-push", "prometheus"]
    """None that looks at a stream's lag: it forgets what is in flight."""
    metricType: Literal["AverageValue", "Value"] = "AverageValue"
    metadata: dict[str, str]
    authenticationRef: Reference | None = None

    @model_validator(mode="after")
    def _check_scaler(self) -> Trigger:
        if self.type != "prometheus" and ":" not in self.metadata.get("scalerAddress", ""):
            raise ValueError("an external scaler needs scalerAddress host:port")
        return self


class ScalePolicy(Part):
    type: Literal["Pods", "Percent"]
    value: Annotated[int, Field(ge=1)]
    periodSeconds: Annotated[int, Field(ge=1, le=1800)]


class ScaleRules(Part):
    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600)]
    policies: Annotated[list[ScalePolicy], Field(min_length=1)]


class Behavior(Part):
    scaleUp: ScaleRules
    scaleDown: ScaleRules


class AutoscalerConfig(Part):
    behavior: Behavior


class Advanced(Part):
    horizontalPodAutoscalerConfig: AutoscalerConfig


class Fallback(Part):
    failureThreshold: Annotated[int, Field(ge=1)]
    replicas: Annotated[int, Field(ge=0)]
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class ScaledObjectSpec(Part):
    scaleTargetRef: Target
    minReplicaCount: Annotated[int, Field(ge=0)]
    maxReplicaCount: Annotated[int, Field(ge=1)]
    pollingInterval: Annotated[int, Field(ge=1)]
    cooldownPeriod: Annotated[int, Field(ge=0)]
    fallback: Fallback
    advanced: Advanced
    triggers: Annotated[list[Trigger], Field(min_length=1)]


class SecretKey(Part):
    parameter: Literal["caCert", "tlsClientCert", "tlsClientKey"]
    name: str
    key: str


class TriggerAuthenticationSpec(Part):
    secretTargetRef: list[SecretKey]


class Network(Part):
    enableDNSHostnames: bool
    subdomain: str
    publishNotReadyAddresses: Literal[True]
    """Ranks meet before any of them is ready."""


class FailurePolicy(Part):
    maxRestarts: Annotated[int, Field(ge=1)]
    restartStrategy: Literal["Recreate", "BlockingRecreate"]


class SuccessPolicy(Part):
    operator: Literal["All", "Any"]


class JobSpec(Part):
    completionMode: Literal["Indexed"]
    parallelism: Annotated[int, Field(ge=1)]
    completions: Annotated[int, Field(ge=1)]
    backoffLimit: Literal[0]
    """A pod that is started again alone would wait for a gang that has gone on."""
    template: dict[str, Any]

    @model_validator(mode="after")
    def _check_gang(self) -> JobSpec:
        if self.parallelism != self.completions:
            raise ValueError("a gang runs all at once: parallelism is completions")
        if self.template["spec"].get("restartPolicy") != "Never":
            raise ValueError("restartPolicy of a gang's pods is Never: the gang is started again, not one")
        return self


class JobTemplate(Part):
    spec: JobSpec


class ReplicatedJob(Part):
    name: str
    replicas: Literal[1]
    template: JobTemplate


class JobSetSpec(Part):
    network: Network
    failurePolicy: FailurePolicy
    successPolicy: SuccessPolicy
    replicatedJobs: Annotated[list[ReplicatedJob], Field(min_length=1)]


class RollingUpdate(Part):
    maxUnavailable: int | str
    maxSurge: Literal[0]


class RolloutStrategy(Part):
    type: Literal["RollingUpdate"]
    rollingUpdateConfiguration: RollingUpdate


class LeaderWorkerTemplate(Part):
    size: Annotated[int, Field(ge=1)]
    restartPolicy: Literal["RecreateGroupOnPodRestart"]
    workerTemplate: dict[str, Any]


class LeaderWorkerSetSpec(Part):
    replicas: Annotated[int, Field(ge=0)] = 1
    startupPolicy: Literal["LeaderCreated", "LeaderReady"]
    rolloutStrategy: RolloutStrategy
    leaderWorkerTemplate: LeaderWorkerTemplate


class Endpoint(Part):
    port: str
    path: str
    interval: Annotated[str, Field(pattern=r"^\d+[sm]$")]


class Labels(Part):
    matchLabels: Annotated[dict[str, str], Field(min_length=1)]


class PodMonitorSpec(Part):
    selector: Labels
    podMetricsEndpoints: Annotated[list[Endpoint], Field(min_length=1)]
    podTargetLabels: list[str]


class Key(Part):
    algorithm: Literal["ECDSA"]
    size: Literal[256, 384]
    rotationPolicy: Literal["Always", "Never"] = "Always"


class IssuerReference(Part):
    name: str
    kind: Literal["Issuer", "ClusterIssuer"]
    group: Literal["cert-manager.io"]


class CertificateSpec(Part):
    secretName: str
    duration: Annotated[str, Field(pattern=r"^\d+h$")]
    renewBefore: Annotated[str, Field(pattern=r"^\d+h$")]
    privateKey: Key
    usages: list[Literal["server auth", "client auth", "cert sign", "crl sign"]]
    issuerRef: IssuerReference
    dnsNames: list[str] = []
    ipAddresses: list[str] = []
    commonName: Annotated[str, Field(max_length=64)] = ""
    isCA: bool = False

    @model_validator(mode="after")
    def _check_lifetime(self) -> CertificateSpec:
        if int(self.renewBefore[:-1]) * 2 > int(self.duration[:-1]):
            raise ValueError("renewed before half of its life")
        return self


class CaIssuer(Part):
    secretName: str


class IssuerSpec(Part):
    selfSigned: dict[str, str] | None = None
    ca: CaIssuer | None = None


SPECS: dict[tuple[str, str], type[Part]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObjectSpec,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): TriggerAuthenticationSpec,
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): JobSetSpec,
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): LeaderWorkerSetSpec,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitorSpec,
    ("cert-manager.io/v1", "Certificate"): CertificateSpec,
    ("cert-manager.io/v1", "Issuer"): IssuerSpec,
}


def check_custom(doc: dict[str, Any]) -> None:
    """Raises ValidationError for what the kind's controller would not understand."""
    if set(doc) != {"apiVersion", "kind", "metadata", "spec"}:
        raise ValueError(f"{doc['kind']}: top-level fields are {sorted(doc)}")
    Metadata.model_validate(doc["metadata"])
    SPECS[doc["apiVersion"], doc["kind"]].model_validate(doc["spec"])
